"""A system on a device, ready for images: ``load("svhn").predict(["house.png"])``."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from npu_parity import config
from npu_parity.backends.device import Device
from npu_parity.backends.outputs import measure
from npu_parity.errors import ParityError
from npu_parity.sources import checkpoints, labels
from npu_parity.sources.inputs import read_image
from npu_parity.sources.preprocessing import Preprocessing
from npu_parity.verdict import metrics


@dataclass(frozen=True)
class Prediction:
    """A system's prediction for one image.

    Attributes:
        image: the file.
        outputs: float32 (columns,).
        top5: (class name, probability) of a classifier; (column, value) of features.
        answer: the digits of a multi-digit network, else None.
        milliseconds: time from the preprocessed image to the outputs on the host, after a warm-up.
    """

    image: str
    outputs: np.ndarray
    top5: list[tuple[str, float]]
    answer: str | None
    milliseconds: float

    def __str__(self) -> str:
        """Return the answer, or the five best classes with their scores, and the time."""
        head = f"{self.image}  ({self.milliseconds:.1f} ms)"
        if self.answer is not None:
            return f"{head}\n  digits: {self.answer or '(none)'}"
        lines = [f"  {i}. {name:<40} {score:.6f}" for i, (name, score) in enumerate(self.top5, 1)]
        return "\n".join([head, *lines])


class LoadedSystem:
    """A system's network with its weights on a device. `load` returns it."""

    def __init__(self, settings: dict[str, Any], folder: Path, device: Device):
        self.settings, self.device = settings, device
        self.model = checkpoints.load(folder)
        self.preprocessing = Preprocessing(
            settings["architecture"], settings["preprocessing"], settings["weights"]
        )
        self.labels = labels.read(settings["labels"]) if "labels" in settings else []

    def predict(self, images: Sequence[str | Path]) -> list[Prediction]:
        """Return the prediction for each image file.

        Raises:
            ParityError: an image is missing or unreadable, or the device is not available.
        """
        return [self._predict(Path(image)) for image in images]

    def _predict(self, image: Path) -> Prediction:
        found = read_image(image, background=self.preprocessing.background)
        array = self.preprocessing(found.data, found.name)[None]
        measure(self.model, array, self.device)  # warm-up
        start = time.perf_counter()
        outputs = measure(self.model, array, self.device)
        elapsed = 1000 * (time.perf_counter() - start)
        answer = None
        if self.settings["task"] == "digits":
            answer = metrics.decode_digits(outputs, self.settings["heads"])[0]
        scores = outputs[0]
        if self.labels and len(self.labels) != len(scores):
            raise ParityError(
                f"{self.settings['labels']}: found {len(self.labels)} labels, expected "
                f"{len(scores)}, one per class"
            )
        if self.settings["task"] == "classification":
            scores = metrics.softmax(outputs)[0]
        best = metrics.top_k(scores, 5)
        top5 = [(self.labels[i] if self.labels else str(i), float(scores[i])) for i in best]
        return Prediction(str(image), outputs[0], top5, answer, elapsed)


def load(
    system: str, device: str = "cpu", configuration: str | Path = "config.yaml"
) -> LoadedSystem:
    """Return a system of the configuration with its weights from ``results/``, on a device.

    Args:
        system: a system of the configuration (a key of ``models``).
        device: a device of the configuration (a key of ``devices``).
        configuration: the file; ``results/`` is in the same folder.

    Raises:
        ParityError: the system or device is unknown, or the weights are missing.

    >>> print(*load("tiny").predict(["cat.png"]))
    cat.png  (... ms)
      1. cat ...
    """
    settings = config.load(configuration)
    chosen = config.system(settings, system, configuration)
    target = config.device(settings, device, configuration)
    return LoadedSystem(chosen, Path(configuration).parent / "results" / system, target)
