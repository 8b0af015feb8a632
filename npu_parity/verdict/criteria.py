"""The pass rules of published reports on models for Ascend NPUs.

Each rule has the name of the system in its report. This module is the only place for its
thresholds. The rules appear beside the verdict and never decide it. Every rule applies to every
system. A rule about probabilities reads the outputs if the task has no probabilities.

The reports leave some definitions open. This module reads them as follows:

``bird_species``
    "Relative error" has no formula in the report. Its value is 0.2397 %, the largest and mean
    absolute logit errors are 1.1065e-3 and 2.6918e-4, and the cosine is 0.9999974966. The formula
    mean|d - r| / mean|r| fits: it gives mean|r| = 0.112, which agrees with the printed top-5
    probabilities of a newly initialised head. ‖d - r‖ / ‖r‖ would give the same value within about
    1 %. The mean and the largest element-wise |d - r| / |r| do not fit: some of the 1486 logits are
    close to zero, and simulated heads always gave at least 0.6 % and 10 %.
``convnextv2_atto``
    "Top-1/Top-5 identical" means the same indices in the same order.
``svhn``
    "Largest deviation" is the largest absolute difference of the raw head outputs, although the
    rule compares it with a percentage. It equals the largest value in the report's table of heads
    (digit4, 2.04e-4). The report mentions the outputs of the heads and no softmax. In every head
    the mean is half the largest value, which fits raw outputs. "Classification agreement" means
    that the argmax of every head agrees.
"""

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from npu_parity.errors import ParityError

RELATIONS = {"<": operator.lt, ">": operator.gt, "=": operator.eq}


@dataclass(frozen=True)
class Condition:
    """A condition ``metric relation threshold``; ``metric`` is a key of ``metrics.compare``."""

    metric: str
    relation: str
    threshold: float

    def judge(self, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """Return the metric that was read, its value, relation, threshold and pass."""
        metric = self.metric if self.metric in metrics else self.metric.removeprefix("prob_")
        if metric not in metrics:
            raise ParityError(f"metrics have no {metric}, expected the keys of metrics.compare")
        value = metrics[metric]
        return {
            "metric": metric,
            "value": value,
            "relation": self.relation,
            "threshold": self.threshold,
            # A value of None is not finite.
            "pass": value is not None and bool(RELATIONS[self.relation](value, self.threshold)),
        }


@dataclass(frozen=True)
class Criterion:
    """A rule in words and its conditions. All conditions must hold."""

    rule: str
    conditions: tuple[Condition, ...]

    def judge(self, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """Return rule, pass, all conditions, and the value that decided.

        ``metric``, ``value``, ``relation`` and ``threshold`` belong to the first condition that
        fails. If all conditions hold, they belong to the first condition.
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
    """Apply every published rule to the result of ``metrics.compare``.

    Raises ``ParityError`` if a metric is missing.
    """
    return {name: criterion.judge(metrics) for name, criterion in CRITERIA.items()}
