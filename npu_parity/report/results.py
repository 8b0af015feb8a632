"""A system's folder of results as one object."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from numpy.typing import NDArray

from npu_parity import evidence
from npu_parity.backends.device import BACKENDS
from npu_parity.errors import ParityError
from npu_parity.report import origin
from npu_parity.sources import labels
from npu_parity.verdict import published
from npu_parity.verdict.divergence import Step, first_beyond
from npu_parity.verdict.envelope import ENVELOPE

PUBLISHED = "npu published"
PUBLISHED_FILE = "npu_parity/data/published.yaml"


@dataclass(frozen=True)
class System:
    """A system's evidence and the settings of its tables.

    Attributes:
        folder: ``results/SYSTEM``.
        runs: ``DEVICE/measured`` or ``DEVICE/predicted``, the reference first.
        published: the report's entry in ``data/published.yaml``; empty if there is none.
        criterion: name of the report's own pass rule.
        compared: ``outputs`` or ``probabilities``: the values behind the metrics of the summary.
        task: one of `metrics.TASKS`.
        labels: class names; empty if classes are numbers.
    """

    folder: Path
    runs: list[str]
    published: dict[str, Any] = field(default_factory=dict)
    criterion: str | None = None
    compared: str = "outputs"
    task: str = "classification"
    labels: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The system's name."""
        return self.folder.name

    @property
    def prefix(self) -> str:
        """The prefix of the keys of the compared metrics."""
        return "prob_" if self.compared == "probabilities" else ""

    @property
    def kind(self) -> str:
        """The name of the compared values in the summary."""
        if self.compared == "probabilities":
            return "probabilities"
        return "features" if self.task == "features" else "logits"

    def read(self, name: str) -> Any:
        """Read a JSON file of the folder."""
        return evidence.read_json(self.folder / name)

    def rows(self, name: str) -> pd.DataFrame:
        """Read a CSV file of the folder, one row for each operator."""
        # A module's name may be a number.
        return evidence.read_table(self.folder / name, dtype={"module": str, "operator": str})

    def outputs(self, run: str) -> NDArray[Any]:
        """Read ``outputs.npy`` of a run, float (inputs, columns)."""
        return evidence.read_array(self.folder / run / "outputs.npy")

    @cached_property
    def weights(self) -> dict[str, Any]:
        """``weights.json``."""
        found: dict[str, Any] = self.read("weights.json")
        return found

    @cached_property
    def inputs(self) -> dict[str, Any]:
        """``inputs.json``."""
        found: dict[str, Any] = self.read("inputs.json")
        return found

    @cached_property
    def run(self) -> dict[str, dict[str, Any]]:
        """``run.json`` of every run."""
        return {r: self.read(f"{r}/run.json") for r in self.runs}

    @cached_property
    def metrics(self) -> dict[str, dict[str, Any]]:
        """``metrics.json`` of every run except the reference."""
        return {r: self.read(f"{r}/metrics.json") for r in self.runs[1:]}

    @property
    def measured(self) -> list[str]:
        """The runs that were executed on their device."""
        return [r for r in self.runs if r.endswith("/measured")]

    @cached_property
    def numerics(self) -> dict[str, dict[str, Any]]:
        """``numerics.json`` of every measured run except the reference."""
        measured = [r for r in self.runs[1:] if r.endswith("/measured")]
        return {r: evidence.read_json(self.folder / r / "numerics.json") for r in measured}

    @property
    def comparable(self) -> dict[str, dict[str, Any]]:
        """`metrics` of all runs with outputs of the reference's shape."""
        return {run: found for run, found in self.metrics.items() if "per_input" in found}

    @cached_property
    def operators(self) -> dict[str, pd.DataFrame]:
        """``operators.csv`` of every measured run."""
        return {r: self.rows(f"{r}/operators.csv") for r in self.measured}

    @cached_property
    def divergence(self) -> dict[str, list[Step]]:
        """``divergence.csv`` of every run except the reference."""
        frames = {r: self.rows(f"{r}/divergence.csv") for r in self.runs[1:]}
        return {
            run: [Step.from_row(row) for row in frame.to_dict("records")]
            for run, frame in frames.items()
        }

    @cached_property
    def first_beyond(self) -> dict[str, Step]:
        """The step where each failed run goes wrong first, if its divergence shows it."""
        failed = [r for r, found in self.metrics.items() if found["verdict"] == "FAIL"]
        found = {run: first_beyond(self.divergence[run], ENVELOPE) for run in failed}
        return {run: step for run, step in found.items() if step}

    @cached_property
    def latency(self) -> dict[str, dict[str, Any]]:
        """``latency.json`` of every run that this machine executed on the device and timed."""
        executed = [r for r in self.measured if BACKENDS[self.run[r]["backend"]].executes]
        timed = [r for r in executed if (self.folder / r / "latency.json").exists()]
        return {r: self.read(f"{r}/latency.json") for r in timed}

    def label(self, index: int) -> str:
        """Return the name of a class, or its number if there are no names.

        Raises ParityError if the number of names is not the number of output columns.
        """
        if not self.labels:
            return str(index)
        columns = self.run[self.runs[0]]["shape"][1]
        if len(self.labels) != columns:
            raise ParityError(
                f"{self.name}: found {len(self.labels)} labels, expected {columns}, one per class"
            )
        return self.labels[index]


class Traced(System):
    """A system whose numbers carry their origin, see `npu_parity.report.origin`."""

    def read(self, name: str) -> Any:
        """Read a JSON file of the folder, with the origin of every number."""
        return origin.track(super().read(name), str(self.folder / name))

    def rows(self, name: str) -> pd.DataFrame:
        """Read a CSV file of the folder, with the origin of every float."""
        return with_origins(super().rows(name), str(self.folder / name))


def with_origins(frame: pd.DataFrame, file: str) -> pd.DataFrame:
    """Return the rows of a CSV file with the origin of every float, as ``FILE#COLUMN[ROW]``."""
    tracked = {
        str(name): pd.Series(
            [origin.Figure(x, f"{file}#{name}[{row}]") for row, x in enumerate(column)],
            dtype=object,
        )
        for name, column in frame.select_dtypes("float").items()
    }
    return frame.assign(**tracked)


def short(operator: str) -> str:
    """Return the short name of an operator: add for ``aten.add.Tensor``."""
    return operator.removeprefix("aten.").partition(".")[0]


def title(run: str) -> str:
    """Return the name of a run in tables, such as ``npu predicted``."""
    return run.replace("/", " ")


def describe(
    folder: Path, runs: list[str], settings: dict[str, Any], of: type[System] = System
) -> System:
    """Return the system of `folder` with the table settings of its configuration."""
    document = settings.get("published")
    printed = published.figures()[document] if document else {}
    if issubclass(of, Traced):
        printed = origin.track(printed, PUBLISHED_FILE, document or "")
    return of(
        folder=folder,
        runs=runs,
        published=printed,
        criterion=document,
        compared=settings["compared"],
        task=settings["task"],
        labels=labels.read(settings["labels"]) if settings.get("labels") else [],
    )
