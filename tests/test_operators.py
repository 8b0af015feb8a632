"""Question 2: sound networks pass on every device's numerics, planted faults do not."""

import math
import runpy
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from npu_parity.backends.device import Device
from npu_parity.numerics.emulation import emulate
from npu_parity.numerics.formats import Numerics
from npu_parity.verdict.bounds import exact_and_bound
from npu_parity.verdict.bounds.products import PRODUCTS
from npu_parity.verdict.kernels import check_operators, execute
from npu_parity.verdict.operators import OperatorResult, without_bound
from npu_parity.verdict.recording import record, tensors

ROOT = Path(__file__).resolve().parents[1]
CPU = Device("cpu")
COLUMNS = [
    *("index", "module", "operator", "shapes"),
    *("max_error_of_bound", "mean_error_of_bound", "max_error_of_predicted", "rms_z", "max_z"),
    *("result", "note"),
]


class Gated(nn.Module):
    """Squeeze and excite."""

    def __init__(self, channels):
        super().__init__()
        self.gate = nn.Conv2d(channels, channels, 1)

    def forward(self, x):
        return x * self.gate(F.silu(x.mean((2, 3), keepdim=True))).sigmoid()


class Convolutional(nn.Module):
    """Every kind of convolution, normalisation, pooling and activation of a vision network."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True)
        )
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.depthwise = nn.Conv2d(16, 16, 5, padding=2, groups=16)
        self.norm = nn.GroupNorm(4, 16)
        self.gated = Gated(16)
        self.grouped = nn.Sequential(nn.Conv2d(16, 24, 3, padding=1, groups=4), nn.Hardswish())
        self.average = nn.AvgPool2d(3, 2, 1, count_include_pad=False)
        self.up = nn.ConvTranspose2d(24, 8, 4, 2, 1)
        self.norms = nn.Sequential(nn.InstanceNorm2d(8), nn.GELU(), nn.Dropout(0.5))
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = self.pool(self.stem(x))
        x = x + self.gated(self.norm(self.depthwise(x)))
        x = self.norms(self.up(self.average(self.grouped(x))))
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1)).softmax(-1)


def vision_transformer():
    sizes = {"img_size": 32, "embed_dim": 32, "depth": 2, "num_heads": 4, "num_classes": 5}
    return timm.create_model("vit_tiny_patch16_224", patch_size=8, **sizes)


def calibrated(build, *shape):
    """Build a network whose statistics and weights are no zeros and ones, and record it."""
    torch.manual_seed(0)
    model = build().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.LayerNorm | nn.GroupNorm):
            nn.init.uniform_(module.weight, -1, 2)
            nn.init.normal_(module.bias)
        elif getattr(module, "bias", None) is not None:
            nn.init.normal_(module.bias)
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.1, 2)
    return record(model, torch.randn(shape))


@pytest.fixture(scope="module")
def convolutional():
    return calibrated(Convolutional, 2, 3, 48, 48)


@pytest.fixture(scope="module")
def transformer():
    return calibrated(vision_transformer, 1, 3, 32, 32)


ARITHMETIC = [
    {},
    {"conv": "hf32"},
    {"conv": "tf32", "matmul": "tf32"},
    {"conv": "fp16", "matmul": "fp16"},
    {"conv": "bf16", "depthwise_conv": "fp32", "matmul": "bf16"},
    {"conv": "hf32", "rounding": "toward_zero"},
    {"conv": "bf16", "matmul": "hf32", "rounding": "nearest_away"},
]


def on_device_with(numerics, calls):
    """Check operators on a stand-in that rounds so."""
    numerics = Numerics(**numerics)

    def run(call, target):
        with emulate(numerics):
            return execute(call, target)

    return check_operators(calls, CPU, run, numerics)


@pytest.mark.parametrize("numerics", ARITHMETIC, ids=str)
@pytest.mark.parametrize("network", ["convolutional", "transformer"])
def test_a_sound_device_passes_every_operator(network, numerics, request):
    calls = request.getfixturevalue(network)
    results = on_device_with(numerics, calls)
    assert len(results) == len(calls) > 15
    assert all(r.passed is True for r in results), [r for r in results if not r.passed]
    products = [r for r in results if "conv" in r.operator or "mm" in r.operator]
    assert all(r.largest_error > 0 for r in products)


@pytest.mark.parametrize("name", ["resnet10t", "mobilenetv3_small_050", "test_convnext"])
def test_networks_on_this_cpu(name):
    results = check_operators(calibrated(lambda: timm.create_model(name), 1, 3, 32, 32), CPU)
    assert all(r.passed is True for r in results), [r for r in results if not r.passed]


@pytest.mark.parametrize("network", ["convolutional", "transformer"])
def test_coarser_arithmetic_than_promised_is_caught(network, request):
    """A device that rounds to bf16 where HF32 was promised fails in most products."""
    calls = request.getfixturevalue(network)

    def run(call, target):
        with emulate(Numerics(conv="bf16", matmul="bf16")):
            return execute(call, target)

    results = check_operators(calls, CPU, run, numerics=Numerics(conv="hf32", matmul="hf32"))
    products = [r for r in results if "conv" in r.operator or "mm" in r.operator]
    assert sum(r.passed is False for r in products) > len(products) / 2
    assert all(r.passed for r in results if r not in products)


def planted(calls, name, fault, occurrence=0, numerics=Numerics()):  # noqa: B008
    """Check with a kernel that computes one operator wrongly; return that operator's result."""
    index = [c.index for c in calls if c.name == name][occurrence]
    call = calls[index]

    def run(call, target):
        result = execute(call, target)
        return fault(call, result) if call.index == index else result

    results = check_operators([call], CPU, run, numerics=numerics)
    assert [r.index for r in results] == [index]
    return results[0]


