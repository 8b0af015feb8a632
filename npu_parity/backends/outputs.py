"""Run a network over its inputs, on a device or with the device's numerics emulated."""

import contextlib
import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from npu_parity.backends import batches, heads, network, precision
from npu_parity.backends.batches import Inputs
from npu_parity.backends.device import Device
from npu_parity.errors import ParityError, shorten
from npu_parity.numerics.emulation import emulate
from npu_parity.numerics.widening import widened

# The size of an error follows from this many values; CHANGE is relative, for `further_errors`.
ENOUGH = 32
CHANGE = 0.01


@dataclass(frozen=True)
class Outputs:
    """The outputs of a network.

    Attributes:
        array: (inputs, columns), float32, or float64 of an exact run; heads side by side.
        shapes: the shape of each head, see `heads.columns`.
        whole: names of heads of whole numbers, which are not compared.
    """

    array: np.ndarray
    shapes: heads.Shapes
    whole: tuple[str, ...] = ()

    def by_head(self) -> list[np.ndarray]:
        """Return the columns of each head in float64."""
        ends = np.cumsum([math.prod(shape) for shape in self.shapes.values()])
        return np.split(self.array.astype(np.float64), ends[:-1], axis=1)

    @property
    def notes(self) -> list[str]:
        """Why the outputs prove less than they could."""
        return [f"output {name} has whole numbers and was not compared" for name in self.whole]


def measure(model: nn.Module, inputs: Inputs, device: Device, batch: int = 1) -> np.ndarray:
    """Return the outputs of `model` executed on `device`, in the device's precision.

    Args:
        model: a network in evaluation mode; it stays on the device.
        inputs: float32 (inputs, 3, H, W), or any other arrays with one row for each input.
        batch: the number of inputs in one forward pass.

    Returns:
        float32 (inputs, columns); several heads are concatenated along the columns.

    Raises:
        ParityError: the device is not available, the network fails, or its outputs cannot be
            compared: they are whole numbers, or do not have one row for each input.

    >>> inputs = np.ones((2, 3), dtype=np.float32)
    >>> measure(nn.ReLU().eval(), inputs, Device("cpu"))
    array([[1., 1., 1.],
           [1., 1., 1.]], dtype=float32)
    """
    return measure_repeatedly(model, inputs, device, batch)[0].array


def measure_repeatedly(
    model: nn.Module,
    inputs: Inputs,
    device: Device,
    batch: int = 1,
    sizes: Sequence[int] | None = None,
) -> tuple[Outputs, dict[str, Any]]:
    """Return what `measure` computes, and how far further runs differ from it (`repeated`).

    Args:
        sizes: other batch sizes to run; None: no further run.
    """
    with inference(model), device.configured() as target:
        model = device.implementation.compiled(model, inputs)
        with precision.applied(model.to(target), device.precision, target) as running:
            found = forward(running, inputs, target, batch)
            again = {} if sizes is None else repeated(running, inputs, found, target, batch, sizes)
        device.implementation.synchronize()
    return found, again


def predict(model: nn.Module, inputs: Inputs, device: Device, batch: int = 1) -> np.ndarray:
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
    model: nn.Module, inputs: Inputs, device: Device, batch: int = 1
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
        return found.array, precision.overflow(emulation, running)


def further_errors(
    model: nn.Module, inputs: Inputs, predicted: np.ndarray, device: Device, batch: int = 1
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
    real = any(map(batches.real, batches.every(inputs)))
    for _ in range(1, math.ceil(ENOUGH / predicted.size) if real else 1):
        changed = batches.noisy(inputs, CHANGE, generator)
        p, r = (predict(model, changed, d, batch) for d in (device, Device("cpu")))
        errors.append(p.astype(np.float64) - r)
    return np.concatenate(errors)


def exact(model: nn.Module, inputs: Inputs, device: Device, batch: int = 1) -> np.ndarray:
    """Return the outputs of `model` on the CPU in float64. They show the error of float32 itself.

    Arguments and errors are the same as for `measure`. `device` has no effect.
    """
    with inference(model), Device("cpu").configured() as target:
        model, inputs = copy.deepcopy(model).double(), batches.widened(inputs)
        return forward(model, inputs, target, batch, torch.float64).array


def hosted(model: nn.Module, inputs: Inputs, device: Device, batch: int = 1) -> np.ndarray:
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
    inputs: Inputs,
    first: Outputs,
    target: torch.device,
    batch: int = 1,
    sizes: Sequence[int] = (),
) -> dict[str, Any]:
    """Run a network again, and with other batch sizes, and say how far the outputs differ.

    Call it inside `network.guarded`. A run with another batch size fills one batch with the inputs.

    Args:
        model: a network on the torch device `target`.
        inputs: arrays (inputs, ...).
        first: the outputs of `forward` with batches of `batch`.
        sizes: other batch sizes.

    Returns:
        ``again`` and ``batches`` (by size): the largest relative L2 error over inputs and heads;
        None if it is not finite. ``failed``: a sentence for each batch size that does not run.
    """
    found: dict[str, Any] = {
        "again": _difference(first, forward(model, inputs, target, batch)),
        "batches": {str(batch): 0.0},
        "failed": [],
    }
    for size in sizes:
        rows = np.arange(size) % batches.count(inputs)
        if size != batch:
            try:
                again = forward(model, batches.rows(inputs, rows), target, size)
            except ParityError as error:
                found["failed"].append(shorten(f"a batch of {size} does not run: {error}", 280))
            else:
                one = Outputs(first.array[rows], first.shapes)
                found["batches"][str(size)] = _difference(one, again)
    return found


