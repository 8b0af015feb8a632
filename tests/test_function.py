"""Question 1 for ports that are written differently: right ones pass, and each mistake is found."""

import copy
import itertools
import json
import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

from npu_parity.check import check_port
from npu_parity.numerics.widening import wide
from npu_parity.sources import seeds
from npu_parity.verdict import function, sight
from npu_parity.verdict.answers import Program
from npu_parity.verdict.program import compare
from npu_parity.verdict.questions import same_program

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks" / "gate"))

from rewritings import REWRITINGS, NotApplicable

NETWORKS = ("test_resnet", "test_efficientnet", "test_convnext", "test_vit")
BRANCHED = ("repvgg_a0", "mobileone_s0")  # larger: only what the others do not have


def images(count=2, size=32):
    generator = torch.Generator().manual_seed(1)
    noise = (torch.randn(count, 3, n, n, generator=generator) for n in (size, 1))
    return sum(noise)


@pytest.fixture(scope="module")
def built():
    """Return networks whose every layer matters: no zero bias, no layer scale of 1e-6."""
    made = {}

    def build(name):
        if name not in made:
            size = {"img_size": 32} if "vit" in name else {}
            net = seeds.draw(0, lambda: timm.create_model(name, num_classes=10, **size)).eval()
            generator = torch.Generator().manual_seed(2)
            for path, weight in net.named_parameters():
                if weight.ndim == 1:
                    low = -0.1 if path.endswith("bias") else 0.5
                    values = torch.rand(weight.shape, generator=generator)
                    weight.data = values * (0.2 if low < 0 else 1) + low
            seeds.calibrate_batch_norm(net, images(4))
            made[name] = net
        return made[name]

    return build


def rewritten(name, net):
    try:
        return REWRITINGS[name](net, images(1))
    except NotApplicable as reason:
        pytest.skip(str(reason))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "name"),
    [
        *itertools.product(NETWORKS, REWRITINGS),
        *itertools.product(BRANCHED, ["blocks reparameterised", "batch norm folded"]),
    ],
)
def test_right_ports_pass(built, network, name):
    found = compare(built(network), rewritten(name, built(network)), images())
    assert found.same, found
    if found.kind == "same function":
        assert found.differences
        text = str(same_program(found))
        assert text.startswith("1. same program? yes, the same function by another program: ")


@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS)
def test_a_network_has_a_dozen_rewritings(built, network):
    count = 0
    for rewriting in REWRITINGS.values():
        try:
            rewriting(built(network), images(1))
        except NotApplicable:
            continue
        count += 1
    assert count >= 12


# Mistakes inside ports that are written differently


