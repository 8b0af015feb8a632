"""`check_port`: the four questions in one call, on ports that are right and ports that are not."""

import copy
import itertools

import numpy as np
import pytest
import torch
from torch import nn

from npu_parity import check
from npu_parity.backends.device import Device
from npu_parity.check import TELLING, Original, check_port
from npu_parity.errors import ParityError
from npu_parity.numerics.emulation import emulate
from npu_parity.numerics.formats import PRESETS, Numerics
from npu_parity.verdict.envelope import ENVELOPE
from npu_parity.verdict.operators import IDENTICAL

HF32 = Numerics(conv="hf32")


class Net(nn.Module):
    """Three blocks of convolution, batch norm and ReLU; the names are those of a real network."""

    def __init__(self, classes: int = 20):
        super().__init__()
        widths = (3, 16, 24, 32)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU())
            for a, b in itertools.pairwise(widths)
        )
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Linear(32, classes)

    def forward(self, x):
        for block in self.blocks:
            x = self.pool(block(x))
        return self.head(x.mean((2, 3)))


@pytest.fixture(scope="module")
def reference():
    torch.manual_seed(0)
    model = Net()
    with torch.no_grad():  # statistics of its own, as training leaves them
        model.train()
        for _ in range(20):
            model(torch.randn(8, 3, 24, 24) + 2 * torch.randn(8, 3, 1, 1))
        model.eval().head.weight *= 20  # clear winners, and not always the same
        model.head.bias -= model(torch.randn(64, 3, 24, 24) + 2 * torch.randn(64, 3, 1, 1)).mean(0)
    return model


@pytest.fixture(scope="module")
def inputs():
    generator = np.random.default_rng(0)
    noise, colours = (generator.standard_normal((4, 3, side, side)) for side in (24, 1))
    return (noise + 2 * colours).astype(np.float32)


@pytest.fixture(scope="module")
def original(reference, inputs):
    """Promises float32."""
    return Original(reference, inputs)


@pytest.fixture(scope="module")
def hf32(reference, inputs):
    """Promises HF32, on a stand-in that keeps the promise."""
    return Original(
        reference, inputs, numerics="ascend910b", kernels=lambda: emulate(HF32), pretrained=True
    )


@pytest.fixture
def port(reference):
    return copy.deepcopy(reference)


def change(module, path, **settings):
    layer = module.get_submodule(path)
    for name, value in settings.items():
        setattr(layer, name, value)
    return module


# Ports that are right


def test_a_port_that_gives_the_references_bits_needs_no_float64(reference, inputs, monkeypatch):
    def wide(*_, **__):
        pytest.fail("computed in float64")

    for name in ("npu_parity.check.outputs.exact", "npu_parity.verdict.kernels.tried"):
        monkeypatch.setattr(name, wide)
    report = check_port(reference, copy.deepcopy(reference), inputs)
    assert report.passed and {r.note for r in report.operators} == {IDENTICAL}
    assert report.numerics_found == "fp32"
    count = len(report.operators)
    assert f"operators: all {count} return exactly the reference's results" in str(report)


def test_the_workflow_states_the_error_of_the_reference_itself(original):
    original.check(copy.deepcopy(original.reference))
    products = [r for r in original.operators() if "convolution" in r.operator]
    assert products and all(r.passed and 0 < r.largest_error < 1 for r in products)


@pytest.mark.parametrize("change", [1 + 2.0**-23, 1.01])
def test_one_bit_needs_float64(reference, inputs, change):
    """What a port's rounding may change follows from float64 alone."""
    port = copy.deepcopy(reference)
    port.register_forward_hook(lambda _, __, y: y * change)
    report = check_port(reference, port, inputs)
    assert report.questions[2].passed == (change < 1.001)


def test_copy_passes(original, port):
    report = original.check(port)
    assert report.passed and report.verdict.word == "PASS"
    assert [a.passed for a in report.questions] == [True, True, True, True]
    assert report.metrics["bitwise_equal"] and report.first is report.explained is None
    assert all(result.passed for result in report.operators)
    assert str(report).startswith("PASS (strong evidence)\n")


def test_reference_may_be_its_own_port(reference, inputs):
    state = {name: tensor.clone() for name, tensor in reference.state_dict().items()}
    report = check_port(reference, reference, inputs)
    assert report.passed and report.steps
    assert all(torch.equal(t, state[name]) for name, t in reference.state_dict().items())


def test_device_that_keeps_its_promise_passes(hf32, port):
    report = hf32.check(port)
    assert report.passed, str(report)
    assert report.numerics_found == "hf32" and report.explained > 0.999
    text = str(report)
    assert "nearest numerics: hf32" in text and "explained by the predicted rounding" in text


def test_batches_and_torch_tensors(original, port, inputs):
    assert original.check(port, torch.from_numpy(inputs), batch=3).passed


