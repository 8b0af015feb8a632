"""Systems whose figures are computed again, from arrays of outputs and samples of latency."""

from collections.abc import Mapping
from copy import copy
from typing import Any

import numpy as np
import pandas as pd

from npu_parity.audit import derive
from npu_parity.audit.stated import read_array, read_json, read_table
from npu_parity.backends import heads
from npu_parity.backends.device import Device
from npu_parity.evidence import manifest
from npu_parity.report import origin, results
from npu_parity.verdict.judge import output_files

# Keys of metrics.json that are no figures of two arrays; `npu-parity verify` judges again.
STATED = {
    *("run", "reference", "task", "head_widths", "backend", "numerics", "precision"),
    *("verdict", "evidence", "verdict_line", "failed_question", "failed_first", "questions"),
    *("numerics_found", "versions", "code"),
}
FIGURES = ("metrics", "latency")  # the JSON files of runs that are derived


class Derived(results.Traced):
    """A system with figures from its arrays and samples. No manifest is asked."""

    def read(self, name: str) -> Any:
        """Return a JSON file with every figure computed again that arrays or samples give."""
        found = read_json(self.folder / name)
        if name.endswith("/metrics.json"):
            figures = self._compared(name.removesuffix("/metrics.json"), found)
            found = {key: found[key] for key in found if key in STATED} | figures
        elif name.endswith("/latency.json"):
            for size, timed in found["batch_sizes"].items():
                timed |= derive.timings(timed["samples"], int(size))
        return origin.track(found, str(self.folder / name))

    def rows(self, name: str) -> pd.DataFrame:
        """Return a CSV file."""
        frame = read_table(self.folder / name)
        return results.with_origins(frame, str(self.folder / name))

    def outputs(self, run: str) -> np.ndarray[Any, Any]:
        """Return the array of a run; ParityError if it is not the one that run.json states."""
        return read_array(self.folder, run)

    def _compared(self, run: str, found: Mapping[str, Any]) -> dict[str, Any]:
        device, _, kind = run.partition("/")
        reference = f"{found['reference']}/measured"
        shapes = read_json(self.folder / reference / "run.json")["heads"]
        widths, maps = heads.resolved(shapes, found["head_widths"], found["task"])
        ours = self.outputs(reference)
        theirs = self._aligned(run, shapes)
        files = output_files(
            self.folder, found["reference"], device, kind, "hosted" in found["sha256"]
        )
        hashes = {name: manifest.sha256(path) for name, path in files.items()}
        if ours.shape != theirs.shape:
            return {"sha256": hashes, "explained": None, "criteria": {}}
        figures = derive.compared(ours, theirs, found["task"], widths, maps)
        figures["criteria"] = derive.criteria(figures)
        if kind == "measured":
            predicted = f"{device}/predicted" if Device.from_dict(found).rounds else None
            figures["explained"] = predicted and derive.explained(
                theirs, self.outputs(predicted), ours
            )
        return {"sha256": hashes, **figures}

    def _aligned(self, run: str, shapes: heads.Shapes) -> np.ndarray[Any, Any]:
        array = self.outputs(run)
        if run.endswith("/predicted"):
            return array
        theirs = read_json(self.folder / run / "run.json")["heads"] or shapes
        return heads.aligned(array, shapes, theirs)


def moved(system: results.System, by: int) -> results.System:
    """Return a system whose figures are moved up (1) or down (-1) by their tolerance."""
    found = copy(system)
    for name in FIGURES:
        figures = {run: derive.shifted(data, by) for run, data in getattr(system, name).items()}
        found.__dict__[name] = figures  # where `cached_property` keeps it
    return found
