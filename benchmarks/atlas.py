"""How large a difference should one expect from an arithmetic, for each architecture?

``python benchmarks/atlas.py FOLDER`` reads the results of a run of a configuration that
`npu-parity zoo` wrote. It writes a row for each architecture and arithmetic to ``atlas.csv``, and
docs/atlas.md. Rows of architectures that the folder does not have stay. ``make atlas`` makes the
results too: the files that ``--targets CONFIG`` names.
"""

import argparse
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from npu_parity import config, evidence
from npu_parity.errors import ParityError
from npu_parity.numerics.formats import FORMATS
from npu_parity.report.results import short
from npu_parity.zoo import ARITHMETIC

HERE = Path(__file__).resolve().parent
RESULTS, DOCS = HERE / "atlas.csv", HERE.parent / "docs" / "atlas.md"
AIM = 300  # architectures
KINDS = 4  # kinds of operators that a row names, the most frequent first
FEWEST = 5  # products from which a growth is fitted
COPIED = (  # from metrics.json
    *("relative_l2_error", "one_minus_cosine", "max_abs_error", "mean_abs_error", "top1_match"),
)
# What an operator of the reference counts as products. Attention is one operator with two.
PRODUCTS = {
    **dict.fromkeys(("convolution", "mm", "bmm", "addmm", "baddbmm", "addbmm", "mv", "addmv"), 1),
    **dict.fromkeys(("_scaled_dot_product_flash_attention_for_cpu",), 2),
}
# Operators that only move data; they are not named among the kinds.
MOVES = {
    *("view", "_unsafe_view", "reshape", "permute", "transpose", "t", "expand", "clone", "slice"),
    *("select", "split", "unbind", "unsqueeze", "squeeze", "cat", "stack", "copy", "alias", "roll"),
}
# What may predict a relative L2 error, from the unit roundoff u, the number n of products, and the
# error e of float32 itself against float64.
PREDICTORS: dict[str, Callable[[float, int, float], float]] = {
    "u": lambda u, n, e: u,
    "u · √n": lambda u, n, e: u * math.sqrt(n),
    "u · n": lambda u, n, e: u * n,
    "u · e / u32": lambda u, n, e: u * e / FORMATS["fp32"].unit_roundoff,
}


def targets(systems: Iterable[str]) -> Iterator[str]:
    """Yield the files that `rows` needs, of each system.

    A run of these files goes on where it stopped. ``--until`` would make weights again that later
    jobs need, and with them the systems that are finished.
    """
    for system in systems:
        for arithmetic in ARITHMETIC:
            yield f"results/{system}/{arithmetic}/predicted/divergence.csv"


def rows(results: Path) -> Iterator[dict[str, Any]]:
    """Yield a row for each predicted run of a folder of results."""
    for path in sorted(results.glob("*/*/predicted/divergence.csv")):
        if path.parents[1].name in ARITHMETIC:
            yield row(path.parents[2], path.parent)


def row(system: Path, run: Path) -> dict[str, Any]:
    """Return the row of a predicted run."""
    steps = evidence.read_table(run / "divergence.csv", dtype={"module": str})
    weights = evidence.read_json(system / "weights.json")
    found, made = evidence.read_json(run / "metrics.json"), evidence.read_json(run / "run.json")
    names = steps.operator.map(short)
    kinds = (
        names[~names.isin(MOVES)]
        .value_counts()
        .sort_index()
        .sort_values(ascending=False, kind="stable")
    )
    return {
        "architecture": weights["architecture"],
        "arithmetic": run.parent.name,
        "parameters": weights["parameters"],
        "operators": len(names),
        "products": int(names.map(PRODUCTS).fillna(0).sum()),
        "kinds": ", ".join(f"{name} {count}" for name, count in kinds.head(KINDS).items()),
        **{key: found.get(key) for key in COPIED},
        "float32_relative_l2_error": steps.float32_relative_l2_error.dropna().iloc[-1],
        "growth": _growth(steps[names.isin(PRODUCTS)].predicted_relative_l2_error),
        "seed": weights["seed"],
        "calibrated_batch_norms": weights["calibrated_batch_norms"],
        "inputs": found["inputs"],
        "weights_sha256": weights["sha256"],
        "outputs_sha256": made["sha256"]["outputs"],
        "code": made["code"],
        **{name: made["versions"][name] for name in ("torch", "torchvision", "timm")},
    }


