"""Run a network over its inputs, on a device or with the device's numerics emulated."""

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from npu_parity.backends.device import Device
from npu_parity.errors import ParityError, first_line
from npu_parity.numerics.emulation import emulate


def measure(model: nn.Module, inputs: np.ndarray, device: Device, batch: int = 1) -> np.ndarray:
    """Return the outputs of `model` executed on `device`.

    Args:
        model: a network in evaluation mode; it stays on the device.
        inputs: float32 (inputs, 3, H, W).
        batch: the number of inputs in one forward pass.

    Returns:
        float32 (inputs, columns); several output tensors are concatenated along the columns.

    Raises:
        ParityError: the device is not available, or the outputs do not have one row for each input.

    >>> inputs = np.ones((2, 3), dtype=np.float32)
    >>> measure(nn.ReLU().eval(), inputs, Device("cpu"))
    array([[1., 1., 1.],
           [1., 1., 1.]], dtype=float32)
    """
    with device.configured() as target, inference(model):
        outputs = forward(model.to(target), inputs, target, batch)
        device.implementation.synchronize()
    return outputs


def predict(model: nn.Module, inputs: np.ndarray, device: Device, batch: int = 1) -> np.ndarray:
    """Return the outputs of `model` on the CPU in float32, with `device`'s numerics emulated.

    Arguments, result and errors are the same as for `measure`. Nothing runs on the device.

    >>> network = nn.Linear(1, 1, bias=False).eval()
    >>> _ = nn.init.ones_(network.weight)
    >>> inputs = np.array([[1 + 2.0**-12]], dtype=np.float32)
    >>> predict(network, inputs, Device("npu", Numerics(matmul="hf32")))
    array([[1.]], dtype=float32)
    """
    with Device("cpu").configured() as target, inference(model), emulate(device.numerics):
        return forward(model.to(target), inputs, target, batch)


def exact(model: nn.Module, inputs: np.ndarray, device: Device, batch: int = 1) -> np.ndarray:
    """Return the outputs of `model` on the CPU in float64. They show the error of float32 itself.

    Arguments and errors are the same as for `measure`. `device` has no effect.
    """
    with Device("cpu").configured() as target, inference(model):
        return forward(copy.deepcopy(model).double(), inputs.astype(np.float64), target, batch)


RUNS = {"measured": measure, "predicted": predict, "exact": exact}


@contextlib.contextmanager
def inference(model: nn.Module) -> Iterator[None]:
    """Disable gradients; ParityError if the model is in training mode."""
    if model.training:
        raise ParityError(f"{type(model).__name__} is in training mode: call .eval() first")
    with torch.no_grad():
        yield


def forward(
    model: nn.Module, inputs: np.ndarray, target: torch.device, batch: int = 1
) -> np.ndarray:
    """Return the outputs of `model`, which is on the torch device `target`, in its current mode.

    The outputs get the dtype of the inputs. ParityError if the model does not accept the inputs.
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


def _columns(result: Any, rows: int) -> torch.Tensor:
    """Return a model's result as one tensor (rows, columns)."""
    if isinstance(result, dict):
        result = list(result.values())
    if isinstance(result, list | tuple) and result:
        return torch.cat([_columns(part, rows) for part in result], dim=1)
    if not torch.is_tensor(result) or result.shape[:1] != (rows,):
        found = tuple(result.shape) if torch.is_tensor(result) else type(result).__name__
        raise ParityError(f"outputs: found {found}, expected a tensor of {rows} rows")
    return result[:, None].flatten(1)