def middle(net, kind):
    found = [(n, m) for n, m in net.named_modules() if isinstance(m, kind)]
    return found[len(found) // 2]


def eps(net):
    path, norm = middle(net, _BatchNorm | nn.LayerNorm)
    norm.eps = 1e-3
    return path


def bias(net):
    path, layer = middle(net, nn.Linear)
    layer.bias = None
    return path


def norms_bias(net):
    path, norm = middle(net, _BatchNorm | nn.LayerNorm)
    norm.bias.data.zero_()
    return path


def padding_mode(net):
    path, layer = middle(net, nn.Conv2d)
    path, layer = next(
        (n, m)
        for n, m in [*net.named_modules()][3:]
        if isinstance(m, nn.Conv2d) and any(m.padding) and min(m.kernel_size) > 1
    )
    layer.padding_mode = "circular"
    return path


def activation(net):
    kinds = nn.ReLU | nn.SiLU | nn.GELU
    path, _ = middle(net, kinds)
    net.set_submodule(path, nn.Softplus().eval())
    return path


def approximation(net):
    path, _ = middle(net, nn.GELU)
    net.set_submodule(path, nn.GELU("tanh").eval())
    return path


def block(net):
    """Leave out the last block."""
    kinds = ("BasicBlock", "ConvNeXtBlock", "Block")
    path = [n for n, m in net.named_modules() if type(m).__name__ in kinds][-1]
    net.set_submodule(path, nn.Identity().eval())
    return path


def gate(net):
    """Leave out the last squeeze-and-excitation."""
    path = [n for n, m in net.named_modules() if type(m).__name__ == "SqueezeExcite"][-1]
    net.set_submodule(path, nn.Identity().eval())
    return path


def scale(net):
    path, layer = next((n, m) for n, m in net.named_modules() if type(m).__name__ == "Attention")
    layer.scale *= 1.1
    layer.fused_attn = False
    return path


def weight(net):
    path, layer = middle(net, nn.Conv2d | nn.Linear)
    layer.weight.data.view(-1)[3] += 1e-3 * layer.weight.data.abs().max()
    return path


def rolled(net):
    path, layer = middle(net, nn.Conv2d)
    layer.weight.data = layer.weight.data.roll(1, 0)
    return path


def statistics(net):
    path, norm = middle(net, _BatchNorm)
    norm.running_var *= 1.01
    return path


MISTAKES = [
    ("test_resnet", "batch norm folded", eps),
    ("test_resnet", "batch norm folded", norms_bias),
    ("test_resnet", "batch norm folded", padding_mode),
    ("test_resnet", "batch norm folded", activation),
    ("test_resnet", "batch norm folded", rolled),
    ("test_resnet", "batch norm folded", statistics),
    ("test_resnet", "traced", eps),
    ("test_resnet", "exported", padding_mode),
    ("test_resnet", "functional", statistics),
    ("test_resnet", "convolution as a product", eps),
    ("test_efficientnet", "batch norm folded", weight),
    ("test_efficientnet", "batch norm folded", gate),
    ("test_efficientnet", "1x1 convolution as a linear layer", activation),
    ("test_efficientnet", "SiLU written out", eps),
    ("test_efficientnet", "padding apart", norms_bias),
    ("test_efficientnet", "scripted", eps),
    ("test_convnext", "linear layer as a product", eps),
    ("test_convnext", "layer norm written out", bias),
    ("test_convnext", "layer norm written out", eps),
    ("test_convnext", "channels last, images too", weight),
    ("test_convnext", "padding apart", eps),
    ("test_vit", "attention written out", eps),
    ("test_vit", "layer norm written out", approximation),
    ("test_vit", "GELU written out", scale),
    ("test_vit", "linear layer as a product", block),
    ("test_vit", "linear layer as a product", bias),
    ("test_vit", "exported", eps),
    ("repvgg_a0", "blocks reparameterised", eps),
    ("repvgg_a0", "blocks reparameterised", statistics),
]


def places(sentence):
    """Return the modules that a sentence names."""
    return [place.rstrip(":,") for place in re.findall(r" at ([\w.]+)", sentence)]


@pytest.mark.slow
@pytest.mark.parametrize(("network", "name", "mistake"), MISTAKES)
def test_each_mistake_is_found_where_it_is(built, network, name, mistake):
    net = built(network)
    wrong = copy.deepcopy(net)
    path = mistake(wrong)
    found = compare(net, rewritten(name, wrong), images())
    assert found.same is False and found.kind == ""
    order = [n for n, _ in net.named_modules()]
    around = [p.removeprefix("net.") for p in places(found.differences[0])]
    assert around, found.differences[0]
    inside = [i for i, n in enumerate(order) if n.startswith(f"{around[-1]}.") or n == around[-1]]
    first = min(order.index(p) for p in around)
    assert first <= order.index(path) <= max(inside), (path, found.differences[0])


# Small networks


class Net(nn.Module):
    """Two layers with a norm between them; `change` is called between norm and last layer."""

    def __init__(self, change=lambda x: x.relu()):
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(8, 16), nn.LayerNorm(16), nn.Linear(16, 4)
        self.scale = nn.Parameter(torch.full((4,), 1e-6))
        self.change = change

    def forward(self, x):
        x = x @ self.first.weight.mT + self.first.bias if self.written else self.first(x)
        y = self.last(self.change(self.norm(x)))
        return x[..., :4] + self.scale * y

    written = False


TOKENS = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture
def port(net):
    """The same function by another program."""
    port = copy.deepcopy(net)
    port.written = True
    return port


def test_another_program_is_described(net, port):
    found = compare(net, port, TOKENS)
    assert found.same and found.kind == "same function"
    assert found.differences[0].endswith("which the reference does not have, at the top level")
    report = check_port(net, port, TOKENS.numpy(), task="features")
    line = "  1. same program? yes, the same function by another program: "
    assert report.passed and line in str(report)


@pytest.mark.parametrize("eps", [1.1e-5, 1e-3])
def test_a_setting_that_moves_nothing_is_a_mistake(net, port, eps):
    """The layer scale hides the norm: the float64 results are the same."""
    port.norm.eps = eps
    assert function.compare(net, port, TOKENS).same
    found = compare(net, port, TOKENS)
    assert found.same is False
    assert f"eps {eps} where the reference has 1e-05, at norm" in found.differences[0]


def test_a_setting_of_an_operator_whose_operands_were_rounded(net, port):
    """A norm of large numbers with small differences makes roundings a thousand times larger."""
    net.first.bias.data += 1000
    port.first.bias.data += 1000
    port.first.weight.data = net.first.weight.nextafter(torch.tensor(9.0)).data
    net.change, port.change = F.leaky_relu, lambda x: F.leaky_relu(x, 0.02)
    found = compare(net, port, TOKENS)
    setting = "leaky_relu negative_slope 0.02 where the reference has 0.01, at the top level"
    assert found.same is False and found.differences[0] == setting
    port.change = F.leaky_relu
    assert compare(net, port, TOKENS).same


def pooled(x, side):
    return F.max_pool1d(x, 1 + 2 * side, 1, side)


@pytest.mark.parametrize(
    ("right", "other"),
    [
        (lambda x: F.gelu(x), lambda x: 0.5 * x * (1 + (x / 2**0.5).erf())),
        (lambda x: F.silu(x), lambda x: x / (1 + (-x).exp())),
        (lambda x: x.softmax(-1), lambda x: x.exp() / x.exp().sum(-1, keepdim=True)),
        (lambda x: x + 2 * x.abs(), lambda x: 2 * x.abs() + x),
        (lambda x: x * 0.7071067811865476, lambda x: x * torch.tensor(0.5).sqrt()),
        (lambda x: x.relu(), lambda x: torch.where(x > 0, x, torch.zeros(1, dtype=torch.float32))),
        (lambda x: x.relu(), lambda x: torch.empty(x.shape).copy_(x).relu_()),
        (lambda x: x * 1.5, lambda x: (x * torch.full((16,), 1.5, dtype=torch.float64)).float()),
        (lambda x: x.relu(), lambda x: x.flatten(0, -2).relu().view(x.shape)),
        (lambda x: x @ torch.eye(16), lambda x: (torch.eye(16) @ x.mT).mT),
        (lambda x: (4 * x).relu(), lambda x: 2 * (2 * x).relu()),
        (
            lambda x: x + 2 * x.sum((1, 2), keepdim=True),
            lambda x: x + (2 * x.sum(2, keepdim=True)).sum(1, keepdim=True),
        ),
        (
            lambda x: F.leaky_relu(x, 0.1) + 2 * F.leaky_relu(x, 0.3),
            lambda x: F.leaky_relu(x, 0.1) + torch.where(x > 0, 2 * x, 0.6 * x),
        ),
        (
            lambda x: 2 * pooled(x, 1) + pooled(pooled(x, 1), 1),
            lambda x: 2 * pooled(x, 1) + pooled(x, 2),
        ),
    ],
)
def test_formulas_written_in_two_ways(net, right, other):
    net.scale.data.fill_(1.0)
    ports = [copy.deepcopy(net), copy.deepcopy(net)]
    net.change, ports[0].change, ports[1].change = right, other, lambda x: other(x) * 1.0001
    assert compare(net, ports[0], TOKENS).same
    wrong = compare(net, ports[1], TOKENS)
    assert wrong.same is False and wrong.differences


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x.half().float().relu(),
        lambda x: x.bfloat16().float().relu(),
        lambda x: torch.empty(x.shape).mul_(0).add_(x).relu(),
        lambda x: (x + torch.empty(x.shape)).relu(),
        lambda x: x.relu().round(decimals=5),
    ],
)
def test_ports_that_lose_something(net, change):
    """Coarser numbers and memory that nothing was written to, even behind a small scale."""
    port = copy.deepcopy(net)
    port.change = change
    net.scale.data.fill_(1.0)
    port.scale.data.fill_(1.0)
    assert compare(net, port, TOKENS).same is False


