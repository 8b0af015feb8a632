"""The pass rules that published reports of models on Ascend NPUs set themselves.

Each is named after the system whose report states it, and its thresholds live here only. They are
reported beside the verdict and never decide it. Every rule is applied to every system; one that
speaks of probabilities reads the outputs where the task has none.

What the reports leave open, and how it is read here:

``bird_species``
    "Relative error" without a formula: 0.2397 %, with largest and mean absolute logit error
    1.1065e-3 and 2.6918e-4 and cosine 0.9999974966. mean|d - r| / mean|r| fits: it makes mean|r|
    0.112, as the printed top-5 probabilities want of a freshly initialised head. ‖d - r‖ / ‖r‖
    would be the same within 1 % or so and cannot be told apart. The mean and the largest of
    |d - r| / |r| by element are out: some of 1486 logits lie close to zero, and simulated heads
    never gave less than 0.6 % and 10 %.
``convnextv2_atto``
    "Top-1/Top-5 identical" is taken as the same indices in the same order.
``svhn``
    "Largest deviation" is the largest absolute difference of the raw head outputs, although it
    is held against a percentage: it equals the largest in the report's table by head (digit4,
    2.04e-4), the report names the heads' outputs and no softmax, and a mean of half the largest
    in every head is what raw outputs give; probabilities move in the few classes that compete.
    "Classification agreement" asks that every head's argmax agrees.
"""

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from npu_parity.errors import ParityError

RELATIONS = {"<": operator.lt, ">": operator.gt, "=": operator.eq}


@dataclass(frozen=True)
class Condition:
    """``metric relation threshold``; ``metric`` is a key of ``metrics.compare``."""

    metric: str
    relation: str
    threshold: float

    def judge(self, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """Return metric read, value, relation, threshold and pass."""
        metric = self.metric if self.metric in metrics else self.metric.removeprefix("prob_")
        if metric not in metrics:
            raise ParityError(f"metrics have no {metric}, expected what metrics.compare returns")
        value = metrics[metric]
        return {
            "metric": metric,
            "value": value,
            "relation": self.relation,
            "threshold": self.threshold,
            # None is a figure that is not finite.
            "pass": value is not None and bool(RELATIONS[self.relation](value, self.threshold)),
        }


@dataclass(frozen=True)
class Criterion:
    """A rule in words and the conditions that must all hold."""

    rule: str
    conditions: tuple[Condition, ...]

    def judge(self, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """Return rule, pass, every condition, and the figure that decided.

        ``metric``, ``value``, ``relation`` and ``threshold`` are those of the first condition
        that fails, or of the first where all hold.
        """
        conditions = [condition.judge(metrics) for condition in self.conditions]
        deciding = next((c for c in conditions if not c["pass"]), conditions[0])
        return {"rule": self.rule, **deciding, "conditions": conditions}


CRITERIA = {
    "bird_species": Criterion(
        "relative error of the logits < 1 %",
        (Condition("mean_relative_error", "<", 0.01),),
    ),
    "resnet34": Criterion(
        "largest relative error of the probabilities < 1 %",
        (Condition("prob_max_relative_error", "<", 0.01),),
    ),
    "efficientnet_b0": Criterion(
        "(1 - cosine similarity) × 100 % of the probabilities, mean over images, < 1 %",
        (Condition("prob_one_minus_cosine", "<", 0.01),),
    ),
    "convnextv2_atto": Criterion(
        "cosine similarity > 0.99, mean absolute difference < 0.005, top-1 and top-5 identical",
        (
            Condition("cosine_similarity", ">", 0.99),
            Condition("mean_abs_error", "<", 0.005),
            Condition("top1_match", "=", 1.0),
            Condition("top5_same_order", "=", 1.0),
        ),
    ),
    "svhn": Criterion(
        "largest deviation < 1 %, classification agreement 100 %",
        (
            Condition("max_abs_error", "<", 0.01),
            Condition("top1_match", "=", 1.0),
        ),
    ),
}


def evaluate(metrics: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Apply every published rule to one system's figures, as ``metrics.compare`` returns them.

    Raises ``ParityError`` where a rule's figure is missing.
    """
    return {name: criterion.judge(metrics) for name, criterion in CRITERIA.items()}
