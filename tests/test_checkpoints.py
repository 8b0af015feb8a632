"""Checkpoints are read without trusting them, and fit a network exactly or are refused."""

import argparse
import gzip
import json
import pickle
import re
import subprocess
import tarfile
import warnings
import zipfile
from collections import defaultdict, deque
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file, save_model
from timm.models import load_state_dict
from torch import nn

from npu_parity import evidence
from npu_parity.errors import ParityError
from npu_parity.sources.checkpoints import load, read, read_file
from npu_parity.sources.fitting import fit
from npu_parity.sources.states import choose

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


# Kinds of files


def archive(names):
    def make(path):
        with zipfile.ZipFile(path, "w") as file:
            for name in names:
                file.writestr(name, "x")

    return make


def torchscript(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(network()), path)


def tar(path):
    with tarfile.open(path, "w") as file:
        file.add(__file__)


def keras(path):
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))


def starts(head):
    return lambda path: path.write_bytes(head + bytes(100))


FOREIGN = {
    "empty": (lambda path: path.write_bytes(b""), "an empty file"),
    "zeros": (starts(b""), "full of zeros"),
    "TorchScript": (torchscript, "a TorchScript archive, which is a program: .*state_dict"),
    "torch.export": (archive(["m/archive_format", "m/models/model.json"]), "of torch.export"),
    "npz": (archive(["a.npy", "b.npy"]), r"an archive of NumPy arrays \(.npz\)"),
    "Keras 3": (archive(["config.json", "model.weights.h5"]), "a Keras model"),
    "zip": (archive(["readme.txt", "m.pth"]), "a zip archive of 2 files, no checkpoint: unpack"),
    "HDF5": (keras, "an HDF5 file"),
    "TFLite": (starts(b"\x1c\0\0\0TFL3"), "a TFLite model"),
    "ONNX": (starts(b"\x08\x08\x12\x07pytorch"), "an ONNX model"),
    "TensorFlow": (starts(b"\x08\x01\x12\x07"), "a TensorFlow model"),
    "om": (starts(b"IMOD"), "an offline model of Ascend"),
    "GGUF": (starts(b"GGUF\3\0\0\0"), "a GGUF file"),
    "npy": (starts(b"\x93NUMPY\1\0"), "a NumPy array"),
    "gzip": (lambda path: path.write_bytes(gzip.compress(b"x")), "a gzip archive: unpack it"),
    "tar": (tar, "a tar archive: unpack it"),
    "LFS": (starts(b"version https://git-lfs.github.com/spec/v1\n"), "pointer.*`git lfs pull`"),
    "HTML": (starts(b"\n<!DOCTYPE html>\n<html>"), "an HTML page, such as a login or an error"),
    "XML": (starts(b"<?xml version='1.0'?><Error>"), "an XML page"),
    "JSON": (lambda p: p.write_text('{"error": "gone"}'), 'without a weight_map.*"error": "gone"'),
    "plain pickle": (lambda path: path.write_bytes(pickle.dumps({"a": 1})), "a plain pickle"),
    "picture": (starts(b"\x89PNG\r\n"), "a picture"),
    "unknown": (starts(b"\xde\xad"), "it starts with"),
}


@pytest.mark.abuse("hostile weight files")
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("kind", FOREIGN)
def test_each_kind_of_file_is_named(tmp_path, kind, suffix):
    make, said = FOREIGN[kind]
    file = tmp_path / f"m{suffix}"
    make(file)
    text = refusal(read_file, file)
    assert re.search(said, text) and "damaged" not in text
    assert len(text) < 300 + len(str(file))


@pytest.mark.parametrize("suffix", [".bin", ".pth", ".safetensors", ".txt", ""])
@pytest.mark.parametrize("save", [save_file, torch.save])
def test_the_suffix_does_not_matter(tmp_path, suffix, save):
    file = tmp_path / f"m{suffix}"
    save(network().state_dict(), file)
    assert equal(read_file(file), dict(network().state_dict()))


@pytest.mark.parametrize("zipped", [True, False])
def test_checkpoint_saved_on_cuda(tmp_path, monkeypatch, zipped):
    state = network().state_dict()
    monkeypatch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
    torch.save(state, tmp_path / "m.pth", _use_new_zipfile_serialization=zipped)
    assert b"cuda:0" in (tmp_path / "m.pth").read_bytes()
    assert equal(read_file(tmp_path / "m.pth"), dict(state))


