"""The fields that graders of adaptation reports read, from the JSON files of the results.

The names are those of the reports. ``match_within_1_percent`` is the published rule about a
relative error below 1 % (`verdict.criteria`). It is not the verdict of this project.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from npu_parity.report.results import System
from npu_parity.verdict import criteria

WITHIN = "bird_species"  # the report whose rule is a relative error below 1 %
# The fields about the outputs.
FIELDS = (
    *("max_abs_diff", "mean_abs_diff", "cosine_similarity", "top1_match", "top5_match"),
    *("match_within_1_percent", "match_basis"),
)


def provenance(weights: Mapping[str, Any]) -> dict[str, bool]:
    """Return whether the weights are trained, and whether they come from a file, not a seed."""
    return {
        "pretrained_used": weights["pretrained"],
        "local_weight_used": weights["file_sha256"] is not None,
    }


def differences(metrics: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the fields about the outputs, in full precision.

    Args:
        metrics: a result of `verdict.metrics.compare`, or a ``metrics.json``.
        prefix: empty, or ``prob_`` for a system whose probabilities are compared.
    """
    rule = criteria.CRITERIA[WITHIN].judge(metrics)
    is_ = "is" if rule["pass"] else "is not"
    value = "(not finite)" if rule["value"] is None else f"{rule['value']:.6g}"
    return {
        "max_abs_diff": metrics[f"{prefix}max_abs_error"],
        "mean_abs_diff": metrics[f"{prefix}mean_abs_error"],
        "cosine_similarity": metrics[f"{prefix}cosine_similarity"],
        "top1_match": metrics["top1_match"] == 1,
        "top5_match": metrics["top5_same_order"] == 1,
        "match_within_1_percent": rule["pass"],
        "match_basis": f"{rule['metric']} {value} {is_} {rule['relation']} {rule['threshold']}",
    }


def fields(system: System, run: str) -> dict[str, Any]:
    """Return every field of a run of a system. A predicted run has no latency: it is None.

    Args:
        system: a system of the results.
        run: ``DEVICE/measured`` or ``DEVICE/predicted``, not the reference.
    """
    device, _, kind = run.partition("/")
    times = {r: found["batch_sizes"].get("1", {}) for r, found in system.latency.items()}
    return {
        "device": device,
        "run": kind,
        **provenance(system.weights),
        **differences(system.metrics[run], system.prefix),
        "latency_ms": times.get(run, {}).get("mean"),
        "reference_latency_ms": times.get(system.runs[0], {}).get("mean"),
    }


def only(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields about the outputs in a result that has more."""
    return {name: found[name] for name in FIELDS}


def lines(about: Mapping[str, Any], names: Sequence[str], found: Mapping[str, Any]) -> list[str]:
    """Return the comparison of a device with the reference as text, input by input.

    Args:
        about: system, device and run; of a measured run also where it was executed.
        names: one for each input.
        found: the fields of `differences` and all metrics.
    """
    place = about.get("executed_on")
    where = f" on {place['backend']}: {place['name']}" if place else ""
    text = [f"{about['system']}, {about['device']} {about['run']}{where}, against the reference"]
    if about["run"] == "predicted":
        text.append("predicted: the device's arithmetic was emulated; nothing ran on the device")
    for name, one in zip(names, found["per_input"], strict=True):
        shown = {key: one.get(key) for key in ("max_abs_error", "cosine_similarity", "top1_match")}
        best = [one.get(f"{side}_top5") for side in ("reference", "device")]
        top1 = [f"top1 {sides[0][0][0]} {sides[1][0][0]}" for sides in [best] if all(sides)]
        text.append(" ".join([name, *(f"{key}={value}" for key, value in shown.items()), *top1]))
    text += [f"{name}: {found[name]}" for name in FIELDS]
    return text
