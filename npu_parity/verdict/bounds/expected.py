"""The exact result of a recorded operator and the bound of its error."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from npu_parity.numerics.formats import Numerics
from npu_parity.verdict.bounds import elementwise, normalization, products, reductions  # noqa: F401 (rules)
from npu_parity.verdict.bounds.arithmetic import LARGEST
from npu_parity.verdict.bounds.rules import RULES, Operator
from npu_parity.verdict.bounds.storage import COMPUTED, stored
from npu_parity.verdict.recording import Call, tensors

# Data movement, selection and comparison, which IEEE 754 computes without error.
_MOVED = """
    alias as_strided cat channel_shuffle clone constant_pad_nd contiguous copy detach diag_embed
    embedding expand_copy fill flip full full_like gather im2col index index_put index_select lift
    lift_fresh native_channel_shuffle new_full new_ones new_zeros ones ones_like permute_copy
    pixel_shuffle pixel_unshuffle reflection_pad1d reflection_pad2d reflection_pad3d repeat
    replication_pad1d replication_pad2d replication_pad3d roll scalar_tensor scatter select_scatter
    slice_scatter squeeze stack t _to_copy transpose tril triu unsafe_split _unsafe_view unsqueeze
    upsample_nearest1d upsample_nearest2d upsample_nearest3d zero zeros zeros_like
"""
_SELECTED = """
    abs amax amin argmax argmin ceil clamp clamp_max clamp_min floor hardtanh masked_fill
    masked_select max maximum min minimum neg relu relu6 round sign threshold trunc where
"""
_EQUAL = {*_MOVED.split(), *_SELECTED.split()}
# The values must be equal. If two inputs are equal, a device may return either index.
_EQUAL_VALUES = {
    *("max_pool2d_with_indices", "max_pool3d_with_indices", "fractional_max_pool2d"),
    *("adaptive_max_pool2d", "adaptive_max_pool3d", "topk", "sort", "kthvalue"),
}


@dataclass(frozen=True, eq=False)
class Expected:
    """One tensor that an operator must return.

    Attributes:
        exact: the exact result; float64, or the operator's own dtype if the result must be equal.
        bound: float64 of the same shape, the largest allowed error of each element; None if the
            result must be equal.
        note: explains a possible failure, e.g. operands beyond the range of a format.
        largest: the largest number of the result's format.
    """

    exact: Tensor
    bound: Tensor | None
    note: str = ""
    largest: float = LARGEST

    def share(self, found: Tensor) -> Tensor:
        """Return each element's error as a share of its bound. An element passes at 1 or below.

        NaN and infinity pass only if the exact result has the same value or overflows the
        format of the result.

        Args:
            found: the device's result, with the shape of `exact`; on any device.

        Returns:
            float64 with the shape of `exact`; infinite if an element must be equal and is not.
        """
        found, exact = found.cpu(), self.exact
        if self.bound is None:
            share = torch.where(found == exact, 0.0, math.inf).double()
            return share.masked_fill_((found != found) & (exact != exact), 0.0)
        found = found.double()
        share = (found - exact).abs_().div_(self.bound)
        odd = ~(share.isfinite() & self.bound.isfinite())
        if odd.any():
            overflow = found.isinf() & (exact.abs() + self.bound >= self.largest)
            overflow &= found.sign() == exact.sign()
            equal = (found == exact) | (found.isnan() & exact.isnan()) | overflow
            share[odd] = torch.where(equal, 0.0, math.inf).double()[odd]
        return share


@torch.no_grad()
def exact_and_bound(call: Call, numerics: Numerics) -> list[Expected | None] | None:
    """Compute the exact result of a recorded operator and the bound of its error.

    Args:
        call: a recorded operator with operands on the CPU.
        numerics: the numerics of the device that computes the operator.

    Returns:
        One entry for each tensor that the operator returns. An entry is None if the tensor is not
        checked (indices of equal maxima, statistics that inference does not use). The result is
        None if this operator has no bound.
    """
    results = tensors(call.result)
    if call.arguments.get("accumulate") or call.arguments.get("reduce"):
        return None
    computed = any(result.is_floating_point() for result in results)
    equal = call.func.is_view or call.name in _EQUAL or call.arguments.get("rounding_mode")
    random = torch.Tag.nondeterministic_seeded in call.func.tags
    if equal or not (computed or random):
        return [Expected(exact, None) for exact in tensors(Operator(call).run())]
    if call.name in _EQUAL_VALUES:
        values = tensors(Operator(call).run())[0]
        return [Expected(values, None), *[None] * (len(results) - 1)]
    if call.name not in RULES or results[0].dtype not in COMPUTED:
        return None
    narrow = results[0].dtype != torch.float32  # a device rounds only operands in float32
    operator = Operator(call, torch.float64, Numerics() if narrow else numerics)
    exact = operator.run()
    bounds = RULES[call.name](operator, exact)
    if bounds is None:
        return None
    bounds = bounds if isinstance(bounds, tuple) else (bounds,)
    held = zip(tensors(exact), bounds, results, strict=False)
    expected = [
        Expected(e, stored(operator, e, b.expand(e.shape), r.dtype), operator.note, _largest(r))
        for e, b, r in held
    ]
    return [*expected, *[None] * (len(results) - len(expected))]


def _largest(result: Tensor) -> float:
    return torch.finfo(result.dtype).max
