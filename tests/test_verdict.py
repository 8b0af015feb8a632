"""The verdict's third and fourth question, and how answers become one word."""

import re
from dataclasses import replace

import numpy as np
import pytest

from npu_parity.numerics.formats import PRESETS, Numerics, candidate
from npu_parity.verdict import questions
from npu_parity.verdict.answers import Answer, Verdict
from npu_parity.verdict.numerics_found import (
    coarser,
    distances,
    nearest,
    shortfall,
    sizes,
)
from npu_parity.verdict.operators import NO_BOUND, OperatorResult
from npu_parity.verdict.runs import Repeated, Runs

GENERATOR = np.random.default_rng(0)


def runs(error=1e-3, measured=1e-3, inputs=6, columns=10, heads=None) -> Runs:
    """Outputs with relative L2 errors of about `error` predicted and `measured` measured."""
    reference = GENERATOR.standard_normal((inputs, columns)).astype(np.float32)
    reference[np.arange(inputs), np.arange(inputs) % columns] += 8  # a clear winner each

    def disturbed(size):
        noise = GENERATOR.standard_normal(reference.shape)
        noise /= np.linalg.norm(noise, axis=1, keepdims=True)
        return reference + noise * np.linalg.norm(reference, axis=1, keepdims=True) * size

    return Runs(
        reference=reference,
        exact=disturbed(1e-7),
        predicted=disturbed(error).astype(np.float32),
        measured=disturbed(measured).astype(np.float32),
        heads=heads,
    )


NAMES = [f"image{i}" for i in range(6)]


@pytest.mark.parametrize(
    ("measured", "passed"), [(1e-4, True), (1.2e-3, True), (3e-3, False), (1.0, False)]
)
def test_envelope_is_twice_the_prediction(measured, passed):
    """The prediction's error and the port's are independent here: their squares add up."""
    answer = questions.same_answer(runs(1e-3, measured), NAMES)
    assert answer.passed is passed
    assert passed or answer.findings[0].startswith("input image0: relative L2 error")


def test_float32_may_always_err_as_float32_does():
    exact = runs(error=0.0, measured=3e-7)
    exact.predicted[:] = exact.reference
    assert questions.same_answer(exact, NAMES).passed
    wrong = runs(error=0.0, measured=1e-5)
    wrong.predicted[:] = wrong.reference
    assert "where float32 allows" in questions.same_answer(wrong, NAMES).findings[0]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_fails_and_is_named(value):
    bad = runs()
    bad.measured[2, 3] = value
    answer = questions.same_answer(bad, NAMES)
    assert not answer.passed and answer.findings == (f"input image2: {value} in column 3",)
    bad.reference[2, [4, 7]] = bad.reference[3, 1] = value
    [found] = questions.same_answer(bad, NAMES).findings
    assert found == f"reference, input image2: {value} in column 4"


def test_nan_at_equal_positions_is_no_agreement():
    bad = runs()
    for array in (bad.reference, bad.exact, bad.predicted, bad.measured):
        array[1, 1] = np.nan
    assert not questions.same_answer(bad, NAMES).passed


@pytest.mark.parametrize("fault", ["outputs", "hosted", "classes"])
def test_a_whole_validation_set_that_is_wrong_has_few_findings(fault):
    of = runs(error=0.0, measured=0.0, inputs=500)
    of.predicted[:] = of.reference
    of.measured[:] = of.reference
    wrong = of.measured
    if fault == "hosted":
        of = replace(of, hosted=of.reference.copy())
        wrong = of.hosted
    if fault == "classes":  # ten inputs are right
        of.reference[:, :2] = 9.0, 9.0 - 1e-6
        of.measured[:, :2] = 9.0 - 1e-6, 9.0
        of.predicted[:] = of.exact[:] = of.reference
        of.reference[10:, 0] = of.exact[10:, 0] = of.predicted[10:, 0] = 9.0
    else:
        wrong[10:, 0] += 1.0
    answer = questions.same_answer(of, [str(i) for i in range(500)])
    told = [line for line in answer.findings if line.startswith("input ")]
    assert len(told) == questions.MOST, answer.findings[:3]
    count = 500 if fault == "classes" else 490
    assert f"{count - questions.MOST} more inputs are like the last" in answer.findings
    assert "490" in str(answer) or len(answer.findings) < 50


