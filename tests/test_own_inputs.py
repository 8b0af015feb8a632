"""The user's own inputs: folders as they really come, lists, arrays, and hostile ones of each."""

import io
import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features
from project import CONFIG, Project, system

from npu_parity.errors import ParityError
from npu_parity.sources import decoding
from npu_parity.sources.images import collect, files, skipped
from npu_parity.sources.inputs import read_image
from npu_parity.sources.preprocessing import Preprocessing

SHAPE = (3, 6, 8)
RANDOM = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def picture(name, size=(9, 7), **options):
    path = os.path.dirname(name)
    os.makedirs(path or ".", exist_ok=True)
    values = np.random.default_rng(len(name)).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    Image.fromarray(values).save(name, **options)


def names(*sources):
    return [item.name for item in collect(list(sources), SHAPE)]


def refusal(*sources):
    with pytest.raises(ParityError) as error:
        list(collect(list(sources), SHAPE))
    text = str(error.value)
    assert text.startswith("input ") and len(text.splitlines()) == 1 and len(text) < 300, text
    return text


# Folders


def test_what_lies_in_a_folder_beside_images_is_skipped_counted_and_named(folder):
    for name in ("b.png", "a.jpg", "inner/c.png"):
        picture(f"photos/{name}")
    for name in ("._a.jpg", ".DS_Store", "Thumbs.db", "notes.txt", "b.txt", "IMG.CR2"):
        (folder / "photos" / name).write_bytes(b"\0\5\x16\7 no image")
    assert names("photos") == ["a.jpg", "b.png"]
    assert files(["photos"]) == ["photos/a.jpg", "photos/b.png"]
    (found,) = skipped(["photos", "random:1"])
    assert found["source"] == "photos" and found["count"] == 7
    assert found["kinds"] == {
        "without suffix": 2,
        ".jpg": 1,
        ".cr2": 1,
        ".db": 1,
        ".txt": 2,
    }
    assert "._a.jpg" in found["names"] and "inner" in found["names"]


def test_many_skipped_files_are_counted_and_the_first_are_named(folder):
    picture("photos/a.png")
    for index in range(50):
        (folder / "photos" / f"{index:02}.txt").touch()
    (found,) = skipped(["photos"])
    assert found["kinds"] == {".txt": 50} and len(found["names"]) == 20


def test_a_folder_of_classes_gives_the_images_of_each_class(folder):
    for name in ("dog/2.png", "dog/1.jpg", "cat/9.webp"):
        picture(f"data/{name}")
    (folder / "data/README.md").touch()
    (folder / "data/cat/._9.webp").touch()
    (folder / "data/.hidden").mkdir()
    assert names("data") == ["cat/9.webp", "dog/1.jpg", "dog/2.png"]
    (found,) = skipped(["data"])
    assert found["names"] == [".hidden", "README.md", "cat/._9.webp"]


def test_a_folder_of_classes_is_the_order_of_torchvision(folder):
    from torchvision.datasets import ImageFolder

    for name in ("b/2.png", "b/10.png", "a/x.jpg", "C/y.png"):
        picture(f"data/{name}")
    wanted = [os.path.relpath(path, "data") for path, _ in ImageFolder("data").samples]
    assert names("data") == wanted


def test_a_folder_without_a_readable_image_says_what_it_has(folder):
    (folder / "photos").mkdir()
    for name in ("1.dng", "2.dng", "notes"):
        (folder / "photos" / name).touch()
    assert "the folder has no image" in refusal("photos")
    assert "found 2 .dng, 1 without suffix" in refusal("photos")


# Formats


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
def test_avif():
    picture("photos/a.avif", size=(32, 24), quality=100)
    assert names("photos") == ["a.avif"]
    assert read_image(Path("photos/a.avif")).data.size == (32, 24)


def test_avif_without_a_decoder_is_one_line(folder, monkeypatch):
    """A build of Pillow without AVIF: its own answer is replaced, as no other build is here."""
    (folder / "a.avif").write_bytes(b"\0\0\0\x1cftypavif" + bytes(100))
    monkeypatch.setattr(decoding.features, "check", lambda _: False)
    assert "AVIF needs Pillow 11.3 or newer" in refusal("a.avif")


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100)


