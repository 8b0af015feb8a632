"""Checkpoints are read without trusting them, and fit a network exactly or are refused."""

import pickle
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from npu_parity import evidence
from npu_parity.errors import ParityError
from npu_parity.sources.checkpoints import fit, load, read_file

ARCHITECTURE = """
from torch import nn

def net():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))
"""


def network():
    """A small network whose tensors all differ from what it is initialised with."""
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2)
    ).eval()
    generator = torch.Generator().manual_seed(0)
    for tensor in model.state_dict().values():
        tensor.copy_(torch.rand(tensor.shape, generator=generator) * 100)
    return model


def equal(a, b):
    return a.keys() == b.keys() and all(
        a[n].dtype == b[n].dtype and torch.equal(a[n], b[n]) for n in a
    )


def refusal(call, *args, **kwargs):
    """The one line that a call is refused with."""
    with pytest.raises(ParityError) as error:
        call(*args, **kwargs)
    text = str(error.value)
    assert text.startswith("weights ") and len(text.splitlines()) == 1
    return text


def refused(state, model, **kwargs):
    return refusal(fit, state, model, "here.pth", **kwargs)


# Reading


@pytest.mark.parametrize("wrap", [dict, lambda s: {"state_dict": s}, lambda s: {"model": s}])
@pytest.mark.parametrize("zipped", [True, False])
def test_state_dict_is_found(tmp_path, wrap, zipped):
    state = network().state_dict()
    torch.save(wrap(state), tmp_path / "m.pth", _use_new_zipfile_serialization=zipped)
    assert equal(read_file(tmp_path / "m.pth"), dict(state))


def test_what_lies_beside_the_state_dict_is_left_out(tmp_path):
    state = network().state_dict()
    torch.save({"epoch": 3, "optimizer": {}, "state_dict": state}, tmp_path / "m.pth")
    assert equal(read_file(tmp_path / "m.pth"), dict(state))


def test_safetensors(tmp_path):
    save_file(network().state_dict(), tmp_path / "m.safetensors")
    assert equal(read_file(tmp_path / "m.safetensors"), dict(network().state_dict()))


class Payload:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return subprocess.check_call, (["touch", str(self.target)],)


@pytest.mark.abuse("hostile weight files")
@pytest.mark.parametrize("wrap", [lambda p: p, lambda p: {"weight": torch.ones(1), "x": p}])
@pytest.mark.parametrize("zipped", [True, False])
def test_malicious_pickle_is_refused_without_executing(tmp_path, wrap, zipped):
    target = tmp_path / "executed"
    checkpoint = tmp_path / "m.pth"
    torch.save(wrap(Payload(target)), checkpoint, _use_new_zipfile_serialization=zipped)
    text = refusal(read_file, checkpoint)
    assert not target.exists()
    assert "more than tensors" in text
    assert "weights_only" not in text  # nobody shall be advised to switch the protection off
    torch.load(checkpoint, weights_only=False)
    assert target.exists()  # the payload works


@pytest.mark.abuse("hostile weight files")
def test_plain_malicious_pickle_is_refused(tmp_path):
    target = tmp_path / "executed"
    (tmp_path / "m.pth").write_bytes(pickle.dumps({"weight": Payload(target)}, protocol=2))
    refusal(read_file, tmp_path / "m.pth")
    assert not target.exists()


