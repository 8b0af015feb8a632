"""Question 2 of the verdict, "same kernels?": every operator on the device against its bound.

Each recorded operator runs with the reference's operands. Thus the errors of earlier operators do
not affect it.
"""

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from npu_parity.backends.device import Device
from npu_parity.errors import first_line
from npu_parity.numerics.formats import Numerics
from npu_parity.verdict.bounds import Expected, exact_and_bound
from npu_parity.verdict.bounds.products import PRODUCTS
from npu_parity.verdict.metrics import coarsened
from npu_parity.verdict.operators import NO_BOUND, OperatorResult
from npu_parity.verdict.recording import Call, tensors


def execute(call: Call, target: torch.device) -> Any:
    """Run a recorded operator on a device with its recorded operands. It does not change them."""
    copy = call.func._schema.is_mutable

    def moved(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.to(target, copy=copy)
        return target if isinstance(value, torch.device) else value

    args, kwargs = tree_map(moved, (call.args, call.kwargs))
    with torch.no_grad():
        return call.func(*args, **kwargs)


def check_operators(
    calls: Iterable[Call],
    device: Device,
    run: Callable[[Call, torch.device], Any] = execute,
    numerics: Numerics | None = None,
) -> list[OperatorResult]:
    """Run each operator on a device and compare its error against float64 with its bound.

    Args:
        calls: operators recorded on the CPU (`npu_parity.verdict.recording.record`).
        device: its numerics set the bounds of convolutions and matrix products.
        run: executes a call on the torch device and returns the result of the operator.
        numerics: replace the device's numerics if `run` simulates another device.

    Returns:
        One result for each call, in order.

    Raises:
        ParityError: the device is not available.
    """
    numerics = numerics or device.numerics
    with device.configured() as target:
        return [
            OperatorResult(
                c.index,
                c.module,
                c.operator,
                _shapes(c),
                *_held(c, numerics, partial(run, c, target)),
            )
            for c in calls
        ]


# Largest and mean error, whether it passed, the worst index and a note.
_Held = tuple[float, float, bool | None, tuple[int, ...], str]


def _held(call: Call, numerics: Numerics, run: Callable[[], Any]) -> _Held:
    """Run one operator and compare its error with its bound."""
    nothing = math.nan, math.nan, None, ()
    if not any(tensor.numel() for tensor in tensors(call.result)):
        return *nothing, "no values to compare"
    expected = exact_and_bound(call, numerics)
    if expected is None:
        return *nothing, f"{NO_BOUND} for {call.operator}"
    failed = math.inf, math.inf, False, ()
    try:
        found = tensors(run())
    except Exception as error:  # torch has more kinds of errors, and so does a simulated device
        return *failed, f"cannot run: {first_line(error)}"
    if len(found) < len(expected):
        return *failed, f"returned {len(found)} tensors, expected {len(expected)}"
    shares = []
    for reference, exact, value in zip(tensors(call.result), expected, found, strict=False):
        if exact is None:
            continue
        if (value.shape, value.dtype) != (reference.shape, reference.dtype):
            return *failed, f"returned {_kind(value)}, expected {_kind(reference)}"
        shares.append((exact, value, exact.share(value)))
    judged = _worst(shares)
    if judged[2] and call.name in PRODUCTS and _terms(call) > 1:
        # The bound of coarse operands is wide. But a sum in float32 uses all mantissa bits.
        stored = coarsened(*(t.float().numpy(force=True) for t in (call.result, found[0])))
        if stored:
            return *failed, f"results {stored}"
    return judged


def _terms(call: Call) -> int:
    """Return the number of products in each element of a convolution or matrix product."""
    second: Tensor = call.arguments[PRODUCTS[call.name][1]]
    if call.name.endswith("convolution"):
        return second[0].numel()
    return second.shape[-2 if second.dim() > 1 else 0]


def _worst(shares: list[tuple[Expected, Tensor, Tensor]]) -> _Held:
    largest = max(float(share.max()) for _, _, share in shares if share.numel())
    mean = float(torch.cat([share.flatten() for _, _, share in shares]).mean())
    if largest == 0:
        return 0.0, 0.0, True, (), ""
    exact, value, share = next(s for s in shares if s[2].numel() and float(s[2].max()) == largest)
    worst = tuple(int(i) for i in torch.unravel_index(share.argmax(), share.shape))
    if largest <= 1:
        return largest, mean, True, worst, ""
    note = f"found {value[worst]:.9g} at {list(worst)}, exact {exact.exact[worst]:.9g}"
    return largest, mean, False, worst, "; ".join(filter(None, (note, exact.note)))


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def _shapes(call: Call) -> str:
    operands = tensors((call.args, call.kwargs))
    return " ".join("x".join(map(str, operand.shape)) or "scalar" for operand in operands)
