"""Compare the outputs of a system: ``python compare.py SYSTEM DEVICE …`` against the CPU's."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def softmax(logits: Floats) -> Floats:
    """Return softmax over the last axis."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def errors(r: Floats, d: Floats) -> dict[str, float]:
    """Return the figures of the reports for the outputs of both sides, (inputs, columns)."""
    apart = np.abs(d - r)
    lengths = np.linalg.norm(r, axis=1) * np.linalg.norm(d, axis=1)
    cosine = (r * d).sum(axis=1) / lengths
    return {
        "max_abs_error": float(apart.max()),
        "mean_abs_error": float(apart.mean()),
        "l2_error": float(np.linalg.norm(d - r)),
        "relative_l2_error": float(np.linalg.norm(d - r) / np.linalg.norm(r)),
        "mean_relative_error": float(apart.mean() / np.abs(r).mean()),
        "max_relative_error": float((apart / np.abs(r)).max()),
        "cosine_similarity": float(cosine.mean()),
    }


def ranking(r: Floats, d: Floats) -> dict[str, Any]:
    """Return how far the classes agree, and the five best of each input with their values."""
    first, second = (np.argsort(-side, axis=1, kind="stable")[:, :5] for side in (r, d))
    overlap = [len({*a} & {*b}) / len(a) for a, b in zip(first, second, strict=True)]
    return {
        "top1_match": float((first[:, 0] == second[:, 0]).mean()),
        "top5_overlap": float(np.mean(overlap)),
        "top5_same_order": float((first == second).all(axis=1).mean()),
        "top5": {
            "reference": [first.tolist(), np.take_along_axis(r, first, 1).tolist()],
            "device": [second.tolist(), np.take_along_axis(d, second, 1).tolist()],
        },
    }


def compare(r: Floats, d: Floats, settings: dict[str, Any]) -> dict[str, Any]:
    """Return all figures, of each head too, and whether the rules of the reports are met."""
    found: dict[str, Any] = errors(r, d)
    heads = settings.get("heads") or {"": r.shape[1]}
    ends = np.cumsum([0, *heads.values()])
    found["heads"] = {}
    for name, start, end in zip(heads, ends, ends[1:], strict=False):
        a, b = r[:, start:end], d[:, start:end]
        one = errors(a, b) | ranking(a, b)
        if settings.get("task") != "features":
            one["probabilities"] = errors(softmax(a), softmax(b))
        found["heads"][name] = one
    parts = found["heads"].values()
    likely = [one.get("probabilities", one) for one in parts]
    agree = all(one["top1_match"] == 1 for one in parts)
    order = all(one["top5_same_order"] == 1 for one in parts)
    found["criteria"] = {
        "relative error < 1 %": found["mean_relative_error"] < 0.01,
        "1 - cosine < 1 %": all(1 - one["cosine_similarity"] < 0.01 for one in likely),
        "cosine > 0.99, mean < 0.005, same top 5": found["cosine_similarity"] > 0.99
        and found["mean_abs_error"] < 0.005
        and order,
        "relative error of probabilities < 1 %": all(
            one["max_relative_error"] < 0.01 for one in likely
        ),
        "deviation < 1 %, same classes": found["max_abs_error"] < 0.01 and agree,
    }
    return found


def main(system: str, *devices: str) -> None:
    """Write metrics.json for each device."""
    config = yaml.safe_load(Path("config.yaml").read_text(encoding="utf-8"))
    place = Path("peer", system)
    reference = np.load(place / "cpu/outputs.npy").astype(np.float64)
    for device in devices:
        outputs = np.load(place / device / "outputs.npy").astype(np.float64)
        found = compare(reference, outputs, config["models"][system])
        (place / device / "metrics.json").write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main(*sys.argv[1:])
