"""Bounds of interpolation: resizing, grids of positions and regions of interest.

The result is continuous in the position. A position has a rounding error of some U times the side.
The error of the result is at most that times the slope of the interpolation.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from npu_parity.verdict.bounds.arithmetic import TINY, U
from npu_parity.verdict.bounds.rules import Operator, bound

_LINEAR = ("upsample_linear1d", "upsample_bilinear2d", "upsample_trilinear3d")
_CUBIC = ("upsample_bicubic2d", "_upsample_bicubic2d_aa")
_DILATE = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


@bound(*_LINEAR, *_CUBIC, "_upsample_bilinear2d_aa")
def _resized(operator: Operator, exact: Tensor) -> Tensor:
    """(12 + 8 · sum of all side lengths) U max|x|; four times that for cubic weights.

    A position between two elements has an error of 4U times the side. The weights have the same.
    Cubic weights have a slope of at most 1.5, and their magnitudes add up to at most 1.4² (Keys,
    IEEE Trans. ASSP 29 (1981) 1153, with -0.75). Antialiasing adds n more terms to a window.
    """
    x = operator.tensor("self")
    sides = [*x.shape[2:], *exact.shape[2:]]
    terms = 12.0 + 8 * sum(sides)
    scale = max(1.0, *(a / b for a, b in zip(x.shape[2:], exact.shape[2:], strict=True)))
    if operator.name.endswith("_aa"):
        terms += (4 * math.ceil(scale) + 1) ** 2
    factor = 4 if operator.name in _CUBIC else 1
    near = _near_infinity(x, 2 * math.ceil(scale) + 1)
    if near is not None:
        operator.allow(F.interpolate(near, exact.shape[2:], mode="nearest-exact") > 0)
    bound: Tensor = factor * terms * U * _largest(x) + TINY
    return bound.expand(exact.shape)


def _largest(x: Tensor) -> Tensor:
    """Return the largest finite magnitude of each channel."""
    dims = tuple(range(2, x.ndim))
    return x.abs().nan_to_num(0.0, 0.0).amax(dims, keepdim=True)


def _near_infinity(x: Tensor, reach: int) -> Tensor | None:
    """Return 1 near NaN and infinity, else 0; None if all values are finite.

    A weight that should be 0 may be almost 0. Then a neighbour makes NaN or infinity.
    """
    odd = ~x.isfinite()
    if not odd.any():
        return None
    return _DILATE[x.ndim - 2](odd.double(), 2 * reach + 1, stride=1, padding=reach)


@bound("_upsample_nearest_exact1d", "_upsample_nearest_exact2d", "_upsample_nearest_exact3d")
def _nearest(operator: Operator, exact: Tensor) -> Tensor:
    """0; any value where rounding decides between two elements, within 4U of the side."""
    x = operator.tensor("self")
    scales = _scales(operator, x, exact)
    dims = x.ndim - 2
    for d, scale in enumerate(scales):
        size, count = x.shape[2 + d], exact.shape[2 + d]
        position = (torch.arange(count, dtype=torch.float64) + 0.5) * scale
        nearest = position.round()
        between = (position - nearest).abs() <= 4 * U * size
        between &= (position.float() != position) | (_float32(scale) != scale)
        between &= (nearest > 0) & (nearest < size)
        if between.any():
            shape = [1] * (2 + dims)
            shape[2 + d] = count
            operator.allow(between.view(shape).expand(exact.shape))
    return torch.zeros_like(exact)


def _scales(operator: Operator, x: Tensor, exact: Tensor) -> list[float]:
    given = [v for k, v in operator.arguments.items() if k.startswith("scales")]
    sizes = zip(x.shape[2:], exact.shape[2:], strict=True)
    return [1 / s if s else a / b for (a, b), s in zip(sizes, given, strict=True)]


def _float32(number: float) -> float:
    return torch.tensor(number, dtype=torch.float32).item()


@bound("grid_sampler_2d", "grid_sampler_3d")
def _grid(operator: Operator, exact: Tensor) -> Tensor:
    """16U (1 + sum of side · (1 + |position|)) max|x|, four times that for cubic weights.

    A position in [-1, 1] becomes ((position + 1) · side - 1) / 2, and reflection rounds it again.
    The nearest element may be either one if the position lies between both.
    """
    x = operator.tensor("input")
    grid = operator.tensor("grid")
    sides = torch.tensor(x.shape[:1:-1], dtype=grid.dtype)  # the last dimension comes first
    error = 16 * U * sides * (1 + grid.abs())
    near = _largest(x)
    cubic = operator["interpolation_mode"] == 2
    total = error.sum(-1, keepdim=True).movedim(-1, 1)
    bound = (4 if cubic else 1) * (16 * U + total) * near + TINY
    if operator["interpolation_mode"] == 1:
        size = sides - 1 if operator["align_corners"] else sides
        position = (grid + 1) * size / 2 - (0.0 if operator["align_corners"] else 0.5)
        between = ((position - position.floor() - 0.5).abs() <= error).any(-1)
        bound = torch.where(between.unsqueeze(1), 2 * near, TINY)
    # The position is no number, or too large for an index.
    far = ~((grid.abs() * sides).amax(-1) < 2.0**30)
    operator.allow(far.unsqueeze(1).expand(exact.shape))
    infinite = _near_infinity(x, 2)
    if infinite is not None:
        operator.allow(operator.run(input=infinite) != 0)
    return bound.expand(exact.shape)


@bound("roi_align")
def _roi_align(operator: Operator, exact: Tensor) -> Tensor:
    """(n + 16 + 32 (sum of sides + largest coordinate)) U max|x|, for n samples in a bin.

    A bin is the mean of n bilinear interpolations. max|x| is taken for each channel of the image.
    A sample at -1 or at the side may be left out. If the number of samples follows from the size of
    the region, a size near an integer may lead to either number. Both move the bin by at most
    max|x| in either direction.
    """
    x = operator.tensor("input")
    rois = operator.tensor("rois")
    bins = operator["pooled_height"], operator["pooled_width"]
    near = _largest(x)[rois[:, 0].long()]
    offset = 0.5 if operator["aligned"] else 0.0
    n, risky = 1, torch.zeros(len(rois), dtype=torch.bool)
    coordinates = rois[:, 1:] * operator["spatial_scale"] - offset
    reach = coordinates.abs().amax(1)
    for axis, parts in enumerate(bins):
        first, last = coordinates[:, 1 - axis], coordinates[:, 3 - axis]
        side = last - first if operator["aligned"] else (last - first).clamp(min=1)
        ratio = operator["sampling_ratio"]
        per_bin = (side / parts).ceil().clamp(min=1) if ratio <= 0 else torch.full_like(side, ratio)
        error = 16 * U * (reach + 1)
        if ratio <= 0:
            risky |= (side / parts - (side / parts).round()).abs() <= error
        count = int(per_bin.max()) if len(rois) else 1
        n *= count
        step = torch.arange(parts * count, dtype=side.dtype)
        position = first.unsqueeze(1) + (step + 0.5) * (side / parts / per_bin).unsqueeze(1)
        edges = torch.tensor([-1.0, x.shape[2 + axis]], dtype=side.dtype)
        distance = (position.unsqueeze(2) - edges).abs().amin((1, 2))
        risky |= distance <= error
    infinite = _near_infinity(x, 2)
    if infinite is not None:
        operator.allow(operator.run(input=infinite) != 0)
    sides = sum(x.shape[2:])
    factor = (n + 16 + 32 * (sides + reach)).view(-1, 1, 1, 1)
    bound: Tensor = factor * U * near + 2 * near * risky.view(-1, 1, 1, 1) + TINY
    return bound.expand(exact.shape)