@pytest.mark.skipif(decoding.unreadable(".heic") is None, reason="pillow-heif is installed")
def test_heic_without_the_plugin(folder):
    """Named directly it is an error that says how; in a folder it is counted and named."""
    (folder / "IMG_1.HEIC").write_bytes(HEIC)
    assert "uv pip install pillow-heif" in refusal("IMG_1.HEIC")
    assert "found 1 .heic; HEIC needs a plugin" in refusal(".")
    (folder / "IMG_2.jpg").write_bytes(HEIC)  # the content decides
    assert "uv pip install pillow-heif" in refusal("IMG_2.jpg")
    os.remove("IMG_2.jpg")
    picture("a.png")
    assert names(".") == ["a.png"] and skipped(["."])[0]["kinds"] == {".heic": 1}


def test_heic_with_the_plugin():
    heif = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()
    picture("photos/a.heic", size=(64, 48), quality=-1)
    assert names("photos") == ["a.heic"]


SIGNS = {
    "LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n", "git lfs pull"),
    "login": (b"\n<!DOCTYPE html><html>Please log in</html>", "a web page or SVG"),
    "macOS": (b"\0\5\x16\7\0\2\0\0Mac OS X", "data of macOS beside the image"),
    "array": (b"\x93NUMPY\1\0", "name the file .npy"),
    "PDF": (b"%PDF-1.7", "a PDF"),
    "text": (b"hello, I am no image\n", "its content is no image"),
    "empty": (b"", "its content is no image"),
}


@pytest.mark.abuse("hostile images")
@pytest.mark.parametrize("name", SIGNS)
def test_other_content_under_an_images_name_says_what_it_is(folder, name):
    content, words = SIGNS[name]
    (folder / "a.jpg").write_bytes(content)
    assert words in refusal("a.jpg") and "0x" not in refusal("a.jpg")


# Sizes


@pytest.mark.abuse("hostile images")
@pytest.mark.parametrize("size", [(100_000, 1), (1, 100_000)])
def test_an_image_too_narrow_is_one_line(size):
    """To resize its short side to 256 would take 20 GB."""
    Image.new("RGB", size).save("a.png")
    (item,) = collect(["a.png"], SHAPE)
    with pytest.raises(ParityError, match=r"input a.png: found \d+ x \d+ pixels, too narrow"):
        Preprocessing("x")(item.data, item.name)


def test_one_pixel_is_an_image():
    Image.new("RGB", (1, 1), "red").save("a.png")
    (item,) = collect(["a.png"], SHAPE)
    found = Preprocessing("x", {"mean": [0.0] * 3, "std": [1.0] * 3})(item.data)
    assert found.shape == (3, 224, 224) and (found == [[[1.0]], [[0.0]], [[0.0]]]).all()


# Lists


def test_a_list_gives_its_images_in_its_order(folder):
    for name in ("lists/b.png", "lists/deep/a.png"):
        picture(name)
    text = "\ufefflabel,path\n1,b.png\n0,deep/a.png\n"
    (folder / "lists/val.csv").write_text(text, encoding="utf-8")
    assert names("lists/val.csv") == ["b.png", "deep/a.png"]
    assert files(["lists/val.csv"]) == ["lists/val.csv", "lists/b.png", "lists/deep/a.png"]


LISTS = {
    "no column": (b"a,b\n1,2\n", "found the columns a, b; expected a column 'path'"),
    "empty": (b"", "found the columns nothing"),
    "no row": (b"path\n", "the list has no image"),
    "no name": (b"path,x\n,1\n", "line 2 names no image"),
    "twice": (b"path\na.png\na.png\n", "line 3 names a.png again"),
    "not UTF-8": ("path\n照片.png\n".encode("gbk"), "not UTF-8"),
    "missing": (b"path\nnone.png\n", "none.png: there is no such file"),
    "a folder": (b"path\n..\n", "this is a folder"),
    "endless field": (b"path\n" + b'"' + b"a" * 200_000, "cannot be read"),
    "zeros": (bytes(1000), "found the columns"),
}


