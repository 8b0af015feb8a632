"""Question 2 of the verdict, "same kernels?": every operator on the device against its bound.

Each recorded operator runs twice with the reference's operands. Thus the errors of earlier
operators do not affect it. Convolutions and matrix products must pass three tests:

1. worst case: the error against the exact product stays within a bound for all operands;
2. predicted operands: the operands are rounded as the device promises, and only the error of the
   float32 sum remains (`npu_parity.verdict.bounds.products`);
3. statistic: this error is not larger than random rounding (`npu_parity.verdict.statistic`).

They must not use fewer mantissa bits than the predicted result (`npu_parity.verdict.stored`).
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from npu_parity.backends.device import Device
from npu_parity.errors import first_line
from npu_parity.numerics.formats import Numerics
from npu_parity.numerics.schema import mapped
from npu_parity.verdict import settings
from npu_parity.verdict.blocks import Largest
from npu_parity.verdict.bounds import Expected, has_rule, tried
from npu_parity.verdict.bounds.products import Product
from npu_parity.verdict.executed import CHANNELS_LAST
from npu_parity.verdict.operators import IDENTICAL, NO_BOUND, OperatorResult
from npu_parity.verdict.recording import Call, tensors
from npu_parity.verdict.statistic import LARGEST_Z, RMS_Z, Errors, compare, few_terms
from npu_parity.verdict.stored import coarse


def execute(call: Call, target: torch.device, channels_last: bool = False) -> Any:
    """Run a recorded operator on a device with its recorded operands. It does not change them.

    Args:
        channels_last: whether the memory of images and maps has the channels last.
    """
    copy = call.func._schema.is_mutable

    def moved(value: Any) -> Any:
        if isinstance(value, Tensor):
            form = CHANNELS_LAST.get(value.ndim) if channels_last else None
            return value.to(target, copy=copy, memory_format=form or torch.preserve_format)
        return target if isinstance(value, torch.device) else value

    args, kwargs = mapped(moved, (call.args, call.kwargs))
    with torch.no_grad():
        return call.func(*args, **kwargs)


def check_operators(
    calls: Iterable[Call],
    device: Device,
    run: Callable[[Call, torch.device], Any] = execute,
    numerics: Numerics | None = None,
) -> list[OperatorResult]:
    """Run each operator twice on a device and compare its error against float64 with its bound.

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
    return [check_operator(call, device, run, numerics) for call in calls]


def check_operator(
    call: Call,
    device: Device,
    run: Callable[..., Any] = execute,
    numerics: Numerics | None = None,
    channels_last: bool = False,
    recorded: bool = False,
    shares: bool = True,
) -> OperatorResult:
    """Check one operator; see `check_operators`.

    Args:
        recorded: whether this device computed the recorded result. It then counts as the first run.
        channels_last: whether to run it a third time with the channels last in memory, as a port
            may use it. `run` gets this as an argument.
        shares: whether to compute the error also if every run returns the recorded result. If not,
            such an operator passes with the note `IDENTICAL`: it computes what the reference does.
            Nothing then compares the reference's own result with float64.
    """
    further = []
    if channels_last and _has_layouts(call):
        further = [{"channels_last": True}]
    with device.configured() as target:
        same: Callable[[], Any] = partial(getattr, call, "result")
        runs: list[Callable[[], Any]] = [
            cache(partial(run, call, target, **how)) for how in ({}, {}, *further)
        ]
        if recorded:
            runs[0] = same
        if not shares and has_rule(call):
            for place, again in enumerate(runs):
                if not _repeats(call, again):
                    break
                runs[place] = same  # so one result is kept, not three
            else:
                return OperatorResult(*_named(call), math.nan, math.nan, True, (), IDENTICAL)
        return _checked(call, numerics or device.numerics, runs)


def _named(call: Call) -> tuple[int, str, str, str]:
    return call.index, call.module, call.operator, _shapes(call)


def _repeats(call: Call, run: Callable[[], Any]) -> bool:
    """Return whether a run returns the recorded result. If it fails, `_checked` says why."""
    expected = tensors(call.result)
    try:
        found = [tensor.cpu() for tensor in tensors(run())]
        return any(t.numel() for t in expected) and all(
            (a.shape, a.dtype) == (b.shape, b.dtype) and _same(a, b)
            for a, b in zip(expected, found, strict=True)
        )
    except Exception:  # see `_checked`
        return False


def _has_layouts(call: Call) -> bool:
    """Return whether an operator computes the same, whatever the layout of its operands is."""
    if call.func.is_view or call.func._schema.is_mutable or settings.name(call.func) == "view":
        return False
    return any(tensor.ndim in CHANNELS_LAST for tensor in tensors((call.args, call.kwargs)))


_Pairs = list[tuple[Expected, Tensor]]