BESIDE = {
    "NumPy scalar": np.float64(0.9),
    "NumPy array": np.zeros(3),
    "Namespace": argparse.Namespace(lr=0.1, data=Path("x")),
    "path": Path("x"),
    "defaultdict": defaultdict(list, a=[1]),
    "deque": deque([1, 2]),
    "time": datetime(2020, 1, 1),
}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kind", BESIDE)
def test_harmless_objects_beside_the_tensors_are_left_out(tmp_path, kind, zipped):
    content = {"state_dict": network().state_dict(), "beside": BESIDE[kind]}
    torch.save(content, tmp_path / "m.pth", _use_new_zipfile_serialization=zipped)
    assert equal(read_file(tmp_path / "m.pth"), dict(network().state_dict()))
    allowed = torch.serialization.get_safe_globals()  # as before, for other programs
    assert not any(isinstance(known, tuple) for known in allowed)


class Settings:
    """A class of a training program, which is refused."""


@pytest.mark.abuse("hostile weight files")
@pytest.mark.parametrize(
    ("content", "name"),
    [
        (network(), "torch.nn.modules.container.Sequential"),
        ({"state_dict": {}, "settings": Settings()}, "test_checkpoints.Settings"),
        ({"call": print}, "print"),
    ],
)
def test_refused_class_is_named(tmp_path, content, name):
    torch.save(content, tmp_path / "m.pth")
    text = refusal(read_file, tmp_path / "m.pth")
    assert f"an object of {name}, whose code could run" in text
    assert "save only model.state_dict()" in text and "weights_only" not in text


# States


def chosen(path, model=None, **kwargs):
    return choose(read(path), model or network(), "here.pth", **kwargs)


def other():
    return {n: t * 2 for n, t in network().state_dict().items()}


NAMES = ("state_dict", "model_state_dict", "model", "net", "network", "module", "params", "weights")


@pytest.mark.parametrize("keys", [(), *((name,) for name in NAMES), ("ema", "module"), ("a", "b")])
def test_the_only_state_that_fits_is_used(tmp_path, keys):
    content = dict(network().state_dict())
    for key in reversed(keys):
        content = {key: content, "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}}
    torch.save({"mean": torch.ones(3), "inner": content} if keys else content, tmp_path / "m.pth")
    state, record = chosen(tmp_path / "m.pth")
    assert equal(state, dict(network().state_dict()))
    assert record["state"] == (".".join(["inner", *keys]) if keys else None)


@pytest.mark.parametrize(
    ("raw", "averaged"),
    [
        ("state_dict", "state_dict_ema"),
        ("model", "model_ema"),
        ("model", "ema"),
        ("params", "params_ema"),
        ("model_state_dict", "ema_state_dict"),
        ("net", "swa_net"),
    ],
)
def test_averaged_weights_come_before_raw_ones_and_it_is_recorded(tmp_path, raw, averaged):
    content = {raw: network().state_dict(), averaged: other()}
    torch.save(content, tmp_path / "m.pth")
    state, record = chosen(tmp_path / "m.pth")
    assert equal(state, dict(other()))
    assert (record["state"], record["other_states"]) == (averaged, {raw: "fits too"})
    state, record = chosen(tmp_path / "m.pth", state=raw)
    assert equal(state, dict(network().state_dict()))
    assert (record["state"], record["other_states"]) == (raw, {averaged: "fits too"})
    if averaged in ("state_dict_ema", "model_ema"):  # timm chooses the same
        timm = load_state_dict(str(tmp_path / "m.pth"))
        assert equal(dict(timm), dict(other()))


def test_averaged_weights_that_do_not_fit_are_recorded(tmp_path):
    averaged = {n: t for n, t in other().items() if "running" not in n}
    torch.save({"model": network().state_dict(), "ema": averaged}, tmp_path / "m.pth")
    _, record = chosen(tmp_path / "m.pth")
    assert record["state"] == "model"
    assert record["other_states"]["ema"].startswith("lacks tensor '1.running_mean'")


def test_unknown_names_are_a_question(tmp_path):
    torch.save({"student": network().state_dict(), "teacher": other()}, tmp_path / "m.pth")
    text = refusal(chosen, tmp_path / "m.pth")
    assert "2 different states fit, student, teacher; write `state: NAME` to choose one" in text
    assert equal(chosen(tmp_path / "m.pth", state="teacher")[0], other())
    text = refusal(chosen, tmp_path / "m.pth", state="pupil")
    assert "state 'pupil' is not there; the file has student, teacher" in text


def test_state_above_the_only_one_below_it(tmp_path):
    torch.save({"ema": {"module": network().state_dict()}, "net": other()}, tmp_path / "m.pth")
    assert chosen(tmp_path / "m.pth", state="ema")[1]["state"] == "ema.module"


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "model.", "backbone.", "module._orig_mod.", "0."]
)
def test_a_prefix_of_all_names_is_taken_off_and_recorded(tmp_path, prefix):
    save_file({prefix + n: t for n, t in network().state_dict().items()}, tmp_path / "m")
    state, record = chosen(tmp_path / "m")
    assert equal(state, dict(network().state_dict())) and record["prefix"] == prefix


