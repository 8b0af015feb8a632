"""Figures of a system's report as SVG. The same files give the same bytes."""

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from npu_parity import evidence
from npu_parity.report.results import System, short, title
from npu_parity.verdict.divergence import Step

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType

# The colours of Okabe and Ito, which everyone can distinguish, also in print.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
# No random ids, no date. Text stays text.
REPRODUCIBLE: dict["RcKeyType", str] = {"svg.hashsalt": "npu-parity", "svg.fonttype": "none"}
MOST_TICKS = 24


def save(figure: Figure, path: str | Path) -> None:
    """Write the figure as SVG."""
    with rc_context(REPRODUCIBLE):
        evidence.write(
            path, lambda partial: figure.savefig(partial, format="svg", metadata={"Date": None})
        )


def divergence(system: System) -> Figure:
    """Draw the error through the network, and the error of each operator alone.

    The upper plot shows the relative L2 error of every run after each operator, including all
    operators before it, and the error of float32 itself. The lower plot shows the largest error of
    each operator on each measured device with the reference's operands, as a share of its bound. A
    dotted line marks the operator where a failed run goes wrong first.
    """
    figure = Figure(figsize=(9, 6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    devices = {run: run.partition("/")[0] for run in system.runs}
    of_device = dict(zip(dict.fromkeys(devices.values()), itertools.cycle(COLOURS), strict=False))
    colours = {run: of_device[device] for run, device in devices.items()}
    _grown(above, system, colours)
    _alone(below, system, colours)
    for run, first in system.first_beyond.items():
        for axes in (above, below):
            axes.axvline(first.index, color=colours[run], linewidth=0.8, linestyle=":")
        above.annotate(
            f"{short(first.operator)}\n{first.module}",
            (first.index, 1),
            xycoords=("data", "axes fraction"),
            xytext=(4, -4),
            textcoords="offset points",
            verticalalignment="top",
            color=colours[run],
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1},
        )
    above.set(yscale="log", title=system.name, ylabel="relative L2 error so far")
    below.set(yscale="log", ylabel="each operator alone:\nlargest error / bound")
    places = ticks(next(iter(system.divergence.values()), []))
    below.set_xticks(list(places), list(places.values()), rotation=60, ha="right", fontsize=7)
    below.set_xlabel("operators in the order of execution, by module")
    for axes in (above, below):
        axes.margins(y=0.08)
        axes.grid(axis="y", color="0.9", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=8, frameon=False)
    return figure


def _grown(axes: Axes, system: System, colours: Mapping[str, str]) -> None:
    """Draw a line for each run: solid if measured, dashed if predicted."""
    for run, steps in system.divergence.items():
        measured = run.endswith("/measured")
        errors = [step.measured if measured else step.predicted for step in steps]
        style = {"linestyle": "-", "linewidth": 1.6} if measured else {"linestyle": "--"}
        _line(axes, steps, errors, color=colours[run], label=title(run), **style)
    for steps in list(system.divergence.values())[:1]:
        errors = [step.float32 for step in steps]
        _line(axes, steps, errors, color="0.6", label="float32 itself, against float64")


def _alone(axes: Axes, system: System, colours: Mapping[str, str]) -> None:
    """Draw a dot for each operator with an error; infinite errors are at the upper edge."""
    for run, table in system.operators.items():
        shares = table["max_error_of_bound"]
        edge = 10 * max([1.0, *shares[shares < math.inf]])
        seen = table[shares > 0]
        errors = seen["max_error_of_bound"].clip(upper=edge)
        axes.scatter(seen["index"], errors, s=9, color=colours[run], label=title(run))
    axes.axhline(1, color="0.3", linewidth=0.8)


def ticks(steps: Sequence[Step]) -> dict[int, str]:
    """Return the module names by the index of their first operator.

    The function chooses the deepest level with at most `MOST_TICKS` modules. A module too close to
    the previous one has no tick.
    """
    found: dict[int, str] = {}
    for depth in range(1, 1 + max((s.module.count(".") + 1 for s in steps), default=0)):
        starts: dict[str, int] = {}
        for step in steps:
            starts.setdefault(".".join(step.module.split(".")[:depth]), step.index)
        starts.pop("", None)
        if found and len(starts) > MOST_TICKS:
            break
        found = {index: name for name, index in starts.items()}
    shown: list[int] = []
    for index in sorted(found):
        if not shown or index - shown[-1] >= len(steps) / (2 * MOST_TICKS):
            shown.append(index)
    return {index: found[index] for index in shown}


def _line(axes: Axes, steps: Sequence[Step], errors: Sequence[float | None], **style: Any) -> None:
    points = [(s.index, e) for s, e in zip(steps, errors, strict=True) if e and math.isfinite(e)]
    if points:
        axes.plot(*zip(*points, strict=True), **{"linewidth": 1.2} | style)