@torch.no_grad()
def _checked(call: Call, numerics: Numerics, runs: Sequence[Callable[[], Any]]) -> OperatorResult:
    """Run one operator and compare its error with its bound. The first two runs are the same."""
    result = partial(OperatorResult, *_named(call))
    nothing = partial(result, math.nan, math.nan, None, ())
    failed = partial(result, math.inf, math.inf, False, ())
    references = tensors(call.result)
    if not any(tensor.numel() for tensor in references):
        return nothing("no values to compare")
    expected, why = tried(call, numerics)
    if expected is None:
        return nothing(": ".join(filter(None, (f"{NO_BOUND} for {call.operator}", why))))
    float32 = references[0].dtype == torch.float32
    product = expected[0].product if expected[0] and float32 else None
    every = []
    for run in runs:
        try:
            found = tensors(run())
        except Exception as error:  # torch has more kinds of errors, and so does a simulated device
            return failed(f"cannot run: {first_line(error)}")
        if len(found) < len(expected):
            return failed(f"returned {len(found)} tensors, expected {len(expected)}")
        pairs = []
        for reference, exact, value in zip(references, expected, found, strict=False):
            if exact is None:
                continue
            if (value.shape, value.dtype) != (reference.shape, reference.dtype):
                return failed(f"returned {_kind(value)}, expected {_kind(reference)}")
            pairs.append((exact, value.cpu()))
        every.append(pairs)
    first, second, *further = every
    unrest = _unrest(first, second, product)
    every = [first, *([second] if unrest else ()), *further]
    judged = [result(*_worst(pairs)) for pairs in every]
    if product:
        judged = [_sharper(product, r[0][1], j) for r, j in zip(every, judged, strict=True)]
    worst = max(judged, key=lambda j: j.largest_error)
    if not unrest:
        return worst
    note = f"two runs on the same operands differ by {unrest:.3g} times the bound"
    return replace(
        worst,
        largest_error=max(worst.largest_error, unrest),
        passed=worst.passed and unrest <= 1,
        note="; ".join(filter(None, (note, worst.note))),
    )


def _unrest(first: _Pairs, second: _Pairs, product: Product | None) -> float:
    """Return the largest difference of two runs, as a share of the bound of a float32 result."""
    unrest = 0.0
    for (exact, a), (_, b) in zip(first, second, strict=True):
        if a.numel() and not _same(a, b):
            bound = product.part().sums if product else exact.bound
            wide = a if bound is None or a.is_complex() else a.double()
            base = exact.select(a) if exact.select else wide
            once = replace(exact, exact=base, bound=bound, flushed=None)
            unrest = max(unrest, float(once.share(b).max()))
    return unrest


def _same(a: Tensor, b: Tensor) -> bool:
    """Return whether values are equal. A view of the same memory needs no look at them."""
    memory = [(t.data_ptr(), t.stride(), t.dtype) for t in (a, b)]
    return memory[0] == memory[1] or torch.equal(_real(a), _real(b))


def _real(value: Tensor) -> Tensor:
    """Return complex values as pairs: torch cannot compare complex halves."""
    return torch.view_as_real(value.resolve_conj()) if value.is_complex() else value


def _worst(pairs: _Pairs) -> tuple[float, float, bool, tuple[int, ...], str]:
    """Return the largest and the mean error, whether it passed, the worst index and a note."""
    largest, total, count = Largest(), 0.0, 0
    where = pairs[0]
    for exact, value in pairs:
        count += value.numel()
        if exact.bound is None and exact.select is None and _same(exact.exact, value):
            continue
        for index, part, found in exact.parts(value):
            share = part.share(found)
            total += float(share.sum())
            if share.numel() and largest.update(share, index):
                where = exact, value
    mean, worst = total / max(count, 1), largest.position
    if largest.value <= 1:
        return largest.value, mean, True, worst, ""
    exact, value = where
    note = f"found {value[worst]:.9g} at {list(worst)}, exact {exact.exact[worst]:.9g}"
    return largest.value, mean, False, worst, "; ".join(filter(None, (note, exact.note)))


@dataclass(frozen=True)
class _Tried:
    """A result, compared with the product of operands in one format."""

    form: str
    lost: Tensor | None
    errors: Errors
    decides: bool  # whether the statistic decides

    @property
    def largest(self) -> float:
        return max(self.errors.of_sums.value, self.errors.of_limits if self.decides else 0.0)


def _sharper(product: Product, found: Tensor, judged: OperatorResult) -> OperatorResult:
    """Compare the result of a product with the products of rounded operands.

    One of the products that the device may compute (`Product.predicted`) must explain the result.
    """
    if not product.terms or not judged.passed:
        return judged
    chosen: _Tried | None = None
    for form, lost in product.predicted():
        errors = compare(product, found, lost)
        decides = errors.of_limits <= 1 or not few_terms(product)
        tried = _Tried(form, lost, errors, decides)
        if chosen is None or tried.largest <= 1:  # a note compares with the promised format
            chosen = tried
        if chosen.largest <= 1:
            break
    if chosen is None:
        return judged
    errors = chosen.errors
    judged = replace(judged, predicted_error=errors.of_sums.value)
    if chosen.decides:
        judged = replace(judged, rms_z=errors.rms_z, largest_z=errors.z.value)
    if stored := coarse(found, product, chosen.lost):
        return replace(judged, largest_error=math.inf, passed=False, note=f"results {stored}")
    if chosen.largest <= 1:
        return judged
    beyond = errors.of_sums.value > 1
    worst = (errors.of_sums if beyond else errors.z).position
    predicted = float(product.exact[worst]) - float(
        0 if chosen.lost is None else chosen.lost[worst]
    )
    note = (
        f"found {found[worst]:.9g} at {list(worst)}, but {predicted:.9g} follows from operands in "
        f"{chosen.form}"
    )
    if not beyond:
        note = (
            f"errors of the sum are {errors.rms_z:.3g} standard deviations (limit {RMS_Z:g}), the "
            f"largest {errors.z.value:.3g} (limit {LARGEST_Z:g}): {note}"
        )
    return replace(judged, largest_error=chosen.largest, passed=False, worst=worst, note=note)


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def _shapes(call: Call) -> str:
    operands = tensors((call.args, call.kwargs))
    return " ".join("x".join(map(str, operand.shape)) or "scalar" for operand in operands)
