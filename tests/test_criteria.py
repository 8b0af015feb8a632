"""The published rules, each just below and just above its threshold, and the published figures."""

import math
from pathlib import Path

import numpy as np
import pytest
import yaml

from npu_parity.errors import ParityError
from npu_parity.verdict.criteria import CRITERIA, evaluate
from npu_parity.verdict.metrics import compare

SVHN = {"length": 7, "digit1": 11, "digit2": 11, "digit3": 11, "digit4": 11, "digit5": 11}
PUBLISHED = yaml.safe_load(
    (Path(__file__).parents[1] / "npu_parity" / "data" / "published.yaml").read_text(
        encoding="utf-8"
    )
)


def figures(task="classification"):
    values = np.random.default_rng(0).normal(size=(2, 62)).astype(np.float32)
    return compare(values, values, task=task, heads=SVHN if task == "digits" else None)


@pytest.mark.parametrize("task", ["classification", "features", "digits"])
def test_identical_outputs_pass_every_rule_of_every_task(task):
    verdicts = evaluate(figures(task))
    assert list(verdicts) == [
        "bird_species",
        "resnet34",
        "efficientnet_b0",
        "convnextv2_atto",
        "svhn",
    ]
    assert all(v["pass"] is True for v in verdicts.values())


@pytest.mark.parametrize(
    ("name", "metric", "inside", "outside"),
    [
        ("bird_species", "mean_relative_error", math.nextafter(0.01, 0), 0.01),
        ("resnet34", "prob_max_relative_error", math.nextafter(0.01, 0), 0.01),
        ("efficientnet_b0", "prob_one_minus_cosine", math.nextafter(0.01, 0), 0.01),
        ("convnextv2_atto", "cosine_similarity", math.nextafter(0.99, 1), 0.99),
        ("convnextv2_atto", "mean_abs_error", math.nextafter(0.005, 0), 0.005),
        ("convnextv2_atto", "top1_match", 1.0, 0.99),
        ("convnextv2_atto", "top5_same_order", 1.0, 0.99),
        ("svhn", "max_abs_error", math.nextafter(0.01, 0), 0.01),
        ("svhn", "top1_match", 1.0, 0.99),
    ],
)
def test_thresholds(name, metric, inside, outside):
    metrics = figures()
    assert evaluate(metrics | {metric: inside})[name]["pass"] is True
    for value in (outside, None):  # None: a figure that is not finite
        verdict = evaluate(metrics | {metric: value})[name]
        assert verdict["pass"] is False
        assert (verdict["metric"], verdict["value"]) == (metric, value)


def test_every_condition_is_reported():
    conditions = evaluate(figures())["convnextv2_atto"]["conditions"]
    assert [(c["metric"], c["value"], c["threshold"]) for c in conditions] == [
        ("cosine_similarity", 1.0, 0.99),
        ("mean_abs_error", 0.0, 0.005),
        ("top1_match", 1.0, 1.0),
        ("top5_same_order", 1.0, 1.0),
    ]


@pytest.mark.parametrize(
    ("name", "prob", "plain"),
    [
        ("resnet34", "prob_max_relative_error", "max_relative_error"),
        ("efficientnet_b0", "prob_one_minus_cosine", "one_minus_cosine"),
    ],
)
def test_rules_on_probabilities_read_the_outputs_only_where_there_are_none(name, prob, plain):
    assert evaluate(figures("features"))[name]["metric"] == plain
    assert not evaluate(figures("features") | {plain: 0.02})[name]["pass"]
    assert evaluate(figures() | {plain: 0.02})[name]["pass"]
    # Probabilities that are not finite are no reason to look elsewhere.
    assert not evaluate(figures() | {prob: None})[name]["pass"]


@pytest.mark.parametrize("task", ["classification", "features", "digits"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_value_that_is_not_finite_fails_every_rule(task, bad):
    r = np.ones((2, 62), np.float32)
    r[1, 5] = bad
    verdicts = evaluate(compare(r, r.copy(), task=task, heads=SVHN if task == "digits" else None))
    assert [v["pass"] for v in verdicts.values()] == [False] * 5


def test_a_missing_figure_is_an_error():
    metrics = figures()
    del metrics["mean_relative_error"]
    with pytest.raises(ParityError, match="mean_relative_error"):
        evaluate(metrics)


# Published figures


def leaves(tree):
    if isinstance(tree, dict | list):
        for branch in tree.values() if isinstance(tree, dict) else tree:
            yield from leaves(branch)
    else:
        yield tree


def test_the_five_reports_are_those_whose_rules_are_applied():
    assert list(PUBLISHED) == list(CRITERIA)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_metrics_are_figures_that_compare_produces(name):
    entry = PUBLISHED[name]
    published, ours = dict(entry["metrics"]), figures(entry["task"])
    per_input, heads = published.pop("per_input", []), published.pop("heads", {})
    assert published.keys() <= ours.keys()
    assert all(row.keys() <= ours["per_input"][0].keys() for row in per_input)
    assert all(head.keys() <= ours["heads"][key].keys() for key, head in heads.items())
    # YAML reads 1e-9 as a string: every figure must have come out as a number.
    assert all(isinstance(x, int | float) for x in leaves([published, per_input, heads]))
    assert all(
        isinstance(x, int | float) for x in leaves([entry["latency"], entry["speedup"] or 0])
    )


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_figures_pass_their_own_rule(name):
    assert CRITERIA[name].judge(PUBLISHED[name]["metrics"])["pass"]


def test_published_figures_agree_with_each_other():
    svhn, resnet34 = PUBLISHED["svhn"]["metrics"], PUBLISHED["resnet34"]
    assert svhn["max_abs_error"] == 2.04e-4
    assert resnet34["metrics"]["l2_error"] ** 2 > 1000 * resnet34["metrics"]["mean_abs_error"] ** 2
    for name in ("bird_species", "svhn"):
        latency = PUBLISHED[name]["latency"]
        ratio = latency["cpu"]["mean"] / latency["npu"]["mean"]
        assert PUBLISHED[name]["speedup"] == pytest.approx(ratio, rel=0.005)
    labels = (
        (Path(__file__).parents[1] / "npu_parity" / "data" / "inat2021_birds.txt")
        .read_text()
        .split()
    )
    for side in PUBLISHED["bird_species"]["top5"].values():
        assert {label for label, _ in side} <= set(labels)
        assert [score for _, score in side] == sorted((s for _, s in side), reverse=True)
