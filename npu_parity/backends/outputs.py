"""Run a network over its inputs, on a device or with the device's numerics emulated."""

import contextlib
import copy

import numpy as np
import torch
from torch import nn

from npu_parity.backends.device import Device
from npu_parity.errors import ParityError, first_line
from npu_parity.numerics.emulation import emulate


def measure(model: nn.Module, inputs: np.ndarray, device: Device, batch: int = 1) -> np.ndarray:
    """Return the outputs of `model` executed on `device`.

    Args:
        model: in evaluation mode; it is left on the device.
        inputs: float32 (inputs, 3, H, W).
        batch: how many inputs are computed at a time.

    Returns:
        float32 (inputs, columns); several output tensors are put side by side.

    Raises:
        ParityError: the device is not here, or the outputs are no tensor of one row an input.

    """
    with device.configured() as target, inference(model):
        outputs = forward(model.to(target), inputs, target, batch)
        device.implementation.synchronize()
    return outputs


def predict(model: nn.Module, inputs: np.ndarray, device: Device, batch: int = 1) -> np.ndarray:
    """Return the outputs of `model` on the CPU in float32, with `device`'s numerics emulated.

    Arguments, result and errors as of `measure`; nothing is executed on the device.
    """
    with Device("cpu").configured() as target, inference(model), emulate(device.numerics):
        return forward(model.to(target), inputs, target, batch)


def exact(model: nn.Module, inputs: np.ndarray, device: Device, batch: int = 1) -> np.ndarray:
    """Return the outputs of `model` on the CPU in float64: what float32 itself loses shows.

    Arguments and errors as of `measure`; `device` plays no part, and the result is float64.
    """
    with Device("cpu").configured() as target, inference(model):
        return forward(copy.deepcopy(model).double(), inputs.astype(np.float64), target, batch)


RUNS = {"measured": measure, "predicted": predict, "exact": exact}


@contextlib.contextmanager
def inference(model: nn.Module):
    """Switch gradients off and refuse a model in training mode."""
    if model.training:
        raise ParityError(f"{type(model).__name__} is in training mode: call .eval() first")
    with torch.no_grad():
        yield


def forward(
    model: nn.Module, inputs: np.ndarray, target: torch.device, batch: int = 1
) -> np.ndarray:
    """Return the outputs of `model`, in whatever mode it is, on a torch device that it lies on.

    They are as precise as the inputs, whatever the network returns. ParityError where it cannot
    take them.
    """
    rows = []
    with torch.no_grad():
        for start in range(0, len(inputs), batch):
            part = torch.from_numpy(inputs[start : start + batch]).to(target)
            try:
                result = model(part)
            except RuntimeError as error:
                name, shape = type(model).__name__, tuple(part.shape)
                raise ParityError(
                    f"{name} on inputs of shape {shape}: {first_line(error)}"
                ) from error
            rows.append(_columns(result, len(part)).to(part.dtype).cpu().numpy())
    return np.concatenate(rows)


def _columns(result, rows: int) -> torch.Tensor:
    """Return a model's result as one tensor (rows, columns)."""
    if isinstance(result, dict):
        result = list(result.values())
    if isinstance(result, list | tuple) and result:
        return torch.cat([_columns(part, rows) for part in result], dim=1)
    if not torch.is_tensor(result) or result.shape[:1] != (rows,):
        found = tuple(result.shape) if torch.is_tensor(result) else type(result).__name__
        raise ParityError(f"outputs: found {found}, expected a tensor of {rows} rows")
    return result[:, None].flatten(1)