def test_wrappers_inside_names_are_taken_off_and_recorded(tmp_path):
    wrapped = {n.replace("3.", "3._orig_mod."): t for n, t in network().state_dict().items()}
    save_file(wrapped, tmp_path / "m")
    state, record = chosen(tmp_path / "m")
    assert equal(state, dict(network().state_dict())) and record["wrappers"] == ["_orig_mod"]


def test_averaged_model_of_torch(tmp_path):
    averaged = torch.optim.swa_utils.AveragedModel(network())
    torch.save(averaged.state_dict(), tmp_path / "m.pth")
    state, record = chosen(tmp_path / "m.pth")
    assert equal(state, dict(network().state_dict()))
    assert (record["prefix"], record["left_out"]) == ("module.", ["n_averaged"])


@pytest.mark.parametrize("prefix", ["", "module."])
def test_classifier_that_the_network_was_built_without_is_left_out(tmp_path, prefix):
    """Hubs have whole classifiers; timm leaves the head away for features too."""
    whole = timm.create_model("test_convnext").state_dict()
    save_file({prefix + name: tensor for name, tensor in whole.items()}, tmp_path / "m")
    features = timm.create_model("test_convnext", num_classes=0)
    state, record = chosen(tmp_path / "m", features)
    head = ["head.fc.weight", "head.fc.bias"]
    assert equal(state, {name: whole[name] for name in whole if name not in head})
    assert sorted(record["left_out"]) == sorted(prefix + name for name in head)
    save_file(dict(whole) | {"head.more": torch.ones(1)}, tmp_path / "n")
    assert "unexpected tensor 'head.more'" in refusal(chosen, tmp_path / "n", features)
    other = timm.create_model("test_convnext", num_classes=5)
    assert "tensor 'head.fc" in refusal(chosen, tmp_path / "m", other)


def two_groups(first, second):
    """One flat state dict with two networks; the second has other values."""
    state = network().state_dict()
    groups = {first: state, second: {name: tensor * 2 for name, tensor in state.items()}}
    return {f"{g}.{n}": tensor for g, tensors in groups.items() for n, tensor in tensors.items()}


@pytest.mark.parametrize("key", [None, "state_dict"])
def test_flat_state_dict_of_two_networks(tmp_path, key):
    state = two_groups("model", "ema")
    torch.save({key: state} if key else state, tmp_path / "m.pth")
    found, record = chosen(tmp_path / "m.pth")
    above = f"{key}." if key else ""
    assert equal(found, {n.removeprefix("ema."): t for n, t in state.items() if n[:3] == "ema"})
    assert (record["state"], record["prefix"]) == (f"{above}ema", "ema.")
    assert record["other_states"][f"{above}model"] == "fits too"
    model = network()
    raw, _ = choose(read(tmp_path / "m.pth"), model, "m.pth", state=f"{above}model")
    assert equal(raw, dict(model.state_dict()))


def test_two_networks_without_a_usual_name_are_a_question(tmp_path):
    torch.save(two_groups("student", "teacher"), tmp_path / "m.pth")
    text = refusal(chosen, tmp_path / "m.pth")
    assert "2 different states fit, student, teacher; write `state: NAME`" in text


def test_missing_tensor_shows_the_nearest_names():
    model = network()
    state = {n.replace("3.", "head.fc."): t for n, t in model.state_dict().items()}
    text = refused(state, model)
    assert "lacks tensor '3.weight' (and 1 more); nearest here: 'head.fc.weight'" in text
    assert "if only names differ, write `tensors: in_order`" in text


def tied(share=True):
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    if share:
        model[1].weight = model[0].weight
    return model


def test_tied_tensors_that_are_stored_once(tmp_path):
    model = tied()
    save_model(model, tmp_path / "m.safetensors")
    state, record = chosen(tmp_path / "m.safetensors", tied())
    assert equal(state, dict(model.state_dict()))
    assert record["aliases"] == {"1.weight": "0.weight"}
    assert equal(chosen(tmp_path / "m.safetensors", tied(share=False))[0], state)