@pytest.mark.filterwarnings("ignore")  # torch has deprecated its quantisation
def test_a_quantised_port_is_named_as_such(net):
    if "none" in torch.backends.quantized.engine:
        pytest.skip("this torch has no quantised kernels")
    port = torch.ao.quantization.quantize_dynamic(copy.deepcopy(net), {nn.Linear})
    found = compare(net, port, TOKENS)
    assert found.same is False
    assert found.differences == ("module 'first' is quantised (Linear in whole numbers)",)


class Hidden(nn.Module):
    """A network that torch cannot see: it computes with NumPy."""

    def __init__(self, net):
        super().__init__()
        self.weights = [t.detach().double().numpy() for t in (net.weight, net.bias)]

    def forward(self, x):
        weight, bias = self.weights
        return torch.from_numpy((x.numpy().astype("float64") @ weight.T + bias).astype("float32"))


def test_a_port_that_cannot_be_looked_into_is_not_asked(net):
    hidden = Hidden(net.first).eval()
    found = compare(net.first, hidden, TOKENS)
    assert found == Program(None, "", ("the ported network runs no operator of torch",))
    report = check_port(net.first, hidden, TOKENS.numpy(), task="features", pretrained=True)
    assert report.passed and report.verdict.evidence == "weak"
    assert "1. same program? not asked: the ported network runs no operator" in str(report)
    assert "question 1, same program, was not asked" in report.questions[3].findings