def test_a_port_may_be_written_otherwise(original, reference):
    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = copy.deepcopy(reference)

        def forward(self, x):
            return self.inner(x.contiguous())

    assert original.check(Wrapped().eval()).passed


# Ports that are not


@pytest.mark.parametrize("block", [0, 1, 2])
def test_eps_of_a_single_layer_is_told_and_named(original, port, block):
    report = original.check(change(port, f"blocks.{block}.1", eps=1e-3))
    assert not report.passed
    assert report.verdict.failed.question == 1
    expected = f"batch_norm eps 0.001 where the reference has 1e-05, at blocks.{block}.1"
    assert report.verdict.failed.findings == (expected,)
    assert str(report).splitlines()[0] == f"FAIL (question 1, same program: {expected})"


@pytest.mark.parametrize("which", ["original", "hf32"])
def test_where_it_goes_wrong_first(which, request, port):
    """The layer that is wrong, and not those that its error runs through."""
    report = request.getfixturevalue(which).check(change(port, "blocks.1.1", eps=1e-1))
    first = report.first
    assert (first.module, first.operator) == ("blocks.1.1", "aten.native_batch_norm.default")
    assert first.alone <= 1  # the kernel is not to blame
    where = f"operator {first.index} aten.native_batch_norm.default, blocks.1.1"
    assert f"goes wrong first at {where}" in str(report)
    before = report.steps[: first.index]
    assert all(s.measured <= ENVELOPE * max(s.predicted, s.float32) for s in before)


def test_weights_of_another_checkpoint(original, port):
    with torch.no_grad():
        port.head.weight[3, 4] += 1e-3
    report = original.check(port)
    assert report.verdict.failed.question == 1
    assert "head.weight" in report.verdict.failed.findings[0]


def test_other_inputs(original, port, inputs):
    report = original.check(port, inputs * 1.01)
    assert report.verdict.failed.findings[0].startswith("inputs differ by up to 0.0")
    assert report.verdict.failed.question == 1
    fewer = original.check(port, inputs[:, :, :16, :16])
    assert "inputs have shape (4, 3, 16, 16)" in fewer.verdict.failed.findings[0]


def test_inputs_rounded_differently_are_the_same(original, port, inputs):
    report = original.check(port, np.nextafter(inputs, np.float32(9)))
    assert report.passed, str(report)
    (note,) = report.questions[0].findings
    assert note.startswith("inputs differ by up to ") and note.endswith(", as rounding makes them")
    assert f"1. same program? yes, {note}" in str(report)
    assert not original.check(port, inputs + np.abs(inputs).max() * np.float32(1e-6)).passed


def test_outputs_of_another_shape(original):
    report = original.check(Net(classes=21).eval())
    assert not report.passed and report.metrics == {}
    assert report.explained is report.numerics_found is None
    third = report.questions[2]
    assert third.findings == ("outputs are (21,), expected (20,)",)
    assert "not finite" in str(report)


def test_forgotten_eval(original, port):
    report = original.check(port.train())
    assert report.verdict.failed.question == 1
    first = report.verdict.failed.findings[0]
    assert first == "training mode where the reference is in evaluation mode, at the top level"


def test_numerics_that_were_not_promised(original, hf32, port):
    report = hf32.check(port, kernels=lambda: emulate(Numerics(conv="bf16")))
    assert report.verdict.failed.question == 2 and report.numerics_found == "bf16"
    assert any("bf16" in f and "hf32" in f for f in report.questions[2].findings)
    flag = original.check(port, kernels=lambda: emulate(HF32))  # float32 was promised
    assert flag.verdict.failed.question == 2 and flag.numerics_found == "hf32"


