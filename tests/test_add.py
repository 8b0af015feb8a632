"""`npu-parity add`: the configuration gets a system, and nothing else in it changes."""

import json
import os
import subprocess
import sys

import pytest
import timm
import yaml
from hub_server import NOWHERE, HubServer, hub_env, process
from project import ROOT

from npu_parity import add as adding
from npu_parity import config
from npu_parity.errors import ParityError

pytestmark = pytest.mark.slow

REPO = "timm/test_resnet.r160_in1k"
CONFIG = """\
# Mine.
reference: cpu
devices:
  cpu: {backend: cpu}  # the only one

models:
  first:
    architecture: timm:test_vit
    weights: [seed:1]  # for now
    inputs: [random:1]
"""
ABOUT = {
    "architecture": "test_resnet",
    "num_classes": 1000,
    "pretrained_cfg": timm.get_pretrained_cfg("test_resnet.r160_in1k").to_dict(),
}
OWN = {"tag": "mine", "mean": [0.1, 0.2, 0.3], "std": [0.5, 0.5, 0.5]}


@pytest.fixture(scope="module")
def running():
    """The local hub, and a process with the real clients."""
    with HubServer() as server, process(server.env()) as clients:
        publish(server, REPO, ABOUT, "---\nlicense: mit\ntags: [timm]\n---\n# A card\n")
        yield server, clients


@pytest.fixture
def server(running):
    return running[0]


@pytest.fixture
def add(running, tmp_path):
    """`add` to a file with `CONFIG`; the lines, and the hubs that are left out."""

    def add(source, name=None, clients=running[1]):
        found, lines = clients.submit(adding.add, source, name, add.file).result(120)
        return lines, found.missing

    add.file = tmp_path / "config.yaml"
    add.file.write_text(CONFIG)
    return add


@pytest.fixture
def refusal(add):
    """The one line of an error, after which the file is as it was, and alone."""

    def refusal(*arguments, **options):
        before = add.file.read_text()
        with pytest.raises(ParityError) as error:
            add(*arguments, **options)
        assert add.file.read_text() == before and [*add.file.parent.glob("*yaml*")] == [add.file]
        assert len(str(error.value).splitlines()) == 1
        return str(error.value)

    return refusal


def publish(server, repo, about, card=None):
    server.add(repo, "model.safetensors", b"never read here")
    server.add(repo, "config.json", json.dumps(about).encode(), lfs=False)
    if card:
        server.add(repo, "README.md", card.encode(), lfs=False)


def changed(**values):
    return {**ABOUT, **values}


def test_repository_of_both_hubs(add, server):
    server.requests.clear()
    shown, missing = add(REPO)
    text = add.file.read_text()
    assert text == f"{CONFIG}\n{shown}" and missing == ()
    assert "# licence: mit; 1000 classes" in shown
    assert f"    weights: [modelscope:{REPO}, huggingface:{REPO}]\n" in shown
    system = yaml.safe_load(text)["models"]["test_resnet"]
    assert system == {
        "architecture": "timm:test_resnet.r160_in1k",
        "weights": [f"modelscope:{REPO}", f"huggingface:{REPO}"],
        "inputs": ["skimage:chelsea", "skimage:coffee", "skimage:rocket"],
        "labels": "data/imagenet_1k.txt",
    }
    assert len(server.downloads) == 4  # config.json and README.md of each hub
    assert config.load(add.file)["models"].keys() == {"first", "test_resnet"}


def test_models_in_the_middle_of_the_file(add):
    head, models = CONFIG.split("\nmodels:\n")
    end = "\n# How long.\nlatency: {samples: 5}\n"
    add.file.write_text(f"{head}\nmodels:\n{models}{end}")
    shown, _ = add(f"huggingface:{REPO}", "second")
    assert add.file.read_text() == f"{head}\nmodels:\n{models}\n{shown}{end}"
    assert yaml.safe_load(shown)["second"]["weights"] == [f"huggingface:{REPO}"]


def test_what_the_weights_want_is_written_where_timm_does_not_know_it(add, server):
    own = changed(
        num_classes=7,
        model_args={"global_pool": "max"},
        pretrained_cfg=ABOUT["pretrained_cfg"] | OWN,
    )
    publish(server, "somebody/own.mine", own)
    system = yaml.safe_load(add("somebody/own.mine")[0])["test_resnet"]
    assert system["architecture"] == "timm:test_resnet"
    assert system["arguments"] == {"global_pool": "max", "num_classes": 7}
    assert system["preprocessing"] == {
        "interpolation": "bilinear",
        "mean": [0.1, 0.2, 0.3],
        "std": [0.5, 0.5, 0.5],
        "resize": 168,
        "crop": 160,
    }
    assert "labels" not in system
    assert "# licence: apache-2.0; 7 classes" in add.file.read_text()
    assert config.load(add.file)


def test_a_name_that_exists_is_refused(refusal):
    assert refusal(REPO, "first").startswith("config.yaml: models has 'first' already")


def test_a_hub_out_of_reach_is_one_line(add, server, refusal, tmp_path):
    with process(hub_env(NOWHERE, tmp_path)) as clients:
        assert refusal(REPO, clients=clients).count("connection refused") == 2
    with process(server.env() | hub_env(NOWHERE, tmp_path, "modelscope")) as clients:
        shown, missing = add(REPO, clients=clients)
    assert [text.partition(": ")[0] for text in missing] == [f"modelscope:{REPO}"]
    assert yaml.safe_load(shown)["test_resnet"]["weights"] == [f"huggingface:{REPO}"]


@pytest.mark.parametrize(
    ("source", "about", "words"),
    [
        ("owner/none", None, "HTTP 404"),
        ("seed:4", None, "expected OWNER/REPO, or a hub before it"),
        ("words", None, "expected modelscope:OWNER/REPO"),
        ("owner/bare", False, "has no config.json of a network of timm; add the system by hand"),
        ("owner/bert", {"architectures": ["Bert"]}, "names no architecture of timm"),
        ("owner/list", [1], "found list, expected an object"),
        ("owner/new", changed(architecture="resnet_2100"), "timm has no model 'resnet_2100'"),
        ("owner/odd", changed(pretrained_cfg=[1]), "its pretrained_cfg is no object"),
        ("owner/args", changed(model_args={"no_such": 1}), "arguments {'no_such': 1}"),
    ],
)
def test_what_cannot_be_added_is_one_line(server, refusal, source, about, words):
    if about is False:
        server.add(source, "model.safetensors", b"x")
    elif about:
        publish(server, source, about)
    assert words in refusal(source)


def test_a_layout_that_cannot_be_kept_is_refused(add, refusal):
    first = "{architecture: 'timm:test_vit', weights: ['seed:1'], inputs: ['random:1']}"
    add.file.write_text(CONFIG.partition("models:")[0] + f"models: {{first: {first}}}\n")
    assert "add the system by hand" in refusal(REPO)


def test_command(server, tmp_path):
    (tmp_path / "config.yaml").write_text(CONFIG)
    done = subprocess.run(
        [sys.executable, "-m", "npu_parity", "add", f"huggingface:{REPO}"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | server.env(),
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "config.yaml").read_text() == f"{CONFIG}\n{done.stdout}"