@pytest.mark.abuse("hostile images")
@pytest.mark.parametrize("name", LISTS)
def test_a_list_that_cannot_be_used_is_one_line(folder, name):
    picture("a.png")
    content, words = LISTS[name]
    (folder / "l.csv").write_bytes(content)
    assert words in refusal("l.csv")


# Arrays


def test_arrays_of_floats_are_fed_as_they_are(folder):
    values = RANDOM.standard_normal((4, *SHAPE)).astype(np.float32)
    np.save("x.npy", values)
    items = list(collect(["x.npy"], SHAPE))
    assert [i.name for i in items] == ["x_0", "x_1", "x_2", "x_3"]
    assert np.array_equal(np.stack([i.data for i in items]), values)
    assert all(i.data.dtype == np.float32 and i.changes == () for i in items)
    np.save("one.npy", values[0])
    assert names("one.npy") == ["one"]


@pytest.mark.parametrize(
    ("dtype", "changes"), [("f8", ("float64 rounded to float32",)), ("f2", ()), (">f4", ())]
)
def test_other_floats_become_float32_and_it_is_said(dtype, changes):
    values = RANDOM.standard_normal(SHAPE).astype(dtype)
    np.save("x.npy", np.asfortranarray(values))
    (item,) = collect(["x.npy"], SHAPE)
    assert item.data.dtype == np.float32 and np.array_equal(item.data, values.astype("f4"))
    assert item.changes == changes


def test_arrays_of_bytes_are_images():
    values = RANDOM.integers(0, 256, (2, 20, 30, 3), dtype=np.uint8)
    np.savez("x.npz", cats=values, dog=values[0])
    items = list(collect(["x.npz"], SHAPE))
    assert [i.name for i in items] == ["cats_0", "cats_1", "dog"]
    assert all(
        np.array_equal(np.asarray(i.data), v) for i, v in zip(items[:2], values, strict=True)
    )
    assert items[0].sha256 == items[2].sha256 != items[1].sha256


def archive(**members):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(f"{name}.npy", content)
    return stream.getvalue()


def saved(array, **options):
    stream = io.BytesIO()
    np.save(stream, array, **options)
    return stream.getvalue()


def announced(shape):
    """The header of a large array with few values behind it."""
    stream = io.BytesIO()
    about = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, about)
    return stream.getvalue() + bytes(100)


ARRAYS = {
    "other shape.npy": (saved(np.zeros((2, 3, 5, 8), "f4")), "expected uint8 (N, H, W, 3), or"),
    "channels last.npy": (saved(np.zeros((2, 6, 8, 3), "f4")), "is float32 of shape (2, 6, 8, 3)"),
    "whole numbers.npy": (saved(np.zeros(SHAPE, "i8")), "is int64"),
    "none.npy": (saved(np.zeros((0, *SHAPE), "f4")), ""),
    "one number.npy": (saved(np.float32(1)), "of shape ()"),
    "NaN.npy": (saved(np.full(SHAPE, np.nan, "f4")), "not finite"),
    "too large.npy": (saved(np.full(SHAPE, 1e300)), "not finite in float32"),
    "objects.npy": (saved(np.array([print]), allow_pickle=True), "cannot be read"),
    "announced.npy": (announced((10**9, *SHAPE)), "cannot be read"),
    "overflow.npy": (announced((2**62, 4)), "cannot be read"),
    "cut.npy": (saved(np.zeros((2, *SHAPE), "f4"))[:200], "cannot be read"),
    "pickle.npy": (b"cos\nsystem\n(S'touch executed'\ntR.", "its content is no array"),
    "empty.npy": (b"", "its content is no array"),
    "picture.npz": (b"\x89PNG\r\n\x1a\n", "its content is no array"),
    "objects.npz": (archive(a=saved(np.array([print]), allow_pickle=True)), "cannot be read"),
    "announced.npz": (archive(a=announced((10**12, *SHAPE))), "cannot be read"),
    "names that leave.npz": (archive(**{"../../evil": b"x"}), "cannot be read"),
}


