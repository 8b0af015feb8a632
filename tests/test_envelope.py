"""Question 3: what float32 and a device's rounding allow, and what they do not."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from npu_parity import check_port
from npu_parity.backends import outputs
from npu_parity.backends.device import Device
from npu_parity.check import Original
from npu_parity.numerics.formats import Numerics
from npu_parity.sources.images import alike
from npu_parity.verdict import questions
from npu_parity.verdict.envelope import envelope
from npu_parity.verdict.judge import Case, judge
from npu_parity.verdict.runs import Repeated, Runs

HF32 = Device("npu", Numerics(conv="hf32", matmul="hf32"))
NAMES = ["a", "b", "c", "d"]


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, 200)),
    ).eval()


INPUTS = np.random.default_rng(0).standard_normal((4, 3, 16, 16)).astype(np.float32)


@pytest.fixture(scope="module")
def clean():
    """A device that rounds as predicted, but adds in another order: the port is on float64."""
    model, cpu = network(), Device("cpu")
    predicted = outputs.predict(model, INPUTS, HF32)
    disturbed = outputs.predict(model, INPUTS * (1 + 2**-24), HF32)
    return Runs(
        outputs.measure(model, INPUTS, cpu),
        outputs.exact(model, INPUTS, cpu),
        predicted,
        measured=disturbed,
        hosted=outputs.measure(
            copy.deepcopy(model).to(memory_format=torch.channels_last), INPUTS, cpu
        ),
    )


def test_clean_runs_pass(clean):
    assert questions.same_answer(clean, NAMES).passed


def test_a_device_that_rounds_nothing_passes(clean):
    assert questions.same_answer(replace(clean, measured=clean.reference), NAMES).passed


# What an envelope of a coarse device would hide: faults of the program, on the host


def rows_from(start, change):
    def changed(values):
        values = values.copy()
        values[start:] = change(values[start:])
        return values

    return changed


def exchange(values):
    """Exchange the two columns of the smallest difference that float32 can tell apart."""
    values = values.copy()
    order = np.argsort(values[0])
    gaps = np.diff(np.sort(values[0]))
    i = int(np.flatnonzero(gaps > np.median(gaps))[0])
    values[:, order[[i, i + 1]]] = values[:, order[[i + 1, i]]]
    return values


def bump(values):
    values = values.copy()
    values[:, 7] += 0.1 * np.abs(values).max() / 30
    return values


def half(values):
    return values.astype(np.float16).astype(np.float32)


def bfloat16(values):
    return torch.from_numpy(values).bfloat16().float().numpy()


FAULTS = {
    "two classes exchanged": exchange,
    "one logit off": bump,
    "scaled": lambda values: values * np.float32(1.002),
    "shifted": lambda values: values + np.float32(2e-4),
    "stored in float16": half,
    "stored in bfloat16": bfloat16,
    "stored in float16 from the second input on": rows_from(1, half),
    "rounded to three decimals": lambda values: values.round(3),
    "a column of zeros": lambda values: values * (np.arange(values.shape[1]) != 3),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_of_the_program_shows_on_the_references_device(name, clean):
    wrong = replace(clean, hosted=FAULTS[name](clean.hosted), measured=FAULTS[name](clean.measured))
    answer = questions.same_answer(wrong, NAMES)
    assert not answer.passed
    assert ", already on the reference's device: " in answer.findings[0]


@pytest.mark.parametrize(
    "name", ["two classes far apart", "one logit off", "a column of zeros", "scaled"]
)
def test_a_fault_after_the_device_moves_columns_further_than_predicted(name, clean):
    def far(values):
        values = values.copy()
        order = np.argsort(values[0])
        values[:, order[[0, -1]]] = values[:, order[[-1, 0]]]
        return values

    fault = {"two classes far apart": far, "scaled": lambda values: values * 1.01} | {
        name: FAULTS[name] for name in ("one logit off", "a column of zeros")
    }
    answer = questions.same_answer(replace(clean, measured=fault[name](clean.measured)), NAMES)
    assert not answer.passed and "where the prediction allows" in answer.findings[0]


def test_a_head_of_one_class_beside_one_whose_class_flips():
    r = np.tile([5.0, 0.0, 1.0, 1.0001], (4, 1))
    noise = 1e-3 * np.random.default_rng(0).standard_normal(r.shape)
    measured = np.add(r, [0.0, 0.0, 2e-4, 0.0])
    runs = Runs(r, r * (1 + 1e-8), r + noise, measured, heads={"one": 1, "scores": 3})
    assert questions.same_answer(runs, NAMES).passed


def test_each_head_has_its_own_envelope():
    """Scores of about 1 beside pixels of about 1000."""
    random = np.random.default_rng(0)
    r = np.hstack([random.standard_normal((4, 10)), 1000 * random.standard_normal((4, 4))])
    noise = np.hstack([1e-3 * random.standard_normal((4, 10)), random.standard_normal((4, 4))])
    wrong = r + noise
    wrong[:, :10] += 0.1 * random.standard_normal((4, 10))
    runs = Runs(r, r * (1 + 1e-8), r + noise, wrong, heads={"scores": 10, "boxes": 4})
    assert "of head scores where" in questions.same_answer(runs, NAMES).findings[0]
    assert questions.same_answer(replace(runs, heads={"all": 14}), NAMES).passed
    assert questions.same_answer(replace(runs, measured=r + noise), NAMES).passed


@pytest.mark.parametrize("row", range(4))
@pytest.mark.parametrize("step", ["hosted", "measured"])
def test_each_input_has_its_own_envelope(step, row):
    """Half of what is allowed passes; twice as much does not."""
    random = np.random.default_rng(row)
    r = random.standard_normal((4, 50))
    noise = random.standard_normal((4, 50))
    noise /= np.linalg.norm(noise, axis=1, keepdims=True) / np.linalg.norm(r, axis=1, keepdims=True)
    x, p = r + 1e-7 * noise, r + 1e-3 * noise
    # On the host 4 times the error of float32, on the device twice the predicted error.
    expected, allowed = (r, 4e-7) if step == "hosted" else (p, 2e-3)
    for times, passed in ((0.5, True), (2, False)):
        found = expected.copy()
        found[row] -= times * allowed * noise[row]
        runs = Runs(r, x, p, measured=p, hosted=r)
        answer = questions.same_answer(replace(runs, **{step: found}), NAMES)
        assert answer.passed is passed
        assert all(finding.startswith(f"input {NAMES[row]}") for finding in answer.findings)


def test_a_prediction_that_is_small_by_accident_is_not_the_measure():
    random = np.random.default_rng(0)
    r = random.standard_normal((4, 10))
    p = r + 1e-3 * random.standard_normal((4, 10))
    p[2] = r[2]
    allowed = envelope(r, r, p, {"": slice(0, 10)}).allowed
    assert allowed[2] > 0.3 * allowed[[0, 1, 3]].mean()


def test_every_input_beyond_the_envelope_is_named():
    r = np.random.default_rng(0).standard_normal((4, 10))
    found = r.copy()
    found[0, 3] = np.nan
    found[1] *= 1.1
    found[3] *= 1.2
    named = dict(envelope(r, r * (1 + 1e-7), None, {"": slice(0, 10)}).beyond(found, NAMES))
    assert list(named) == ["a", "b", "d"] and named["a"] == "nan in column 3"


@pytest.mark.parametrize("head", ["small", "large"])
def test_one_column_may_not_have_the_error_of_all(head):
    """5 times the root mean square of 100 columns is half of their norm."""
    r, columns = np.random.default_rng(0).standard_normal((4, 101)), {"small": slice(0, 1)}
    columns["large"] = slice(1, 101)
    allowed = envelope(r, r, 1.001 * r, columns)
    found = r * 1.001
    found[2, columns[head].stop - 1] += 0.8 * allowed.allowed[2, list(columns).index(head)]
    beyond = dict(allowed.beyond(found, NAMES))
    if head == "small":  # it is the whole norm of its head
        assert not beyond
    else:
        assert list(beyond) == ["c"] and "of column 99 of head large where" in beyond["c"]


def test_independent_errors_by_hand():
    """√2 for two errors, and (√25 + 5) / √25 for the spread of their norm."""
    r = np.random.default_rng(0).standard_normal((4, 25))
    allowed = envelope(r, r, 1.01 * r, {"": slice(0, 25)}, errors=np.zeros((0, 25))).allowed[:, 0]
    assert allowed == pytest.approx(2 * np.sqrt(2) * 0.01 * np.linalg.norm(r, axis=1))


def test_a_prediction_of_float32_explains_nothing(clean):
    coarse = judge(Case(clean, HF32.numerics, NAMES))
    assert 0.5 < coarse.explained <= 1
    assert judge(Case(clean, Numerics(), NAMES)).explained is None
    assert judge(Case(clean, Numerics(), NAMES, precision="fp16")).explained == coarse.explained


# Further runs


def test_a_reference_with_randomness_is_refused_by_name(clean):
    answer = questions.same_answer(clean, NAMES, repeated=Repeated(reference=1e-9))
    assert answer.findings == (
        "reference: a second run differs by 1e-09 (relative L2 error); it has state or randomness, "
        "so there is nothing to compare with",
    )


class Noisy(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.inner, self.size = network(), size

    def forward(self, x):
        return self.inner(x) + self.size * torch.randn(())


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = network()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return self.inner(x) * (1 + 1e-3 * self.calls)


class OneByOne(nn.Module):
    """Wrong, but only for the items of a batch after the first."""

    def __init__(self):
        super().__init__()
        self.inner = network()

    def forward(self, x):
        y = self.inner(x)
        return torch.cat([y[:1], y[1:].roll(1, 1)])


@pytest.mark.parametrize("model", [Noisy(1.0), Counting()])
def test_a_reference_with_state_passes_no_port(model):
    """Its own unrest would otherwise become the error that float32 seems to have."""
    report = check_port(model.eval(), copy.deepcopy(model).eval(), INPUTS)
    assert report.verdict.failed.question in (1, 3)
    third = report.questions[2]
    assert not third.passed and third.findings[0].startswith("reference: a second run differs by ")


def test_a_port_with_randomness_is_named_as_such():
    report = check_port(network(), Noisy(1e-3).eval(), INPUTS)
    assert any(
        f.startswith("a second run differs from the first, by ")
        for f in report.questions[2].findings
    )
    assert not any("match" in f for f in report.questions[2].findings)


def test_a_port_that_is_wrong_in_a_batch():
    """Its outputs one by one are right."""
    report = check_port(network(), OneByOne().eval(), INPUTS)
    assert any(
        f.startswith("a batch of 2 gives other outputs, by ") for f in report.questions[2].findings
    )


def test_small_unrest_is_told():
    r = np.random.default_rng(0).standard_normal((2, 5)).astype(np.float32)
    runs = Runs(r, r * (1 + 1e-7), r, measured=r)
    case = Case(runs, Numerics(), ["a", "b"], repeated=Repeated(again=1e-8, batches={"4": 0.0}))
    verdict = judge(case).verdict
    assert verdict.word == "PASS"
    assert (
        "two runs on the device differ by 1e-08 (relative L2 error)" in verdict.answers[3].findings
    )


def test_what_weakens_the_evidence(clean):
    def reasons(runs, **about):
        return " / ".join(questions.enough_evidence(runs, "features", True, **about).findings)

    unused = replace(clean, measured=clean.reference)
    assert "perhaps the device was not used" in reasons(unused)
    assert "not used" not in reasons(clean)
    assert "only a batch of one" in reasons(clean, repeated=Repeated(batches={"1": 0.0}))
    assert "only a batch" not in reasons(clean, repeated=Repeated(batches={"1": 0.0, "4": 0.0}))
    assert "no NPU" in reasons(clean, notes=["no NPU"])


def test_exchanges_that_would_not_show():
    grey = np.repeat(INPUTS[:2, :1], 3, axis=1)
    assert alike(INPUTS, NAMES) == []
    assert alike(grey, NAMES[:2]) == [
        "all channels of every input are equal, so an exchange would not show"
    ]
    assert alike(INPUTS[[0, 1, 0]], NAMES[:3]) == [
        "inputs a and c are equal, so an exchange would not show"
    ]


def test_a_batch_that_does_not_run_is_a_note():
    model = nn.Sequential(nn.Flatten(0), nn.Unflatten(0, (1, -1)), nn.Linear(768, 5)).eval()
    found, again = outputs.measure_repeatedly(model, INPUTS, Device("cpu"), sizes=(2,))
    assert found.array.shape == (4, 5) and again["batches"] == {"1": 0.0}
    assert again["failed"][0].startswith("a batch of 2 does not run: Sequential on inputs 0 to 1")


# The operands that question 2 looks at


def kernels(wrong):
    """A context in which a convolution is wrong where `wrong(input)` says so."""

    class Mode(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            if func.overloadpacket is torch.ops.aten.convolution:
                rows = wrong(args[0])
                result = torch.where(rows[:, None, None, None], result * 1.01, result)
            return result

    return Mode


def last(x):
    rows = torch.zeros(len(x), dtype=torch.bool)
    rows[1:] = True
    return rows


def large(x):
    return x.flatten(1).abs().amax(1) > 8.5


@pytest.mark.parametrize("wrong", [last, large], ids=["second of a batch", "large values"])
def test_kernels_that_are_wrong_for_some_operands_only(wrong):
    inputs = INPUTS.copy()
    inputs[2] *= 9 / np.abs(inputs[2]).max()
    report = check_port(network(), network(), inputs, kernels=kernels(wrong))
    second = report.questions[1]
    assert not second.passed and "convolution" in second.findings[0]


def test_inputs_that_differ_most_are_chosen():
    inputs = np.stack([np.full((3, 16, 16), v, np.float32) for v in (1, 2, 9, -9.5)])
    original = Original(network(), inputs)
    assert original.chosen[0] == 3 and original.chosen[1] == 2
    batches = []
    original.visit(lambda call: batches.append((call.name, call.args[0].shape[0])))
    assert ("convolution", 2) in batches
    assert original.unseen() == []


def test_a_network_that_takes_one_input_at_a_time():
    model = nn.Sequential(nn.Flatten(0), nn.Unflatten(0, (1, -1)), nn.Linear(768, 5)).eval()
    report = check_port(model, copy.deepcopy(model), INPUTS)
    assert report.passed
    reasons = " / ".join(report.questions[3].findings)
    assert "operators were checked on one input only" in reasons
    assert "a batch of 2 does not run" in reasons and "only a batch of one" in reasons
