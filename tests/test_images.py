"""Every kind of input arrives as the array that the system's own libraries would make of it."""

import hashlib
import json
import re
import runpy
import struct
import sys
import zlib

import numpy as np
import pytest
import skimage.data
import timm
import torch
import torchvision
from PIL import Image
from project import ROOT

from npu_parity import config, evidence
from npu_parity.errors import ParityError
from npu_parity.sources.images import (
    PHOTOGRAPHS,
    collect,
    files,
    photograph_path,
    read_image,
)
from npu_parity.sources.preprocessing import IMAGENET, Preprocessing

SHAPE = (3, 24, 32)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def picture(name, mode="RGB", size=(40, 30), **options):
    """Write a picture with something in every channel and return it."""
    values = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    image = Image.fromarray(values).convert(mode)
    image.save(name, **options)
    return image


def pixels(item):
    return np.asarray(item.data)


def one(*sources):
    (item,) = collect(list(sources), SHAPE)
    return item


def refusal(*sources):
    with pytest.raises(ParityError) as error:
        list(collect(list(sources), SHAPE))
    text = str(error.value)
    assert text.startswith("input ") and len(text.splitlines()) == 1
    return text


# Kinds


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_photographs_are_scikit_images(name):
    item = one(f"skimage:{name}")
    assert np.array_equal(pixels(item), getattr(skimage.data, name)())
    assert (item.name, item.source) == (name, f"skimage:{name}")
    assert item.sha256 == evidence.sha256(photograph_path(name))


def test_random_samples_are_standard_normal_and_fed_as_they_are():
    items = list(collect(["random:100"], SHAPE))
    values = np.stack([item.data for item in items])
    assert values.shape == (100, *SHAPE) and values.dtype == np.float32
    assert abs(values.mean()) < 0.01 and abs(values.std() - 1) < 0.01
    assert [item.name for item in items] == [f"random_{i}" for i in range(100)]
    assert Preprocessing("x", {"crop": 8})(np.ones((3, 8, 8), np.float32)).sum() == 3 * 8 * 8


def test_synthetic_images_have_the_networks_size_and_every_frequency():
    for item in collect(["synthetic:6"], SHAPE):
        values = pixels(item).astype(float)
        assert values.shape == (24, 32, 3) and item.data.mode == "RGB"
        assert values.std() > 30  # blobs
        assert 5 < np.diff(values, axis=1).std() < values.std()  # grain, but no noise


@pytest.mark.parametrize("kind", ["synthetic", "random"])
def test_generated_inputs_are_the_same_each_time_and_differ(kind):
    six = list(collect([f"{kind}:6"], SHAPE))
    again = list(collect([f"{kind}:3"], SHAPE))
    assert [i.sha256 for i in again] == [i.sha256 for i in six[:3]]
    assert all(np.array_equal(pixels(a), pixels(b)) for a, b in zip(again, six, strict=False))
    assert len({i.sha256 for i in six}) == 6
    digests = [hashlib.sha256(pixels(i).tobytes()).hexdigest() for i in six]
    assert digests == [i.sha256 for i in six]


def test_file():
    image = picture("a.png")
    item = one("a.png")
    assert np.array_equal(pixels(item), np.asarray(image))
    assert (item.name, item.source) == ("a.png", "a.png")
    assert item.sha256 == evidence.sha256("a.png")


def test_folder_is_taken_in_the_order_of_names(folder):
    (folder / "images").mkdir()
    for name in ("b.png", "a.JPG", "10.bmp", "9.webp"):
        picture(f"images/{name}")
    (folder / "images" / "notes.txt").write_text("not an image")
    names = [item.name for item in collect(["images"], SHAPE)]
    assert names == ["10.bmp", "9.webp", "a.JPG", "b.png"]


def test_order_is_that_of_the_sources():
    picture("z.png")
    sources = ["z.png", "random:2", "skimage:rocket", "synthetic:1", "random:1"]
    names = [item.name for item in collect(sources, SHAPE)]
    assert names == ["z.png", "random_0", "random_1", "rocket", "synthetic_0", "random_0"]


def test_only_files_and_folders_may_change():
    sources = ["skimage:chelsea", "a.png", "random:3", "images", "synthetic:1"]
    assert files(sources) == ["a.png", "images"]


# Modes


def laid(values, colour):
    """RGBA values on a colour, computed in float64."""
    alpha = values[..., 3:] / 255
    return values[..., :3] * alpha + np.array(colour) * (1 - alpha)


