"""The preprocessing that weights were trained for, from timm, torchvision and the files of hubs."""

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torchvision
import yaml
from project import ROOT
from timm.data import create_transform, resolve_data_config

from npu_parity import config, evidence
from npu_parity.errors import ParityError
from npu_parity.report import tables
from npu_parity.sources import pretrained
from npu_parity.sources.images import collect, photograph_path
from npu_parity.sources.inputs import read_image
from npu_parity.sources.preprocessing import IMAGENET, Preprocessing


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def cat():
    return read_image(photograph_path("chelsea")).data


# The libraries


@pytest.mark.parametrize(
    ("name", "resize", "crop", "interpolation"),
    [
        ("resnet34", 256, 224, "bilinear"),
        ("resnet50", 232, 224, "bilinear"),
        ("efficientnet_b3", 320, 300, "bicubic"),
        ("inception_v3", 342, 299, "bilinear"),
        ("vit_b_16", 256, 224, "bilinear"),
        ("swin_v2_t", 260, 256, "bicubic"),
    ],
)
def test_torchvisions_default_weights_say_it(name, resize, crop, interpolation, cat):
    found = Preprocessing(f"torchvision:{name}")
    wanted = {"resize": resize, "crop": crop, "interpolation": interpolation}
    assert {key: found.settings[key] for key in wanted} == wanted
    weights = torchvision.models.get_model_weights(name).DEFAULT
    assert np.array_equal(found(cat), weights.transforms()(cat).numpy())
    assert found.origins["crop"] == f"torchvision {weights}"
    assert found.settings["antialias"] is True


@pytest.mark.parametrize(
    "name",
    [
        "efficientnet_b0.ra_in1k",
        "efficientnet_b0.ra4_e3600_r224_in1k",
        "vit_base_patch16_224.augreg_in21k",
        "vit_base_patch16_clip_224.openai",
        "inception_v3.tf_in1k",
        "convnext_tiny.in12k_ft_in1k_384",  # squashed
        "mobilenetv3_small_050.lamb_in1k",
        "test_vit",
    ],
)
def test_timms_tag_says_it(name, cat):
    settings = timm.get_pretrained_cfg(name).to_dict()
    transform = create_transform(**resolve_data_config(pretrained_cfg=settings))
    wanted = transform(cat).numpy()
    assert np.array_equal(Preprocessing(f"timm:{name}")(cat), wanted)
    architecture, _, tag = name.partition(".")
    if tag:  # the architecture has another default; the repository has the tag
        found = Preprocessing(f"timm:{architecture}", {}, [f"huggingface:timm/{name}", "seed:1"])
        assert np.array_equal(found(cat), wanted)
        assert found.origins["mean"] == f"timm {name}"


@pytest.mark.parametrize(
    "source",
    [
        "modelscope:timm/resnet50.tv_in1k",
        "huggingface:timm/resnet50.tv_in1k@main/model.safetensors#sha256=" + "0" * 64,
    ],
)
def test_weights_of_timm_in_another_architecture_say_it(source):
    for architecture in ("torchvision:resnet50", "own.py:net"):
        found = Preprocessing(architecture, {}, [source])
        assert (
            found.settings["resize"] == 256 and found.origins["resize"] == "timm resnet50.tv_in1k"
        )


def test_what_says_nothing_gives_the_default_of_the_architecture():
    weights = ["package:a/b.pth", "path:a.pth", "modelscope:Own/svhn.v2/model-*.pth", "seed:42"]
    assert pretrained.telling(weights) == pretrained.asked(weights) == weights[2:3]
    assert Preprocessing("torchvision:resnet50", {}, weights).settings["resize"] == 232
    found = Preprocessing("own.py:net", {}, weights)
    assert {key: found.settings[key] for key in IMAGENET} == IMAGENET
    assert found.origins["mean"] == "ImageNet's usual values"


def test_the_configuration_counts_first():
    found = Preprocessing("timm:vit_base_patch16_224", {"resize": 230})
    assert found.settings["resize"] == 230 and found.settings["mean"] == [0.5] * 3
    assert found.origins["resize"] == "configuration" != found.origins["mean"]


def test_a_detector_gets_pixels_from_0_to_1(cat):
    found = Preprocessing("torchvision:fasterrcnn_resnet50_fpn")
    assert found.settings["mean"] == [0.0] * 3 and found(cat).max() <= 1


def test_unknown_tags_and_models_are_one_line():
    for architecture, weights in (
        ("timm:efficientnet_b0.foo", []),
        ("timm:efficientnet_b0", ["huggingface:timm/efficientnet_b0.foo"]),
    ):
        with pytest.raises(
            ParityError, match=r"does not know the weights efficientnet_b0\.foo; exp"
        ):
            Preprocessing(architecture, {}, weights)
    with pytest.raises(ParityError, match="did you mean"):
        Preprocessing("torchvision:resnet43")