def _difference(first: Outputs, again: Outputs) -> float | None:
    """Return the largest relative L2 error over rows and heads; None if it is not finite.

    It is a share of the larger of both runs.
    """
    if first.shapes != again.shapes:
        return None
    if first.array.tobytes() == again.array.tobytes():
        return 0.0
    shares = []
    with np.errstate(all="ignore"):
        for a, b in zip(first.by_head(), again.by_head(), strict=True):
            # A head may underflow to zero in one of the runs.
            size = np.maximum(np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1))
            error = np.linalg.norm(b - a, axis=1)
            shares.append(np.where(error == 0, 0.0, error / size).max())
    return float(max(shares)) if np.isfinite(shares).all() else None


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
    model: nn.Module,
    inputs: Inputs,
    target: torch.device,
    batch: int = 1,
    dtype: torch.dtype = torch.float32,
) -> Outputs:
    """Return the outputs of `model`, which is on the torch device `target`, in its current mode.

    Call it inside `network.guarded`.

    Args:
        dtype: of the outputs. With float64, what the network makes in float32 is float64, too.

    Raises:
        ParityError: the model does not accept the inputs, or its outputs cannot be compared.
    """
    if batch < 1:
        raise ParityError(f"batch: found {batch}, expected at least 1")
    parts: list[np.ndarray] = []
    shapes: heads.Shapes = {}
    whole: list[str] = []
    with torch.no_grad():
        for start in range(0, batches.count(inputs), batch):
            part = batches.tensors(batches.rows(inputs, slice(start, start + batch)), target)
            found, these, whole = _run(model, part, start, dtype)
            # Copies: a network may return the same memory again.
            parts.append(found.numpy(force=True).copy())
            if shapes and these != shapes:
                raise ParityError(
                    f"{_called(model, part, start)}: returned {heads.told(these)}, expected "
                    f"{heads.told(shapes)}, as for the inputs before"
                )
            shapes = these
    return Outputs(np.concatenate(parts), shapes, tuple(whole))


def run_once(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
    """Return the outputs of one forward pass as one float32 tensor (inputs, columns).

    Args:
        model: a network on the device of `batch`.
        batch: (inputs, ...).

    Raises:
        ParityError: see `forward`.
    """
    return _run(model, (batch,), None, torch.float32)[0]


def _run(
    model: nn.Module, batch: tuple[torch.Tensor, ...], start: int | None, dtype: torch.dtype
) -> tuple[torch.Tensor, heads.Shapes, list[str]]:
    what, rows = _called(model, batch, start), len(batch[0])
    exactly = widened() if dtype == torch.float64 else contextlib.nullcontext()
    with network.explained(what):
        with exactly:
            result = heads.compared(model, *batch)
        try:
            found, shapes, whole = heads.columns(result, rows, batch[0].device)
        except ParityError as error:
            raise ParityError(f"{what}: returned {error}") from None
        return found.to(dtype), shapes, whole


def _called(model: nn.Module, batch: tuple[torch.Tensor, ...], start: int | None) -> str:
    """Name the network and its input, for an error."""
    exact = any(tensor.dtype == torch.float64 for tensor in batch)
    name = network.named(model) + (" in float64" if exact else "")
    inputs = "a batch"
    if start is not None:
        last = start + len(batch[0]) - 1
        inputs = f"input {start}" if last == start else f"inputs {start} to {last}"
    shapes = " and ".join(str(tuple(tensor.shape)) for tensor in batch)
    return f"{name} on {inputs} of shape {shapes}"