@pytest.mark.parametrize("colour", [(255, 255, 255), (0, 0, 0), (10, 200, 30)])
def test_transparent_pixels_show_the_background(colour):
    values = np.random.default_rng(0).integers(0, 256, (9, 9, 4), dtype=np.uint8)
    Image.fromarray(values).save("a.png")
    (item,) = collect(["a.png"], SHAPE, colour)
    assert np.abs(pixels(item) - laid(values, colour)).max() <= 1
    assert item.changes == (f"transparent pixels on {colour}",)


def test_what_hides_under_transparent_pixels_does_not_matter():
    values = np.random.default_rng(0).integers(0, 256, (9, 9, 4), dtype=np.uint8)
    values[..., 3] = 255 * (np.arange(9) > 4)
    found = []
    for hidden in (0, 255):
        values[:, :5, :3] = hidden
        Image.fromarray(values).save("a.png")
        found.append(pixels(one("a.png")))
    assert np.array_equal(*found) and (found[0][:, :5] == 255).all()


def test_an_opaque_alpha_channel_changes_nothing():
    values = np.full((9, 9, 4), 255, np.uint8)
    values[..., :3] = np.random.default_rng(0).integers(0, 256, (9, 9, 3))
    Image.fromarray(values).save("a.png")
    item = one("a.png")
    assert np.array_equal(pixels(item), values[..., :3]) and item.changes == ()


def transparent(mode, name):
    """Write a picture whose left half is transparent."""
    image = picture("other.png").convert("RGBA")
    mask = Image.new("L", image.size, 255)
    mask.paste(0, (0, 0, 20, 30))
    image.putalpha(mask)
    if mode == "P":
        colours = image.convert("RGB").quantize(16)
        colours.putpalette(np.resize(colours.getpalette(), 768).tolist())
        spare = 255
        colours.paste(spare, (0, 0, 20, 30))
        colours.save(name, transparency=spare)
    elif mode == "RGB":
        rgb = image.convert("RGB")
        rgb.paste((1, 2, 3), (0, 0, 20, 30))
        rgb.save(name, transparency=(1, 2, 3))
    elif mode == "RGBa":  # premultiplied
        image.save(name, compression="raw", extrasamples=1)
    else:
        image.convert(mode).save(name)


@pytest.mark.parametrize(
    ("mode", "name"),
    [
        ("RGBA", "a.png"),
        ("LA", "a.png"),
        ("P", "a.png"),
        ("P", "a.gif"),
        ("RGB", "a.png"),
        ("RGBA", "a.webp"),
        ("RGBa", "a.tif"),
    ],
)
def test_every_kind_of_transparency_shows_the_background(mode, name):
    transparent(mode, name)
    item = one(name)
    assert (pixels(item)[:, :19] == 255).all() and pixels(item)[:, 21:].std() > 10
    assert "transparent pixels on (255, 255, 255)" in item.changes


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif", "a.webp"])
def test_images_stand_upright(orientation, name):
    """The wanted picture is stored as a camera stores it, and read as people see it."""
    upright = Image.fromarray((np.indices((16, 32, 3)).sum(0) * 5 % 256).astype(np.uint8))
    way = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # its own inverse, except 6 and 8
    stored = upright.transpose(Image.Transpose(way[orientation])) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if name == "a.webp" else {"quality": 100, "subsampling": 0}
    stored.save(name, exif=exif, **({} if name[-3:] in ("png", "tif") else options))
    item = one(name)
    assert item.data.size == upright.size
    error = np.abs(pixels(item).astype(int) - np.asarray(upright).astype(int)).mean()
    assert error < (6 if name == "a.jpg" else 0.01)
    said = f"EXIF orientation {orientation} applied"
    assert item.changes == ((said,) if orientation > 1 else ())


@pytest.mark.parametrize("name", ["a.gif", "a.tif", "a.png", "a.webp"])
def test_the_first_frame_counts_and_it_is_said(name):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "lime")]
    options = {"lossless": True} if name == "a.webp" else {}
    frames[0].save(name, save_all=True, append_images=frames[1:], **options)
    item = one(name)
    assert (pixels(item) == [255, 0, 0]).all() and "first of several frames" in item.changes


