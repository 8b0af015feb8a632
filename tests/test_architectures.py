"""Names in the configuration become the networks they name, or one line that says why not."""

import sys

import pytest
import torch
from project import ROOT
from torch import nn

from models import svhn
from npu_parity import config
from npu_parity.errors import ParityError
from npu_parity.sources.architectures import build, own_file, parameters
from npu_parity.sources.seeds import calibrate_batch_norm

PARAMETERS = {  # as the documents of the systems state them
    "bird_species": 26_552_846,
    "resnet34": 21_797_672,
    "efficientnet_b0": 5_288_548,
    "convnextv2_atto": 3_387_400,
    "svhn": 42_868_734,
    "efficientnet_lite0": 4_652_008,
    "efficientnet_lite1": 5_416_680,
    "efficientnet_lite2": 6_092_072,
    "svhn_digit": 815_018,
}


@pytest.fixture(scope="module")
def systems():
    return config.load(ROOT / "config.yaml")["models"]


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Write model.py and return what the refusal of one of its functions says."""
    monkeypatch.chdir(tmp_path)

    def own(code, function="net", **arguments):
        (tmp_path / "model.py").write_text(f"from torch import nn\n{code}\n")
        return build(f"model.py:{function}", arguments)

    return own


def refusal(architecture, arguments=None):
    with pytest.raises(ParityError) as error:
        build(architecture, arguments)
    return line(error)


def line(error):
    """The text of an error, which is one line."""
    text = str(error.value)
    assert text.startswith("architecture ") and len(text.splitlines()) == 1
    return text


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_counts_are_the_documents(name, systems):
    with torch.device("meta"):  # shapes only
        model = build(systems[name]["architecture"], systems[name]["arguments"])
    assert parameters(model) == PARAMETERS[name]


def test_every_system_has_a_count(systems):
    assert set(systems) == set(PARAMETERS)


def test_evaluation_mode_and_float32(own):
    model = own("def net(): return nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2)).double()")
    assert not any(module.training for module in model.modules())
    assert {tensor.dtype for tensor in model.parameters()} == {torch.float32}


def test_parameters_leave_buffers_out():
    assert parameters(nn.BatchNorm2d(5)) == 10


@pytest.mark.parametrize(
    ("name", "closest"),
    [("timm:efficientnet_b00", "efficientnet_b0"), ("torchvision:resnet43", "resnet34")],
)
def test_unknown_model_names_the_closest(name, closest):
    text = refusal(name)
    assert name in text and "did you mean" in text
    assert closest in text.partition("did you mean ")[2].rstrip("?").split(", ")


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_unknown_model_without_a_close_name_says_where_to_look(library):
    assert f"see {library}." in refusal(f"{library}:qqqqqqqq")


@pytest.mark.parametrize("name", ["torchvision:ResNet18", "timm:"])
def test_name_must_be_exact(name):
    assert "has no model" in refusal(name)


@pytest.mark.parametrize(
    ("architecture", "arguments", "said"),
    [
        ("torchvision:resnet18", {"clases": 3}, "clases"),
        ("torchvision:resnet18", {"num_classes": "ten"}, "ten"),
        ("torchvision:resnet18", {"num_classes": -1}, "-1"),
        ("torchvision:resnet18", {"weights": "DEFAULT"}, "weights"),
        ("timm:resnet18", {"clases": 3}, "clases"),
        ("timm:resnet18", {"pretrained": True}, "pretrained"),
        ("timm:resnet18.nobody_in1k", {}, "nobody_in1k"),
    ],
)
def test_bad_arguments(architecture, arguments, said):
    text = refusal(architecture, arguments)
    assert text.startswith(f"architecture {architecture}: arguments") and said in text


def test_arguments_reach_the_builder(own):
    assert own("def net(width): return nn.Linear(width, 1)", width=7).in_features == 7


def test_own_file_is_looked_for_here_then_in_this_project(own, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert own_file("models/svhn.py:svhn") == ROOT / "models/svhn.py"
    (tmp_path / "models").mkdir()
    (tmp_path / "models/svhn.py").touch()
    assert own_file("models/svhn.py:svhn").resolve() == tmp_path / "models/svhn.py"
    assert own_file("timm:resnet18") is own_file("torchvision:resnet18") is None


@pytest.mark.parametrize("name", ["nowhere/model.py:net", "resnet18", "tests:net", "uv.lock:net"])
def test_no_such_file(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    text = refusal(name)
    assert "there is no" in text and "path/to/file.py:FUNCTION" in text


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("other = net = 4", "no function 'net'"),
        ("def other(): pass", "no function 'net'"),
        ("import nothing_like_it", "ModuleNotFoundError: No module named 'nothing_like_it'"),
        ("def net(:", "SyntaxError"),
        ("raise RuntimeError('two\\nlines')", "RuntimeError: two lines"),
        ("def net(): return 3", "returned int, expected nn.Module"),
        ("def net(): raise ValueError('two\\nlines')", "ValueError: two lines"),
        ("def net(): return nn.Linear()", "missing 2 required positional arguments"),
    ],
)
def test_own_file_that_builds_nothing(own, code, said):
    with pytest.raises(ParityError) as error:
        own(code)
    assert said in line(error) and "model.py" in line(error)


def test_own_file_may_define_dataclasses(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "timm.py").write_text(  # a name that something else has
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\n"
        "from torch import nn\n"
        "@dataclass\n"
        "class Settings:\n"
        "    width: int = 7\n"
        "def net(): return nn.Linear(Settings().width, 1)\n"
    )
    other = sys.modules.get("timm")
    assert build("timm.py:net").in_features == 7
    assert sys.modules.get("timm") is other


@pytest.fixture(scope="module")
def variants():
    torch.manual_seed(0)
    upstream, reported = (build(f"models/svhn.py:{name}") for name in ("svhn", "svhn_as_reported"))
    calibrate_batch_norm(upstream, torch.randn(4, 3, 54, 54))  # or all is a head's bias
    reported.load_state_dict(upstream.state_dict())
    return upstream, reported


def test_svhn_variants_have_the_same_tensors_and_compute_different_things(variants):
    shapes = [{n: t.shape for n, t in m.state_dict().items()} for m in variants]
    assert list(shapes[0].items()) == list(shapes[1].items())
    x = torch.randn(2, 3, 54, 54, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        a, b = (model(x) for model in variants)
    assert a.shape == b.shape == (2, sum(svhn.HEADS.values())) == (2, 62)
    assert (a - b).norm() > 0.1 * a.norm()


def test_svhn_names_are_the_checkpoints(variants):
    names = set(variants[0].state_dict())
    norms = {f"_hidden{i}.1.{n}" for i in range(1, 9) for n in nn.BatchNorm2d(1).state_dict()}
    blocks = [f"_hidden{i}" for i in range(1, 11)]
    heads = ["_digit_length", *(f"_digit{i}" for i in range(1, 6))]
    assert names == norms | {f"{b}.0.{n}" for b in blocks + heads for n in ("weight", "bias")}


@pytest.mark.parametrize(
    ("variant", "sizes"),
    [(0, [54, 28, 29, 15, 16, 9, 10, 6, 7]), (1, [54, 54, 27, 27, 13, 13, 6, 6, 6])],
    ids=["upstream", "as_reported"],
)
def test_svhn_spatial_sizes(variants, variant, sizes):
    model = variants[variant]
    x = torch.zeros(1, 3, 54, 54)
    found = [x.shape[-1]]
    with torch.no_grad():
        for i in range(1, 9):
            x = getattr(model, f"_hidden{i}")(x)
            found.append(x.shape[-1])
            assert x.shape[1] == svhn.CHANNELS[i]
        assert model._pool(x).flatten(1).shape == (1, 9408)
    assert found == sizes


def test_svhn_heads_lie_in_order(variants):
    """Each head's bias shows in its own columns."""
    model = variants[0]
    x = torch.zeros(1, 3, 54, 54)
    with torch.no_grad():
        before, start = model(x), 0
        for name, width in svhn.HEADS.items():
            head = getattr(model, "_digit_length" if name == "length" else f"_{name}")[0]
            saved = head.bias.clone()
            head.bias += 1
            changed = model(x) - before > 0.5
            head.bias.copy_(saved)
            assert changed[0].nonzero().flatten().tolist() == list(range(start, start + width))
            start += width