def test_tied_tensors_without_a_note(tmp_path):
    state = dict(tied().state_dict())
    save_file({n: t for n, t in state.items() if n != "1.weight"}, tmp_path / "m.safetensors")
    assert chosen(tmp_path / "m.safetensors", tied())[1]["aliases"] == {"1.weight": "0.weight"}
    refusal(chosen, tmp_path / "m.safetensors", tied(share=False))


def test_tied_tensors_that_differ():
    state = tied(share=False).state_dict()
    assert "'1.weight' and '0.weight' differ, but" in refused(state, tied())


# Shards


@pytest.fixture
def sharded(tmp_path):
    """An index of two shards, and the names in each."""

    def sharded(save=save_file, suffix="safetensors", change=lambda index: None):
        state = network().state_dict()
        index = {"metadata": {}, "weight_map": {}}
        for i, names in enumerate((list(state)[:3], list(state)[3:]), 1):
            file = f"model-{i:05}-of-00002.{suffix}"
            save({n: state[n] for n in names}, tmp_path / file)
            index["weight_map"] |= dict.fromkeys(names, file)
        change(index["weight_map"])
        path = tmp_path / f"model.{suffix}.index.json"
        path.write_text(json.dumps(index))
        return path

    return sharded


@pytest.mark.parametrize(("save", "suffix"), [(save_file, "safetensors"), (torch.save, "bin")])
def test_shards_are_read_from_their_index(sharded, save, suffix):
    path = sharded(save, suffix)
    state, record = chosen(path)
    assert equal(state, dict(network().state_dict()))
    names = [f"model-0000{i}-of-00002.{suffix}" for i in (1, 2)]
    assert record["container"] == "index"
    assert record["shards"] == [
        {"file": name, "sha256": evidence.sha256(path.parent / name)} for name in names
    ]


@pytest.mark.abuse("hostile weight files")
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda places: places.update(extra="model-00001-of-00002.safetensors"), "the shard has 3"),
        (lambda places: places.pop("0.weight"), "the shard has 3"),
        (lambda places: places.update({"0.weight": "gone"}), "there is no such file"),
        (lambda places: places.update({"0.weight": "../m"}), "weight_map names '../m', refused"),
        (lambda places: places.update({"0.weight": 3}), "weight_map names 3, refused"),
        (lambda places: places.clear(), "without a weight_map"),
        (lambda p: p.update({"0.weight": "model.safetensors.index.json"}), "names itself|index"),
    ],
)
def test_index_that_lies(sharded, change, said):
    assert re.search(said, refusal(chosen, sharded(change=change)))


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


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        (
            "3.bias",
            float("nan"),
            "tensor '3.bias' has 2 of 2 values that are not finite, such as nan",
        ),
        ("3.bias", 1e300, "has 2 of 2 values that are not finite in float32, such as 1e+300"),
        ("1.running_var", -1.0, "tensor '1.running_var' has a negative variance, -1"),
    ],
)
def test_impossible_values_are_refused_by_name(name, value, said):
    model = network()
    state = model.state_dict()
    assert said in refused(
        {**state, name: torch.full_like(state[name], value, dtype=torch.float64)}, model
    )


@pytest.mark.parametrize("change", [lambda t: t.to("meta"), lambda t: t.to_sparse()])
def test_tensors_without_dense_values_are_refused(change):
    model = network()
    state = model.state_dict()
    text = refused({**state, "3.weight": change(state["3.weight"])}, model)
    assert "tensor '3.weight' is" in text and "expected dense values" in text


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


def test_a_module_that_asks_for_its_version_is_loaded(folder):
    """Safetensors has no versions. torchvision's mnasnet refuses a state without one."""
    Path("model.py").write_text(
        ARCHITECTURE
        + """

class Asks(nn.Conv2d):
    _version = 2

    def _load_from_state_dict(self, state, prefix, metadata, *rest):
        if metadata.get("version") != 2:
            raise ValueError("version should be 2")
        super()._load_from_state_dict(state, prefix, metadata, *rest)


def asks():
    model = net()
    model[0] = Asks(3, 4, 3)
    return model
"""
    )
    assert equal(dict(load(folder, "model.py:asks").state_dict()), dict(network().state_dict()))


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


@pytest.mark.parametrize("length", [0x0280, 0x0480, 0x8B1F & ~7, 0x8B1F])
def test_safetensors_whose_length_looks_like_another_kind(tmp_path, length):
    """The file starts with the length of its header, which may be the start of a pickle or gzip."""
    file = tmp_path / "a.safetensors"
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}})
    file.write_bytes(length.to_bytes(8, "little") + header.ljust(length).encode() + bytes(4))
    assert read(file).container == "safetensors"