def _growth(errors: "pd.Series[float]") -> float | None:
    """Return the exponent p of error ~ k^p after the k-th product, by least squares."""
    usable = errors[np.isfinite(errors) & (errors > 0)].to_numpy()
    if len(usable) < FEWEST:
        return None
    return float(np.polyfit(np.log(np.arange(1, len(usable) + 1)), np.log(usable), 1)[0])


def merged(old: pd.DataFrame, new: pd.DataFrame) -> pd.DataFrame:
    """Return all rows; of an architecture that both have, those of `new`."""
    kept = old[~old.architecture.isin(new.architecture)]
    order = {name: place for place, name in enumerate(ARITHMETIC)}
    whole = pd.concat([kept, new]) if len(kept) else new
    by_arithmetic = whole.arithmetic.map(order)
    whole = whole.assign(order=by_arithmetic)
    whole = whole.sort_values(["parameters", "architecture", "order"])
    return whole.drop(columns="order").reset_index(drop=True)


def ratios(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the relative L2 errors divided by each predictor, one column for each.

    A network that computes the same in float32 as in float64 has no such quotient.
    """
    known = ["relative_l2_error", "products", "float32_relative_l2_error"]
    usable = frame[(frame[known] > 0).all(axis=1)]
    roundoff = usable.arithmetic.map(lambda name: FORMATS[name].unit_roundoff)
    quantities = list(zip(roundoff, usable.products, usable.float32_relative_l2_error, strict=True))
    return pd.DataFrame(
        {
            name: usable.relative_l2_error / [predict(*each) for each in quantities]
            for name, predict in PREDICTORS.items()
        }
    ).assign(arithmetic=usable.arithmetic)


def spread(values: pd.Series) -> float:
    """Return the standard deviation of the logarithm of the values, as a factor."""
    return float(np.exp(np.log(values).std()))


def document(frame: pd.DataFrame) -> str:
    """Return the page: each arithmetic, what predicts it, growth, and each architecture."""
    count = frame.architecture.nunique()
    divided = ratios(frame)
    spreads = {name: spread(divided[name]) for name in PREDICTORS}
    best = min(spreads, key=lambda name: spreads[name])
    growth = frame.growth.dropna()
    left = f"The aim is {AIM}; {AIM - count} are not done yet. " * (count < AIM)
    low, middle, high = (growth.quantile(q) for q in (0.1, 0.5, 0.9))
    grows = (
        f"After the k-th product, the error is about k^p. The median of p is {middle:.2f}; "
        f"80 % of the runs have {low:.2f} to {high:.2f}. "
        "Independent errors of equal size that add up would give 0.5."
    )
    parts = [
        "# The atlas: what difference to expect",
        "Made by `make atlas` from [`atlas.csv`](../benchmarks/atlas.csv). Do not edit it.",
        f"**{count} architectures** of timm and torchvision. {left}Every figure is predicted: the "
        "operands of convolutions and matrix products are rounded as the arithmetic says, on a "
        "CPU. Nothing was executed on an accelerator. The weights come from a seed, and batch "
        "norms have the statistics of photographs. Trained weights can give other figures. Each "
        f"network saw {frame.inputs.iloc[0]} photographs.",
        "Look up your architecture before you own the accelerator. If a measured difference is "
        "much larger than the predicted one, look for another cause than the arithmetic.",
        "## By arithmetic",
        _by_arithmetic(frame).to_markdown(index=False, disable_numparse=True),
        "Top-1: the share of all inputs whose best class is that of float32.",
        "## What predicts it",
        "The relative L2 error, divided by a simple quantity: u is the unit roundoff of the "
        "arithmetic, n is the number of products of the network, e is the error of float32 "
        "itself against float64, and u32 is the unit roundoff of float32. *Spread*: the standard "
        "deviation of the logarithm, as a factor. A smaller spread is a better prediction.",
        _by_predictor(divided).to_markdown(index=False, disable_numparse=True),
        f"Over all rows, {best} has the smallest spread, {spreads[best]:.2g}.",
        "## Growth with depth",
        grows if len(growth) else "Not computed.",
        "## By architecture",
        "The relative L2 error of each arithmetic. The smallest network comes first. `atlas.csv` "
        "has all figures in full precision, the hashes of weights and outputs, and the hash of "
        "the code.",
        _by_architecture(frame).to_markdown(index=False, disable_numparse=True),
        "## To repeat it",
        "`make atlas` writes a configuration of the smallest networks of every module of timm "
        "and torchvision, runs it in the folder `atlas/`, and writes this page. A run that was "
        "stopped goes on where it stopped. `npu-parity audit REPORT.md --results atlas/results` "
        "compares a published report with these predictions: [audit.md](audit.md).",
    ]
    return "\n\n".join(parts) + "\n"


def _by_arithmetic(frame: pd.DataFrame) -> pd.DataFrame:
    found = []
    for name, group in frame.groupby("arithmetic", sort=False):
        error = group.relative_l2_error
        found.append(
            {
                "Arithmetic": name,
                "Unit roundoff": f"2^{math.log2(FORMATS[str(name)].unit_roundoff):.0f}",
                "Architectures": str(len(group)),
                "Relative L2, median": f"{error.median():.2g}",
                "10 % to 90 %": f"{error.quantile(0.1):.2g} to {error.quantile(0.9):.2g}",
                "Largest": f"{error.max():.2g} ({group.architecture[error.idxmax()]})",
                "1 − cos, median": f"{group.one_minus_cosine.median():.2g}",
                "Max abs, median": f"{group.max_abs_error.median():.2g}",
                "Top-1": f"{100 * group.top1_match.mean():.1f} %",
            }
        )
    return pd.DataFrame(found)


def _by_predictor(divided: pd.DataFrame) -> pd.DataFrame:
    groups = [*divided.groupby("arithmetic", sort=False), ("all", divided)]
    return pd.DataFrame(
        {
            "Arithmetic": arithmetic,
            **{
                f"Error / ({name})": f"{group[name].median():.2g}, spread {spread(group[name]):.2g}"
                for name in PREDICTORS
            },
        }
        for arithmetic, group in groups
    )


def _by_architecture(frame: pd.DataFrame) -> pd.DataFrame:
    found = []
    for name, group in frame.groupby("architecture", sort=False):
        first = group.iloc[0]
        errors = group.set_index("arithmetic").relative_l2_error
        found.append(
            {
                "Architecture": name,
                "Parameters": f"{first.parameters:,}",
                "Products": str(first.products),
                **{a: f"{errors[a]:.2g}" if a in errors else "—" for a in ARITHMETIC},
                "Operators": first.kinds,
            }
        )
    return pd.DataFrame(found)


def main() -> None:
    """Read the results of a folder, and write both files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, nargs="?", help="a folder of results")
    parser.add_argument(
        "--targets", type=Path, metavar="CONFIG", help="name what a run has to make"
    )
    arguments = parser.parse_args()
    if arguments.targets:
        print(*targets(config.load(arguments.targets)["models"]))
        return
    frame = pd.read_csv(RESULTS) if RESULTS.exists() else pd.DataFrame({"architecture": []})
    if arguments.results:
        new = pd.DataFrame(rows(arguments.results))
        if new.empty:
            raise ParityError(f"{arguments.results}: found no predicted runs of {list(ARITHMETIC)}")
        frame = merged(frame, new)
        evidence.write_text(RESULTS, frame.to_csv(index=False))
    evidence.write_text(DOCS, document(frame))


if __name__ == "__main__":
    main()
