"""Results that a device stored in fewer bits than float32 and widened again."""

from collections.abc import Iterator

import torch
from torch import Tensor

from npu_parity.verdict.bounds.products import Product
from npu_parity.verdict.statistic import LARGEST_Z, deviation
from npu_parity.verdict.thresholds import Threshold

MISSING = Threshold(
    40,
    question=2,
    decides="The results of a product are coarse if at least this many mantissa bits are missing, "
    "in all different values of a row together.",
    reason="If the last bits are random, 40 of them are all zero only once in 2^40. A network has "
    "fewer than 2^20 rows.",
)
_SHORT = 16
_SAMPLE = 8  # values of a row that show whether the whole row can be coarse


def coarse(found: Tensor, product: Product, lost: Tensor | None = None) -> str | None:
    """Return a finding if a row of results has fewer mantissa bits than the prediction explains.

    A row is the last axis of a matrix, and one channel of a convolution. All of its values are
    multiples of a unit: of their own last bit in the format in which the device stored them. This
    is no finding for values

    - whose prediction is such a multiple, too, or so near to one that rounding explains it,
    - or which have this unit because the partial sums are much larger than the result.

    A bias hides a coarse sum, because a float32 addition follows. So the row is also checked
    without the bias. Then the last bit of the result is uncertain.

    Args:
        found: the device's result of the product, float32, at least one axis.
        product: the exact product.
        lost: the effect of rounded operands, as `Product.predicted` yields it.
    """
    added = product.added
    for bias in (0 * added, added) if added.any() else (added,):
        values, biases = (_rows(tensor.expand(found.shape)) for tensor in (found, bias))
        bits = _bits(values[:, :_SAMPLE], biases[:, :_SAMPLE]).amax(1)
        if len(rows := (bits < 22).nonzero()[:, 0]) and (
            finding := _coarse(values[rows], biases[rows], *_explained(product, lost, rows))
        ):
            return finding
    return None


def _explained(product: Product, lost: Tensor | None, rows: Tensor) -> Iterator[Tensor]:
    """Yield rows of the predicted results, of the largest explained errors and partial sums."""
    whole = product.part()
    predicted = whole.exact if lost is None else whole.exact - lost
    near = torch.minimum(whole.sums, LARGEST_Z * deviation(whole))
    for tensor in (predicted, near, whole.partial):
        yield _rows(tensor)[rows]


def _rows(x: Tensor) -> Tensor:
    """Return the rows. All values are one row if rows are short."""
    rows = x.flatten(2).flatten(0, 1) if x.ndim > 3 else x.reshape(-1, *x.shape[-1:])
    return rows if rows.ndim > 1 and rows.shape[1] >= _SHORT else x.reshape(1, -1)


def _coarse(
    found: Tensor, added: Tensor, predicted: Tensor, near: Tensor, partial: Tensor
) -> str | None:
    """Return a finding for rows of results; rounding explains a difference of `near`."""
    bits = _bits(found, added).amax(1, keepdim=True)
    value, expected = found.double() - added, predicted - added
    spacing = _power(value) * 2.0**-bits
    # An honest sum is a multiple of the last bit of its largest partial sum. Without the bias, the
    # last bit of the result is uncertain.
    largest = torch.maximum(_power(partial), (1 + bool(added.any())) * _power(found))
    finest = (largest * 2.0**-23).clamp(min=2.0**-149)
    distance = (expected - (expected / spacing).round() * spacing).abs()
    explained = distance <= torch.minimum(near, spacing / 4)
    missing = (spacing / finest).log2().clamp(0, 23)
    missing[explained | (value == 0) | ~missing.isfinite()] = 0
    for row in (missing.sum(1) >= MISSING).nonzero()[:, 0]:
        if _distinct(value[row] / spacing[row], missing[row]) >= MISSING:
            used = int(_bits(predicted[row].float(), added[row]).max())
            return f"use {int(bits[row])} mantissa bits where the predicted results use {used}"
    return None


def _distinct(multiples: Tensor, missing: Tensor) -> float:
    """Return the sum of the missing bits. Values with the same mantissa count only once."""
    mantissas = multiples.nan_to_num(0, 0, 0).round().abs().frexp()[0]
    kinds, kind = torch.unique(mantissas, return_inverse=True)
    least = missing.new_full((len(kinds),), torch.inf).scatter_reduce(0, kind, missing, "amin")
    return float(least.sum())


def _power(x: Tensor) -> Tensor:
    """Return the largest power of two that does not exceed |x|, float64; 0 for 0."""
    exponent = x.double().view(torch.int64) & 0x7FF0_0000_0000_0000
    return exponent.view(torch.float64)


def _bits(found: Tensor, added: Tensor) -> Tensor:
    """Return how many mantissa bits each value needs at least, without the added number."""
    unit = _power(found) * 2.0**-23
    value = (found.double() - added) / unit
    value = value.nan_to_num_(0, 0, 0).clamp_(-(2.0**62), 2.0**62)
    zeros = torch.maximum(_zeros(value.floor()), _zeros(value.ceil()))
    _, exponent = torch.frexp(value)
    return (exponent - 1 - zeros).where(value != 0, 0).clamp(min=0)


def _zeros(x: Tensor) -> Tensor:
    """Return the number of zero bits at the end of each whole number; 62 for 0."""
    integer = x.long()
    lowest = (integer & -integer).double()
    return (torch.frexp(lowest)[1] - 1).where(integer != 0, 62)
