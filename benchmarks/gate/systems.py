"""The systems of the benchmark."""

from pathlib import Path
from typing import Any

import numpy as np
from catalogue import System

from npu_parity import config
from npu_parity.sources import architectures, weights
from npu_parity.sources.images import collect
from npu_parity.sources.preprocessing import Preprocessing

ROOT = Path(__file__).resolve().parents[2]
PHOTOGRAPHS = ["skimage:chelsea", "skimage:coffee", "skimage:rocket"]

SEEDED = {"weights": ["seed:42"]}
SYSTEMS: dict[str, dict[str, Any]] = {
    "efficientnet_lite0": {},  # real weights; the slowest first
    "svhn": SEEDED,
    "vit": {"architecture": "timm:test_vit", **SEEDED},
    "efficientnet": {"architecture": "timm:test_efficientnet", **SEEDED},
}


def about(name: str) -> dict[str, Any]:
    """Return the settings of a system: those of ``config.yaml``, if it is there, and its own."""
    found: dict[str, Any] = config.load(ROOT / "config.yaml")["models"].get(name, {})
    return found | SYSTEMS[name]


def load(name: str) -> System:
    """Return a system of ``config.yaml`` or timm with the weights of `SYSTEMS`."""
    found = about(name)
    wanted = weights.Wanted(
        found["architecture"],
        found.get("arguments") or {},
        found["weights"],
        tensors=found.get("tensors", "by_name"),
        calibrate=found.get("calibrate", True),
        preprocessing=found.get("preprocessing"),
    )
    state, source = weights.obtain(wanted)
    model = architectures.build(wanted.architecture, wanted.arguments)
    model.load_state_dict(state)
    preprocessing = Preprocessing(wanted.architecture, wanted.preprocessing, wanted.sources)
    settings = preprocessing.settings
    images = [i.data for i in collect(PHOTOGRAPHS, preprocessing.shape)]
    system = System(
        name,
        model,
        images,
        {k: settings[k] for k in ("resize", "crop", "interpolation", "mean", "std")},
        found.get("task", "classification"),
        found.get("heads"),
        source["pretrained"],
    )
    if not np.array_equal(system.inputs, np.stack([preprocessing(i) for i in images])):
        raise ValueError(f"{name}: inputs differ from the system's own inputs")
    return system
