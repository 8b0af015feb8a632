"""`npu-parity zoo`: a valid configuration of all networks that fit, which runs as it is written."""

import itertools
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from project import Project

from npu_parity import config, zoo
from npu_parity.audit.verify import MADE_AGAIN, verify
from npu_parity.errors import ParityError
from npu_parity.sources import architectures

pytestmark = pytest.mark.slow
SMALL = ["timm:test_resnet", "timm:test_vit", "timm:test_efficientnet"]


def test_every_network_that_fits_is_a_system(tmp_path):
    file = tmp_path / "new" / "config.yaml"
    found = zoo.write(["timm:test_vit*", "timm:test_vit", "torchvision:squeezenet1_?"], file)
    written = yaml.safe_load(file.read_text())
    assert written["models"] == found.systems and config.load(file)["models"].keys() == set(
        found.systems
    )
    assert {"timm_test_vit", "timm_test_vit2", "torchvision_squeezenet1_0"} < found.systems.keys()
    assert not found.left_out
    for system in found.systems.values():
        assert system["weights"] == ["seed:42"] and "task" not in system


def test_the_reader_of_the_configuration_adds_no_device():
    planned, left_out = config.runs(
        {"latency": {"batch_sizes": []}, **complete(zoo.whole({"net": {}}))}
    )
    assert planned == [("cpu", "measured"), *((form, "predicted") for form in zoo.ARITHMETIC)]
    assert not left_out


def complete(settings):
    config.fill(settings, config.schema())
    return settings


def test_the_smallest_network_comes_first_and_number_keeps_the_smallest():
    sizes = {name: zoo.built(name).parameters for name in SMALL}
    found = list(zoo.find(SMALL).systems.values())
    names = [system["architecture"] for system in found]
    assert names == sorted(names, key=sizes.__getitem__)
    first = zoo.find(SMALL, number=1).systems
    assert [system["architecture"] for system in first.values()] == names[:1]


def test_the_size_is_that_of_the_real_network():
    for name in SMALL:
        assert zoo.built(name).parameters == architectures.parameters(architectures.build(name))


def test_one_network_of_each_module():
    patterns = [
        "timm:test_vit",
        "timm:test_vit2",
        "timm:resnet10t",
        "timm:resnet14t",
        "torchvision:squeezenet*",
    ]
    found = [s["architecture"] for s in zoo.find(patterns, each=1).systems.values()]
    assert sorted(found) == ["timm:resnet10t", "timm:test_vit", "torchvision:squeezenet1_1"]
    assert len(zoo.find(patterns, each=2).systems) == 6


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        (
            "torchvision:lraspp_mobilenet_v3_large",
            {"task": "segmentation", "arguments": {"weights_backbone": None}},
        ),
        ("timm:vit_pe_spatial_tiny_patch16_512", {"task": "features"}),
    ],
)
def test_the_task_is_that_of_the_network(name, settings):
    (system,) = zoo.find([name]).systems.values()
    assert {key: system.get(key) for key in settings} == settings


def test_a_network_that_cannot_be_run_is_left_out_with_a_reason(monkeypatch):
    def build(name, arguments):
        if name == SMALL[0]:
            raise ParityError(f"architecture {name}: needs the package none")
        return real(name, arguments)

    real = architectures.build
    monkeypatch.setattr(architectures, "build", build)
    found = zoo.find([*SMALL, "torchvision:r3d_18"])
    assert len(found.systems) == 2
    assert found.left_out == {
        SMALL[0]: "needs the package none",
        "torchvision:r3d_18": "its inputs are no single images",
    }
    assert next(zoo.lines(found)) == f"left out: {SMALL[0]}: needs the package none"


def test_a_network_of_another_size_of_images_is_left_out(monkeypatch):
    class Wrong(zoo.Preprocessing):
        def __init__(self, architecture):
            super().__init__(architecture)
            self.shape = (4, 9, 9)

    monkeypatch.setattr(zoo, "Preprocessing", Wrong)
    found = zoo.find(["timm:test_resnet"])
    assert not found.systems
    assert found.left_out["timm:test_resnet"].startswith("does not run on an image (4, 9, 9)")


