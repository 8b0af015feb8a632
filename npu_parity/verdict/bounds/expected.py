"""The exact result of a recorded operator and the bound of its error."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from npu_parity.errors import reason
from npu_parity.numerics.formats import Numerics
from npu_parity.verdict.blocks import Index, blocks
from npu_parity.verdict.bounds import (  # noqa: F401 (rules)
    elementwise,
    normalization,
    products,
    reductions,
    sampling,
)
from npu_parity.verdict.bounds.arithmetic import DOUBLE, LARGEST, TINY, U
from npu_parity.verdict.bounds.indices import INDICES, expect_decided, selector
from npu_parity.verdict.bounds.rules import RULES, Operator, has_subnormal
from npu_parity.verdict.bounds.storage import NARROW, stored
from npu_parity.verdict.recording import Call, tensors


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Data movement, selection and comparison, which IEEE 754 computes without error.
_MOVED = _names("""
    alias as_strided as_strided_scatter block_diag cat channel_shuffle _chunk_cat clone complex
    conj_physical _conj_physical constant_pad_nd contiguous copy detach diag_embed diagonal_scatter
    embedding expand_copy eye fill flip full full_like gather im2col index index_copy index_fill
    index_put index_select lift lift_fresh masked_scatter max_unpool2d max_unpool3d narrow_copy
    native_channel_shuffle new_full new_ones new_zeros ones ones_like permute_copy pixel_shuffle
    pixel_unshuffle put reflection_pad1d reflection_pad2d reflection_pad3d repeat replication_pad1d
    replication_pad2d replication_pad3d roll rot90 scalar_tensor scatter select_scatter
    slice_scatter split_with_sizes_copy squeeze stack t take _to_copy transpose tril triu
    unbind_copy unfold_copy unsafe_split _unsafe_view unsqueeze upsample_nearest1d
    upsample_nearest2d upsample_nearest3d zero zeros zeros_like
""")
_SELECTED = _names("""
    abs amax amin aminmax ceil clamp clamp_max clamp_min copysign floor fmax fmin frac frexp
    hardshrink hardtanh heaviside masked_fill masked_select maximum minimum nan_to_num neg nextafter
    relu relu6 round sgn sign threshold trunc unique_consecutive unique_dim _unique2 where
""")
# The modulus of a complex bound is the modulus of the result. It holds for both components.
_COMPLEX = {
    *("abs", "add", "div", "mean", "mul", "sub", "sum"),
    *("_fft_c2c", "_fft_c2r", "_fft_r2c"),
}
# A root of an error that is not near zero grows faster than the error.
_CONCAVE = {"std", "std_mean", "_cdist_forward", "_euclidean_dist"}
_DOUBLE = (torch.float64, torch.complex128)
_LIBRARIES = {"aten", "prims", "torchvision"}  # another library's operator may share a name


@dataclass(frozen=True, eq=False)
class Expected:
    """One tensor that an operator must return.

    Attributes:
        exact: the exact result; float64, or the operator's own dtype if the result must be equal.
        bound: float64 of the same shape, the largest allowed error of each element; None if the
            result must be equal.
        note: explains a possible failure, e.g. operands beyond the range of a format.
        product: the bounds of rounded operands, if the operator is a product.
        free: elements that may have any value; None if there are none.
        select: maps the device's indices to the values that they select, which must be equal to
            `exact`; None if the result is no index.
        finite: whether all bounds are known to be finite.
        flushed: the result of a device that flushes subnormal operands to zero; it passes, too.
    """

    exact: Tensor
    bound: Tensor | None
    note: str = ""
    product: products.Product | None = None
    free: Tensor | None = None
    select: Callable[[Tensor], Tensor] | None = None
    finite: bool = False
    flushed: "Expected | None" = None

    def parts(self, found: Tensor) -> "Iterator[tuple[Index, Expected, Tensor]]":
        """Yield parts of the tensor with the device's result, and their indices."""
        if self.select or found.is_complex():
            yield (), self, found
            return
        for index in blocks(self.exact.shape):
            yield index, self._part(index), found[index]

    def _part(self, index: Index) -> "Expected":
        return replace(
            self,
            exact=self.exact[index],
            bound=None if self.bound is None else self.bound[index],
            free=None if self.free is None else self.free[index],
            flushed=None if self.flushed is None else self.flushed._part(index),
        )

    def share(self, found: Tensor) -> Tensor:
        """Return each element's error as a share of its bound. An element passes at 1 or below.

        NaN and infinity pass only if the exact result has the same value or overflows the
        format of the result.

        Args:
            found: the device's result, with the shape of `exact`; on any device.

        Returns:
            float64 with the shape of `exact`; infinite if an element must be equal and is not.
        """
        found = found.cpu()
        share = self._share(self.select(found) if self.select else found)
        if self.free is not None:
            share = share.masked_fill(self.free, 0.0)
        return share if self.flushed is None else share.minimum(self.flushed.share(found))

    def _share(self, found: Tensor) -> Tensor:
        if found.is_complex():
            exact = torch.view_as_real(self.exact.resolve_conj())
            bound = None if self.bound is None else self.bound.unsqueeze(-1)
            return _share(torch.view_as_real(found.resolve_conj()), exact, bound).amax(-1)
        return _share(found, self.exact, self.bound, self.finite)


