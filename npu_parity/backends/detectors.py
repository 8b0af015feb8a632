"""Detectors of torchvision, compared at their dense heads.

A detector ends with decisions: the best boxes, without those that overlap. A rounding may exchange
two of them, and each image has another number. So the verdict compares the scores and boxes of all
anchors. The second stage of an R-CNN is compared on boxes that are the same for both networks.
"""

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

GRID = 3  # fixed boxes by row and column of an image, see `_boxes`


@contextlib.contextmanager
def dense(model: nn.Module) -> Iterator[dict[str, Any]]:
    """Collect the dense heads of a detector while it runs inside.

    Yields:
        The heads by name, (images, ...); empty if the network contains no detector of torchvision.
    """
    found: dict[str, Any] = {}
    with contextlib.ExitStack() as stack:
        for module, hook in _dense_modules(model):
            handle = module.register_forward_hook(functools.partial(hook, found))
            stack.callback(handle.remove)
        yield found


def _dense_modules(model: nn.Module) -> Iterator[tuple[nn.Module, Callable[..., None]]]:
    """Yield the modules with dense outputs, and the hook that takes them."""
    if "torchvision.models.detection" not in sys.modules:  # then the network has none of them
        return
    from torchvision.models.detection import FCOS, RetinaNet
    from torchvision.models.detection.roi_heads import RoIHeads
    from torchvision.models.detection.rpn import RegionProposalNetwork
    from torchvision.models.detection.ssd import SSD

    for module in model.modules():
        if isinstance(module, FCOS | RetinaNet | SSD):
            yield module.head, _anchors
        elif isinstance(module, RegionProposalNetwork):
            yield module.head, _proposals
        elif isinstance(module, RoIHeads):
            yield module, _on_fixed_boxes


def _anchors(found: dict[str, Any], _: nn.Module, __: Any, result: dict[str, Tensor]) -> None:
    found |= {name: tensor.clone() for name, tensor in result.items()}


def _proposals(found: dict[str, Any], _: nn.Module, __: Any, result: Any) -> None:
    objectness, deltas = result
    found["objectness"] = [tensor.clone() for tensor in objectness]
    found["rpn_deltas"] = [tensor.clone() for tensor in deltas]


def _on_fixed_boxes(found: dict[str, Any], roi: Any, inputs: tuple[Any, ...], _: Any) -> None:
    """Run the second stage on boxes that depend on the size of the image only."""
    features, _, sizes, *_ = inputs
    like = next(iter(features.values()))
    boxes = [_boxes(size, like) for size in sizes]
    scores, deltas = roi.box_predictor(roi.box_head(roi.box_roi_pool(features, boxes, sizes)))
    stages = {"class_logits": scores, "box_regression": deltas}
    for kind in ("mask", "keypoint"):
        if getattr(roi, f"has_{kind}")():
            pool, head, predictor = (
                getattr(roi, f"{kind}_{part}") for part in ("roi_pool", "head", "predictor")
            )
            stages[f"{kind}_logits"] = predictor(head(pool(features, boxes, sizes)))
    found |= {name: tensor.unflatten(0, (len(sizes), -1)) for name, tensor in stages.items()}


def _boxes(size: tuple[int, int], like: Tensor) -> Tensor:
    """Return overlapping boxes of several sizes on a grid, (boxes, 4), in pixels."""
    steps = torch.arange(GRID, dtype=like.dtype, device=like.device) / (GRID + 1)
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    side = (1 + x + y) / 3  # of an image
    shares = torch.stack([x, y, (x + side).clamp(max=1), (y + side).clamp(max=1)], -1)
    height, width = size
    return shares.flatten(0, 1) * shares.new_tensor([width, height, width, height])