def test_sources_that_differ_are_one_line_unless_the_configuration_decides():
    weights = [
        "huggingface:timm/vit_base_patch16_224.augreg_in21k",
        "modelscope:timm/resnet50.tv_in1k",
    ]
    with pytest.raises(ParityError, match=r"differ in interpolation, mean, resize, std; add"):
        Preprocessing("own.py:net", {}, weights)
    assert Preprocessing("own.py:net", IMAGENET, weights).settings["resize"] == 256
    twice = [weights[1], weights[1].replace("modelscope", "huggingface")]
    assert Preprocessing("own.py:net", {}, twice).settings["resize"] == 256


# Files beside local weights

MEAN = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
TRANSFORMERS = {
    "CLIP": (
        {"do_resize": True, "size": {"shortest_edge": 224}, "do_center_crop": True, "resample": 3}
        | {"crop_size": {"height": 224, "width": 224}, "rescale_factor": 1 / 255},
        {"resize": 224, "crop": 224, "interpolation": "bicubic"},
    ),
    "old CLIP": (
        {"do_resize": True, "size": 224, "do_center_crop": True, "resample": 3, "crop_size": 224},
        {"resize": 224, "crop": 224, "interpolation": "bicubic"},
    ),
    "ViT": (
        {"do_resize": True, "size": {"height": 384, "width": 384}, "resample": 2},
        {"resize": [384, 384], "crop": 384, "interpolation": "bilinear"},
    ),
    "old ViT": (
        {"do_resize": True, "size": 224, "resample": 2},
        {"resize": [224, 224], "crop": 224, "interpolation": "bilinear"},
    ),
    "DeiT": (
        {"size": {"height": 256, "width": 256}, "do_center_crop": True, "resample": 3}
        | {"crop_size": {"height": 224, "width": 224}},
        {"resize": [256, 256], "crop": 224, "interpolation": "bicubic"},
    ),
    "ConvNeXt": (
        {"size": {"shortest_edge": 224}, "crop_pct": 0.875, "resample": 3},
        {"resize": 256, "crop": 224, "interpolation": "bicubic"},
    ),
    "ConvNeXt 384": (
        {"size": 384, "crop_pct": 1.0, "resample": 3},
        {"resize": [384, 384], "crop": 384, "interpolation": "bicubic"},
    ),
}


def beside(folder, name, data):
    (folder / "net").mkdir(exist_ok=True)
    (folder / "net" / name).write_text(data if isinstance(data, str) else json.dumps(data))
    return ["path:net/model.safetensors#sha256=" + "0" * 64]


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_transformers_image_processor(name, folder):
    data, wanted = TRANSFORMERS[name]
    weights = beside(folder, "preprocessor_config.json", data | MEAN)
    beside(folder, "config.json", {"architectures": ["ViTForImageClassification"]})
    found = Preprocessing("own.py:net", {}, weights)
    wanted = wanted | {"mean": MEAN["image_mean"], "std": MEAN["image_std"]}
    assert {key: found.settings[key] for key in wanted} == wanted
    assert found.origins["mean"] == "net/preprocessor_config.json"
    assert pretrained.telling(weights) == weights
    assert "net/preprocessor_config.json" in pretrained.files(weights)


def test_without_normalisation(folder):
    data = {"size": 8, "do_resize": True, "resample": 0, "do_normalize": False}
    found = Preprocessing("x", {}, beside(folder, "preprocessor_config.json", data))
    assert found.settings["mean"] == [0.0] * 3 and found.settings["std"] == [1.0] * 3


@pytest.mark.parametrize("nested", [True, False])
def test_timms_config(folder, nested, cat):
    own = {"input_size": [3, 288, 288], "interpolation": "bicubic", "crop_pct": 0.9}
    own |= {"crop_mode": "center", "mean": [0.5] * 3, "std": [0.25] * 3}
    data = {"architecture": "resnet50", "pretrained_cfg": own} if nested else own
    weights = beside(folder, "config.json", data)
    found = Preprocessing("torchvision:resnet50", {}, weights)
    wanted = create_transform(**resolve_data_config(pretrained_cfg=own))(cat).numpy()
    assert np.array_equal(found(cat), wanted) and found.shape == (3, 288, 288)
    assert found.origins["crop"] == "net/config.json"


def test_a_configuration_of_a_network_says_nothing(folder):
    weights = beside(folder, "config.json", {"architectures": ["ResNet"], "hidden_sizes": [1]})
    assert Preprocessing("torchvision:resnet34", {}, weights).settings["resize"] == 256