@pytest.mark.abuse("hostile weight files")
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("damage", ["empty", "half", "last byte", "text"])
def test_damaged_file(tmp_path, suffix, damage):
    file = tmp_path / f"m{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(network().state_dict(), file)
    content = file.read_bytes()
    damaged = {"empty": b"", "half": content[: len(content) // 2], "text": b"<html>404</html>\n"}
    file.write_bytes(damaged.get(damage, content[:-1]))
    text = refusal(read_file, file)
    assert str(file) in text and "cannot be read" in text and "fetch it again" in text


def test_missing_file(tmp_path):
    assert "there is no such file" in refusal(read_file, tmp_path / "m.pth")
    assert "this is a folder, expected a file" in refusal(read_file, tmp_path)


@pytest.mark.abuse("hostile weight files")
@pytest.mark.parametrize(
    "content", [[1, 2], {"weight": 3}, torch.ones(2), {"state_dict": {"a": 1}}]
)
def test_file_without_named_tensors(tmp_path, content):
    torch.save(content, tmp_path / "m.pth")
    assert "expected named tensors" in refusal(read_file, tmp_path / "m.pth")


# Fitting


def test_fit_changes_nothing_that_fits():
    state = network().state_dict()
    assert equal(fit(state, nn.Sequential(*network()), "here"), dict(state))


def test_lacking_tensor():
    model = network()
    state = model.state_dict()
    del state["3.weight"]
    text = refused(state, model)
    assert text.startswith("weights here.pth: lacks tensor '3.weight';")
    assert "the 9 tensors of Sequential" in text
    del state["3.bias"]
    assert "lacks tensor '3.weight' (and 1 more);" in refused(state, model)


def test_unexpected_tensor():
    model = network()
    state = model.state_dict()
    assert "unexpected tensor 'head.bias';" in refused(
        {**state, "head.bias": state["3.bias"]}, model
    )


def test_misshapen_tensor():
    model = network()
    state = {**model.state_dict(), "3.weight": torch.ones(16, 2)}
    text = refused(state, model)
    assert "tensor '3.weight' has shape (16, 2), expected (2, 16)" in text


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int64, torch.bool])
def test_quantised_tensor(dtype):
    """Its values mean nothing without the scale."""
    model = network()
    state = {**model.state_dict(), "3.weight": torch.ones(2, 16, dtype=dtype)}
    text = refused(state, model)
    assert f"tensor '3.weight' is {dtype}, expected floating point" in text


def test_only_counters_of_batch_norm_may_lack():
    model = network()
    state = model.state_dict()
    del state["1.num_batches_tracked"]
    assert equal(fit(state, model, "here"), dict(model.state_dict()))
    for name in list(state):
        assert name in refused({n: t for n, t in state.items() if n != name}, model)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened_exactly(dtype):
    model = nn.Linear(256, 256)
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    every = torch.where(every.isfinite(), every, 0)  # each number that the format has
    fitted = fit({"weight": every.view(256, 256), "bias": torch.zeros(256)}, model, "here")
    assert fitted["weight"].dtype == torch.float32
    assert torch.equal(fitted["weight"].double(), every.view(256, 256).double())
    assert fitted["weight"].unique().numel() > 60_000


def test_in_order_takes_other_names():
    model = network()
    renamed = {f"tensor{i}": t for i, t in enumerate(model.state_dict().values())}
    assert equal(fit(renamed, model, "here", in_order=True), dict(model.state_dict()))
    assert "tensor" in refused(renamed, model)  # by name it does not fit


def test_in_order_goes_by_name_where_names_are_the_networks():
    model = network()
    reversed_ = dict(reversed(model.state_dict().items()))
    assert equal(fit(reversed_, model, "here", in_order=True), dict(model.state_dict()))


@pytest.mark.parametrize("change", ["one fewer", "one more", "another order"])
def test_in_order_is_refused(change):
    model = network()
    tensors = list(model.state_dict().values())
    tensors = {
        "one fewer": tensors[:-1],
        "one more": [*tensors, torch.ones(1)],
        "another order": tensors[::-1],
    }[change]
    refused({f"tensor{i}": t for i, t in enumerate(tensors)}, model, in_order=True)


# A folder with a sidecar


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("model.py").write_text(ARCHITECTURE)
    file = tmp_path / "system" / "weights.safetensors"
    evidence.write(file, lambda partial: save_file(network().state_dict(), partial))
    sidecar = {"architecture": "model.py:net", "arguments": {}, "sha256": evidence.sha256(file)}
    evidence.write_json(file.with_suffix(".json"), sidecar)
    return file.parent


def test_load(folder):
    model = load(folder)
    assert equal(dict(model.state_dict()), dict(network().state_dict()))
    x = torch.rand(2, 3, 4, 4)
    assert not model.training and torch.equal(model(x), network()(x))


def test_load_notices_changed_weights(folder):
    file = folder / "weights.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(
        ParityError, match=r"weights\.safetensors has SHA-256 .* changed or damaged"
    ):
        load(folder)


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.json"])
def test_load_says_which_file_is_missing(folder, name):
    (folder / name).unlink()
    with pytest.raises(ParityError, match=rf"{name} is missing: run `snakemake"):
        load(folder)
