"""A system on a device, ready for images: ``load("svhn").predict(["house.png"])``."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from npu_parity import config, evidence
from npu_parity.backends.device import Device
from npu_parity.backends.outputs import measure
from npu_parity.errors import ParityError
from npu_parity.sources import checkpoints, labels
from npu_parity.sources.inputs import read_image
from npu_parity.sources.preprocessing import Preprocessing
from npu_parity.verdict import digits, metrics


@dataclass(frozen=True)
class Prediction:
    """A system's prediction for one image.

    Attributes:
        image: the file, or the name of the input.
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

    def __init__(self, settings: dict[str, Any], folder: Path, device: Device, reference: str):
        self.settings, self.folder, self.device = settings, folder, device
        self.reference = folder / reference
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
        return [self._predict(str(image), self._read(Path(image))) for image in images]

    def predict_inputs(self) -> list[Prediction]:
        """Return the prediction for each of the system's own inputs. Raises like `inputs`."""
        names, array = self.inputs()
        return [self._predict(name, row[None]) for name, row in zip(names, array, strict=True)]

    def inputs(self) -> tuple[list[str], np.ndarray]:
        """Return the names and the array of the system's own inputs, float32 (inputs, 3, H, W).

        Raises:
            ParityError: they are missing, or were changed.
        """
        file = self.folder / "inputs.npy"
        return evidence.read_json(file.with_suffix(".json"))["names"], evidence.read_inputs(file)

    def outputs(self, inputs: np.ndarray) -> np.ndarray:
        """Return the outputs for preprocessed inputs, float32 (inputs, columns)."""
        return measure(self.model, inputs, self.device, self.settings["batch"])

    def describe(self) -> dict[str, Any]:
        """Return where the network runs, as in ``run.json``, and where the weights are from."""
        from npu_parity.report import graded

        place = {"backend": self.device.backend, **self.device.implementation.describe()}
        weights = evidence.read_json(self.folder / "weights.json")
        return {"executed_on": place, **graded.provenance(weights)}

    def stored(self, kind: str = "measured") -> np.ndarray:
        """Return the outputs of the reference in the results, ``measured`` or ``exact`` (float64).

        Raises:
            ParityError: they are missing, or were changed.
        """
        digest = self._run(kind)["sha256"]["outputs"]
        return evidence.read_array(self.reference / kind / "outputs.npy", digest)

    def _run(self, kind: str) -> dict[str, Any]:
        found: dict[str, Any] = evidence.read_json(self.reference / kind / "run.json")
        return found

    def differences(self, reference: np.ndarray, device: np.ndarray) -> dict[str, Any]:
        """Return every metric of the outputs of a device, and the fields that graders read.

        Args:
            reference, device: arrays of (inputs, columns).
        """
        from npu_parity.report import graded

        task, shapes = self.settings["task"], self._run("measured")["heads"]
        heads = {name: math.prod(shape) for name, shape in shapes.items()}
        several = self.settings["heads"] or (heads if len(heads) > 1 else None)
        found = metrics.compare(reference, device, task, several, shapes)
        prefix = "prob_" if self.settings["compared"] == "probabilities" else ""
        return found | graded.differences(found, prefix)

    def _read(self, image: Path) -> np.ndarray:
        found = read_image(image, background=self.preprocessing.background)
        return self.preprocessing(found.data, found.name)[None]

    def _predict(self, image: str, array: np.ndarray) -> Prediction:
        measure(self.model, array, self.device)  # warm-up
        start = time.perf_counter()
        outputs = measure(self.model, array, self.device)
        elapsed = 1000 * (time.perf_counter() - start)
        answer = None
        if self.settings["task"] == "digits":
            answer = digits.decode_digits(outputs, self.settings["heads"])[0]
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
        return Prediction(image, outputs[0], top5, answer, elapsed)


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
    folder = Path(configuration).parent / "results" / system
    return LoadedSystem(chosen, folder, target, settings["reference"])