class Dead(torch.utils._python_dispatch.TorchDispatchMode):
    """A convolution of 24 channels whose fifth is dead."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.convolution.default and result.shape[1] == 24:
            result[:, 5] = 0
        return result


def test_faulty_kernel(original, port):
    report = original.check(port, kernels=Dead)
    assert [a.passed for a in report.questions[:3]] == [True, False, False]
    (bad,) = (result for result in report.operators if not result.passed)
    assert (bad.module, bad.operator) == ("blocks.1.0", "aten.convolution.default")
    assert bad.worst[1] == 5
    assert report.first.index == bad.index and report.first.alone > 1


def test_fault_on_one_input_is_followed_there(original, reference, inputs):
    number = int(inputs.max((1, 2, 3)).argmax())
    assert number > 0

    class Overflow(nn.Module):
        """Wrong beyond a limit that only one input passes, and not the first."""

        def __init__(self):
            super().__init__()
            self.inner = copy.deepcopy(reference)
            self.limit = float(inputs.max())

        def forward(self, x):
            if x.max() >= self.limit:
                x = torch.where(x >= self.limit, torch.nan, x)
            return self.inner(x)

    report = original.check(Overflow().eval())
    third = report.questions[2]
    assert third.findings[0].startswith(f"input {number}: nan in column")
    assert report.metrics["per_input"][number]["relative_l2_error"] is None
    assert report.first.measured == np.inf and report.first.index == 0


# What a PASS is worth


def test_evidence(reference, port, inputs):
    same = np.repeat(inputs[:1], 2, axis=0)
    report = check_port(reference, port, same, pretrained=False)
    assert report.passed and report.verdict.evidence == "weak"
    findings = report.questions[3].findings
    assert any("inputs have the same top-1 class" in f for f in findings)
    assert "weights are random" in findings
    assert check_port(reference, port, inputs, pretrained=False).verdict.evidence == "weak"


def test_operators_without_a_bound_are_named(inputs):
    class Unknown(nn.Module):
        def forward(self, x):
            return torch.special.bessel_j0(x.mean((2, 3)))

    report = check_port(Unknown().eval(), Unknown().eval(), inputs, task="features")
    assert report.passed and report.verdict.evidence == "weak"
    named = "not checked, because no bound is known: aten.special_bessel_j0.default"
    assert any(f.startswith(f"{named} (") for f in report.questions[3].findings)


def test_heads_and_task(reference, port, inputs):
    report = check_port(reference, port, inputs, heads={"a": 12, "b": 8})
    assert set(report.metrics["heads"]) == {"a", "b"}
    features = check_port(reference, port, inputs, task="features")
    assert "prob_max_abs_error" not in features.metrics


# What cannot be asked


@pytest.mark.parametrize(
    ("about", "words"),
    [
        ({"numerics": "hf31"}, f"numerics: found 'hf31', expected one of {', '.join(PRESETS)}"),
        ({"numerics": {"conv": "hf31"}}, "numerics.conv: found 'hf31', expected one of fp32"),
        ({"numerics": {"pool": "hf32"}}, "key of numerics: found 'pool'"),
        ({"device": "tpu"}, "found backend 'tpu', expected one of cpu, npu"),
        ({"device": "mps"}, "device mps: torch finds none on this machine"),
        ({"task": "detection"}, "task is 'detection', expected one of classification"),
        ({"heads": {"a": 3}}, "add up to 3 columns, expected 20"),
    ],
)
def test_wrong_arguments(reference, port, inputs, about, words):
    if about.get("device") == "mps" and torch.backends.mps.is_available():
        pytest.skip("this machine has one")
    with pytest.raises(ParityError) as error:
        check_port(reference, port, inputs, **about)
    assert words in str(error.value)


def test_reference_in_training_mode(reference, port, inputs):
    with pytest.raises(ParityError, match=r"Net is in training mode: call \.eval\(\) first"):
        check_port(copy.deepcopy(reference).train(), port, inputs)


def test_no_inputs(reference, port, inputs):
    with pytest.raises(ParityError, match="there are no inputs"):
        check_port(reference, port, inputs[:0])


@pytest.mark.parametrize(
    ("numerics", "expected"),
    [
        (None, Numerics()),
        ("ascend910a", PRESETS["ascend910a"]),
        ({"conv": "tf32"}, Numerics(conv="tf32")),
        (HF32, HF32),
    ],
)
def test_numerics_may_be_given_in_any_way(reference, inputs, numerics, expected):
    assert Original(reference, inputs, numerics=numerics).promised == expected


def test_device_may_be_a_configured_one(reference, inputs):
    device = Device("cpu", Numerics(conv="hf32"))
    assert Original(reference, inputs, device).promised == HF32


def test_the_first_inputs_show_the_format_of_a_device():
    inputs = np.random.default_rng(1).standard_normal((TELLING + 4, 3, 8, 8), dtype=np.float32)
    original = Original(nn.Conv2d(3, 4, 3).eval(), inputs, "npu")
    assert {len(p) for p in original.predictions.values()} == {TELLING}
    distances = original.distances(original.runs.predicted * np.float32(1 + 1e-6))
    assert min(distances, key=distances.get) == "hf32"


def test_parameters_are_copied_only_if_a_port_shares_them(monkeypatch):
    """Two networks and a copy would be three times the weights."""
    reference, made = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).eval(), []

    def original(*args, own=Original, **about):
        made.append(own(*args, **about))
        return made[-1]

    monkeypatch.setattr(check, "Original", original)
    for port in (copy.deepcopy(reference), nn.Sequential(*reference), reference):
        assert check_port(reference, port.eval(), torch.eye(4)).passed
    kept = [one.reference[0].weight is reference[0].weight for one in made]
    assert kept == [True, False, False]
    assert all(one.reference[1].running_var is not reference[1].running_var for one in made)
    for wrong in (nn.LazyLinear(3), "no network"):
        with pytest.raises(ParityError):
            check_port(reference, wrong, torch.eye(4))
