"""The outputs of a network as named heads, whatever container it returns them in.

A tensor inside a dictionary, a dataclass, a tuple or a list is a head. Keys, field names and
positions make its name, joined with dots. A single tensor is the head without a name. Dense maps
keep their shape beside their flat columns.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from npu_parity.errors import ParityError, shorten

if TYPE_CHECKING:  # a verdict from files needs names and shapes, and no torch
    import torch

Shapes = dict[str, tuple[int, ...]]  # of each head, without the dimension of the inputs


def named(result: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every value of nested containers with its name, in order.

    None in a container is left out, because optional fields are None.

    >>> list(named({"logits": 1, "boxes": (2, 3), "loss": None}))
    [('logits', 1), ('boxes.0', 2), ('boxes.1', 3)]
    """
    parts = _parts(result)
    if parts is None:
        yield name, result
        return
    for key, part in parts:
        if part is not None:
            yield from named(part, f"{name}.{key}" if name else str(key))


def _parts(result: Any) -> list[tuple[Any, Any]] | None:
    """Return the names and values in a container; None if it is none, or if it is empty."""
    if isinstance(result, Mapping):
        return list(result.items()) or None
    if dataclasses.is_dataclass(result) and not isinstance(result, type):
        return [(field.name, getattr(result, field.name)) for field in dataclasses.fields(result)]
    if isinstance(result, list | tuple):
        return (
            list(zip(getattr(result, "_fields", range(len(result))), result, strict=True)) or None
        )
    return None


def compared(model: Any, *inputs: Any) -> list[tuple[str, Any]]:
    """Run a network and return the heads that the verdict compares, by name.

    A detector of torchvision gives its dense heads, see `detectors.dense`.
    """
    from npu_parity.backends import detectors

    with detectors.dense(model) as found:
        result = model(*inputs)
    return list(named(found or result))


def columns(
    result: Sequence[tuple[str, Any]], rows: int, target: "torch.device"
) -> tuple["torch.Tensor", Shapes, list[str]]:
    """Put heads side by side.

    Args:
        result: what `compared` returned for a batch.
        rows: the number of inputs of the batch.
        target: where the tensors must be.

    Returns:
        A tensor (rows, columns) with complex numbers as pairs of columns, the shape of each head,
        and the names of tensors of whole numbers, which are left out.

    Raises:
        ParityError: a value cannot be compared. The text continues "the network returned".
    """
    import torch

    whole = [name for name, t in result if torch.is_tensor(t) and _is_whole(t)]
    if len(whole) == len(result):
        whole = []
    kept = [(name, tensor) for name, tensor in result if name not in whole]
    if not kept:
        raise ParityError(_unfit(result, rows, target) or "nothing")
    flat, shapes = [], {}
    for name, tensor in kept:
        if reason := _unfit(tensor, rows, target):
            raise ParityError(f"{reason} (head {shorten(name, 50)})" if name else reason)
        if tensor.is_complex():
            tensor = torch.view_as_real(tensor.resolve_conj())
        shapes["" if len(kept) == 1 else name] = tuple(tensor.shape[1:])
        flat.append(tensor[:, None].flatten(1))
    # Heads of a 16-bit network beside float32 ones: the wider type keeps both.
    return torch.cat(flat, dim=1), shapes, whole


def _is_whole(tensor: "torch.Tensor") -> bool:
    return not (tensor.is_floating_point() or tensor.is_complex() or tensor.is_quantized)


def _unfit(result: Any, rows: int, target: "torch.device") -> str | None:
    """Return what a network returned and what was expected; None if it can be compared."""
    import torch

    if not torch.is_tensor(result):
        empty = isinstance(result, list | tuple | Mapping)
        kind = "nothing" if empty else shorten(type(result).__name__, 50)
        return f"{kind}, expected a tensor, or a list, tuple or dictionary of tensors"
    dtype = str(result.dtype).removeprefix("torch.")
    if result.is_nested or result.layout != torch.strided:
        layout = "nested" if result.is_nested else str(result.layout).removeprefix("torch.")
        return f"a tensor of layout {layout}, expected a dense one: see torch.Tensor.to_dense"
    if result.is_quantized:
        return f"a quantised tensor ({dtype}), expected floating point: return .dequantize()"
    if _is_whole(result):
        return (
            f"whole numbers ({dtype}), expected floating point: return the scores, not the "
            "classes or the decisions that follow from them"
        )
    if result.device.type != target.type:
        return f"a tensor on device {result.device}, expected {target}"
    shape = tuple(result.shape)
    if shape[:1] != (rows,):
        return (
            f"shape {shape}, expected ({rows}, ...): one row for each input "
            "(a detector: the scores and boxes of all anchors)"
        )
    if not result.numel():
        return f"shape {shape}, expected at least one value for each input"
    return None


# --- Names and shapes


def widths(shapes: Mapping[str, Sequence[int]]) -> dict[str, int] | None:
    """Return the number of columns of each head; None for a single tensor.

    >>> widths({"out": (21, 8, 8), "aux": ()})
    {'out': 1344, 'aux': 1}
    """
    if set(shapes) == {""}:
        return None
    return {name: math.prod(shape) for name, shape in shapes.items()}


def resolved(
    shapes: Mapping[str, Sequence[int]], given: Mapping[str, int] | None, task: str
) -> tuple[Mapping[str, int] | None, Mapping[str, Sequence[int]] | None]:
    """Return the widths of the heads, and their shapes if the task looks at dense maps.

    Args:
        shapes: the reference's heads.
        given: widths that a user names; they replace those of the network.
        task: one of `metrics.TASKS`.
    """
    if given and len(given) == len(shapes):
        shapes = dict(zip(given, shapes.values(), strict=True))
    return given or widths(shapes), shapes if task == "segmentation" else None


def mismatch(expected: Mapping[str, Sequence[int]], found: Mapping[str, Sequence[int]]) -> str:
    """Return why a port's heads are not the reference's; an empty text if they are.

    A dictionary may have another order (`aligned`). A tuple has the order of the reference.
    """
    ours, theirs = ([*map(tuple, heads.values())] for heads in (expected, found))
    if _numbered(expected) or _numbered(found):
        same = ours == theirs
    else:
        same = {n: tuple(s) for n, s in expected.items()} == {n: tuple(s) for n, s in found.items()}
    return "" if same else f"outputs are {told(found)}, expected {told(expected)}"


def aligned(
    array: NDArray[Any],
    expected: Mapping[str, Sequence[int]],
    found: Mapping[str, Sequence[int]],
) -> NDArray[Any]:
    """Return a port's outputs (inputs, columns) with its heads in the reference's order."""
    if list(expected) == list(found) or _numbered(expected) or _numbered(found):
        return array
    if mismatch(expected, found):
        return array
    ends = np.cumsum([math.prod(shape) for shape in found.values()])
    parts = dict(zip(found, np.split(array, ends[:-1], axis=1), strict=True))
    return np.concatenate([parts[name] for name in expected], axis=1)


def _numbered(shapes: Mapping[str, Any]) -> bool:
    """Return whether the names are only positions, in a tuple or a list."""
    return all(part.isdigit() or not part for name in shapes for part in name.split("."))


def told(shapes: Mapping[str, Sequence[int]]) -> str:
    """Return the names and shapes as text."""
    texts = [f"{name} {tuple(shape)}".strip() for name, shape in shapes.items()]
    return shorten(", ".join(texts), 120)
