"""Results that are indices: what they select, and whether the arithmetic decides them."""

from collections.abc import Callable

import torch
from torch import Tensor

from npu_parity.verdict.blocks import SIZE
from npu_parity.verdict.bounds.arithmetic import U
from npu_parity.verdict.bounds.rules import Operator

_POOLS = {  # number of dimensions that an index counts through
    **dict.fromkeys(("max_pool2d_with_indices", "adaptive_max_pool2d", "fractional_max_pool2d"), 2),
    **dict.fromkeys(("max_pool3d_with_indices", "adaptive_max_pool3d", "fractional_max_pool3d"), 3),
}
INDICES = {
    *_POOLS,
    *("argmax", "argmin", "cummax", "cummin", "kthvalue", "max", "median", "min", "mode"),
    *("nanmedian", "sort", "topk"),
}


def selector(operator: Operator) -> Callable[[Tensor], Tensor]:
    """Return a function that maps indices to the values of the first operand that they select.

    An index outside the operand selects NaN.
    """
    x: Tensor = operator["self"]
    dim = operator.arguments.get("dim")
    if operator.name in _POOLS:
        x, dim = x.flatten(-_POOLS[operator.name]), -1
    elif dim is None or x.ndim == 0:
        x, dim = x.flatten(), 0

    def select(found: Tensor) -> Tensor:
        inside = (found >= 0) & (found < x.shape[dim])
        index = torch.where(inside, found, 0)
        if operator.name in _POOLS:
            index = index.flatten(-_POOLS[operator.name])
        elif x.ndim == 1:
            index = index.flatten()
        elif index.ndim < x.ndim:
            index = index.unsqueeze(dim)
        values = x.gather(dim, index).view(found.shape)
        return values if inside.all() else values.double().masked_fill(~inside, torch.nan)

    return select


def expect_decided(operator: Operator) -> None:
    """Raise ValueError if rounding may decide which boxes non-maximum suppression keeps.

    The device computes intersection / union. It rounds sides, areas, the union and the quotient. An
    overlap near the threshold may go either way, unless another box decides. If two boxes of equal
    score overlap by more, a device may keep either one (documentation of torchvision.ops.nms).
    """
    boxes, scores = operator["dets"], operator["scores"]
    low, high = boxes[:, :2], boxes[:, 2:]
    areas, sides = (high - low).prod(1), (high - low).sum(1)
    kept = operator.run()
    if not len(kept):
        return
    suppressed = torch.zeros(len(boxes), dtype=torch.bool)
    undecided = suppressed.clone()
    for i in kept.split(max(1, SIZE // max(1, len(boxes)))):  # each of them with all boxes
        common = high[i, None].minimum(high).sub_(low[i, None].maximum(low)).clamp_(min=0).prod(2)
        both = areas[i, None] + areas
        beyond = common - operator["iou_threshold"] * (both - common)
        # A side has an error of 2U times the largest coordinate.
        error = 8 * U * (both + boxes.abs().amax() * (sides[i, None] + sides))
        lower, equal = scores < scores[i, None], scores == scores[i, None]
        equal[torch.arange(len(i)), i] = False
        near = (lower & (beyond.abs() <= error)) | (equal & (beyond >= -error))
        suppressed |= (lower & (beyond > error)).any(0)
        undecided |= near.any(0)
    if (undecided & ~suppressed).any():
        raise ValueError("rounding, or the order of equal scores, decides which boxes remain")
