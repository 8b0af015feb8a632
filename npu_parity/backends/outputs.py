"""Run a network over its inputs, on a device or with the device's numerics emulated."""

import contextlib
import copy
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from npu_parity.backends import network, precision
from npu_parity.backends.device import Device
from npu_parity.errors import ParityError, shorten
from npu_parity.numerics.emulation import emulate

# The size of an error follows from this many values; CHANGE is relative, for `further_errors`.
ENOUGH = 32
CHANGE = 0.01


def measure(model: nn.Module, inputs: np.ndarray, device: Device, batch: int = 1) -> np.ndarray:
    """Return the outputs of `model` executed on `device`, in the device's precision.

    Args:
        model: a network in evaluation mode; it stays on the device.
        inputs: float32 (inputs, 3, H, W).
        batch: the number of inputs in one forward pass.

    Returns:
        float32 (inputs, columns); several output tensors are concatenated along the columns.

    Raises:
        ParityError: the device is not available, the network fails, or its outputs cannot be
            compared: they are not floating point, or do not have one row for each input.

    >>> inputs = np.ones((2, 3), dtype=np.float32)
    >>> measure(nn.ReLU().eval(), inputs, Device("cpu"))
    array([[1., 1., 1.],
           [1., 1., 1.]], dtype=float32)
    """
    return measure_repeatedly(model, inputs, device, batch)[0]


def measure_repeatedly(
    model: nn.Module,
    inputs: np.ndarray,
    device: Device,
    batch: int = 1,
    sizes: Sequence[int] | None = None,
) -> tuple[np.ndarray, dict[str, Any]]:
    """Return the result of `measure`, and how far further runs differ from it (`repeated`).

    Args:
        sizes: other batch sizes to run; None: no further run.
    """
    with inference(model), device.configured() as target:
        with precision.applied(model.to(target), device.precision, target) as running:
            found = forward(running, inputs, target, batch)
            again = {} if sizes is None else repeated(running, inputs, found, target, batch, sizes)
        device.implementation.synchronize()
    return found, again


def predict(model: nn.Module, inputs: np.ndarray, device: Device, batch: int = 1) -> np.ndarray:
    """Return the outputs of `model` on the CPU with `device`'s numerics and precision emulated.

    Arguments, result and errors are the same as for `measure`. Nothing runs on the device. Autocast
    casts as it does on a CPU.

    >>> network = nn.Linear(1, 1, bias=False).eval()
    >>> _ = nn.init.ones_(network.weight)
    >>> inputs = np.array([[1 + 2.0**-12]], dtype=np.float32)
    >>> predict(network, inputs, Device("npu", Numerics(matmul="hf32")))
    array([[1.]], dtype=float32)
    """
    return predict_watched(model, inputs, device, batch)[0]


def predict_watched(
    model: nn.Module, inputs: np.ndarray, device: Device, batch: int = 1
) -> tuple[np.ndarray, str | None]:
    """Return the result of `predict`, and where it first overflows; None if it does not."""
    with (
        inference(model),
        Device("cpu").configured() as target,
        emulate(device.numerics),
        precision.storage(device.precision) as emulation,
        precision.applied(model.to(target), device.precision, target) as running,
    ):
        found = forward(running, inputs, target, batch)
        return found, precision.overflow(emulation, running)


def further_errors(
    model: nn.Module, inputs: np.ndarray, predicted: np.ndarray, device: Device, batch: int = 1
) -> np.ndarray | None:
    """Return errors of the prediction for slightly changed inputs, if the outputs have few values.

    A few errors may all be small by accident. Rounding to 16 bits is chaotic, so that an input that
    changes by 1 % gives an error of the same size that is independent.

    Args:
        predicted: the result of `predict` for the same arguments.

    Returns:
        The predicted minus the reference's outputs (rows, columns); no rows if `predicted` has at
        least `ENOUGH` values; None if the device stores float32.
    """
    if device.precision == "fp32":
        return None
    generator = np.random.default_rng(0)
    errors = [np.zeros((0, predicted.shape[1]))]
    real = np.issubdtype(inputs.dtype, np.floating)
    for _ in range(1, math.ceil(ENOUGH / predicted.size) if real else 1):
        noise = 1 + CHANGE * generator.standard_normal(inputs.shape)
        changed = (inputs * noise).astype(inputs.dtype)
        p, r = (predict(model, changed, d, batch) for d in (device, Device("cpu")))
        errors.append(p.astype(np.float64) - r)
    return np.concatenate(errors)


