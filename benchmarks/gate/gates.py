"""The pass rules of other tools, for the outputs of a reference and of a port.

Each function of `GATES` returns whether its rule passes. A rule for one output tensor gets all
inputs as one tensor. Outputs of another shape, or with NaN or infinity, pass no rule, even if the
rule itself would not notice.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch._dynamo.utils import same

from npu_parity.verdict import metrics
from npu_parity.verdict.criteria import CRITERIA

MSPROBE_COSINE, MSPROBE_MAX_ABS = 0.99, 0.001
MSPROBE_COSINE_FLOOR, MSPROBE_MAX_ABS_CEILING = 0.9, 1.0
SAME_TOL = 1e-4
MIGRAPHX_RMS = 1e-3
POLYGRAPHY_ATOL = POLYGRAPHY_RTOL = 1e-5
OPTIMUM_ATOL, OPTIMUM_RTOL = 1e-5, 1e-5


@dataclass(frozen=True)
class Outputs:
    """The outputs that a gate gets: arrays of shape (inputs, columns)."""

    reference: NDArray
    exact: NDArray
    measured: NDArray
    task: str = "classification"
    heads: Mapping[str, int] | None = None

    @property
    def comparable(self) -> bool:
        """Whether the shapes are equal and all measured values are finite."""
        same_shape = self.reference.shape == self.measured.shape
        return same_shape and bool(np.isfinite(self.measured).all())

    @cached_property
    def error(self) -> NDArray:
        """|measured - reference| in float64."""
        return np.abs(self.measured.astype(np.float64) - self.reference)

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """The result of `metrics.compare`."""
        return metrics.compare(self.reference, self.measured, self.task, self.heads)


Gate = Callable[[Outputs], bool]


def criterion(name: str, outputs: Outputs) -> bool:
    """The rule of one of the five reports, see `npu_parity.verdict.criteria`."""
    return CRITERIA[name].judge(outputs.metrics)["pass"]


def _cosine(outputs: Outputs) -> float:
    r, m = (a.astype(np.float64).ravel() for a in (outputs.reference, outputs.measured))
    size = np.linalg.norm(r) * np.linalg.norm(m)
    return float(r @ m / size) if size else float("nan")


def msprobe(outputs: Outputs) -> bool:
    """Cosine > 0.99 and largest absolute error < 0.001.

    Both are acceptable values in Huawei's documentation of the PyTorch comparison (CANN 7.0,
    "计算精度评价指标").
    """
    return _cosine(outputs) > MSPROBE_COSINE and outputs.error.max() < MSPROBE_MAX_ABS


def msprobe_reached(outputs: Outputs) -> bool:
    """The column "Accuracy Reached or Not" of msprobe (`check_accuracy`).

    "No" if cosine < 0.99 and the largest absolute error > 0.001, or if cosine < 0.9, or if the
    error > 1; else "Yes".
    """
    cosine, largest = _cosine(outputs), outputs.error.max()
    if np.isnan(cosine):
        return False
    both = cosine < MSPROBE_COSINE and largest > MSPROBE_MAX_ABS
    return not (both or cosine < MSPROBE_COSINE_FLOOR or largest > MSPROBE_MAX_ABS_CEILING)


def torch_same(outputs: Outputs) -> bool:
    """`torch._dynamo.utils.same` with a float64 reference and defaults for all other arguments.

    It passes if `torch.allclose` passes with atol = rtol = 1e-4. Otherwise it passes if the root
    mean square error against float64 is at most 2 times the reference's (3 times below 1000
    elements), plus 1e-5.
    """
    reference, measured, exact = map(
        torch.from_numpy, (outputs.reference, outputs.measured, outputs.exact)
    )
    return same(reference, measured, exact, tol=SAME_TOL, log_error=lambda *_: None)


def migraphx(outputs: Outputs) -> bool:
    """Root mean square error over the largest magnitude of either side <= 1e-3.

    `rms_range` and `tolerance::rms_tol` of AMDMIGraphX's ``verify.hpp``, the default of
    ``migraphx-driver verify``. Its element-wise check is disabled by default.
    """
    largest = max(np.abs(outputs.reference).max(), np.abs(outputs.measured).max(), 2.0**-1022)
    rms = np.linalg.norm(outputs.error) / (np.sqrt(outputs.error.size) * float(largest))
    return bool(rms <= MIGRAPHX_RMS)


def polygraphy(outputs: Outputs) -> bool:
    """No element exceeds both atol = 1e-5 and rtol = 1e-5 relative to the reference.

    `CompareFunc.simple` of Polygraphy with its defaults, ``check_error_stat="elemwise"``.
    """
    size = np.abs(outputs.reference.astype(np.float64))
    relative = outputs.error / np.where(size == 0, np.finfo(np.float64).eps, size)
    return not ((outputs.error > POLYGRAPHY_ATOL) & (relative > POLYGRAPHY_RTOL)).any()


def optimum(outputs: Outputs) -> bool:
    """`numpy.allclose(reference, measured, atol=1e-5)`; numpy's default rtol is 1e-5.

    `_run_validation` of optimum-onnx with `OnnxConfig.ATOL_FOR_VALIDATION`.
    """
    return np.allclose(outputs.reference, outputs.measured, rtol=OPTIMUM_RTOL, atol=OPTIMUM_ATOL)


GATES: dict[str, Gate] = {
    **{f"criterion {name}": partial(criterion, name) for name in CRITERIA},
    "msprobe": msprobe,
    "msprobe reached": msprobe_reached,
    "torch same()": torch_same,
    "MIGraphX": migraphx,
    "Polygraphy": polygraphy,
    "optimum-onnx": optimum,
}

# Each rule in one line, for the table of gates.
RULES = {
    **{f"criterion {name}": c.rule for name, c in CRITERIA.items()},
    "msprobe": f"cosine > {MSPROBE_COSINE:g} and max abs < {MSPROBE_MAX_ABS:g}",
    "msprobe reached": f"not (cosine < {MSPROBE_COSINE:g} and max abs > {MSPROBE_MAX_ABS:g}), "
    f"cosine ≥ {MSPROBE_COSINE_FLOOR:g}, max abs ≤ {MSPROBE_MAX_ABS_CEILING:g}",
    "torch same()": f"allclose(atol = rtol = {SAME_TOL:g}), or RMSE against float64 ≤ 2 or 3 "
    f"times the reference's + {SAME_TOL / 10:g}",
    "MIGraphX": f"RMS error / largest magnitude ≤ {MIGRAPHX_RMS:g}",
    "Polygraphy": f"every element within atol {POLYGRAPHY_ATOL:g} or rtol {POLYGRAPHY_RTOL:g}",
    "optimum-onnx": f"allclose(atol = {OPTIMUM_ATOL:g}, rtol = {OPTIMUM_RTOL:g})",
}


def passes(gate: str, outputs: Outputs) -> bool:
    """Return whether these outputs pass a gate."""
    return outputs.comparable and bool(GATES[gate](outputs))
