"""Examples in docstrings run in a folder with a system of a few layers, and an image."""

import copy

import numpy
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file

import npu_parity
from npu_parity import evidence, obtain
from npu_parity.sources.weights import Wanted

CONFIG = {
    "reference": "cpu",
    "devices": {"cpu": {"backend": "cpu"}},
    "models": {
        "tiny": {
            "architecture": "tiny.py:network",
            "weights": ["seed:1"],
            "inputs": ["cat.png"],
            "preprocessing": {"resize": 8, "crop": 8},
            "labels": "labels.txt",
        }
    },
}
NETWORK = """
from torch import nn


def network():
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
"""


@pytest.fixture(scope="session")
def example(tmp_path_factory):
    """The folder, with the weights that the workflow would have fetched."""
    folder = tmp_path_factory.mktemp("example")
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    (folder / "labels.txt").write_text("cat\ndog\n")
    (folder / "tiny.py").write_text(NETWORK)
    Image.new("RGB", (8, 8), "white").save(folder / "cat.png")
    weights = folder / "results/tiny/weights.safetensors"
    weights.parent.mkdir(parents=True)
    architecture = str(folder / "tiny.py:network")
    state, _ = obtain(Wanted(architecture, {}, ["seed:1"], calibrate=False))
    save_file(state, weights)
    about = {"architecture": architecture, "arguments": {}, "sha256": evidence.sha256(weights)}
    evidence.write_json(weights.with_suffix(".json"), about)
    return folder


@pytest.fixture(autouse=True)
def in_example_folder(request, monkeypatch):
    """Let a docstring's example find these files, and the names that docs/api.md imports."""
    if isinstance(request.node, pytest.DoctestItem):
        monkeypatch.chdir(request.getfixturevalue("example"))
        namespace = request.getfixturevalue("doctest_namespace")
        namespace |= {name: getattr(npu_parity, name) for name in npu_parity.__all__}
        namespace |= {"copy": copy, "np": numpy, "nn": torch.nn, "torch": torch}
