"""Damaged, lying and hostile images and weight files: they are read, or refused in one line."""

import io
import json
import os
import resource
import struct
import subprocess
import sys
import warnings
import zipfile
import zlib

import numpy as np
import pytest
import torch
from abuse import many
from PIL import Image
from project import ROOT
from safetensors.torch import save
from torch import nn

from npu_parity.errors import ParityError
from npu_parity.sources.checkpoints import read_file
from npu_parity.sources.fitting import fit
from npu_parity.sources.images import read_image

BLOCK = 25  # mutations that one test tries


def one_line(error, path):
    text = str(error)
    assert len(text.splitlines()) == 1 and len(text) < 300 + len(str(path)), text
    assert str(path) in text and text.isprintable() and "Traceback" not in text


# --- Images

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")


def picture(kind):
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def mutated(content, random):
    """The bytes with some of them changed, cut off, repeated or moved."""
    content = bytearray(content)
    for _ in range(random.integers(1, 4)):
        place = int(random.integers(0, max(1, min(len(content), random.choice([16, 64, 10**6])))))
        match random.integers(0, 5):
            case 0:
                content[place : place + 1] = [random.integers(0, 256)]
            case 1:
                del content[place:]
            case 2:
                content[place : place + 4] = struct.pack(">I", random.choice([0, 2**31, 2**32 - 1]))
            case 3:
                content[place:place] = content[place : place + 40]
            case 4:
                del content[place : place + int(random.integers(1, 40))]
    return bytes(content)


@pytest.mark.abuse("damaged images")
@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("block", range(many(1, 8)))
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")
def test_damaged_image(kind, block, tmp_path, record_property):
    record_property("cases", BLOCK)
    random = np.random.default_rng([FORMATS.index(kind), block])
    path = tmp_path / f"a.{kind.lower()}"
    for _ in range(BLOCK):
        path.write_bytes(mutated(picture(kind), random))
        try:
            assert read_image(path).data.mode == "RGB"
        except ParityError as error:
            one_line(error, path)


def png(width, height):
    """A PNG that announces a size, and has little data."""
    content = bytearray(picture("PNG"))
    content[16:24] = struct.pack(">II", width, height)
    content[29:33] = struct.pack(">I", zlib.crc32(bytes(content[12:29])))
    return bytes(content)


HOSTILE_IMAGES = {
    "bomb": png(100_000, 100_000),
    "large bomb": png(2**31 - 1, 2**31 - 1),
    "warned bomb": png(12_000, 10_000),
    "no size": png(0, 0),
    "archive": b"PK\x03\x04" + bytes(100),
    "page of a login": b"<!DOCTYPE html><html><body>Please log in</body></html>",
    "pointer of Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n",
    "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
    "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
    "empty": b"",
    "zeros": bytes(10_000),
    "text": "猫\n".encode() * 100,
}