PROCESSOR = {"do_resize": True, "size": 224, "resample": 2} | MEAN
ABSURD = {
    "no JSON": "{",
    "empty": "",
    "a list": "[1]",
    "deep": "[" * 100_000,
    "NaN": json.dumps(PROCESSOR | {"image_mean": [float("nan")] * 3}),
    "huge": json.dumps(PROCESSOR | {"size": 10**9}),
    "negative": json.dumps(PROCESSOR | {"size": -1}),
    "text": json.dumps(PROCESSOR | {"size": "224"}),
    "no deviation": json.dumps(PROCESSOR | {"image_std": [0, 0, 0]}),
    "four channels": json.dumps(PROCESSOR | {"image_mean": [0.5] * 4}),
    "unknown filter": json.dumps(PROCESSOR | {"resample": 77}),
    "other scale": json.dumps(PROCESSOR | {"rescale_factor": 1 / 127.5}),
    "padding": json.dumps(PROCESSOR | {"do_pad": True}),
    "no mean": json.dumps({"do_resize": True, "size": 224}),
    "large": " " * 2**21,
    "no size": json.dumps({"do_resize": False} | MEAN),
    "not square": json.dumps(PROCESSOR | {"size": {"height": 10, "width": 20}}),
    "no filter": json.dumps({"do_resize": True, "size": 224} | MEAN),
    "shares": json.dumps({"mean": [0.5] * 3, "crop_pct": 1e-300}),
    "timm's text": json.dumps({"pretrained_cfg": {"mean": "0.5", "input_size": "big"}}),
}


@pytest.mark.abuse("hostile weight files")
@pytest.mark.parametrize("name", ABSURD)
def test_absurd_files_are_one_line(folder, name):
    weights = beside(folder, "preprocessor_config.json", ABSURD[name])
    with pytest.raises(ParityError) as error:
        Preprocessing("own.py:net", {}, weights)
    text = str(error.value)
    assert "net/preprocessor_config.json" in text and len(text) < 300 and text.isprintable()
    complete = Preprocessing("own.py:net", IMAGENET, weights)  # the configuration is enough
    assert complete.settings["crop"] == 224


# The configuration


def test_the_file_beside_the_weights_is_among_the_files_that_inputs_depend_on(folder):
    system = {"inputs": ["a.png"], "weights": [*beside(folder, "config.json", "{}"), "seed:1"]}
    assert config.input_files(system) == ["a.png", "net/config.json"]


@pytest.mark.parametrize(
    ("background", "fits"), [([0, 0, 0], True), ([256, 0, 0], False), ([0.5, 0, 0], False)]
)
def test_background_is_a_key_of_the_configuration(folder, background, fits):
    data = yaml.safe_load((ROOT / "config.yaml").read_text())
    data["models"]["resnet34"]["preprocessing"] = {"background": background}
    (folder / "config.yaml").write_text(yaml.safe_dump(data))
    if fits:
        found = config.load("config.yaml")["models"]["resnet34"]
        assert Preprocessing("x", found["preprocessing"]).background == tuple(background)
    else:
        with pytest.raises(ParityError, match="expected a whole number from 0 to 255"):
            config.load("config.yaml")


# The project's own systems, tables and docs


@pytest.mark.parametrize(
    "name",
    [
        "bird_species",
        "resnet34",
        "efficientnet_b0",
        "convnextv2_atto",
        "efficientnet_lite0",
        "efficientnet_lite1",
        "efficientnet_lite2",
        "svhn_digit",
    ],
)
def test_the_inputs_of_the_projects_systems_stay(name, folder):
    """The array has the bytes of the committed run, whatever the defaults of the weights are."""
    system = config.load(ROOT / "config.yaml")["models"][name]
    prepare = Preprocessing(system["architecture"], system["preprocessing"], system["weights"])
    items = collect(system["inputs"], prepare.shape, prepare.background)
    digest = evidence.write_array(folder / "inputs.npy", np.stack([prepare(i.data) for i in items]))
    about = json.loads((ROOT / "results" / name / "inputs.json").read_text())
    assert digest == about["sha256"]


def test_the_report_names_the_place_of_each_value():
    found = Preprocessing("torchvision:resnet34", {"resize": [64, 80]})
    about = {"preprocessing": found.settings, "preprocessing_from": found.origins}
    text = tables._prepared(SimpleNamespace(inputs=about))
    assert "; resize 64 80 (configuration)" in text
    assert "std 0.229 0.224 0.225 (torchvision ResNet34_Weights.IMAGENET1K_V1)" in text


def test_every_row_of_the_docs_names_a_test():
    text = (ROOT / "docs/images.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(test_\w+)`", text))
    files = (ROOT / "tests").glob("test_*.py")
    written = {name for file in files for name in re.findall(r"^def (\w+)", file.read_text(), re.M)}
    assert len(named) > 25 and named <= written
