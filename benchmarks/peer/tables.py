"""Write the tables of all systems: ``python tables.py SYSTEM …`` after the other scripts."""

import json
import sys
from pathlib import Path

import pandas as pd
import yaml

FIGURES = (
    *("max_abs_error", "mean_abs_error", "l2_error", "relative_l2_error"),
    *("mean_relative_error", "max_relative_error", "cosine_similarity"),
)
TIMES = ("mean", "std", "p50", "p95", "p99", "throughput")


def read(files: Path, name: str) -> dict[str, dict]:
    """Return the JSON files of a system with this name, by device."""
    return {f.parent.name: json.loads(f.read_text()) for f in sorted(files.glob(f"*/{name}"))}


def tables(system: str, labels: list[str]) -> list[str]:
    """Return the tables of a system: differences, heads, five best classes, rules, latency."""
    metrics = read(Path("peer", system), "metrics.json")
    latency = read(Path("peer", system), "latency.json")
    differences = {d: {key: one[key] for key in FIGURES} for d, one in metrics.items()}
    classes = ("top1_match", "top5_overlap", "top5_same_order", *FIGURES)
    heads = {
        (device, name): {key: head[key] for key in classes}
        | {f"prob_{key}": value for key, value in head.get("probabilities", {}).items()}
        for device, one in metrics.items()
        for name, head in one["heads"].items()
    }
    best = []
    for device, one in metrics.items():
        if len(one["heads"]) == 1 and labels:
            (head,) = one["heads"].values()
            for side, (numbers, values) in head["top5"].items():
                for i, (row, scores) in enumerate(zip(numbers, values, strict=True)):
                    names = [f"{labels[n]} {v:.4g}" for n, v in zip(row, scores, strict=True)]
                    best.append((device, side, i, *names))
    times = {
        (device, size): {key: of[key] for key in TIMES}
        for device, one in latency.items()
        for size, of in one["batch_sizes"].items()
    }
    return [
        pd.DataFrame(differences).to_markdown(floatfmt=".3g"),
        pd.DataFrame(heads).T.to_markdown(floatfmt=".3g"),
        pd.DataFrame(best).to_markdown(index=False),
        pd.DataFrame({d: one["criteria"] for d, one in metrics.items()}).to_markdown(),
        pd.DataFrame(times).T.to_markdown(floatfmt=".4g"),
    ]


def main(*systems: str) -> None:
    """Write a file for each system, and one with a row for each."""
    models = yaml.safe_load(Path("config.yaml").read_text(encoding="utf-8"))["models"]
    place, rows = Path("peer/tables"), []
    place.mkdir(parents=True, exist_ok=True)
    for system in systems:
        file = models[system].get("labels")
        found = Path(file) if file and Path(file).exists() else Path("npu_parity", file or "")
        labels = found.read_text(encoding="utf-8").splitlines() if file else []
        text = "\n\n".join([f"# {system}", *tables(system, labels)])
        (place / f"{system}.md").write_text(text + "\n")
        for device, one in read(Path("peer", system), "metrics.json").items():
            passed = all(one["criteria"].values())
            rows.append((system, device, one["max_abs_error"], one["cosine_similarity"], passed))
    header = ["system", "device", "max_abs_error", "cosine_similarity", "all rules"]
    summary = pd.DataFrame(rows, columns=header).to_markdown(index=False, floatfmt=".6g")
    (place / "summary.md").write_text(summary + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
