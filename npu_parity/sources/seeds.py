"""Weights drawn from a seed, and batch norms that take their statistics from photographs."""

from collections.abc import Callable

import torch
from torch import nn

from npu_parity.errors import ParityError


def draw(seed: int, build: Callable[[], nn.Module]) -> nn.Module:
    """Return the network as its own initialisation makes it after ``torch.manual_seed(seed)``.

    The state of the random number generator is afterwards as it was.

    Raises:
        ParityError: torch has no such seed.
    """
    if not 0 <= seed < 2**64:
        raise ParityError(f"weights seed: found {seed}, expected 0 to 2^64 - 1")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def calibrate_batch_norm(model: nn.Module, images: torch.Tensor) -> int:
    """Give every batch norm the statistics of `images`; return how many there are.

    Without this, random weights make the outputs of a deep network vanish or ignore the input.

    Args:
        model: changed in place; it stays in evaluation mode.
        images: float32 (N, 3, H, W).
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum, norm.training = 1.0, True  # the batch's statistics, not an average
    if norms:
        with torch.no_grad():
            model(images)
    for norm in norms:
        norm.training = False
    return len(norms)