def exact(model: nn.Module, inputs: np.ndarray, device: Device, batch: int = 1) -> np.ndarray:
    """Return the outputs of `model` on the CPU in float64. They show the error of float32 itself.

    Arguments and errors are the same as for `measure`. `device` has no effect.
    """
    with inference(model), Device("cpu").configured() as target:
        return forward(copy.deepcopy(model).double(), inputs.astype(np.float64), target, batch)


def hosted(model: nn.Module, inputs: np.ndarray, device: Device, batch: int = 1) -> np.ndarray:
    """Return the outputs of a port to `device` on the CPU, so without the device's rounding.

    If the device's precision is 16 bits and the port's own weights have 16 bits, it cannot run in
    float32: these are its outputs with 16 bits emulated. Arguments, result and errors are the same
    as for `measure`.
    """
    if precision.narrow(model, device.precision):
        return predict(model, inputs, Device("cpu", precision=device.precision), batch)
    return measure(model, inputs, Device("cpu"), batch)


RUNS = {"measured": measure, "predicted": predict, "exact": exact, "hosted": hosted}


def repeated(
    model: nn.Module,
    inputs: np.ndarray,
    first: np.ndarray,
    target: torch.device,
    batch: int = 1,
    sizes: Sequence[int] = (),
) -> dict[str, Any]:
    """Run a network again, and with other batch sizes, and say how far the outputs differ.

    Call it inside `network.guarded`. A run with another batch size fills one batch with the inputs.

    Args:
        model: a network on the torch device `target`.
        inputs: float32 (inputs, ...).
        first: the outputs of `forward` with batches of `batch`.
        sizes: other batch sizes.

    Returns:
        ``again`` and ``batches`` (by size): the largest relative L2 error over the inputs; None if
        it is not finite. ``failed``: a sentence for each batch size that does not run.
    """
    found: dict[str, Any] = {
        "again": _difference(first, forward(model, inputs, target, batch)),
        "batches": {str(batch): 0.0},
        "failed": [],
    }
    for size in sizes:
        rows = np.arange(size) % len(inputs)
        if size != batch:
            try:
                again = forward(model, inputs[rows], target, size)
            except ParityError as error:
                found["failed"].append(shorten(f"a batch of {size} does not run: {error}", 280))
            else:
                found["batches"][str(size)] = _difference(first[rows], again)
    return found


def _difference(first: np.ndarray, again: np.ndarray) -> float | None:
    """Return the largest relative L2 error over the rows; None if it is not finite."""
    if first.shape != again.shape:
        return None
    if first.tobytes() == again.tobytes():
        return 0.0
    a, b = first.astype(np.float64), again.astype(np.float64)
    with np.errstate(all="ignore"):
        size, error = np.linalg.norm(a, axis=1), np.linalg.norm(b - a, axis=1)
        largest = float(np.where(error == 0, 0.0, error / size).max())
    return largest if np.isfinite(largest) else None


@contextlib.contextmanager
def inference(model: nn.Module) -> Iterator[None]:
    """Run the network inside without gradients, and explain its errors (`network.guarded`).

    Raises:
        ParityError: the model is in training mode, or it has parameters without a shape.
    """
    network.expect_ready(model)
    if model.training:
        raise ParityError(f"{network.named(model)} is in training mode: call .eval() first")
    with network.guarded(network.named(model)), torch.no_grad():
        yield