def test_names_of_systems_are_valid():
    about = config.schema()["$defs"]["name"]["pattern"]
    for network in zoo.matching(["timm:*", "torchvision:*"]):
        name = zoo.Network(network, {}, "", 0).system
        assert len(name) <= 64 and config.re.match(about, name), name


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("timm:mobilenetv3_smal_*", "timm has no such network; the nearest names are mobilenetv3_"),
        ("timm:qqqqqqqqqqqq", "pattern timm:qqqqqqqqqqqq: timm has no such network"),
        ("resnet18", "pattern 'resnet18': expected timm:PATTERN or torchvision:PATTERN"),
        ("models/svhn.py:svhn", "expected timm:PATTERN"),
        ("timm:*", "networks fit, and a configuration has at most 600: give --number or --each"),
        ("torchvision:r3d_18", "no network is left; torchvision:r3d_18: its inputs are no single"),
    ],
)
def test_a_wrong_pattern_is_one_line(pattern, words, tmp_path):
    file = tmp_path / "config.yaml"
    with pytest.raises(ParityError) as raised:
        zoo.write([pattern], file)
    assert words in str(raised.value) and "\n" not in str(raised.value)
    assert not list(tmp_path.iterdir())


def test_more_networks_than_a_run_can_have_are_one_line(monkeypatch):
    monkeypatch.setattr(zoo, "MOST", 2)
    assert len(zoo.find(SMALL, number=2).systems) == 2
    with pytest.raises(ParityError, match="3 networks fit, and a configuration has at most 2"):
        zoo.find(SMALL, each=3)


def test_the_settings_of_the_most_systems_are_one_argument():
    """Linux allows 128 KiB."""
    system = {"architecture": "", "weights": [], "inputs": []}
    whole = complete(zoo.whole({f"timm_{i:059}": dict(system) for i in range(zoo.MOST)}))
    shown = {name: config.shown(settings) for name, settings in whole["models"].items()}
    assert len(json.dumps(shown)) < 2**17


def test_a_file_is_never_overwritten(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text("mine")
    arguments = [sys.executable, "-m", "npu_parity", "zoo", "timm:test_vit", "--to", str(file)]
    done = subprocess.run(arguments, capture_output=True, text=True)
    assert done.returncode == 1 and file.read_text() == "mine"
    assert done.stderr == f"error: {file}: exists already; give another --to, or remove it\n"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The workflow on three networks of timm, as `npu-parity zoo` writes them, and its output."""
    project = Project.make(tmp_path_factory.mktemp("zoo"), {})
    file = project.folder / "config.yaml"
    file.unlink()
    zoo.write(SMALL, file)
    (project.place / "output").write_text(project.succeed("--cores", "1", "results/summary.json"))
    return project


def test_the_configuration_runs(run):
    rows = run.json("results/summary.json")["rows"]
    found = {(row["device"], row["run"]) for row in rows}
    assert found == {("cpu", "measured"), *((form, "predicted") for form in zoo.ARITHMETIC)}
    assert len(rows) == 15 and {row["verdict"] for row in rows} == {None, "PREDICTED"}
    assert all(row["latency"] is None for row in rows)
    assert not run.files("results/**/latency.json")


def test_a_coarser_arithmetic_has_a_larger_difference(run):
    for name in ("timm_test_resnet", "timm_test_vit"):
        errors = {
            row["device"]: row["relative_l2_error"]
            for row in run.json("results/summary.json")["rows"]
            if row["system"] == name
        }
        assert 0 < errors["hf32"] < errors["tf32"] < errors["bf16"]


def test_no_large_file_stays_and_the_evidence_is_complete(run, monkeypatch):
    monkeypatch.chdir(run.folder)
    assert not [name for name in run.files() if Path(name).name in MADE_AGAIN]
    assert {"seed", "sha256"} <= run.json("results/timm_test_vit/weights.json").keys()
    lines, wrong = verify(Path("results"))
    assert len(lines) == 12 and not wrong
    assert run.plan("results/summary.json") == set()


def test_a_system_is_finished_before_the_next_one_starts(run):
    """So the files on the disk at once do not depend on the number of systems."""
    output = (run.place / "output").read_text()
    systems = re.findall(r"^ {4}wildcards: system=(\w+)", output, re.MULTILINE)
    assert len(systems) == 3 * 13
    assert [name for name, _ in itertools.groupby(systems)] == list(dict.fromkeys(systems))


def test_a_changed_seed_makes_the_weights_again_for_the_jobs_that_need_them(run):
    change = ["--config", "models={timm_test_vit: {weights: ['seed:1']}}"]
    planned = run.plan(*change, "--", "results/summary.json")
    assert {"weights timm_test_vit", "outputs timm_test_vit hf32 predicted"} <= planned
    assert not [job for job in planned if "timm_test_resnet" in job]