def test_a_port_that_cannot_run_in_float64_is_not_asked(net):
    found = compare(net.first, nn.Sequential(nn.Hardtanh(-9, 9), Hidden(net.first)), TOKENS)
    assert found.same is None
    reason = "not compared in float64: the port computes its outputs outside of torch"
    assert found.differences[0] == reason


def test_the_same_program_costs_no_float64(net, monkeypatch):
    monkeypatch.setattr(function, "compare", None)
    assert compare(net, copy.deepcopy(net), TOKENS) == Program(True, "same program")


def test_networks_and_random_numbers_are_left_alone(net, port):
    before = copy.deepcopy([net.state_dict(), port.state_dict()]), torch.get_rng_state()
    compare(net, port, TOKENS)
    assert torch.get_default_dtype() == torch.float32
    assert torch.equal(before[1], torch.get_rng_state())
    for old, new in zip(before[0], (net.state_dict(), port.state_dict()), strict=True):
        assert all(torch.equal(t, new[name]) for name, t in old.items())


def test_outputs_of_another_shape(net, port):
    port.change = lambda x: x.relu()[:, :1]
    found = compare(net, port, TOKENS)
    assert found.same is False


class Pixels(nn.Module):
    """Two convolutions; `first` may be another function of an image and a convolution."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8)
        self.last = nn.Conv2d(8, 4, 3, padding=1, groups=4)

    def forward(self, x):
        return self.last(self.norm(self.first(x, self.conv)).relu()).flatten(1)

    @staticmethod
    def first(x, conv):
        return conv(x)

    def running_statistics(self):
        return self.norm.running_mean, self.norm.running_var


@pytest.fixture
def pixels():
    torch.manual_seed(0)
    net = Pixels().eval()
    net.norm.running_mean.normal_()
    net.norm.running_var.uniform_(0.5, 2)
    return net


ARRANGED = {  # a setting differs because the port arranges operands or result in another way
    "stride": lambda x, c: F.conv2d(x, c.weight, c.bias, 1, 1)[..., ::2, ::2],
    "transposed": lambda x, c: F.conv_transpose2d(
        x, c.weight.transpose(0, 1).flip(-1, -2), c.bias, padding=1
    )[..., ::2, ::2],
    "frames": lambda x, c: F.conv3d(
        x[:, :, None], c.weight[:, :, None], c.bias, (1, 2, 2), (0, 1, 1)
    )[:, :, 0],
    "groups": lambda x, c: F.conv2d(x.repeat(1, 8, 1, 1), c.weight, c.bias, 2, 1, groups=8),
}
MISARRANGED = {
    "stride": lambda x, c: F.conv2d(x, c.weight, c.bias, 1, 1)[..., 1::2, 1::2],
    "dilation": lambda x, c: F.conv2d(x, c.weight, c.bias, 1, 2, 2)[..., ::2, ::2],
    "frames": lambda x, c: F.conv3d(
        x[:, :, None], c.weight[:, :, None].flip(-1), c.bias, (1, 2, 2), (0, 1, 1)
    )[:, :, 0],
}


@pytest.mark.parametrize("form", ARRANGED)
def test_settings_of_a_convolution_that_is_arranged_differently(pixels, form):
    port = copy.deepcopy(pixels)
    port.first = ARRANGED[form]
    found = compare(pixels, port, images())
    assert found.same and found.kind == "same function", found.differences


@pytest.mark.parametrize("form", MISARRANGED)
def test_a_convolution_that_is_arranged_wrongly(pixels, form):
    port = copy.deepcopy(pixels)
    port.first = MISARRANGED[form]
    assert compare(pixels, port, images()).same is False


def test_a_setting_without_effect_is_a_mistake_beside_a_rewriting(pixels):
    """This stride reads the same pixels of an image of one pixel, but not of another image."""
    port = copy.deepcopy(pixels)
    port.first = lambda x, c: F.conv2d(F.pad(x, (0, 0, 0, 0)) + 0, c.weight, c.bias, 3, 1)
    found = compare(pixels, port, images(size=1))
    assert found.same is False
    assert found.differences[0] == (
        "convolution stride [3, 3] where the reference has [2, 2], at conv"
    )


def test_a_mistake_beside_a_convolution_that_is_arranged_differently():
    """The second one is not compared with the first, which has operands of the same size."""

    class Two(nn.Module):
        padding, dilation = 1, 1

        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.a, self.b = nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3)

        def forward(self, x):
            more = self.padding - 1
            y = F.conv2d(x, self.a.weight, self.a.bias, 1, self.padding)
            y = y[..., more : y.shape[-2] - more, more : y.shape[-1] - more].relu()
            return y + 1e-9 * F.conv2d(
                y, self.b.weight, self.b.bias, 1, self.dilation, self.dilation
            )

    net, right, wrong = Two().eval(), Two().eval(), Two().eval()
    right.padding = wrong.padding = 2
    wrong.dilation = 2
    assert compare(net, right, images()).same
    found = compare(net, wrong, images())
    assert found.same is False
    assert found.differences[0].startswith("convolution dilation [2, 2] where the reference has")


def rearranged(net, order, factor=1.0, back=1.0):
    """Return a port whose hidden channels have another order and scale."""
    port = copy.deepcopy(net)
    tensors = (port.first.weight, port.first.bias)
    for tensor in tensors:
        tensor.data = tensor[order] * factor
    port.last.weight.data = port.last.weight[:, order] * back
    return port


class TwoLayers(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x):
        return self.last(self.first(x).relu())


@pytest.mark.parametrize(
    ("factor", "back", "right"), [(1, 1, True), (4, 0.25, True), (4, 0.5, False)]
)
def test_hidden_channels_in_another_order_or_scaled(factor, back, right):
    torch.manual_seed(0)
    net, order = TwoLayers().eval(), torch.randperm(16)
    found = compare(net, rearranged(net, order, factor, back), TOKENS)
    assert found.same is right
    if right:
        assert found.kind == "same function"
        assert found.differences[0].startswith("first.weight has the reference's values")


def test_weights_in_another_order_than_the_next_layer_expects():
    torch.manual_seed(0)
    net = TwoLayers().eval()
    port = rearranged(net, torch.randperm(16))
    port.last.weight.data = net.last.weight.data
    found = compare(net, port, TOKENS)
    assert found.same is False
    assert found.differences[0].startswith("first.weight differs from the reference's in")


def test_two_almost_equal_weights_that_were_exchanged():
    """One rounding of each weight would explain the difference, but nothing was rounded."""
    torch.manual_seed(0)
    net = TwoLayers().eval()
    net.first.weight.data[0, 0] = net.first.weight.data[0, 1] * (1 + 2**-22)
    port = copy.deepcopy(net)
    port.first.weight.data[0, :2] = net.first.weight.data[0, :2].flip(0)
    found = compare(net, port, TOKENS)
    assert found.same is False
    assert "of their norm: first.weight differs" in found.differences[0]


def test_each_output_counts_for_itself():
    """An error of small scores beside large boxes, and of one column among many."""

    class Heads(nn.Module):
        def __init__(self, wrong=0.0, column=0.0):
            super().__init__()
            torch.manual_seed(0)
            self.boxes, self.scores = nn.Linear(8, 40), nn.Linear(8, 4)
            self.wrong, self.column = wrong, column

        def forward(self, x):
            boxes = 1e4 * self.boxes(x)
            offset = torch.zeros(40)
            offset[3] = self.column
            return {"boxes": boxes + offset, "scores": self.scores(x) + self.wrong}

    inputs = TOKENS[:, 0]
    plain = type("Plain", (Heads,), {"forward": lambda s, x: list(Heads.forward(s, x).values())})
    assert compare(Heads().eval(), plain().eval(), inputs).same
    assert compare(Heads().eval(), Heads(wrong=1e-5).eval(), inputs).same is False
    assert compare(Heads().eval(), Heads(column=0.1).eval(), inputs).same is False


def test_random_inputs_show_what_symmetric_inputs_hide(pixels):
    port = copy.deepcopy(pixels)
    port.first = lambda x, c: c(0 + x.flip(-1))
    symmetric = images() + images().flip(-1)
    assert compare(pixels, port, symmetric).same is False


def test_every_input_counts(pixels):
    """One large value of the last input is clamped. Random inputs have no such value."""
    port, inputs = copy.deepcopy(pixels), images(3)
    inputs[2, 0, 5, 5] = 1e4
    port.first = lambda x, c: c(x.clamp(max=5e3))
    assert compare(pixels, port, inputs).same is False
    assert compare(pixels, port, inputs[:2]).same


@pytest.mark.parametrize("wrong", [False, True])
def test_networks_that_write_to_their_inputs(pixels, wrong):
    port = copy.deepcopy(pixels)
    pixels.first = lambda x, c: c(x.mul_(2))
    port.first = lambda x, c: c(x.add_(x).add_(x if wrong else 0))
    assert compare(pixels, port, images()).same is not wrong


def test_what_is_not_finite_allows_nothing():
    class Overflow(nn.Module):
        def __init__(self, value):
            super().__init__()
            self.weight, self.value = nn.Parameter(torch.ones(1)), value

        def forward(self, x):
            return torch.stack([x.sum(1) * self.weight, x.sum(1) + self.value])

    good = Overflow(torch.inf)
    for value in (1.0, torch.nan, -torch.inf):
        result = function.compare(good, Overflow(value), TOKENS[:, 0])
        assert result.same is False, value
        assert function.compare(Overflow(value), Overflow(value), TOKENS[:, 0]).same


def test_the_imaginary_part_of_an_output_counts():
    class Spectrum(nn.Module):
        def __init__(self, sign):
            super().__init__()
            self.sign = sign

        def forward(self, x):
            y = torch.fft.fft(x)
            return torch.complex(y.real, self.sign * y.imag)

    assert function.compare(Spectrum(1), Spectrum(1), TOKENS).same
    assert function.compare(Spectrum(1), Spectrum(-1), TOKENS).same is False


class Wave(nn.Module):
    """Complex numbers whose conjugate torch computes only when somebody reads them."""

    def __init__(self, size, part=lambda y: y):
        super().__init__()
        self.size, self.part = size, part

    def forward(self, x):
        return self.part((torch.fft.ifft(self.size * x) / self.size).conj())


def test_lazy_conjugates_are_compared():
    assert function.compare(Wave(1, torch.abs), Wave(2, torch.abs), TOKENS).same
    assert function.compare(Wave(1), Wave(2), TOKENS).same
    assert function.compare(Wave(1), Wave(1, lambda y: y.conj()), TOKENS).same is False


def test_complex_outputs_where_the_reference_has_real_ones():
    result = function.compare(Wave(1, torch.real), Wave(1), TOKENS)
    assert (
        result.same is False and "of complex numbers where the reference has" in result.reasons[0]
    )


def test_program_is_stored_and_read_again():
    program = Program(True, "same function", ("mm where the reference has addmm, at head",))
    assert Program.from_dict(json.loads(json.dumps(program.to_dict()))) == program


def test_each_weight_is_perturbed_by_at_most_one_rounding(pixels):
    exact = copy.deepcopy(pixels).double()
    function._perturb(exact, pixels, 0)
    weights = [[*m.parameters(), *m.running_statistics()] for m in (exact, pixels)]
    for changed, own in zip(*weights, strict=True):
        noise = (changed - own.double()).abs()
        assert bool(noise.any()) == bool(own.any())
        assert (noise <= 2.0**-24 * own.double().abs() * (1 + 1e-6)).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64, torch.complex64])
def test_a_wide_copy_shares_no_memory(dtype):
    own = torch.ones(3, dtype=dtype)
    copied = wide(own)
    copied += 1
    assert own.tolist() == [1] * 3 and copied.tolist() == [2] * 3
    assert copied.element_size() >= 8


class Chain(nn.Module):
    """Three layers. Their weights and results are of the size of `size`."""

    written = False

    def __init__(self, size):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.last = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 4)
        self.first.weight.data *= size
        for layer in (self.first, self.second, self.last):
            layer.bias.data *= size

    def forward(self, x):
        x = self.second(self.first(x).relu()).relu()
        return x @ self.last.weight.mT + self.last.bias if self.written else self.last(x)


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("layer", ["first", "second", "last"])
def test_the_first_different_result_is_named(layer, size):
    net = Chain(size).eval()
    port = copy.deepcopy(net)
    port.written = True
    getattr(port, layer).weight.data[1] *= 1.001
    found = compare(net, port, TOKENS[0])
    agrees = "" if layer == "first" else "results agree up to relu, "
    _, _, place = found.differences[0].partition("explain: ")
    assert found.same is False
    assert place == f"{agrees}the first different result is addmm at {layer}"


def test_a_fault_in_merged_layers_lies_between_them(pixels):
    port = copy.deepcopy(pixels)
    port.norm.bias.data[2] += 1e-3
    port.conv = fuse_conv_bn_eval(port.conv, port.norm)
    port.norm = nn.Identity().eval()
    found = compare(pixels, port, images())
    assert found.same is False
    assert found.differences[0].endswith(
        ": the first different result is between convolution at conv and batch_norm at norm"
    )


def test_a_fault_is_followed_back_to_where_results_agree():
    """0 and 2 lead to 3, and 1 leads to 2: results differ from 1 on."""
    points = [types.SimpleNamespace(sources=s) for s in ([], [], [1], [0, 2])]
    assert sight._backwards(points, {3}, np.array([0.0, 9.0, 50.0, 20.0])) == [1, 2, 3]
