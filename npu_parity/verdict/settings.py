"""Scalar arguments of operators in a normal form, and what they decide.

Two programs may write one argument in several ways: ``dim=-1`` or ``dim=3``, no stride or the
kernel's size, a size of -1 or the number that it stands for.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from npu_parity.verdict.recording import tensors

# Operators that return their input unchanged. Memory layouts decide whether they run.
HANDING_ON = {"clone", "detach", "alias", "contiguous", "lift", "lift_fresh"}
OTHER_NAMES = {
    **dict.fromkeys(("_unsafe_view", "reshape", "_reshape_alias"), "view"),
    **dict.fromkeys(("_convolution", "convolution_overrideable"), "convolution"),
    **dict.fromkeys(
        (
            *("_native_batch_norm_legit", "_native_batch_norm_legit_no_training"),
            "_batch_norm_no_update",
        ),
        "native_batch_norm",
    ),
}
# Arguments that do not change the results of inference.
IDLE = {
    *("device", "layout", "pin_memory", "memory_format", "non_blocking", "momentum", "implicit"),
    *("benchmark", "deterministic", "cudnn_enabled", "allow_tf32"),
}
# Arguments that the layout of a tensor changes, too.
LAYOUT = {
    *("dim", "dims", "dim0", "dim1", "start_dim", "end_dim", "keepdim", "size", "sizes", "shape"),
    *("start", "end", "step", "index", "split_size", "split_sizes", "chunks", "sections", "dtype"),
    *("normalized_shape", "N", "C", "HxW", "stride", "storage_offset", "output_size", "pad"),
    *("repeats", "shifts"),
}
# Operators whose `stride` is a setting, not a layout.
_STRIDED = ("conv", "pool", "col2im", "im2col")
# Operators whose numbers are values of a formula, not settings of a layer.
FORMULAS = {
    *("add", "sub", "rsub", "mul", "div", "pow", "clamp", "clamp_min", "clamp_max", "fill"),
    *("full", "arange", "scalar_tensor", "full_like", "new_full", "zeros", "ones", "linspace"),
}
_DIMS = ("dim", "dims", "dim0", "dim1", "start_dim", "end_dim", "axis")
_NEW_DIM = ("unsqueeze", "stack")
_REDUCTIONS = {
    *("mean", "sum", "amax", "amin", "var", "std", "var_mean", "std_mean", "logsumexp"),
    "linalg_vector_norm",
}
_SIZED = ("view", "expand", "unflatten")


def name(func: torch._ops.OpOverload) -> str:
    """Return an operator's name. Variants that compute the same have the same name.

    Operators of other libraries have their library's name in front: ``quantized::linear``.
    """
    library, _, own = func._schema.name.rstrip("_").partition("::")
    own = OTHER_NAMES.get(own, own)
    return own if library == "aten" else f"{library}::{own}"


def normal(operator: str, arguments: Mapping[str, Any], result: Any) -> dict[str, Any]:
    """Return the arguments of a call that may change its result, in normal form.

    Args:
        operator: see `name`.
        arguments: tensors and scalars by name.
        result: of the call.
    """
    found = {
        n: v
        for n, v in arguments.items()
        if n not in IDLE and n != "out" and not isinstance(v, torch.ScriptObject)
    }
    operands = tensors(list(found.values()))
    rank = operands[0].ndim + operator.startswith(_NEW_DIM) if operands else 0
    for n, value in found.items():
        if n in _DIMS and rank:
            found[n] = _dims(value, rank)
            if operator in _REDUCTIONS and isinstance(found[n], list):
                found[n] = sorted(found[n])
    if operator in _SIZED and isinstance(result, Tensor):
        found |= {n: list(result.shape) for n in ("size", "sizes", "shape") if n in found}
    if operator == "slice" and operands:
        length = operands[0].shape[found["dim"]]
        found["start"], found["end"] = (
            min(value + length if value < 0 else value, length)
            for value in (found["start"] or 0, length if found["end"] is None else found["end"])
        )
    if "pool" in operator and not found.get("stride", True):
        found["stride"] = found["kernel_size"]
    return {n: list(v) if isinstance(v, tuple) else v for n, v in found.items()}


def _dims(value: Any, rank: int) -> Any:
    if isinstance(value, list | tuple):
        return [_dims(v, rank) for v in value]
    return value + rank if isinstance(value, int) and value < 0 else value


def decides(operator: str, argument: str) -> bool:
    """Return whether an argument is a setting of a layer, which no layout changes."""
    return argument not in LAYOUT or (
        argument == "stride" and any(kind in operator for kind in _STRIDED)
    )


def of_layer(layer: torch.nn.Module | None, name: str) -> Any:
    """Return a setting of a layer. A pool without a stride has the size of its kernel."""
    value = getattr(layer, name)
    return getattr(layer, "kernel_size", None) if name == "stride" and value is None else value


def same(a: Any, b: Any, otherwise: bool = True) -> bool:
    """Return whether two settings are equal, like 3 and (3, 3).

    A number may be rounded to float32. `otherwise` is the result for what is neither numbers nor
    texts.

    >>> same(3, (3, 3)), same(1e-5, 1e-6), same(0.1, 0.10000000149)
    (True, False, True)
    """
    a, b = (list(v) if isinstance(v, list | tuple) else [v] for v in (a, b))
    if len(a) != len(b):
        a, b = (v * max(len(a), len(b)) if len(v) == 1 else v for v in (a, b))
    kinds = (str,), (bool, int, float, type(None))
    if not any(all(isinstance(v, kind) for v in [*a, *b]) for kind in kinds):
        return otherwise
    return len(a) == len(b) and all(map(_same_number, a, b))


def _same_number(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return a == b or abs(a - b) <= 2.0**-23 * max(abs(a), abs(b))
    return bool(a == b)