@pytest.mark.parametrize("colours", [1, 3])
def test_16_bits(folder, colours):
    """RGB becomes 8 bits, as all libraries do, and it is said. Grey has no agreed white."""
    kind = {1: 0, 3: 2}[colours]
    rows = b"".join(b"\0" + bytes([0x12, 0x34] * 4 * colours) for _ in range(4))
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 16, kind, 0, 0, 0))]
    chunks += [(b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    content = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )
    (folder / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    if colours == 1:
        assert "more than 8 bits a channel" in refusal("a.png")
    else:
        item = one("a.png")
        assert (pixels(item) == 0x12).all() and item.changes == ("16 bits a channel reduced to 8",)


@pytest.mark.parametrize("mode", ["L", "1", "LA"])
def test_grey_becomes_three_equal_channels(mode):
    image = picture("a.png", mode)
    found = pixels(one("a.png"))
    assert found.shape == (30, 40, 3) and found.std() > 10
    assert np.array_equal(found, np.asarray(image.convert("L"))[:, :, None].repeat(3, axis=2))


def test_palette_is_resolved():
    image = picture("a.png", "P")
    with Image.open("a.png") as written:
        assert written.mode == "P"
    assert np.array_equal(pixels(one("a.png")), np.asarray(image.convert("RGB")))


def test_cmyk_is_converted():
    picture("a.jpg", "CMYK")
    item = one("a.jpg")
    assert item.data.mode == "RGB"
    assert item.changes == ("CMYK converted to RGB without a colour profile",)


@pytest.mark.abuse("hostile images")
@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_more_than_8_bits_is_refused_rather_than_clipped(dtype):
    name = "a.png" if dtype == np.uint16 else "a.tif"
    Image.fromarray(np.linspace(0, 60000, 100).reshape(10, 10).astype(dtype)).save(name)
    assert "more than 8 bits" in refusal(name)


# What is no image


@pytest.mark.abuse("hostile images")
def test_truncated_jpeg(folder):
    picture("a.jpg", size=(200, 200), quality=95)
    content = (folder / "a.jpg").read_bytes()
    (folder / "a.jpg").write_bytes(content[: len(content) // 2])
    text = refusal("a.jpg")
    assert text.startswith("input a.jpg: not a readable image") and "truncated" in text


@pytest.mark.abuse("hostile images")
@pytest.mark.parametrize("content", [b"", b"hello, I am no image\n", b"\x89PNG\r\n\x1a\n\0\0"])
def test_other_content_under_an_images_name(folder, content):
    (folder / "a.jpg").write_bytes(content)
    assert "a.jpg: not a readable image" in refusal("a.jpg")


def test_missing_file():
    assert refusal("a.jpg") == "input a.jpg: there is no such file"


@pytest.mark.parametrize("content", [[], ["notes.txt"]])
def test_folder_without_images(folder, content):
    (folder / "images").mkdir()
    for name in content:
        (folder / "images" / name).touch()
    assert "input images: the folder has no image" in refusal("images")


@pytest.mark.parametrize(
    "source", ["random:0", "synthetic:x", "random:", "synthetic:-1", "random:1.5"]
)
def test_count_is_at_least_1(source):
    assert refusal(source).startswith(f"input {source}: found {source.partition(':')[2]!r}")


def test_unknown_photograph():
    text = refusal("skimage:cat")
    assert "'cat'" in text and all(name in text for name in PHOTOGRAPHS)


# Preprocessing


@pytest.fixture(scope="module")
def cat():
    return read_image(photograph_path("chelsea")).data


@pytest.fixture(scope="module")
def systems():
    return config.load(ROOT / "config.yaml")["models"]


@pytest.mark.parametrize("name", ["efficientnet_b0", "convnextv2_atto", "efficientnet_lite0"])
def test_timm_models_have_timms_own(name, systems, cat):
    settings = systems[name]
    with torch.device("meta"):
        model = timm.create_model(settings["architecture"].removeprefix("timm:"))
    transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=model))
    preprocessing = Preprocessing(settings["architecture"], settings["preprocessing"])
    found = preprocessing(cat)
    assert found.shape == preprocessing.shape == (3, 224, 224) and found.dtype == np.float32
    assert np.array_equal(found, transform(cat).numpy())


@pytest.mark.parametrize("name", ["resnet34", "bird_species"])
def test_imagenets_is_torchvisions_own(name, systems, cat):
    settings = systems[name]
    transform = torchvision.models.ResNet34_Weights.IMAGENET1K_V1.transforms()
    found = Preprocessing(settings["architecture"], settings["preprocessing"])(cat)
    assert np.array_equal(found, transform(cat).numpy())


def test_svhns_is_resize_64_crop_54_mean_and_deviation_one_half(systems, cat):
    settings = systems["svhn"]
    found = Preprocessing(settings["architecture"], settings["preprocessing"])(cat)
    middle = np.asarray(cat.resize((64, 64), Image.Resampling.BILINEAR))[5:59, 5:59]
    np.testing.assert_allclose(found, middle.transpose(2, 0, 1) / 127.5 - 1, atol=1e-6)
    assert found.shape == (3, 54, 54)


def test_settings_replace_timms(cat):
    preprocessing = Preprocessing("timm:efficientnet_b0", {"crop": 128, "resize": 130})
    assert {k: preprocessing.settings[k] for k in ("crop", "resize")} == {
        "crop": 128,
        "resize": 130,
    }
    assert preprocessing.settings["interpolation"] == "bicubic"  # the others stay timm's
    assert preprocessing.origins["crop"] == "configuration"
    assert preprocessing.origins["mean"] == "timm efficientnet_b0.ra_in1k"
    other = Preprocessing("x", {"crop": 128, "resize": 130, "interpolation": "bicubic"})
    assert np.array_equal(preprocessing(cat), other(cat))
    assert preprocessing(cat).shape == preprocessing.shape == (3, 128, 128)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
def test_interpolation(interpolation, cat):
    found = Preprocessing("x", {"resize": [24, 32], "crop": 24, "interpolation": interpolation})(
        cat
    )
    method = Image.Resampling[interpolation.upper()]
    middle = np.asarray(cat.resize((32, 24), method))[:, 4:28].transpose(2, 0, 1) / 255
    mean, std = (np.array(IMAGENET[k])[:, None, None] for k in ("mean", "std"))
    np.testing.assert_allclose(found, (middle - mean) / std, atol=1e-5)


def test_array_passes_through_and_must_have_the_shape():
    preprocessing = Preprocessing("x", {"crop": 8})
    values = np.random.default_rng(0).normal(size=(3, 8, 8)).astype(np.float32)
    assert np.array_equal(preprocessing(values), values)
    with pytest.raises(ParityError, match=r"found shape \(3, 9, 8\), expected \(3, 8, 8\)"):
        preprocessing(np.zeros((3, 9, 8), np.float32))


def test_unknown_timm_model():
    with pytest.raises(ParityError, match="did you mean"):
        Preprocessing("timm:efficientnet_b00")


# The program


@pytest.fixture
def program(monkeypatch, capsys):
    """Run scripts/inputs.py in this process; returns its status and what it printed."""

    def program(*arguments):
        script = str(ROOT / "scripts" / "inputs.py")
        monkeypatch.setattr(sys, "argv", [script, *arguments])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(script, run_name="__main__")
        return (ended.value.code, *capsys.readouterr())

    return program


def test_sidecar_describes_the_array(folder, program):
    image = picture("mine.png")
    settings = {"resize": 12, "crop": 8}
    done = program(
        *("mine.png", "random:2", "--architecture", "torchvision:resnet18"),
        *("--preprocessing", json.dumps(settings), "--output", "system/inputs.npy"),
    )
    assert done == (0, "", "")
    about = json.loads((folder / "system/inputs.json").read_text())
    array = evidence.read_array(folder / "system/inputs.npy", about["sha256"])
    assert array.dtype == np.float32 and list(array.shape) == about["shape"] == [3, 3, 8, 8]
    assert about["names"] == ["mine.png", "random_0", "random_1"]
    assert [i["source"] for i in about["images"]] == ["mine.png", "random:2", "random:2"]
    assert about["images"][0]["sha256"] == evidence.sha256("mine.png")
    fixed = {"antialias": True, "background": [255, 255, 255]}
    assert about["preprocessing"] == IMAGENET | settings | fixed
    assert about["preprocessing_from"]["crop"] == "configuration"
    assert about["preprocessing_from"]["mean"] == "torchvision ResNet18_Weights.IMAGENET1K_V1"
    assert about["skipped"] == [] and about["images"][0]["changes"] == []
    assert np.array_equal(array[0], Preprocessing("x", settings)(image))
    assert hashlib.sha256(array[1].tobytes()).hexdigest() == about["images"][1]["sha256"]


def test_mistake_is_one_line_and_leaves_no_file(folder, program):
    done = program("random:0", "--architecture", "x", "--output", "inputs.npy")
    assert done == (1, "", "error: input random:0: found '0', expected a number from 1 to 999999\n")
    assert not list(folder.iterdir())


def test_an_image_of_a_package():
    source = "package:scikit-image/skimage/data/chelsea.png"
    (found,) = collect([source], SHAPE)
    (same,) = collect(["skimage:chelsea"], SHAPE)
    assert (found.name, found.source, found.sha256) == ("chelsea", source, same.sha256)
    for wrong, said in {
        "package:scikit-image": "expected package:DISTRIBUTION/FILE",
        "package:no-such-thing/a.png": "no-such-thing is not installed",
        "package:scikit-image/skimage/../x.png": "scikit-image has no file 'skimage/../x.png'",
    }.items():
        with pytest.raises(ParityError, match=re.escape(said)):
            list(collect([wrong], SHAPE))
