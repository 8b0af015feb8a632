"""The error of a product as a number of standard deviations of random rounding.

The worst case grows like n, random rounding like the square root of n. So in long sums the
statistic sees errors that are far below the bound: coarse partial sums, coarse operands, a scaled
tile.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from npu_parity.verdict.blocks import Largest, blocks
from npu_parity.verdict.bounds.arithmetic import TINY, U
from npu_parity.verdict.bounds.products import Part, Product
from npu_parity.verdict.thresholds import Threshold

ROUNDING = Threshold(
    0.42,
    question=2,
    decides="The standard deviation of one rounding is this times U times the number.",
    reason="The error of a rounding is uniform between -1/2 and 1/2 unit in the last place, with a "
    "standard deviation of 1/√12 units. A unit is between U and 2U times the number: "
    "√(3/8 / ln 2) · 2 / √12 = 0.42 on average over mantissas (Benford).",
)
TRUNCATION = Threshold(
    0.1,
    question=2,
    decides="A sum of n terms may have an error of this times n U times its size in addition.",
    reason="Matrix units of NVIDIA truncate a sum after every 4 to 16 terms (Fasi et al., PeerJ CS "
    "2021). The errors have one sign: n / 4 times about 0.7 U times half of the sum.",
)
RMS_Z = Threshold(
    4.0,
    question=2,
    decides="The root mean square of z over the elements of a product may be at most this.",
    reason="If all terms are equal, the rounding errors of a sum have one sign and add up to at "
    "most 0.36 n U times the result, which is z = 3.6. Measured: 2.5 with constant weights, "
    "below 1 with other sound kernels (docs/detection.md).",
)
LARGEST_Z = Threshold(
    8.0,
    question=2,
    decides="The largest magnitude of z in a product may be at most this.",
    reason="Sound kernels reach 4, with constant weights 5 (docs/detection.md). A normal number "
    "exceeds 8 once in 10^15.",
)
FEW = Threshold(
    64,
    question=2,
    decides="z decides nothing if the terms of a product have at most this many sizes.",
    reason="Equal terms make equal rounding errors, which add up like n and not like √n.",
)


@dataclass(frozen=True)
class Errors:
    """Errors of a result, compared with the product of rounded operands.

    Attributes:
        of_sums: the largest error as a share of the bound of the float32 sum (`Part.sums`).
        z: the largest |z|.
        rms_z: the root mean square of z.
    """

    of_sums: Largest
    z: Largest
    rms_z: float

    @property
    def of_limits(self) -> float:
        """The larger of `rms_z` and `z`, as a share of its limit."""
        return max(self.rms_z / RMS_Z, self.z.value / LARGEST_Z)


def compare(product: Product, found: Tensor, lost: Tensor | None = None) -> Errors:
    """Compare the result of a device with the product of rounded operands.

    Args:
        found: float32 of the product's shape. Errors that are not finite count as 0, because the
            worst case judges them.
        lost: the effect of rounded operands, as `Product.predicted` yields it.
    """
    worst, unlikely, squares = Largest(), Largest(), 0.0
    for index in blocks(found.shape):
        part = product.part(index)
        error = found[index] - part.exact
        if lost is not None:
            error += lost[index]
        if not math.isfinite(error.sum()):
            error.nan_to_num_(0, 0, 0)
        z = error.square().div_(_variance(part))
        squares += float(z.sum())
        worst.update(error.abs_().div_(part.sums), index)
        unlikely.update(z, index)
    unlikely.value = math.sqrt(unlikely.value)  # roots of all elements would take long
    return Errors(worst, unlikely, math.sqrt(squares / found.numel()))


def deviation(part: Part) -> Tensor:
    """Return the standard deviation of each element's error by the rounding of a float32 sum.

    n terms t in random order have partial sums k y / n plus a random walk that returns to 0 at
    both ends. The mean squares of the n partial sums add up to n y² / 3 + n Σt² / 6. Every partial
    sum is rounded once, with the relative standard deviation `ROUNDING` U, and the result twice.
    Σt² is taken as (π / 2)² (Σ|t|)² / n, which is right for products of normal numbers.

    Returns:
        float64 of the part's shape, at least (n + 1) `TINY`.
    """
    return _variance(part).sqrt_()


def _variance(part: Part) -> Tensor:
    n = part.product.terms
    truncated = (TRUNCATION * n) ** 2
    sums = U**2 * (ROUNDING**2 * (n + 6) / 3 + truncated)
    walk = U**2 * (ROUNDING**2 * n / 6 + truncated) * (math.pi / 2) ** 2 / n
    constant = part.added.square() * sums + ((n + 1) * TINY) ** 2
    y = part.exact - part.added if part.added.ndim else part.exact
    variance = torch.addcmul(constant, y, y, value=sums)
    return variance.addcmul_(part.magnitude, part.magnitude, value=walk * (1 + part.error) ** 2)


def few_terms(product: Product) -> bool:
    """Return whether the terms of a product have few different sizes, see `FEW`."""
    sizes = (len(torch.unique(t.abs())) for t in (product.x, product.w))
    return next(sizes) * next(sizes) <= FEW