@pytest.mark.abuse("hostile images")
@pytest.mark.parametrize("name", ARRAYS)
def test_an_array_that_cannot_be_used_is_one_line(folder, name):
    content, words = ARRAYS[name]
    (folder / name).write_bytes(content)
    assert words in refusal(name)
    assert list(folder.rglob("*")) == [folder / name]


@pytest.mark.abuse("hostile images")
def test_a_bomb_of_an_archive_is_one_line(folder, monkeypatch):
    """3 GiB of zeros in 3 MB: the directory of the archive announces them."""
    monkeypatch.setattr("npu_parity.sources.own.LARGEST", 2**20)  # the same in little
    (folder / "a.npz").write_bytes(archive(a=saved(np.zeros((2**21,), "u1"))))
    assert os.path.getsize("a.npz") < 2**14
    assert "more than 1 MiB" in refusal("a.npz")


@pytest.mark.abuse("hostile images")
@pytest.mark.parametrize("suffix", [".npy", ".npz", ".csv"])
def test_no_file_at_all(folder, suffix):
    os.mkfifo(f"pipe{suffix}")
    os.symlink("/dev/zero", f"device{suffix}")
    os.mkdir(f"folder{suffix}")
    for name, words in (
        ("pipe", "pipe or a device"),
        ("device", "pipe or a device"),
        ("folder", "this is a folder"),
        ("none", "there is no such file"),
    ):
        assert words in refusal(f"{name}{suffix}")


@pytest.mark.abuse("hostile images")
def test_a_large_file_is_not_read(folder, monkeypatch):
    monkeypatch.setattr(decoding, "LARGEST", 2**20)
    with (folder / "a.png").open("wb") as file:
        file.truncate(2**20 + 1)
    assert "more than 1 MiB" in refusal("a.png")


def test_json_of_inputs_is_small(folder):
    """What stands in inputs.json about skipped files does not grow with the folder."""
    picture("photos/a.png")
    for index in range(300):
        (folder / "photos" / f"{'n' * 200}{index}.txt").touch()
    assert len(json.dumps(skipped(["photos"]))) < 5000


# The workflow


@pytest.mark.slow
def test_the_workflow_reads_them_and_follows_the_file_beside_the_weights(tmp_path):
    about = {"mean": [0.5] * 3, "std": [0.5] * 3, "crop_pct": 0.8, "input_size": [3, 32, 32]}
    inputs = ["album", "list.csv", "x.npy"]
    net = system(weights=["path:net/model.safetensors"], inputs=inputs, preprocessing={})
    project = Project.make(tmp_path, CONFIG | {"models": {"net": net}})
    (project.folder / "net").mkdir()
    (project.folder / "net/model.safetensors").touch()
    (project.folder / "net/config.json").write_text(json.dumps(about))
    (project.folder / "album/._one.png").touch()
    (project.folder / "album/a.HEIC").touch()
    (project.folder / "list.csv").write_text("path\nphoto.png\n")
    np.save(project.folder / "x.npy", np.ones((1, 3, 32, 32), "f4"))
    project.succeed("results/net/inputs.npy")
    found = json.loads((project.folder / "results/net/inputs.json").read_text())
    assert found["names"] == ["one.png", "photo.png", "x_0"]
    assert found["preprocessing"]["resize"] == 40 and found["shape"] == [3, 3, 32, 32]
    assert found["preprocessing_from"]["resize"] == "net/config.json"
    assert found["skipped"][0]["names"][0] == "._one.png"
    log = (project.folder / "logs/net/inputs.log").read_text()
    assert log.startswith("album: skipped 1 .png") and "._one.png" in log
    (project.folder / "net/config.json").write_text(json.dumps(about | {"mean": [0.4] * 3}))
    project.succeed("results/net/inputs.npy")
    again = json.loads((project.folder / "results/net/inputs.json").read_text())
    assert again["preprocessing"]["mean"] == [0.4] * 3 and again["sha256"] != found["sha256"]
