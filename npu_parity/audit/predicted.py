"""Which known arithmetic predicts differences of the size that a report prints?"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from npu_parity import evidence
from npu_parity.audit.figures import Report

FACTOR = 2.0  # between images, the size of a difference moves by less; between formats, by more
COMPARED = ("max_abs_error", "mean_abs_error")


def fits(report: Report, random: bool, results: Path) -> Iterator[str]:
    """Yield each prediction in `results` that has the size of the report's differences.

    Only predictions of an architecture that the report names count, with random weights if the
    report's are random. A prediction of another size proves nothing: weights and images differ. So
    it is not mentioned.

    Args:
        report: the report.
        random: whether its weights are random.
        results: the folder of results.
    """
    printed = {name: report.named(name, scope="") for name in COMPARED}
    if not all(printed.values()):
        return
    for path in sorted(results.glob("*/*/predicted/metrics.json")):
        weights = evidence.read_json(path.parents[2] / "weights.json")
        if weights["pretrained"] == random or not _names(report.text, weights["architecture"]):
            continue
        found, run = evidence.read_json(path), evidence.read_json(path.with_name("run.json"))
        ratios = [printed[name][0].high / found[name] for name in COMPARED if found.get(name)]
        if len(ratios) == len(COMPARED) and all(1 / FACTOR < r < FACTOR for r in ratios):
            shown = " and ".join(f"{r:.2g}" for r in ratios)
            name = f"{path.parents[1].name} ({_arithmetic(run)}), {weights['architecture']}"
            yield f"{name}: {' and '.join(COMPARED)} are {shown} times the prediction"


def _names(text: str, architecture: str) -> bool:
    """Return whether a text names an architecture: ResNet-34 is resnet34, but resnet345 is not."""
    letters = re.findall(r"[a-z]+|\d+", architecture.rpartition(":")[2].lower())
    pattern = r"[\W_]?".join(letters)
    return re.search(rf"(?<![a-z0-9]){pattern}(?![a-z0-9])", text.lower()) is not None


def _arithmetic(run: dict[str, Any]) -> str:
    numerics = ", ".join(f"{key} {value}" for key, value in run["numerics"].items() if value)
    return f"{run['precision']}; {numerics}"
