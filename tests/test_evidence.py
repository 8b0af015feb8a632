"""Files are whole or absent, notice a change, and code is hashed by what it computes with."""

import importlib.metadata
import os
import stat
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file

from npu_parity import evidence
from npu_parity.errors import ParityError


def refusal(call, *args):
    with pytest.raises(ParityError) as error:
        call(*args)
    text = str(error.value)
    assert len(text.splitlines()) == 1 and str(args[0]) in text
    return text


# Writing


@pytest.mark.parametrize("former", [None, "former"])
@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
def test_failing_writer_leaves_nothing_behind_and_the_former_file_as_it_was(tmp_path, former, kind):
    file = tmp_path / "a.txt"
    if former:
        file.write_text(former)

    def writer(partial):
        partial.write_text("half")
        raise kind

    with pytest.raises(kind):
        evidence.write(file, writer)
    assert [p.read_text() for p in tmp_path.iterdir()] == [former] * bool(former)


def test_file_is_not_there_before_it_is_whole(tmp_path):
    file = tmp_path / "folder" / "a.txt"

    def writer(partial):
        partial.write_text("whole")
        assert not file.exists() and partial.parent == file.parent

    evidence.write(file, writer)
    assert file.read_text() == "whole" and len(list(file.parent.iterdir())) == 1


def test_files_can_be_read_by_everybody(tmp_path):
    umask = os.umask(0o077)
    try:
        evidence.write(tmp_path / "a", lambda p: save_file({"a": np.ones(1)}, p))
        evidence.write_array(tmp_path / "b", np.ones(1))
        evidence.write_json(tmp_path / "c", 1)
    finally:
        os.umask(umask)
    assert {stat.S_IMODE(p.stat().st_mode) for p in tmp_path.iterdir()} == {0o644}


# JSON


def test_json_keeps_every_bit_and_every_letter(tmp_path):
    data = {"x": [0.1 + 0.2, 1e-320, 2**53 + 1], "ä": "—", "order": None, "a": True}
    evidence.write_json(tmp_path / "a.json", data)
    assert evidence.read_json(tmp_path / "a.json") == data
    assert list(evidence.read_json(tmp_path / "a.json")) == list(data)
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert "ä" in text and "—" in text and text.endswith("}\n")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_json_has_no_nan(tmp_path, value):
    with pytest.raises(ValueError, match="JSON compliant"):
        evidence.write_json(tmp_path / "a.json", {"x": [1.0, value]})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"", b'{"a": 1', b"\xff\xfe"])
def test_broken_json(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    assert "is not JSON" in refusal(evidence.read_json, tmp_path / "a.json")


def test_missing_file_says_how_to_make_it(tmp_path):
    for call in (evidence.read_json, evidence.read_array):
        assert "is missing: run `snakemake --cores 4 " in refusal(call, tmp_path / "a")


# Arrays


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=np.float32).reshape(2, 3),
        np.array([[np.nan, np.inf, -0.0]], np.float32),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    ],
)
def test_array_comes_back_bit_by_bit(tmp_path, array):
    digest = evidence.write_array(tmp_path / "a.npy", array)
    found = evidence.read_array(tmp_path / "a.npy", digest)
    assert found.dtype == array.dtype and found.shape == array.shape
    assert found.tobytes() == array.tobytes()
    printed = subprocess.run(["sha256sum", tmp_path / "a.npy"], capture_output=True, text=True)
    assert printed.stdout.split()[0] == digest == evidence.sha256(tmp_path / "a.npy")


def test_changed_array_is_noticed(tmp_path):
    digest = evidence.write_array(tmp_path / "a.npy", np.ones(3))
    other = evidence.write_array(tmp_path / "a.npy", np.zeros(3))
    text = refusal(lambda path: evidence.read_array(path, digest), tmp_path / "a.npy")
    assert digest[:12] in text and other[:12] in text and "changed or damaged" in text


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04no", b"\x93NUMPY"])
def test_broken_array(tmp_path, content):
    (tmp_path / "a.npy").write_bytes(content)
    assert "is not an .npy array" in refusal(evidence.read_array, tmp_path / "a.npy")


def test_array_cut_short_or_with_a_damaged_header(tmp_path):
    file = tmp_path / "a.npy"
    evidence.write_array(file, np.ones((2, 3), np.float32))
    content = file.read_bytes()
    for length in range(len(content)):
        file.write_bytes(content[:length])
        assert "is not an .npy array" in refusal(evidence.read_array, file)
    for place in range(10, 60):
        file.write_bytes(content[:place] + b"(" + content[place + 1 :])
        try:
            evidence.read_array(file)
        except ParityError as error:
            assert "is not an .npy array" in str(error)


def test_archive_is_no_array(tmp_path):
    np.savez(tmp_path / "a.npz", a=np.ones(1))
    (tmp_path / "a.npz").rename(tmp_path / "a.npy")
    assert "is not an .npy array" in refusal(evidence.read_array, tmp_path / "a.npy")


def test_objects_are_not_unpickled(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{}], dtype=object), allow_pickle=True)
    assert "is not an .npy array" in refusal(evidence.read_array, tmp_path / "a.npy")


# Versions


def test_versions_are_those_installed():
    found = evidence.versions()
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    for name in ("torch", "torchvision", "timm", "numpy"):
        assert found[name] == importlib.metadata.version(name)