def test_another_shape_fails():
    bad = runs()
    object.__setattr__(bad, "measured", bad.measured[:, :-1])
    assert "expected (6, 10)" in questions.same_answer(bad, NAMES).findings[0]


@pytest.mark.parametrize(("margin", "passed"), [(0.5, True), (4.0, False)])
def test_a_flip_is_allowed_only_within_twice_the_predicted_error(margin, passed):
    reference = np.array([[100.0, 100.0 - margin, 0, 0]], dtype=np.float32)
    predicted = reference + np.array([[-0.3, 0.3, 0.0, 0.0]], dtype=np.float32)
    measured = reference + np.array([[-margin, margin, 0.0, 0.0]], dtype=np.float32) * 0.6
    wide = Runs(reference, reference.astype(np.float64), predicted * 1.02, measured)
    narrow = Runs(reference, reference.astype(np.float64), predicted, measured)
    assert questions.same_answer(wide, ["one"]).passed  # 2 % of 100 predicted: any flip is expected
    answer = questions.same_answer(narrow, ["one"])
    assert answer.passed is passed
    assert passed or "relative L2" in answer.findings[0] or "top-1 is 1" in answer.findings[0]


def test_every_head_may_flip_by_itself():
    two = {"a": 5, "b": 5}
    good = runs(1e-3, 1e-3, heads=two)
    assert [(c.start, c.stop) for c in good.columns.values()] == [(0, 5), (5, 10)]
    good.reference[0, 5:] = [9, 1, 1, 1, 1]
    good.predicted[0], good.exact[0] = good.reference[0] * 1.01, good.reference[0]
    good.measured[0] = good.reference[0]
    good.measured[0, 5:7] = [8.9, 8.95]
    assert not questions.same_answer(good, NAMES).passed


