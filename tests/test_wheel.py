"""The installed wheel is complete: it works far from the checkout, with nothing beside it."""

import os
import shutil
import subprocess
import sys
import zipfile

import pytest
from project import ROOT

UV = shutil.which("uv") or shutil.which("uv", path=ROOT / ".uv/bin")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(UV is None, reason="needs uv to build the wheel"),
]

CHECK = """
import copy, torch, npu_parity
from torch import nn

assert npu_parity.__file__.startswith(PLACE), npu_parity.__file__
reference = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten()).eval()
port = copy.deepcopy(reference)
print(npu_parity.check_port(reference, port, torch.randn(2, 3, 8, 8)).verdict.word)
port[1].eps = 1e-3
print(npu_parity.check_port(reference, port, torch.randn(2, 3, 8, 8)).verdict.word)
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The wheel's files in a folder of their own; its dependencies are those of the tests."""
    place = tmp_path_factory.mktemp("wheel")
    build = [UV, "build", "--quiet", "--wheel", "--out-dir", place, ROOT]
    subprocess.run(build, check=True, capture_output=True, text=True)
    (wheel,) = place.glob("npu_parity-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(place / "site")
    (place / "empty").mkdir()
    return place


def python(installed, *arguments, folder=None):
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=folder or installed / "empty",
        env=os.environ | {"PYTHONPATH": str(installed / "site")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_holds_the_package_and_nothing_else(installed):
    tops = {path.name for path in (installed / "site").iterdir()}
    assert {name for name in tops if not name.endswith(".dist-info")} == {"npu_parity"}
    for name in (
        "config.schema.yaml",
        "data/published.yaml",
        "data/imagenet_1k.txt",
        "report/templates/page.html",
        "report/templates/terms.zh.yaml",
    ):
        assert (installed / "site/npu_parity" / name).is_file()


def test_help(installed):
    shown = python(installed, "-m", "npu_parity", "--help")
    assert "predict" in shown and "probe" in shown


def test_check_port(installed):
    shown = python(installed, "-c", f"PLACE = {str(installed)!r}\n{CHECK}")
    assert shown.split() == ["PASS", "FAIL"]


def test_predict(installed, example):
    """`example` is a folder as a run leaves it, see conftest.py."""
    shown = python(
        installed, *("-m", "npu_parity", "predict", "--system", "tiny", "--image", "cat.png"),
        folder=example,
    )  # fmt: skip
    assert shown.startswith("cat.png") and "1. cat" in shown


def test_a_configuration_of_the_projects_own_files(installed):
    """Class names and published figures are part of the package."""
    shutil.copy(ROOT / "config.yaml", installed / "empty")
    (installed / "empty/models").mkdir()
    shutil.copy(ROOT / "models/svhn.py", installed / "empty/models")
    code = (
        "from npu_parity import config; from npu_parity.sources import labels\n"
        "print(len(config.load()['models']), len(labels.read('data/inat2021_birds.txt')))"
    )
    assert python(installed, "-c", code).split() == ["9", "1486"]
