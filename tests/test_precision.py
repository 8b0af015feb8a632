"""Networks in 16 bits and under autocast: predicted, measured on this CPU, and judged."""

import copy
import math
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from npu_parity import Numerics, check_port, measure, predict, record
from npu_parity.backends import machine, precision
from npu_parity.backends.device import Device
from npu_parity.backends.latency import time_forward
from npu_parity.backends.outputs import further_errors, predict_watched
from npu_parity.check import Original
from npu_parity.errors import ParityError
from npu_parity.numerics.emulation import emulate
from npu_parity.numerics.formats import PRECISIONS
from npu_parity.numerics.storage import stored
from npu_parity.verdict.bounds import exact_and_bound
from npu_parity.verdict.coarseness import mantissa_bits
from npu_parity.verdict.envelope import envelope
from npu_parity.verdict.kernels import execute
from npu_parity.verdict.questions import same_answer
from npu_parity.verdict.recording import tensors
from npu_parity.verdict.runs import Runs

CPU = torch.device("cpu")
NARROW = [name for name in PRECISIONS if name != "fp32"]
WHOLE = {"fp16": torch.float16, "bf16": torch.bfloat16}


def network():
    """A small network with most kinds of operators; its norms are not trivial."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.GELU(),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.LayerNorm(128),
        nn.Linear(128, 64),
        nn.Hardswish(),
        nn.Linear(64, 40),
    )
    nn.init.uniform_(net[1].running_var, 0.5, 2.0)
    nn.init.normal_(net[1].running_mean)
    return net.eval()


@pytest.fixture(scope="module")
def reference():
    return network()


@pytest.fixture(scope="module")
def inputs():
    return np.random.default_rng(0).standard_normal((3, 3, 12, 12)).astype(np.float32)


@pytest.fixture(scope="module")
def originals(reference, inputs):
    """An `Original` for each precision, made once."""
    made = {}

    def original(name):
        if name not in made:
            made[name] = Original(reference, inputs, Device("cpu", precision=name))
        return made[name]

    return original


def relative(found, expected):
    return np.linalg.norm(found.astype(np.float64) - expected) / np.linalg.norm(expected)


# --- The emulation


@pytest.mark.parametrize("dtype", WHOLE.values(), ids=WHOLE)
def test_operators_compute_in_float32_and_round_once(dtype):
    x, y = torch.randn(8, 16).to(dtype), torch.randn(16, 4).to(dtype)
    with stored():
        assert torch.equal(x @ y, (x.float() @ y.float()).to(dtype))
        assert torch.equal(x.sum(1), x.float().sum(1).to(dtype))
        assert torch.equal(
            torch.exp(x) * 0.1, (torch.exp(x.float()).to(dtype).float() * 0.1).to(dtype)
        )


def test_torch_decides_the_dtype_of_a_result():
    x, wide, weights = torch.randn(2, 4, 3).bfloat16(), torch.randn(4, 3), torch.ones(4)
    with stored():
        assert (x + wide).dtype == torch.float32
        assert (x + torch.tensor(2.0)).dtype == torch.bfloat16
        assert F.batch_norm(x, weights, weights, weights).dtype == torch.bfloat16
        assert x.sum(dtype=torch.float32).dtype == torch.float32
        assert torch.cat([x[0], wide]).dtype == torch.float32
        assert x.argmax(1).dtype == torch.int64
        assert x.half().dtype == torch.float16 and x.float().dtype == torch.float32


def test_operators_that_write_to_their_operand_return_it():
    x = torch.randn(4, 4).bfloat16()
    expected, view = x.float().mul(1.7).bfloat16().relu(), x[1:]
    with stored():
        assert x.mul_(1.7).relu_() is x
    assert torch.equal(x, expected) and torch.equal(view, expected[1:])


def test_float32_is_left_alone_and_the_mode_ends():
    x = torch.randn(3, 3)
    with stored():
        found = (x @ x).softmax(1)
    assert torch.equal(found, (x @ x).softmax(1))
    assert not torch._C._len_torch_dispatch_stack()


@pytest.mark.parametrize("dtype", WHOLE.values(), ids=WHOLE)
def test_attention_is_computed_in_float32_like_a_fused_kernel(dtype):
    q, k, v = torch.randn(3, 1, 2, 8, 4).to(dtype)
    with stored():
        found = F.scaled_dot_product_attention(q, k, v)
    expected = F.scaled_dot_product_attention(q.double(), k.double(), v.double())
    assert found.dtype == dtype
    assert (found.double() - expected).abs().max() < torch.finfo(dtype).eps * expected.abs().max()


# --- Prediction and measurement


@pytest.mark.parametrize("name", NARROW)
def test_measured_error_is_as_predicted(name, reference, inputs, originals):
    device = Device("cpu", precision=name)
    expected = measure(reference, inputs, Device("cpu"))
    predicted, measured = predict(reference, inputs, device), measure(reference, inputs, device)
    assert predicted.dtype == measured.dtype == np.float32
    u = {"fp16": 2**-11, "bf16": 2**-8}[PRECISIONS[name]]
    assert 0.2 * u < relative(predicted, expected) < 5 * u
    ratio = relative(measured, expected) / relative(predicted, expected)
    assert 0.75 < ratio < 1.25
    assert mantissa_bits(measured) == mantissa_bits(predicted) == round(-math.log2(u)) - 1


def test_measuring_changes_nothing_of_the_network(reference, inputs):
    before = copy.deepcopy(reference.state_dict())
    for name in PRECISIONS:
        measure(reference, inputs, Device("cpu", precision=name))
        assert not reference._forward_pre_hooks and not torch.is_autocast_enabled("cpu")
    assert all(torch.equal(v, before[k]) for k, v in reference.state_dict().items())


def test_prediction_rounds_where_autocast_casts():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x):
            y = self.layer(x)
            seen[:] = x.dtype, y.dtype, (y + x).dtype
            return y.float() + x

    seen = []
    net = Mixed().eval()
    x = np.random.default_rng(0).standard_normal((2, 4)).astype(np.float32)
    for run in predict, measure:
        run(net, x, Device("cpu", precision="amp-bf16"))
        assert seen == [torch.float32, torch.bfloat16, torch.float32]
        run(net, x, Device("cpu", precision="bf16"))
        assert seen == [torch.bfloat16] * 3


def test_latency_is_of_the_network_in_its_precision(inputs):
    class Seen(nn.Module):
        def forward(self, x):
            self.dtype = x.dtype
            return x.flatten(1)

    seen = set()
    net = Seen().eval()
    net.register_forward_hook(lambda module, *_: seen.add(module.dtype))
    time_forward(net, inputs[:1], Device("cpu", precision="fp16"), [1], 1, 1, 1)
    assert seen == {torch.float16}


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
def test_scripted_and_unparametrised_networks_run(inputs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.script(nn.Sequential(nn.Flatten(), nn.Linear(432, 40)).eval())
    found = measure(scripted, inputs, Device("cpu", precision="bf16"))
    assert mantissa_bits(found) == 7
    assert mantissa_bits(measure(nn.ReLU().eval(), inputs, Device("cpu", precision="fp16"))) == 10


# --- Overflow


class Large(nn.Module):
    """Its second layer overflows float16."""

    def __init__(self, factor=1e4):
        super().__init__()
        self.first, self.second, self.last = (nn.Linear(8, 40) for _ in range(3))
        self.second, self.last = nn.Linear(40, 40), nn.Linear(40, 40)
        self.factor = factor

    def forward(self, x):
        return self.last(self.second(self.first(x) * self.factor) * self.factor)


def test_overflow_names_the_operator_where_it_first_happens():
    torch.manual_seed(0)
    net, x = Large().eval(), torch.randn(2, 8)
    report = check_port(net, copy.deepcopy(net), x, precision="fp16")
    assert report.verdict.word == "FAIL"
    finding = report.verdict.failed.findings[0]
    assert "overflow beyond 65504 in aten.mul.Tensor at the top level" in finding
    assert len(str(report.verdict)) < 300
    assert check_port(net, copy.deepcopy(net), x, precision="bf16").passed


def test_overflow_of_a_change_from_one_format_to_the_other():
    with stored() as storage:
        found = torch.tensor([1e6, 1.0]).bfloat16().half()
    assert found.tolist() == [math.inf, 1.0]
    assert storage.overflow == "overflow beyond 65504 in aten._to_copy.default"


def test_overflow_names_the_layer_and_weights_overflow_too():
    device, x = Device("npu", precision="fp16"), np.ones((2, 8), dtype=np.float32)
    net = Large(1.0).eval()
    nn.init.constant_(net.second.bias, 65520.0 - 20)
    nn.init.constant_(net.second.weight, 10.0)
    nn.init.constant_(net.first.weight, 1.0)
    _, where = predict_watched(net, x, device)
    assert where == "overflow beyond 65504 in aten.addmm.default at second"
    nn.init.constant_(net.second.bias, 1e5)
    _, where = predict_watched(net, x, device)
    assert where == "overflow beyond 65504 in aten._to_copy.default at second"
    assert predict_watched(net, x, Device("npu", precision="bf16"))[1] is None


def test_an_overflow_that_does_no_harm_is_a_note():
    class Saturated(nn.Module):
        def forward(self, x):
            return torch.sigmoid(x * 1e6) + x

    x = torch.linspace(-1, 1, 64).view(2, 32)
    report = check_port(Saturated().eval(), Saturated().eval(), x, precision="fp16")
    assert report.passed
    assert any("overflow beyond 65504" in finding for finding in report.questions[3].findings)


# --- The bound of an operator in 16 bits


@pytest.mark.parametrize("name", NARROW)
def test_real_kernels_are_within_their_bounds(name, originals):
    dtypes = set()

    def check(call):
        dtypes.add(call.first.dtype)
        expected = exact_and_bound(call, Numerics())
        for one, found in zip(expected, tensors(execute(call, CPU)), strict=False):
            assert one is None or one.share(found).max() <= 1, call.operator

    originals(name).visit(check)
    assert WHOLE[PRECISIONS[name]] in dtypes


@pytest.mark.parametrize("name", WHOLE)
def test_bound_is_half_a_unit_of_the_result(name):
    """It is reached, and twice the error is beyond it."""
    x = torch.rand(64, 32) + 0.5
    (call,) = (c for c in record_in(name, lambda x: x * 1.1, x) if c.name == "mul")
    (expected,) = exact_and_bound(call, Numerics(conv="bf16", matmul="bf16"))
    assert 0.9 < expected.share(call.first).max() <= 1
    step = 2 * torch.finfo(WHOLE[name]).eps
    assert (expected.share(call.first.double() * (1 + step)) > 1).all()


@pytest.mark.parametrize("name", WHOLE)
def test_a_library_may_store_a_product_before_it_adds_the_bias(name):
    layer = nn.Linear(32, 16)
    x = torch.randn(64, 32)
    with torch.no_grad():
        layer.bias.copy_(-layer(x)[0])  # so that the sum is small against the product
    for module in layer, nn.Conv1d(32, 16, 1):
        with precision.storage(name), precision.applied(module.eval(), name, CPU) as running:
            calls = record(running, x if module is layer else x[..., None])
        (call,) = (c for c in calls if c.name in ("addmm", "convolution"))
        first, second, third = (operand.float() for operand in call.args[:3])
        if call.name == "addmm":
            product, bias = second @ third, first
        else:
            product, bias = F.conv1d(first, second), third[:, None]
        dtype = WHOLE[name]
        twice = (product.to(dtype) + bias.to(dtype)).float()
        (expected,) = exact_and_bound(call, Numerics())
        assert expected.share(twice).max() <= 1
        assert expected.share(twice + 2 * torch.finfo(dtype).eps * product.abs()).max() > 1


@pytest.mark.parametrize("name", WHOLE)
def test_softmax_may_store_its_exponentials(name):
    """Torch does it on CPUs if the dimension is not the last one."""
    dtype, x = WHOLE[name], torch.randn(4, 200, 16)
    (call,) = (c for c in record_in(name, lambda x: x.softmax(1), x) if c.name == "_softmax")
    (expected,) = exact_and_bound(call, Numerics())
    assert expected.share(execute(call, CPU)).max() <= 1
    wide = call.args[0].float()
    powers = (wide - wide.amax(1, keepdim=True)).exp().to(dtype).float()
    assert expected.share((powers / powers.sum(1, keepdim=True)).to(dtype)).max() <= 1
    assert expected.share(call.first.float() * (1 + 3 * torch.finfo(dtype).eps)).max() > 1


def test_overflow_of_a_result_is_right_where_the_exact_result_overflows():
    x = torch.tensor([[300.0, 255.0, 1.0]])
    (call,) = (c for c in record_in("fp16", lambda x: x * x, x) if c.name == "mul")
    (expected,) = exact_and_bound(call, Numerics())
    assert call.first.tolist() == [[math.inf, 65024.0, 1.0]]
    assert expected.share(call.first).max() <= 1
    wrong = torch.tensor([[math.inf, math.inf, 1.0]])
    assert expected.share(wrong).tolist()[0][1] == math.inf


def record_in(name, function, x):
    class Net(nn.Module):
        def forward(self, x):
            return function(x)

    with precision.storage(name), precision.applied(Net().eval(), name, CPU) as running:
        return record(running, x)


# --- The verdict


@pytest.mark.parametrize("name", NARROW)
def test_a_clean_port_passes(name, reference, originals):
    report = originals(name).check(copy.deepcopy(reference))
    assert report.passed, report
    assert report.explained is not None and report.numerics_found == name
    assert all(result.passed is not False for result in report.operators)


@pytest.mark.parametrize("name", WHOLE)
def test_a_port_in_16_bits_is_the_same_program(name, reference, originals):
    report = originals(name).check(copy.deepcopy(reference).to(WHOLE[name]))
    assert report.passed, report
    assert any("weights have 16 bits" in f for f in report.questions[3].findings)


@pytest.mark.parametrize("name", WHOLE)
def test_a_wrong_weight_of_a_port_in_16_bits_is_found(name, reference, originals):
    port = copy.deepcopy(reference).to(WHOLE[name])
    port[8].weight.data[3, 4] *= 1.02
    verdict = originals(name).check(port).verdict
    assert verdict.failed.question == 1 and "8.weight" in verdict.failed.findings[0]


def test_a_port_in_the_other_format_is_found(reference, originals):
    verdict = originals("fp16").check(copy.deepcopy(reference).bfloat16()).verdict
    assert verdict.failed.question == 1
    assert "bfloat16" in str(verdict) and "float16" in str(verdict)


@pytest.mark.parametrize("name", NARROW)
def test_a_wrong_setting_is_found(name, reference, originals):
    port = copy.deepcopy(reference)
    port[1].eps = 1e-3
    verdict = originals(name).check(port).verdict
    assert verdict.failed.question == 1 and "eps" in verdict.failed.findings[0]


class Kernels(torch.utils._python_dispatch.TorchDispatchMode):
    """A device with one wrong kind of kernel."""

    def __init__(self, name, wrong):
        super().__init__()
        self.name, self.wrong = name, wrong

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func._schema.name != f"aten::{self.name}":
            return result
        return self.wrong(args, result)


def in_steps(args, result):
    """A sum in bfloat16, rounded after every 8 terms."""
    bias, x, w = args[:3]
    total = bias.expand(len(x), -1).to(x.dtype)
    for start in range(0, x.shape[1], 8):
        total = total + (x[:, start : start + 8].float() @ w[start : start + 8].float()).to(x.dtype)
    return total


def off_by_one_unit(args, result):
    return result * (1 + 2 * torch.finfo(result.dtype).eps)


def in_fp16(args, result):
    return result.half().to(result.dtype)


WRONG = {
    "sums in bf16": ("bf16", "addmm", in_steps),
    "gelu off": ("fp16", "gelu", off_by_one_unit),
    "pooling off": ("amp-bf16", "_adaptive_avg_pool2d", off_by_one_unit),
    "a product in bf16": ("fp16", "addmm", lambda args, result: result.bfloat16().half()),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_kernel_is_found(name, reference, originals):
    own, operator, wrong = WRONG[name]
    report = originals(own).check(
        copy.deepcopy(reference), kernels=lambda: Kernels(operator, wrong)
    )
    assert report.verdict.failed.question == 2, report
    assert operator in report.verdict.failed.findings[0]
    failed = {r.operator.split(".")[1] for r in report.operators if r.passed is False}
    assert failed == {operator}


def test_a_port_that_computes_something_else_on_the_device_is_found(reference, inputs, originals):
    class OnDevice(nn.Module):
        """Two classes are exchanged where the input has 16 bits."""

        def __init__(self):
            super().__init__()
            self.net = copy.deepcopy(reference)

        def forward(self, x):
            y = self.net(x)
            return y[:, [1, 0, *range(2, 40)]] if x.dtype == torch.bfloat16 else y

    report = originals("bf16").check(OnDevice().eval())
    assert report.verdict.failed.question == 3


def test_outputs_in_float32_where_16_bits_are_promised_are_no_finding(reference, originals):
    class Widened(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = copy.deepcopy(reference)

        def forward(self, x):
            return self.net(x).float()

    third = originals("bf16").check(Widened().eval()).questions[2]
    assert third.passed, third


def test_a_coarser_precision_than_promised_is_found(reference, inputs, originals):
    class Coarse(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = copy.deepcopy(reference).bfloat16()

        def forward(self, x):
            return self.net(x.bfloat16()).to(x.dtype)

    original = originals("fp16")
    measured = measure(Coarse().eval(), inputs, Device("cpu"))
    distances = original.distances(measured)
    assert list(distances) == ["fp16", "fp32", "bf16"]
    assert min(distances, key=distances.get) == "bf16"
    assert not original.check(Coarse().eval()).passed


def test_precision_of_the_reference_numerics_does_not_matter(reference, inputs):
    """16-bit operands are exact in HF32."""
    plain, hf32 = (
        predict(reference, inputs, Device("npu", Numerics(conv=c), "bf16"))
        for c in ("fp32", "hf32")
    )
    assert np.array_equal(plain, hf32)


def test_few_outputs_get_further_errors():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 2)).eval()
    x = np.random.default_rng(0).standard_normal((2, 8)).astype(np.float32)
    device = Device("cpu", precision="bf16")
    predicted = predict(net, x, device)
    errors = further_errors(net, x, predicted, device)
    assert errors.shape == (14, 2) and np.abs(errors).max() > 0
    assert further_errors(net, x, predicted, Device("cpu")) is None
    wide = np.zeros((2, 40), dtype=np.float32)
    assert further_errors(net, x, wide, device).shape == (0, 40)
    assert check_port(net, copy.deepcopy(net), x, precision="bf16").passed


@pytest.mark.parametrize("columns", [1, 2, 10, 100, 1000])
def test_independent_errors_of_the_predicted_size_are_no_finding(columns):
    """And errors four times as large as the envelope of few columns are."""
    random = np.random.default_rng(columns)
    reference = random.standard_normal((2000, columns)) + 10
    predicted, measured = (reference + 0.01 * random.standard_normal(reference.shape) for _ in "pm")
    names, one = list(map(str, range(len(reference)))), {"": slice(0, columns)}
    allowed = envelope(reference, reference, predicted, one, np.zeros((0, columns)))
    assert not list(allowed.beyond(measured, names))
    wrong = reference + 0.5 * random.choice([-1, 1], reference.shape)
    assert len(list(allowed.beyond(wrong, names))) == len(names)


@pytest.mark.parametrize(("margin", "passed"), [(0.03, True), (0.09, False)])
def test_top_1_may_flip_if_errors_of_any_row_explain_it(margin, passed):
    """The prediction is lucky for the first row, and the device is not."""
    reference = np.tile(np.linspace(1, 2, 40), (2, 1))
    reference[0, -2] = reference[0, -1] - margin
    predicted, measured = reference.copy(), reference.copy()
    predicted[1] += 0.02 * (-1.0) ** np.arange(40)
    measured[0, -2:] += (margin, 0.0)
    measured[0, -2] += 1e-3
    r, p, m = (a.astype(np.float32) for a in (reference, predicted, measured))
    runs = Runs(r, r.astype(np.float64), p, m, errors=np.zeros((0, 40)))
    answer = same_answer(runs, ["cat", "dog"])
    assert answer.passed == passed
    assert passed or "top-1 is 38" in answer.findings[0]


def test_a_few_lucky_errors_do_not_decide():
    reference, measured = np.ones((1, 1)), np.full((1, 1), 1.02)
    predicted, one = np.full((1, 1), 1.0001), {"": slice(0, 1)}
    further = 0.01 * np.random.default_rng(0).standard_normal((31, 1))
    for errors, beyond in (np.zeros((0, 1)), 1), (further, 0), (None, 1):
        allowed = envelope(reference, reference, predicted, one, errors)
        assert len(list(allowed.beyond(measured, ["cat"]))) == beyond


# --- Devices


def test_unknown_precision_is_one_line():
    with pytest.raises(ParityError, match="precision: found 'int8', expected one of fp32, fp16"):
        Device("cpu", precision="int8")
    assert Device("cpu", Numerics(conv="bf16")) == Device.from_dict(
        {"backend": "cpu", "numerics": {"conv": "bf16"}}
    )


@pytest.mark.parametrize("name", NARROW)
def test_a_cpu_without_units_is_left_out_with_the_reason(name, monkeypatch):
    device, form = Device("cpu", precision=name), PRECISIONS[name]
    monkeypatch.setattr(machine, "cpu_flags", lambda: {"avx2"})
    assert device.missing() == f"this CPU has no {form} units (avx512_{form} or amx_{form})"
    for unit in f"avx512_{form}", f"amx_{form}":
        monkeypatch.setattr(machine, "cpu_flags", lambda unit=unit: {"avx2", unit})
        assert device.missing() is None
    assert Device("cpu").missing() is None


def test_a_simulated_device_keeps_the_precision(reference, inputs):
    device = Device("npu", precision="bf16")
    original = Original(reference, inputs, device)
    assert original._target(lambda: emulate(Numerics())) == device


# --- Quantised networks


@pytest.mark.filterwarnings("ignore")
def test_a_quantised_reference_is_refused_and_a_quantised_port_fails():
    if "none" in torch.backends.quantized.engine:
        pytest.skip("this torch has no quantised kernels")
    net = nn.Sequential(nn.Linear(8, 8), nn.ReLU()).eval()
    quantised = torch.ao.quantization.quantize_dynamic(copy.deepcopy(net), {nn.Linear})
    with pytest.raises(ParityError, match="module '0' is quantised") as error:
        check_port(quantised, net, torch.ones(2, 8))
    assert len(str(error.value)) < 300 and "\n" not in str(error.value)
    report = check_port(net, quantised, torch.randn(2, 8))
    assert report.verdict.failed.question == 1
    assert report.verdict.failed.findings[0] == "module '0' is quantised (Linear in whole numbers)"
    assert "is quantised" in str(report)