@pytest.mark.parametrize("columns", [2, 1000])
@pytest.mark.parametrize(("margin", "passed"), [(0.5, True), (2.5, False)])
def test_a_flip_of_the_best_of_few_and_of_many_classes(columns, margin, passed):
    """The outputs are in their envelope, so only the margin decides."""
    scores = np.random.default_rng(3).uniform(0, 90, (1, columns))
    best = [columns // 2, 0]
    scores[0, best] = 100.0, 100.0 - margin
    reference = scores.astype(np.float32)
    measured = reference.copy()
    measured[0, best] += np.float32([-0.6, 0.6]) * np.float32(margin)
    predicted = reference + np.float32(1.0)
    runs = Runs(reference, reference.astype(np.float64), predicted, measured)
    answer = questions.same_answer(runs, ["one"])
    flip = f"input one: top-1 is 0 where the reference has {columns // 2} with a margin of {margin}"
    assert answer.passed is passed
    assert passed or answer.findings[0].startswith(flip)


BATCHES = Repeated(batches={"1": 0.0, "4": 0.0})


def findings(r: Runs, task="classification", pretrained=True) -> str:
    answer = questions.enough_evidence(r, task, pretrained, repeated=BATCHES)
    return " / ".join(answer.findings)


def test_strong_evidence_has_nothing_against_it():
    r = runs()
    r.reference[:] = np.where(r.reference > 4, 3.0, r.reference * 0.1)
    r.measured[:] = r.reference * 1.0001
    assert findings(r) == ""


def test_weak_evidence_says_why():
    assert "weights are random" in findings(runs(), pretrained=False)
    assert "there is only one input" in findings(runs(inputs=1))
    same = runs()
    same.reference[:, 0] = 50
    assert "inputs have the same top-1 class" in findings(same)
    assert "saturated" in findings(same)
    assert "top-1" not in findings(same, task="features")
    flat = runs(columns=1000)
    flat.reference[:] = np.arange(6)[:, None] * 1e-3 + np.eye(6, 1000, dtype=np.float32) * 0.1
    assert "softmax is flat" in findings(flat)
    stuck = runs()
    stuck.reference[:] = stuck.reference[0] + np.eye(6, 10) * 1e-3
    stuck.measured[:] = stuck.reference * 1.01
    assert "hardly depend on the input" in findings(stuck)


def test_answers_become_a_verdict():
    yes = [Answer(n, True) for n in (1, 2, 3)]
    strong, weak = Answer(4, True), Answer(4, False, ("weights are random",))
    assert str(Verdict((*yes, strong))) == "PASS (strong evidence)"
    assert str(Verdict((*yes, weak))) == "PASS (weak evidence)"
    assert Verdict((weak,)).word == "PREDICTED"
    kernels = Answer(2, False, ("operator 3 aten.mm at fc: 2 times its bound", "another"))
    failed = Verdict((yes[0], kernels, Answer(3, False, ("x",)), weak))
    assert failed.word == "FAIL" and failed.to_dict()["failed_question"] == 2
    assert "same kernels: operator 3 aten.mm at fc" in str(failed)


def test_operators_without_a_bound_weaken_a_pass():
    checked = [("aten.add", True, ""), ("aten.view", None, "no values to compare")]
    unknown = [(name, None, f"{NO_BOUND} for {name}") for name in ("aten.riddle", "aten.mystery")]
    results = [
        OperatorResult(0, "", name, "2x5 scalar", np.nan, np.nan, passed, (), note)
        for name, passed, note in [*checked, *checked, *unknown, *unknown]
    ]
    answer = questions.enough_evidence(runs(), "features", True, results, repeated=BATCHES)
    assert not answer.passed
    shares = "aten.mystery (25 % of the elements), aten.riddle (25 % of the elements)"
    assert answer.findings[-1] == f"not checked, because no bound is known: {shares}"


def test_numerics_found_and_promised():
    promised = PRESETS["ascend910b"]
    assert candidate(promised, "tf32") == Numerics(conv="tf32")
    assert candidate(Numerics(), "bf16") == Numerics(conv="bf16", matmul="bf16")
    assert coarser("hf32", promised) is None and coarser("fp32", promised) is None
    assert "tf32" in coarser("tf32", promised) and "bf16" in coarser("bf16", promised)
    base = np.ones((2, 3))
    near = distances(base, {"fp32": base, "hf32": base * 2})
    assert nearest(near) == "fp32" and near["hf32"] == pytest.approx(np.sqrt(6))
    lost = distances(base * np.nan, {"fp32": base})
    assert lost == {"fp32": None} and nearest(lost) is None
    assert nearest({"fp32": np.nan, "hf32": np.inf, "tf32": 2.0, "bf16": 3.0}) == "tf32"
    assert distances(base, {"fp32": base, "hf32": base[:1]}) == {}


def test_the_size_of_an_error_identifies_a_precision():
    """Errors of 16 bits are chaotic: a prediction has the right size, but other signs."""
    reference = np.full((1, 4), 5.0)
    signs = np.array([[1.0, -1.0, 1.0, -1.0]])
    predictions = {"fp32": reference, "fp16": reference - signs, "bf16": reference + 8 * signs}
    found = sizes(reference + signs, predictions, reference)
    assert found == {"fp32": 2.0, "fp16": 0.0, "bf16": 14.0}
    assert sizes(reference * np.nan, predictions, reference) == dict.fromkeys(predictions)
    lost = sizes(reference, {"fp32": reference, "fp16": reference * np.inf}, reference)
    assert lost == {"fp32": 0.0, "fp16": None}


@pytest.mark.parametrize(
    ("kept", "promised", "short"),
    [("hf32", "hf32", 0), ("fp32", "hf32", 0), ("bf16", "hf32", 1), ("fp16", "tf32", 1)],
)
def test_operands_need_the_bits_and_the_range_that_are_promised(kept, promised, short):
    probed = {"conv": {"format": kept}, "matmul": {"format": None}}
    assert len(shortfall(probed, Numerics(promised, None, "fp32"))) == short
    probed = {"conv": {"format": None}, "matmul": {"format": kept}}
    found = shortfall(probed, Numerics("fp32", None, promised))
    assert [finding.partition(" keeps ")[0] for finding in found] == ["matmul"] * short


@pytest.mark.parametrize("change", [lambda x: x.astype(np.float16), lambda x: x.round(3)])
def test_one_input_that_is_stored_more_coarsely(change):
    """The error is far below the predicted one."""
    clean = runs(columns=100)
    clean.measured[:] = clean.predicted
    assert questions.same_answer(clean, NAMES).passed
    clean.measured[4] = change(clean.measured[4])
    answer = questions.same_answer(clean, NAMES)
    reason = r"outputs of input image4 (use 10 mantissa bits|have 3 decimals) where the reference"
    assert not answer.passed and re.match(reason, answer.findings[0])


@pytest.mark.parametrize("results", [None, []])
def test_no_operators_is_no_yes(results):
    """Nothing was compared: a device whose operators are not visible."""
    answer = questions.same_kernels(results, Numerics())
    assert answer.passed is None and "not asked" in str(answer)
