"""The SVHN multi-digit network, in the version of its checkpoint and in that of the port report.

Both have the same tensors, names and shapes, so both load the checkpoint. But they compute
different outputs. The structure follows Goodfellow et al., *Multi-digit Number Recognition from
Street View Imagery using Deep Convolutional Neural Networks*, arXiv:1312.6082.
"""

import torch
from torch import nn

CHANNELS = (3, 48, 64, 128, 160, 192, 192, 192, 192)
HEADS = {"length": 7, "digit1": 11, "digit2": 11, "digit3": 11, "digit4": 11, "digit5": 11}


class SVHN(nn.Module):
    """Eight convolutions, two linear layers, six heads.

    Input: float32 (N, 3, 54, 54). Output: float32 logits (N, 7 + 5 * 11), the heads of `HEADS` in
    order. Class 10 of a digit head means "no digit".

    Args:
        pools: one entry for each convolution: the stride of the following 2x2 maximum pool, or None
            without a pool.
        pool_padding: padding of these pools.
        pooled: spatial size after an adaptive average pool; None without this pool.

    """

    def __init__(self, pools: tuple[int | None, ...], pool_padding: int, pooled: int | None):
        super().__init__()
        for i, stride in enumerate(pools, start=1):
            layers = [
                nn.Conv2d(CHANNELS[i - 1], CHANNELS[i], kernel_size=5, padding=2),
                nn.BatchNorm2d(CHANNELS[i]),
                nn.ReLU(),
            ]
            if stride is not None:
                layers.append(nn.MaxPool2d(2, stride=stride, padding=pool_padding))
            self.add_module(f"_hidden{i}", nn.Sequential(*layers, nn.Dropout(0.2)))
        self._pool = nn.Identity() if pooled is None else nn.AdaptiveAvgPool2d(pooled)
        self._hidden9 = nn.Sequential(nn.Linear(192 * 7 * 7, 3072), nn.ReLU())
        self._hidden10 = nn.Sequential(nn.Linear(3072, 3072), nn.ReLU())
        for name, width in HEADS.items():
            key = "_digit_length" if name == "length" else f"_{name}"
            self.add_module(key, nn.Sequential(nn.Linear(3072, width)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits of all heads in order."""
        for i in range(1, len(CHANNELS)):
            x = getattr(self, f"_hidden{i}")(x)
        x = self._hidden10(self._hidden9(self._pool(x).flatten(1)))
        heads = [self._digit_length] + [getattr(self, f"_digit{k}") for k in range(1, 6)]
        return torch.cat([head(x) for head in heads], dim=1)


def svhn() -> SVHN:
    """Return the network of the checkpoint: eight padded pools, from 54 to 7."""
    return SVHN(pools=(2, 1, 2, 1, 2, 1, 2, 1), pool_padding=1, pooled=None)


def svhn_as_reported() -> SVHN:
    """Return the network of the port report: three pools and an adaptive average pool."""
    return SVHN(pools=(None, 2, None, 2, None, 2, None, None), pool_padding=0, pooled=7)