def forward(
    model: nn.Module, inputs: np.ndarray, target: torch.device, batch: int = 1
) -> np.ndarray:
    """Return the outputs of `model`, which is on the torch device `target`, in its current mode.

    The outputs get the dtype of the inputs. Call it inside `network.guarded`.

    Raises:
        ParityError: the model does not accept the inputs, or its outputs cannot be compared.
    """
    rows: list[np.ndarray] = []
    with torch.no_grad():
        for start in range(0, len(inputs), batch):
            # Copies: a network may write to its input, or return the same memory again.
            part = torch.tensor(inputs[start : start + batch]).to(target)
            found = run_once(model, part, start).numpy(force=True).copy()
            if rows and found.shape[1] != rows[0].shape[1]:
                raise ParityError(
                    f"{_called(model, part, start)}: returned {found.shape[1]} columns, expected "
                    f"{rows[0].shape[1]}, as for the inputs before"
                )
            rows.append(found)
    return np.concatenate(rows)


def run_once(model: nn.Module, batch: torch.Tensor, start: int | None = None) -> torch.Tensor:
    """Return the outputs of one forward pass as one tensor (inputs, columns), of `batch`'s dtype.

    Args:
        model: a network on the device of `batch`.
        batch: (inputs, ...).
        start: the number of the first input; None if `batch` does not consist of numbered inputs.

    Raises:
        ParityError: see `forward`.
    """
    what = _called(model, batch, start)
    with network.explained(what):
        result = _columns(model(batch), len(batch), batch.device, what)
        return result.to(batch.dtype)


def _called(model: nn.Module, batch: torch.Tensor, start: int | None) -> str:
    """Name the network and its input, for an error."""
    name = network.named(model) + (" in float64" if batch.dtype == torch.float64 else "")
    inputs = "a batch"
    if start is not None:
        last = start + len(batch) - 1
        inputs = f"input {start}" if last == start else f"inputs {start} to {last}"
    return f"{name} on {inputs} of shape {tuple(batch.shape)}"


def _columns(result: Any, rows: int, target: torch.device, what: str) -> torch.Tensor:
    """Return a model's result as one tensor (rows, columns)."""
    if isinstance(result, dict):
        result = list(result.values())
    if isinstance(result, list | tuple) and result:
        parts = [_columns(part, rows, target, what) for part in result]
        return torch.cat(parts, dim=1)
    if reason := _unfit(result, rows, target):
        raise ParityError(f"{what}: returned {reason}")
    columns: torch.Tensor = result[:, None].flatten(1)
    return columns


def _unfit(result: Any, rows: int, target: torch.device) -> str | None:
    """Return what a network returned and what was expected; None if it can be compared."""
    if not torch.is_tensor(result):
        kind = "nothing" if isinstance(result, list | tuple) else shorten(type(result).__name__, 50)
        return f"{kind}, expected a tensor, or a list, tuple or dictionary of tensors"
    dtype = str(result.dtype).removeprefix("torch.")
    if result.is_nested or result.layout != torch.strided:
        layout = "nested" if result.is_nested else str(result.layout).removeprefix("torch.")
        return f"a tensor of layout {layout}, expected a dense one: see torch.Tensor.to_dense"
    if result.is_quantized:
        return f"a quantised tensor ({dtype}), expected floating point: return .dequantize()"
    if result.is_complex():
        return f"complex numbers ({dtype}), expected real ones: return torch.view_as_real(...)"
    if not result.is_floating_point():
        return (
            f"whole numbers ({dtype}), expected floating point: return the scores, not the "
            "classes or the decisions that follow from them"
        )
    if result.device.type != target.type:
        return f"a tensor on device {result.device}, expected {target}"
    shape = tuple(result.shape)
    if shape[:1] != (rows,):
        return f"shape {shape}, expected ({rows}, ...): one row for each input"
    if not result.numel():
        return f"shape {shape}, expected at least one value for each input"
    return None
