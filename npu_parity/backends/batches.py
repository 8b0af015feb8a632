"""The inputs of a network: one array, or several with one row for each input."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from npu_parity.errors import ParityError

Inputs = NDArray[Any] | tuple[NDArray[Any], ...]


def given(inputs: Any, model: nn.Module) -> Inputs:
    """Return what a user gives as arrays.

    Args:
        inputs: an array or tensor, a tuple or list of them, or a dictionary by the names of the
            arguments of `model`.

    Raises:
        ParityError: there is no input, an array has other values than float32 or whole numbers, or
            arrays have different numbers of rows.

    >>> given({"input": torch.ones(2, 3)}, nn.ReLU()).shape
    (2, 3)
    """
    if isinstance(inputs, Mapping):
        inputs = _in_order(inputs, model)
    if isinstance(inputs, tuple | list) and any(map(_is_array, inputs)):
        found = tuple(_array(one, f"input tensor {i}") for i, one in enumerate(inputs))
        if len({len(array) for array in found}) > 1:
            counts = ", ".join(str(len(array)) for array in found)
            raise ParityError(f"inputs: found {counts} rows, expected the same number in each")
        return found[0] if len(found) == 1 else found
    return _array(inputs, "inputs")


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray | Tensor)


def _in_order(inputs: Mapping[str, Any], model: nn.Module) -> tuple[Any, ...]:
    """Return the values in the order of the network's arguments."""
    names = list(inputs)
    try:
        found = inspect.signature(model.forward).bind(**inputs).args
    except (TypeError, ValueError):
        found = ()
    if len(found) != len(names):
        raise ParityError(
            f"inputs: found {', '.join(map(str, names))}, expected the first arguments of "
            f"{type(model).__name__}.forward; or give a tuple in their order"
        )
    return found


def _array(inputs: Any, what: str) -> NDArray[Any]:
    array = inputs.numpy(force=True) if isinstance(inputs, Tensor) else np.asarray(inputs)
    if array.dtype.kind not in "biuc" and array.dtype != np.float32:
        raise ParityError(
            f"{what}: found {array.dtype}, expected float32 or integers: use .astype('float32')"
        )
    if not array.ndim:
        raise ParityError(f"{what}: found one number, expected a first dimension for the inputs")
    if not len(array):
        raise ParityError("there are no inputs")
    return array


def each(function: Callable[[NDArray[Any]], NDArray[Any]], inputs: Inputs) -> Inputs:
    """Apply a function to each array."""
    return tuple(map(function, inputs)) if isinstance(inputs, tuple) else function(inputs)


def every(inputs: Inputs) -> tuple[NDArray[Any], ...]:
    """Return all arrays."""
    return inputs if isinstance(inputs, tuple) else (inputs,)


def count(inputs: Inputs) -> int:
    """Return the number of inputs."""
    return len(every(inputs)[0])


def rows(inputs: Inputs, chosen: Any) -> Inputs:
    """Return some of the inputs: a slice, or an array of their numbers."""
    return each(lambda array: array[chosen], inputs)


def largest(inputs: Inputs) -> NDArray[Any]:
    """Return the largest absolute value of each input."""
    flat = [np.abs(array.reshape(len(array), -1)).max(axis=1) for array in every(inputs)]
    found: NDArray[Any] = np.max(flat, axis=0)
    return found


def real(array: NDArray[Any]) -> bool:
    """Return whether values are real or complex numbers, and not classes or indices."""
    return bool(np.issubdtype(array.dtype, np.inexact))


def widened(inputs: Inputs) -> Inputs:
    """Return float64 inputs. Whole numbers stay what they are."""
    wide = {"f": np.float64, "c": np.complex128}
    return each(lambda array: array.astype(wide.get(array.dtype.kind, array.dtype)), inputs)


def noisy(inputs: Inputs, share: float, generator: np.random.Generator) -> Inputs:
    """Return inputs whose values change at random by this share. Whole numbers stay."""

    def changed(array: NDArray[Any]) -> NDArray[Any]:
        noise = 1 + share * generator.standard_normal(array.shape)
        return (array * noise).astype(array.dtype) if real(array) else array

    return each(changed, inputs)


def tensors(inputs: Inputs, target: torch.device | str = "cpu") -> tuple[Tensor, ...]:
    """Return copies as tensors on a device: a network may write to its input."""
    return tuple(torch.tensor(array).to(target) for array in every(inputs))