def _share(found: Tensor, exact: Tensor, bound: Tensor | None, finite: bool = False) -> Tensor:
    if bound is None:
        share = torch.where(found == exact, 0.0, math.inf).double()
        return share.masked_fill_((found != found) & (exact != exact), 0.0)
    largest = torch.finfo(found.dtype).max
    share = (found - exact).abs_().div_(bound)
    if not (math.isfinite(share.sum()) and (finite or math.isfinite(bound.sum()))):
        found = found.double()
        odd = ~(share.isfinite() & bound.isfinite())
        overflow = found.isinf() & (exact.abs() + bound >= largest)
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
        checked (statistics that inference does not use). The result is None if this operator has no
        bound, or if its rule fails on these operands.
    """
    return tried(call, numerics)[0]


@torch.no_grad()
def tried(call: Call, numerics: Numerics) -> tuple[list[Expected | None] | None, str]:
    """Return the result of `exact_and_bound`, and why the rule fails; empty if it does not."""
    try:
        return _exact_and_bound(call, numerics), ""
    except Exception as error:  # one rule that fails costs one operator
        return None, reason(error, 150)


def _exact_and_bound(call: Call, numerics: Numerics) -> list[Expected | None] | None:
    expected = _expected(call, numerics)
    if expected is None or not any(expected):
        return None
    if not _moves(call) and _has_subnormal(call, expected):
        flushed = _expected(call, numerics, flushed=True) or []
        pairs = zip(expected, flushed, strict=True)
        return [e and replace(e, flushed=f) for e, f in pairs]
    return expected


def _has_subnormal(call: Call, expected: list[Expected | None]) -> bool:
    operands = tensors((call.args, call.kwargs))
    if expected[0] and (product := expected[0].product):  # it looked at both factors
        factors = {id(call.arguments[name]) for name in (product.first, product.second)}
        operands = [t for t in operands if id(t) not in factors]
        return product.smallest < TINY or any(map(has_subnormal, operands))
    return any(map(has_subnormal, operands))


def _moves(call: Call) -> bool:
    """Return whether a call only moves values."""
    accumulates = call.arguments.get("accumulate") or call.arguments.get("reduce")
    is_view = call.func.is_view or torch.Tag.view_copy in call.func.tags
    return is_view or (call.name in _MOVED and not accumulates)


def has_rule(call: Call) -> bool:
    """Return whether a rule for an operator's result is known. It may fail for some operands."""
    if torch.Tag.nondeterministic_seeded in call.func.tags:
        return False
    if call.name in INDICES or _must_equal(call):
        return True
    if call.name not in RULES or call.func.namespace not in _LIBRARIES:
        return False
    kind = tensors(call.result)[0].dtype
    if kind not in (*NARROW, torch.float32, torch.complex64, *_DOUBLE):
        return False
    return not (
        (_is_complex(call) and call.name not in _COMPLEX)
        or (kind in _DOUBLE and call.name in _CONCAVE)
    )


def _is_complex(call: Call) -> bool:
    return any(t.is_complex() for t in tensors((call.result, call.args, call.kwargs)))


def _must_equal(call: Call) -> bool:
    """Return whether every right result has the same values."""
    results = tensors(call.result)
    computed = any(t.is_floating_point() or t.is_complex() for t in results)
    selects = call.name in _SELECTED and not call.arguments.get("decimals")
    selects = selects and not _is_complex(call)
    return _moves(call) or selects or not computed


def _expected(
    call: Call, numerics: Numerics, flushed: bool = False
) -> list[Expected | None] | None:
    if not has_rule(call):
        return None
    if call.name in INDICES:
        return _values_and_indices(Operator(call, flushed=flushed))
    if call.name == "nms":
        expect_decided(Operator(call, torch.float64))
    if _must_equal(call):
        return [Expected(e, None) for e in tensors(Operator(call, flushed=flushed).run())]
    kind = tensors(call.result)[0].dtype
    double = kind in _DOUBLE
    narrow = kind in NARROW  # a device rounds only operands in float32
    return _bounded(call, Numerics() if double or narrow else numerics, double, flushed)


def _bounded(
    call: Call, numerics: Numerics, double: bool, flushed: bool
) -> list[Expected | None] | None:
    operator = Operator(call, torch.float64, numerics, flushed)
    exact = operator.run()
    bounds = RULES[call.name](operator, exact)
    if bounds is None:
        return None
    bounds = bounds if isinstance(bounds, tuple) else (bounds,)
    ranges = [b.aminmax() if b.numel() else None for b in bounds]
    if call.name in products.PRODUCTS and ranges[0] and ranges[0].max >= U * LARGEST:
        operator.allow(bounds[0] >= U * LARGEST)  # a partial sum may overflow
    free = [operator.free] + [None] * (len(bounds) - 1)
    expected: list[Expected | None] = []
    for e, b, within, f, r in zip(
        tensors(exact), bounds, ranges, free, tensors(call.result), strict=False
    ):
        if (within and within.min < 0) or not (e.is_complex() or e.dtype == torch.float64):
            raise ValueError(f"a negative bound, or an exact result in {e.dtype}")
        b = stored(operator, e, (b * DOUBLE if double else b).expand(e.shape), r.dtype)
        f = None if f is None else f.expand(e.shape)
        finite = within is not None and math.isfinite(within.max) and r.dtype not in NARROW
        expected.append(Expected(e, b, operator.note, operator.product, f, finite=finite))
    return [*expected, *[None] * (len(tensors(call.result)) - len(expected))]


def _values_and_indices(operator: Operator) -> list[Expected | None]:
    """Values must be equal. Where some are equal to each other, a device may return any index."""
    results = tensors(operator.run())
    if operator.arguments.get("sorted") is False:
        return [None] * len(results)
    select = selector(operator)
    values, *indices = results
    if not indices and not values.is_floating_point():  # argmax
        indices, values = [values], select(values)
    note = "exact is the value that the index must select"
    selected = [Expected(values, None, note, select=select) for _ in indices]
    return [*([Expected(values, None)] if len(results) > len(indices) else []), *selected]