@pytest.mark.abuse("hostile images")
@pytest.mark.parametrize("name", HOSTILE_IMAGES)
def test_hostile_image(name, tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(HOSTILE_IMAGES[name])
    with pytest.raises(ParityError) as error:
        read_image(path)
    one_line(error.value, path)


def pipe(path):
    os.mkfifo(path)


def device(path):
    path.symlink_to("/dev/zero")


def folder(path):
    path.mkdir()


def loop(path):
    path.symlink_to(path)


def nowhere(path):
    path.symlink_to(path.with_name("nothing"))


@pytest.mark.abuse("hostile images")
@pytest.mark.parametrize("make", [pipe, device, folder, loop, nowhere])
def test_no_file_at_all(make, tmp_path):
    """Reading a pipe would wait for ever, and reading a device would never end."""
    path = tmp_path / "a.png"
    make(path)
    for read in (read_image, read_file):
        with pytest.raises(ParityError) as error:
            read(path)
        one_line(error.value, path)


# --- Weight files


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()


def stored(zipped):
    stream = io.BytesIO()
    torch.save(network().state_dict(), stream, _use_new_zipfile_serialization=zipped)
    return stream.getvalue()


KINDS = {
    "safetensors": lambda: save(network().state_dict()),
    "zipped.pth": lambda: stored(True),
    "old.pth": lambda: stored(False),
}


@pytest.mark.abuse("damaged weight files")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("block", range(many(1, 8)))
def test_damaged_weights(kind, block, tmp_path, record_property):
    """What can be read fits the network in every tensor, or is refused."""
    record_property("cases", BLOCK)
    random = np.random.default_rng([list(KINDS).index(kind), block])
    path = tmp_path / f"a.{kind}"
    model = network()
    for _ in range(BLOCK):
        path.write_bytes(mutated(KINDS[kind](), random))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                state = fit(read_file(path), model, str(path))
            except ParityError as error:
                one_line(error, path)
            else:
                assert {n: t.shape for n, t in state.items()} == {
                    n: t.shape for n, t in model.state_dict().items()
                }


def header(about, data=b"", size=None):
    text = json.dumps(about).encode() if isinstance(about, dict) else about
    return struct.pack("<Q", len(text) if size is None else size) + text + data


def tensor(shape, start, end, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def archive(names):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        for name in names:
            file.writestr(name, "x")
    return stream.getvalue()


HOSTILE_WEIGHTS = {
    "header longer than the file.safetensors": header({}, size=2**40),
    "header of no JSON.safetensors": header(b"{" * 1000),
    "header nested deeply.safetensors": header(b"[" * 100_000),
    "overlapping tensors.safetensors": header(
        {"a": tensor([2], 0, 8), "b": tensor([2], 4, 12)}, bytes(12)
    ),
    "tensor beyond the file.safetensors": header({"a": tensor([2**40], 0, 2**42)}),
    "shape that overflows.safetensors": header({"a": tensor([2**62, 4], 0, 0)}),
    "negative offset.safetensors": header({"a": tensor([1], -4, 0)}, bytes(4)),
    "hole.safetensors": header({"a": tensor([1], 4, 8)}, bytes(8)),
    "unknown dtype.safetensors": header({"a": tensor([1], 0, 4, "F33")}, bytes(4)),
    "same name twice.safetensors": header(
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
        b'"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
        bytes(4),
    ),
    "no tensors.safetensors": header({}),
    "names that leave.pth": archive(["../../evil", "/evil", "archive/data.pkl"]),
    "empty archive.pth": archive([]),
    "thousands of names.pth": archive(map(str, range(5000))),
    "page of a login.pth": HOSTILE_IMAGES["page of a login"],
    "page of a login.safetensors": HOSTILE_IMAGES["page of a login"],
    "pointer of Git LFS.safetensors": HOSTILE_IMAGES["pointer of Git LFS"],
    "pointer of Git LFS.pth": HOSTILE_IMAGES["pointer of Git LFS"],
    "code.pth": b"cos\nsystem\n(S'touch executed'\ntR.",
    "endless pickle.pth": b"(" * 100_000 + b".",
    "recursive pickle.pth": b"]q\x00h\x00a.",
    "large number.pth": b"\x8b\xff\xff\xff\x7f.",
    "empty.pth": b"",
    "empty.safetensors": b"",
    "zeros.pth": bytes(10_000),
    "zeros.safetensors": bytes(10_000),
}


@pytest.mark.abuse("hostile weight files")
@pytest.mark.parametrize("name", HOSTILE_WEIGHTS)
def test_hostile_weights(name, tmp_path, monkeypatch):
    """Nothing is executed and nothing is written outside."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "here" / name
    path.parent.mkdir()
    path.write_bytes(HOSTILE_WEIGHTS[name])
    with pytest.raises(ParityError) as error:
        fit(read_file(path), network(), str(path))
    one_line(error.value, path)
    assert list(tmp_path.rglob("*")) == [path.parent, path]


SPARSE = """
import resource, sys
from pathlib import Path
import torch, PIL.Image
from npu_parity.errors import ParityError
from npu_parity.sources.checkpoints import read_file
from npu_parity.sources.images import read_image
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[3]), -1))
try:
    {"read_file": read_file, "read_image": read_image}[sys.argv[1]](Path(sys.argv[2]))
except ParityError as error:
    sys.exit(f"error: {error}")
"""


def bomb():
    """A small archive whose entries become megabytes."""
    stream, source = io.BytesIO(), zipfile.ZipFile(io.BytesIO(stored(True)))
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as file:
        for entry in source.infolist():
            file.writestr(entry.filename, source.read(entry) + bytes(2**20))
    return stream.getvalue()


@pytest.mark.abuse("hostile weight files")
def test_a_compressed_archive_is_refused(tmp_path):
    path = tmp_path / "a.pth"
    path.write_bytes(bomb())
    with pytest.raises(ParityError, match="compressed"):
        read_file(path)


@pytest.mark.abuse("hostile weight files")
def test_a_large_tensor_is_not_read_before_its_shape(tmp_path):
    """8 GB that take no space on the disk take none in memory either."""
    path = tmp_path / "a"
    with path.open("wb") as file:
        start = header({"0.weight": tensor([2**31], 0, 2**33)})
        file.write(start)
        file.truncate(len(start) + 2**33)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ParityError) as error:
        fit(read_file(path), network(), str(path))
    one_line(error.value, path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kilobytes


@pytest.mark.slow
@pytest.mark.abuse("hostile weight files")
@pytest.mark.parametrize(
    ("read", "name"),
    [("read_file", "a.pth"), ("read_file", "a.safetensors"), ("read_image", "a.png")],
)
def test_a_file_larger_than_memory(read, name, tmp_path):
    """It is sparse: 10 GB that take no space. The process may use 4 GB."""
    path = tmp_path / name
    with path.open("wb") as file:
        file.truncate(10 * 2**30)
    done = subprocess.run(
        [sys.executable, "-c", SPARSE, read, path, str(4 * 2**30)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1, done.stderr
