"""Figures of a system's report as SVG. The same files give the same bytes."""

import io
import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

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
MOST_POINTS = 1500  # of a scatter plot


def svg(figure: Figure) -> bytes:
    """Return the figure as SVG."""
    content = io.BytesIO()
    with rc_context(REPRODUCIBLE):
        figure.savefig(content, format="svg", metadata={"Date": None})
    return content.getvalue()


def save(figure: Figure, path: str | Path) -> None:
    """Write the figure as SVG."""
    evidence.write_text(path, svg(figure).decode("utf-8"))


def divergence(system: System) -> Figure:
    """Draw the error through the network, and the error of each operator alone.

    The upper plot shows the relative L2 error of every run after each operator, including all
    operators before it, and the error of float32 itself. The lower plot shows the largest error of
    each operator on each measured device with the reference's operands, as a share of its bound. A
    dotted line marks the operator where a failed run goes wrong first.
    """
    figure = Figure(figsize=(9, 6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    colours = _colours(system)
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
        _finish(axes)
    return figure


def scatter(system: System) -> Figure | None:
    """Draw the measured error of outputs against the predicted error, a dot for each output.

    If the device rounds nothing, the predicted error is that of float32 itself, against float64. On
    the line, both are equal. Return None if nothing was measured.
    """
    reference = system.outputs(system.runs[0])
    measured = [r for r in system.measured if r in system.comparable]
    if not measured:
        return None
    figure = Figure(figsize=(4.5 * len(measured), 4.2), layout="constrained")
    colours = _colours(system)
    for axes, run in zip(
        figure.subplots(1, len(measured), squeeze=False)[0], measured, strict=True
    ):
        expected, kind = run.replace("/measured", "/predicted"), "predicted error"
        if expected not in system.runs:
            kind = "error of float32 itself"
            expected = system.runs[0].replace("/measured", "/exact")
        x, y = (_errors(system.outputs(found), reference) for found in (expected, run))
        step = math.ceil(x.size / MOST_POINTS)
        x, y = x[::step], y[::step]
        both = (x > 0) & (y > 0)
        axes.scatter(x[both], y[both], s=4, alpha=0.4, color=colours[run], rasterized=True)
        axes.axline((1, 1), slope=1, color="0.3", linewidth=0.8)
        axes.set(xscale="log", yscale="log", xlabel=kind, ylabel="measured error", title=title(run))
        if both.any():
            axes.set(xlim=_span(x[both]), ylim=_span(y[both]))
        _finish(axes, "both")
    return figure


def shares(system: System) -> Figure | None:
    """Draw the largest error of each operator as a share of its bound, by kind of operator.

    Return None if no operator could be checked. Errors of zero are not on the logarithmic axis.
    """
    tables = {
        run: table[table["max_error_of_bound"] > 0] for run, table in system.operators.items()
    }
    kinds = sorted({short(name) for table in tables.values() for name in table["operator"]})
    if not kinds:
        return None
    figure = Figure(figsize=(9, 1.2 + 0.28 * len(kinds)), layout="constrained")
    axes, colours = figure.subplots(), _colours(system)
    for run, table in tables.items():
        if len(table):
            places = [kinds.index(short(name)) for name in table["operator"]]
            found = table["max_error_of_bound"]
            edge = 10 * max([1.0, *found[found < math.inf]])
            axes.scatter(
                found.clip(upper=edge),
                places,
                s=14,
                alpha=0.6,
                color=colours[run],
                label=title(run),
            )
    axes.axvline(1, color="0.3", linewidth=0.8)
    axes.set_yticks(range(len(kinds)), kinds)
    axes.set(xscale="log", xlabel="largest error / bound; beyond 1 the operator fails")
    axes.invert_yaxis()
    _finish(axes, "x")
    return figure


def speed(system: System) -> Figure | None:
    """Draw the distribution of the latencies of one image, and the throughput by batch size.

    Measurements on a busy machine say so, and have hollow marks. Published throughputs are from
    another machine. Return None if nothing was measured.
    """
    if not system.latency:
        return None
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    colours = _colours(system)
    for run, found in system.latency.items():
        sizes = {int(size): timed for size, timed in found["batch_sizes"].items()}
        first = min(sizes)
        samples = np.sort(sizes[first]["samples"])
        busy = ", busy: not comparable" if sizes[first].get("busy") else ""
        share = np.arange(1, len(samples) + 1) / len(samples)
        left.step(samples, share, where="post", color=colours[run], label=title(run) + busy)
        rates = [timed["throughput"] for timed in sizes.values()]
        right.plot([*sizes], rates, color=colours[run])
        for size, timed in sizes.items():
            face = "none" if timed.get("busy") else colours[run]
            right.plot(size, timed["throughput"], "o", color=colours[run], markerfacecolor=face)
    printed = system.published.get("latency", {})
    rates = printed.get("npu_batches", {}).get("throughput") or printed.get("npu", {}).get(
        "throughput"
    )
    if rates:
        label = "npu published (another machine)"
        right.plot([*rates], [*rates.values()], "s--", color=COLOURS[-1], label=label)
    left.set(xlabel="latency of one image in ms", ylabel="share of the samples", ylim=(0, 1.02))
    right.set(yscale="log", xlabel="batch size", ylabel="images per second")
    right.yaxis.set_major_formatter("{x:g}")
    right.yaxis.set_minor_formatter("{x:g}")
    right.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in (left, right):
        _finish(axes, legend=False)
    figure.legend(loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    return figure


def _colours(system: System) -> dict[str, str]:
    """Return the colour of each run. Runs of one device have the same."""
    devices = {run: run.partition("/")[0] for run in system.runs}
    of_device = dict(zip(dict.fromkeys(devices.values()), itertools.cycle(COLOURS), strict=False))
    return {run: of_device[device] for run, device in devices.items()}


def _finish(axes: Axes, grid: Literal["x", "y", "both"] = "y", legend: bool = True) -> None:
    axes.grid(axis=grid, color="0.9", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    if legend and axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8, frameon=False)


def _errors(found: NDArray[Any], reference: NDArray[Any]) -> NDArray[Any]:
    """Return the absolute differences of all outputs in float64, as one row."""
    return np.asarray(np.abs(found.astype(np.float64) - reference).ravel())


def _span(values: NDArray[Any]) -> tuple[float, float]:
    """Return the limits of a logarithmic axis, without the smallest 2 % of the values."""
    return float(np.percentile(values, 2)) / 2, float(values.max()) * 2


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
    """Draw a dot for each operator with an error; infinite errors are at the upper edge.

    A device without a dot, such as one whose operators are not visible, is not in the legend.
    """
    for run, table in system.operators.items():
        shares = table["max_error_of_bound"]
        edge = 10 * max([1.0, *shares[shares < math.inf]])
        seen = table[shares > 0]
        errors = seen["max_error_of_bound"].clip(upper=edge)
        if len(seen):
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