def dead_channel(call, result):
    result[:, 3] = 0
    return result


def dead_tile(call, result):
    result[0, :, :4, :4] = 0
    return result


def swapped_channels(call, result):
    return result[:, [1, 0, *range(2, result.shape[1])]]


def without_bias(call, result):
    return call.func(*call.args[:2], None, *call.args[3:])


def off_by_a_pixel(call, result):
    return result.roll(1, -1)


def last_input_channel_lost(call, result):
    x = call.args[0].clone()
    x[:, -1] = 0
    return call.func(x, *call.args[1:])


def one_nan(call, result):
    result.view(-1)[7] = math.nan
    return result


def one_infinity(call, result):
    result.view(-1)[7] = math.inf
    return result


def all_nan(call, result):
    return torch.full_like(result, math.nan)


CONVOLUTIONS = {"plain": 0, "depthwise": 1, "grouped": 3, "transposed": 4}
FAULTS = [
    *(dead_channel, dead_tile, swapped_channels, off_by_a_pixel, last_input_channel_lost),
    *(one_nan, one_infinity, all_nan),
]


@pytest.mark.parametrize("promised", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", CONVOLUTIONS)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.__name__)
def test_faulty_convolutions(convolutional, fault, kind, promised):
    numerics = Numerics(conv=promised)
    result = planted(convolutional, "convolution", fault, CONVOLUTIONS[kind], numerics)
    assert result.passed is False and result.largest_error > 1


def test_lost_bias(convolutional):
    assert planted(convolutional, "convolution", without_bias, 1).passed is False


def with_arguments(**changed):
    def fault(call, result):
        return call.func(**{**call.arguments, **changed})

    return fault


def textbook_gelu(call, result):
    return F.gelu(call.args[0], approximate="tanh")


def sigmoid_gelu(call, result):
    return call.args[0] * torch.sigmoid(1.702 * call.args[0])


@pytest.mark.parametrize(
    ("network", "name", "fault"),
    [
        ("convolutional", "native_batch_norm", with_arguments(eps=1e-3)),
        ("convolutional", "native_batch_norm", with_arguments(training=True)),
        ("convolutional", "native_group_norm", with_arguments(eps=1e-3)),
        ("convolutional", "native_group_norm", with_arguments(group=2)),
        ("transformer", "native_layer_norm", with_arguments(eps=1e-4)),
        ("transformer", "native_layer_norm", with_arguments(bias=None)),
        ("convolutional", "avg_pool2d", with_arguments(count_include_pad=True)),
        ("convolutional", "max_pool2d_with_indices", with_arguments(kernel_size=[2, 2])),
        ("convolutional", "mean", with_arguments(dim=[2, 3], keepdim=True, dtype=torch.float16)),
        ("transformer", "gelu", textbook_gelu),
        ("transformer", "gelu", sigmoid_gelu),
        ("convolutional", "relu", lambda call, result: call.args[0]),
        ("convolutional", "silu", lambda call, result: F.hardswish(call.args[0])),
        ("convolutional", "sigmoid", lambda call, result: F.hardsigmoid(call.args[0])),
        ("convolutional", "hardswish", lambda call, result: F.silu(call.args[0])),
        ("convolutional", "add", lambda call, result: call.args[0]),
        ("transformer", "_safe_softmax", lambda call, result: result.roll(1, -1)),
        ("transformer", "permute", lambda call, result: result.roll(1, 0)),
        ("transformer", "addmm", with_arguments(beta=0)),
        ("transformer", "bmm", lambda call, result: result * 1.0001),
    ],
)
def test_faulty_kernels(network, name, fault, request):
    result = planted(request.getfixturevalue(network), name, fault)
    assert result.passed is False and result.note


@pytest.mark.parametrize("network", ["convolutional", "transformer"])
def test_one_element_off_by_four_bounds_is_caught_in_every_operator(network, request):
    calls = request.getfixturevalue(network)

    def run(call, target):
        result = execute(call, target)
        value = tensors(result)[0].clone()  # it may be a view of the operand
        (expected, *_) = exact_and_bound(call, numerics)
        at = tuple(n // 2 for n in value.shape)
        if expected.bound is None:
            shifted = expected.exact[at] + 1
        else:  # in float32, and still at least three bounds away
            shifted = (expected.exact[at] + 4 * expected.bound[at]).float()
        value[at] = shifted
        return (value, *result[1:]) if isinstance(result, tuple | list) else value

    numerics = Numerics(conv="hf32")
    results = check_operators(calls, CPU, run, numerics=numerics)
    for call, result in zip(calls, results, strict=True):
        assert result.passed is False, result
        assert result.worst == tuple(n // 2 for n in tensors(call.result)[0].shape)
        assert math.isinf(result.largest_error) or 3 < result.largest_error < 5


def test_results_say_where_and_why(convolutional):
    def fault(call, result):
        result[1, 3, 2, 5] = 7.0
        return result

    result = planted(convolutional, "convolution", fault)
    assert isinstance(result, OperatorResult)
    assert (result.index, result.module) == (0, "stem.0")
    assert result.operator == "aten.convolution.default"
    assert result.shapes == "2x3x48x48 16x3x3x3"
    assert result.worst == (1, 3, 2, 5)
    assert result.note.startswith("found 7 at [1, 3, 2, 5], exact ")
    assert 0 < result.mean_error < result.largest_error
    assert list(result.row()) == COLUMNS
    assert result.row()["max_error_of_bound"] == result.largest_error


def test_results_of_other_shape_type_or_number_fail(convolutional):
    for fault in (
        lambda call, result: result[:, :-1],
        lambda call, result: result.double(),
        lambda call, result: result.half(),
        lambda call, result: (),
    ):
        result = planted(convolutional, "convolution", fault)
        assert result.passed is False and result.note.startswith("returned")


def test_a_device_that_cannot_run_an_operator_fails(convolutional):
    def fault(call, result):
        raise NotImplementedError("Could not run 'aten::convolution'\nmany lines")

    result = planted(convolutional, "convolution", fault)
    assert result.passed is False
    assert result.note == "cannot run: Could not run 'aten::convolution'"


def test_what_has_no_bound_or_no_values_is_no_pass():
    class Net(nn.Module):
        def forward(self, x):
            x = torch.special.bessel_j0(x)
            return x[:, :0]

    resized, *_, sliced = check_operators(record(Net(), torch.randn(1, 2, 4, 4)), CPU)
    assert resized.passed is None and resized.note.startswith("no bound is known for aten.")
    assert sliced.passed is None and sliced.note == "no values to compare"
    assert math.isnan(resized.largest_error) and math.isnan(sliced.mean_error)


def test_the_share_of_work_without_a_bound():
    class Net(nn.Module):
        def forward(self, x):
            return torch.special.bessel_j0(x) + x

    results = check_operators(record(Net(), torch.ones(2, 3)), CPU)
    assert without_bound(results) == {"aten.special_bessel_j0.default": 6 / 18}
    assert without_bound([]) == {}


def test_operands_beyond_float16():
    calls = record(nn.Conv2d(1, 1, 1), torch.full((1, 1, 2, 2), 1e6))
    result, *_ = on_device_with({"conv": "fp16"}, calls)
    assert result.passed is False and "65504" in result.note


def test_nan_of_the_network_itself_is_no_fault_of_the_device():
    class Net(nn.Module):
        def forward(self, x):
            return x.log() * 2

    calls = record(Net(), torch.tensor([-1.0, 0.0, 1.0]))
    assert all(r.passed for r in check_operators(calls, CPU))
    assert not planted(calls, "log", lambda call, result: result.nan_to_num()).passed


def test_recorded_operands_survive(convolutional):
    before = [c.args[0].clone() for c in convolutional if torch.is_tensor(c.args[0])]
    on_device_with({"conv": "hf32"}, convolutional)
    after = [c.args[0] for c in convolutional if torch.is_tensor(c.args[0])]
    assert all(map(torch.equal, before, after))


def test_bound_holds_for_real_bf16_kernels(convolutional, transformer):
    """Torch's own, in hardware where the CPU has bf16 units; see benchmarks/bf16.py."""
    share = runpy.run_path(str(ROOT / "benchmarks" / "bf16.py"), run_name="bf16")["share"]
    shares = [share(c) for c in [*convolutional, *transformer] if c.name in PRODUCTS]
    assert len(shares) > 10 and 0.1 < max(shares) <= 1


def test_error_without_words_is_told_by_its_type(convolutional):
    def run(call, target):
        raise RuntimeError

    first, *_ = check_operators(convolutional[:1], CPU, run)
    assert first.passed is False and first.note == "cannot run: RuntimeError"
