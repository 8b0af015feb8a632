"""A system answers images by name, and mistakes with one line."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file

import npu_parity
from models import svhn
from npu_parity import evidence
from npu_parity.__main__ import main
from npu_parity.backends.device import Device
from npu_parity.errors import ParityError
from npu_parity.sources import architectures
from npu_parity.sources.images import read_image
from npu_parity.sources.preprocessing import Preprocessing
from npu_parity.sources.weights import Wanted, obtain
from npu_parity.system import load
from npu_parity.verdict import digits

ARCHITECTURE = """
from torch import nn

def net(columns):
    layers = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(32, columns))
"""
LABELS = ["ash", "birch", "cedar", "date", "elm", "fig", "gum"]
COMMON = {
    "architecture": "model.py:net",
    "weights": ["seed:1"],
    "inputs": ["random:1"],
    "preprocessing": {"resize": 20, "crop": 16},
}
MODELS = {
    "trees": COMMON | {"arguments": {"columns": 7}, "labels": "labels.txt"},
    "house": COMMON | {"arguments": {"columns": 62}, "task": "digits", "heads": svhn.HEADS},
    "plain": COMMON | {"arguments": {"columns": 6}, "task": "features"},
    "few": COMMON | {"arguments": {"columns": 3}},
    "unmade": COMMON,
}
ABSENT = next(name for name in ("npu", "mps") if Device(name).missing())
DEVICES = {
    "cpu": {"backend": "cpu"},
    "far": {"backend": ABSENT, "measure": "never"},
}


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A configuration with the weights of small systems, and two pictures."""
    folder = tmp_path_factory.mktemp("systems")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("model.py").write_text(ARCHITECTURE)
        Path("labels.txt").write_text("\n".join(LABELS) + "\n")
        config = {"reference": "cpu", "devices": DEVICES, "models": MODELS}
        Path("config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
        for name, settings in MODELS.items():
            if name != "unmade":
                make(name, settings)
    generator = np.random.default_rng(0)
    for name in ("a.png", "b.jpg"):
        Image.fromarray(generator.integers(0, 256, (30, 40, 3), dtype=np.uint8)).save(folder / name)
    (folder / "text.jpg").write_text("no image")
    return folder


def make(name, settings):
    wanted = Wanted(
        settings["architecture"],
        settings["arguments"],
        settings["weights"],
        preprocessing=settings["preprocessing"],
    )
    state, _ = obtain(wanted)
    file = Path("results") / name / "weights.safetensors"
    evidence.write(file, lambda partial: save_file(state, partial))
    about = {key: settings[key] for key in ("architecture", "arguments")}
    evidence.write_json(file.with_suffix(".json"), about | {"sha256": evidence.sha256(file)})


@pytest.fixture(autouse=True)
def here(tree, monkeypatch):
    monkeypatch.chdir(tree)


def by_hand(name, image):
    """The outputs of a system for an image, from the parts that are tested on their own."""
    settings = MODELS[name]
    model = architectures.build(settings["architecture"], settings["arguments"])
    model.load_state_dict(load_file(f"results/{name}/weights.safetensors"))
    x = Preprocessing("x", settings["preprocessing"])(read_image(Path(image)).data)
    with torch.no_grad():
        return model(torch.from_numpy(x)[None])[0].numpy()


def softmax(values):
    powers = np.exp(values.astype(float))
    return powers / powers.sum()


# From Python


def test_classifier_names_the_five_best():
    for image, found in zip(
        ("a.png", "b.jpg"), npu_parity.load("trees").predict(["a.png", "b.jpg"]), strict=True
    ):
        outputs = by_hand("trees", image)
        assert np.array_equal(found.outputs, outputs) and found.image == image
        best = np.argsort(-outputs)[:5]
        assert [name for name, _ in found.top5] == [LABELS[i] for i in best]
        np.testing.assert_allclose([s for _, s in found.top5], softmax(outputs)[best], rtol=1e-6)
        assert found.answer is None and found.milliseconds > 0


def test_images_differ():
    a, b = npu_parity.load("trees").predict(["a.png", Path("b.jpg")])
    assert not np.array_equal(a.outputs, b.outputs)


def test_digits():
    (found,) = npu_parity.load("house").predict(["a.png"])
    outputs = by_hand("house", "a.png")
    assert found.answer == digits.decode_digits(outputs[None], svhn.HEADS)[0]
    assert str(found).splitlines()[1:] == [f"  digits: {found.answer or '(none)'}"]


@pytest.mark.parametrize(
    ("length", "classes", "shown"),
    [(3, [4, 0, 7, 1, 1], "407"), (0, [1, 1, 1, 1, 1], "(none)"), (2, [10, 9, 0, 0, 0], "_9")],
)
def test_digits_are_spelt(length, classes, shown, monkeypatch):
    system = npu_parity.load("house")
    bias = np.zeros(62, np.float32)
    starts = np.cumsum([0, *svhn.HEADS.values()])
    for start, winner in zip(starts, [length, *classes], strict=False):
        bias[start + winner] = 100
    with torch.no_grad():
        system.model[-1].weight.zero_()
        system.model[-1].bias.copy_(torch.from_numpy(bias))
    assert str(system.predict(["a.png"])[0]).endswith(f"digits: {shown}")


def test_features_are_shown_as_they_are():
    (found,) = npu_parity.load("plain").predict(["a.png"])
    outputs = by_hand("plain", "a.png")
    best = np.argsort(-outputs)[:5]
    assert found.top5 == [(str(i), float(outputs[i])) for i in best]


def test_fewer_than_five_classes():
    (found,) = npu_parity.load("few").predict(["a.png"])
    assert len(found.top5) == 3 and sum(s for _, s in found.top5) == pytest.approx(1)


def test_labels_must_be_one_a_class():
    system = npu_parity.load("trees")
    system.labels.append("holly")
    with pytest.raises(ParityError, match=r"labels\.txt: found 8 labels, expected 7, one per"):
        system.predict(["a.png"])


def test_results_lie_beside_the_configuration(tree, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("model.py", "labels.txt"):  # a user's own files are named from where one is
        (tmp_path / name).write_bytes((tree / name).read_bytes())
    (found,) = npu_parity.load("trees", configuration=tree / "config.yaml").predict(
        [tree / "a.png"]
    )
    monkeypatch.chdir(tree)
    assert np.array_equal(found.outputs, by_hand("trees", "a.png"))


def test_package_offers_what_it_says():
    assert npu_parity.load is load and npu_parity.ParityError is ParityError
    assert {"load", "check_port", "ParityError"} < set(npu_parity.__all__)
    assert all(hasattr(npu_parity, name) for name in npu_parity.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = npu_parity.nothing


def test_importing_the_package_is_cheap():
    code = "import sys, npu_parity; print(*{'torch', 'numpy', 'timm'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("\n", "")


# From the command line


@pytest.fixture
def program(monkeypatch, capsys):
    """The command line in this process; returns status, output and errors."""

    def program(*arguments):
        monkeypatch.setattr(sys, "argv", ["npu-parity", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        return (ended.value.code, *capsys.readouterr())

    return program


def lines(text):
    return text.splitlines()


def test_prints_names_and_scores(program):
    status, text, errors = program(
        *("predict", "--system", "trees", "--image", "a.png", "--image", "b.jpg")
    )
    assert (status, errors) == (0, "") and len(lines(text)) == 12
    for image, start in (("a.png", 0), ("b.jpg", 6)):
        outputs = by_hand("trees", image)
        assert lines(text)[start].startswith(f"{image}  (") and lines(text)[start].endswith(" ms)")
        for rank, i in enumerate(np.argsort(-outputs)[:5], 1):
            shown = f"  {rank}. {LABELS[i]:<40} {softmax(outputs)[i]:.6f}"
            assert lines(text)[start + rank] == shown


def test_prints_digits(program):
    status, text, _ = program("predict", "--system", "house", "--image", "a.png")
    assert status == 0 and lines(text)[1].startswith("  digits: ") and len(lines(text)) == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"system": "cat"}, "config.yaml: no system 'cat', expected trees, house, plain"),
        ({"device": "gpu"}, "config.yaml: no device 'gpu', expected cpu, far"),
        ({"device": "far"}, f"device {ABSENT}: "),
        ({"system": "unmade"}, "results/unmade/weights.json is missing: run `snakemake"),
        ({"image": "none.png"}, "input none.png: there is no such file"),
        ({"image": "text.jpg"}, "input text.jpg: not a readable image"),
        ({"image": "."}, "input .: this is a folder, expected a file"),
        ({"config": "none.yaml"}, "none.yaml is missing"),
        ({"config": "a.png"}, "a.png, line 1: this is not UTF-8"),
    ],
)
def test_mistake_is_one_line(program, arguments, said):
    arguments = {"system": "trees", "image": "a.png"} | arguments
    status, text, errors = program(
        "predict", *(word for key, value in arguments.items() for word in (f"--{key}", value))
    )
    assert (status, text) == (1, "")
    assert errors.startswith(f"error: {said}") and len(lines(errors)) == 1


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda file: file.write_bytes(file.read_bytes()[:-9]), "changed or damaged"),
        (lambda file: file.unlink(), "weights.safetensors is missing"),
        (
            lambda file: file.with_suffix(".json").write_text("{"),
            "weights.json was changed since it was made",
        ),
    ],
)
def test_damaged_weights_are_one_line(program, damage, said):
    make("few", MODELS["few"])
    file = Path("results/few/weights.safetensors")
    damage(file)
    try:
        status, text, errors = program("predict", "--system", "few", "--image", "a.png")
    finally:
        make("few", MODELS["few"])
    assert (status, text) == (1, "") and said in errors and len(lines(errors)) == 1


def test_missing_option_is_no_traceback(program):
    status, _, errors = program("predict", "--system", "trees")
    assert status == 2 and "--image" in errors and "Traceback" not in errors


@pytest.mark.slow
def test_as_a_module():
    command = [sys.executable, "-m", "npu_parity", "predict", "--system", "trees"]
    done = subprocess.run([*command, "--image", "a.png"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(lines(done.stdout)) == 6 and lines(done.stdout)[1].split()[1] in LABELS
