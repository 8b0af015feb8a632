"""A recogniser of one digit of a house number, with the tensors of the checkpoint in `ccexam`."""

from torch import nn


def _block(given: int, made: int) -> nn.Sequential:
    """Return two convolutions with batch norms, and a pool that halves the size."""
    layers: list[nn.Module] = []
    for channels in (given, made):
        layers += [nn.Conv2d(channels, made, 3, padding=1), nn.BatchNorm2d(made), nn.ReLU()]
    return nn.Sequential(*layers, nn.MaxPool2d(2))


class Digit(nn.Module):
    """Three blocks and two linear layers.

    Input: float32 (N, 3, 32, 32). Output: float32 logits (N, 10), one for each digit.
    """

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(_block(3, 32), _block(32, 64), _block(64, 128))
        self.classifier = nn.Sequential(
            nn.Dropout(0.3),
            nn.Linear(128 * 4 * 4, 256),
            nn.ReLU(),
            nn.Dropout(0.3),
            nn.Linear(256, 10),
        )

    def forward(self, x):
        """Return the logits of the ten digits."""
        return self.classifier(self.features(x).flatten(1))


def digit() -> Digit:
    """Return the network without weights."""
    return Digit()
