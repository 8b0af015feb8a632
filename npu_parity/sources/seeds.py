"""Weights from a random seed, and the calibration of batch norms with photographs."""

from collections.abc import Callable

import torch
from torch import nn

from npu_parity.backends import network
from npu_parity.errors import ParityError


def draw(seed: int, build: Callable[[], nn.Module]) -> nn.Module:
    """Return the network with its own initialisation after ``torch.manual_seed(seed)``.

    The function restores the state of the random number generator.

    Raises:
        ParityError: the seed is out of range, or the network sets another one.
    """
    if not 0 <= seed < 2**64:
        raise ParityError(f"weights seed: found {seed}, expected 0 to 2^64 - 1")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build()
        if torch.initial_seed() != seed:
            raise ParityError(
                f"weights seed {seed}: has no effect, because the code of {network.named(model)} "
                f"calls torch.manual_seed({torch.initial_seed()}): remove that call"
            )
        return model


def calibrate_batch_norm(model: nn.Module, images: torch.Tensor) -> int:
    """Set the statistics of every batch norm to those of `images`; return the number of norms.

    Without calibration, random weights make the outputs of a deep network vanish or not depend on
    the input.

    Args:
        model: a network in evaluation mode; changed in place.
        images: float32 (N, 3, H, W).

    Raises:
        ParityError: the network does not accept the images.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum, norm.training = 1.0, True  # use the statistics of this batch only
    if norms:
        what = f"{network.named(model)} on {len(images)} photographs of shape {tuple(images.shape)}"
        with network.guarded(what), torch.no_grad():
            model(images)
    for norm in norms:
        norm.training = False
    return len(norms)
