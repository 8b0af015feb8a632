"""Every bound against real float32 kernels and emulated ones, at random shapes and magnitudes."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from npu_parity.backends.device import Device
from npu_parity.numerics.emulation import emulate
from npu_parity.numerics.formats import FORMATS, ROUNDINGS, Numerics
from npu_parity.verdict.bounds import Expected, exact_and_bound, rules, tried
from npu_parity.verdict.bounds.arithmetic import TINY, U
from npu_parity.verdict.kernels import check_operators, execute
from npu_parity.verdict.recording import record, tensors

CPU = torch.device("cpu")


class Apply(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *operands):
        return self.function(*operands)


def recorded(function, *operands, name=None):
    calls = record(Apply(function), *operands)
    return [c for c in calls if name in (None, c.name)]


def shares(call, numerics=None):
    """Return the largest share of the bound in each tensor that `call` is held to."""
    numerics = numerics or Numerics()
    expected = exact_and_bound(call, numerics)
    assert expected is not None, call.operator
    with emulate(numerics):
        found = tensors(execute(call, CPU))
    pairs = list(zip(expected, found, strict=True))
    assert pairs
    for e, _ in pairs:
        if e is not None and e.bound is not None:
            assert e.bound.shape == e.exact.shape and e.bound.dtype == torch.float64
            bound = e.bound[e.exact.isfinite()]
            assert ((bound >= 0) & (bound < math.inf)).all()
    return [float(e.share(f).max()) for e, f in pairs if e is not None and f.numel()]


def values(generator, shape, exponent, wide):
    x = torch.randn(shape, generator=generator)
    if wide:
        x *= 2.0 ** torch.randint(-12, 3, shape, generator=generator)
    x[torch.rand(shape, generator=generator) < 0.1] = 0
    return (x.double() * 2.0**exponent).float()


# function of the operands, their shapes, largest exponent of their magnitude
Conv = (2, 6, 9, 8)
PRODUCTS = {
    "conv": (lambda x, w, b: F.conv2d(x, w, b, 2, 1), [Conv, (5, 6, 3, 3), (5,)], 55),
    "conv without bias": (lambda x, w: F.conv2d(x, w, dilation=2), [Conv, (4, 6, 2, 3)], 55),
    "conv by groups": (lambda x, w: F.conv2d(x, w, groups=3), [Conv, (9, 2, 3, 3)], 55),
    "depthwise": (lambda x, w: F.conv2d(x, w, padding=1, groups=6), [Conv, (6, 1, 3, 3)], 55),
    "1x1 conv": (lambda x, w, b: F.conv2d(x, w, b), [Conv, (7, 6, 1, 1), (7,)], 55),
    "channels last": (
        lambda x, w: F.conv2d(x.contiguous(memory_format=torch.channels_last), w),
        [Conv, (8, 6, 3, 3)],
        55,
    ),
    "conv1d": (F.conv1d, [(2, 3, 17), (4, 3, 5), (4,)], 55),
    "conv3d": (F.conv3d, [(1, 2, 5, 6, 7), (3, 2, 2, 3, 2)], 55),
    "transposed": (
        lambda x, w, b: F.conv_transpose2d(x, w, b, 2, 1, 1, 2),
        [Conv, (6, 3, 3, 3), (6,)],
        55,
    ),
    "linear": (F.linear, [(3, 5, 17), (4, 17), (4,)], 55),
    "linear without bias": (F.linear, [(3, 17), (4, 17)], 55),
    "bmm": (torch.bmm, [(3, 4, 9), (3, 9, 5)], 55),
    "mv": (torch.mv, [(4, 9), (9,)], 55),
    "dot": (torch.dot, [(33,), (33,)], 55),
    "addmm": (
        lambda b, x, w: torch.addmm(b, x, w, beta=-0.3, alpha=1.7),
        [(5,), (3, 9), (9, 5)],
        55,
    ),
    "addmv": (lambda b, x, w: torch.addmv(b, x, w, alpha=-3), [(3,), (3, 9), (9,)], 55),
    "baddbmm": (
        lambda b, x, w: torch.baddbmm(b, x, w, beta=2),
        [(2, 3, 5), (2, 3, 9), (2, 9, 5)],
        55,
    ),
    "addbmm": (lambda b, x, w: torch.addbmm(b, x, w), [(3, 5), (2, 3, 9), (2, 9, 5)], 55),
}


def batch_norm(x, mean, var, w, b):
    return F.batch_norm(x, mean, var.abs() + 1e-3, w, b)


def sampled(x, grid, mode):
    paddings = "zeros", "border", "reflection"
    found = [F.grid_sample(x, grid, mode, p, align_corners=p == "border") for p in paddings]
    return sum(found)


PLANE = (2, 6, 9, 8)
INDEX = torch.tensor([0, 2, 2, 5, 2, 0])[:, None].expand(6, 7)
BOXES = torch.tensor([[0, 0.3, 0.7, 5.1, 8.2], [1, -3, 2.1, 9.7, 3.3], [1, 4.2, 4.4, 4.9, 4.6]])
OTHERS = {
    "batch norm": (batch_norm, [PLANE, (6,), (6,), (6,), (6,)], 30),
    "batch norm without weights": (
        lambda x, m: F.batch_norm(x, m, m.abs() + 0.1),
        [PLANE, (6,)],
        30,
    ),
    "instance norm": (lambda x: F.instance_norm(x + 1), [PLANE], 30),
    "layer norm": (lambda x, w, b: F.layer_norm(x + 3, (33,), w, b), [(4, 33), (33,), (33,)], 30),
    "layer norm 2d": (lambda x: F.layer_norm(x, (9, 8), eps=1e-6), [PLANE], 30),
    "group norm": (lambda x, w, b: F.group_norm(x, 3, w, b), [PLANE, (6,), (6,)], 30),
    "group norm channels last": (
        lambda x: F.group_norm((x + 9).contiguous(memory_format=torch.channels_last), 2),
        [PLANE],
        30,
    ),
    "rms norm": (lambda x, w: F.rms_norm(x, (33,), w), [(4, 33), (33,)], 30),
    "max pool": (lambda x: F.max_pool2d(x, 3, 2, 1), [PLANE], 100),
    "avg pool": (lambda x: F.avg_pool2d(x, 3, 2, 1), [PLANE], 100),
    "avg pool, no pad": (
        lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True, count_include_pad=False),
        [PLANE],
        100,
    ),
    "avg pool 3d": (lambda x: F.avg_pool3d(x, 2), [(1, 2, 4, 5, 6)], 100),
    "adaptive avg pool": (lambda x: F.adaptive_avg_pool2d(x, (4, 3)), [PLANE], 100),
    "global avg pool": (lambda x: F.adaptive_avg_pool2d(x, 1), [PLANE], 100),
    "adaptive max pool": (lambda x: F.adaptive_max_pool2d(x, (4, 3)), [PLANE], 100),
    "mean": (lambda x: x.mean((2, 3), keepdim=True), [PLANE], 100),
    "mean of all": (torch.mean, [PLANE], 100),
    "sum": (lambda x: x.sum(1), [PLANE], 100),
    "cumsum": (lambda x: x.cumsum(2), [PLANE], 100),
    "prod": (lambda x: x.prod(0), [PLANE], 30),
    "fold": (lambda x: F.fold(x, (6, 6), 3, padding=1), [(1, 18, 36)], 100),
    "var": (lambda x: (x + 2).var(1), [PLANE], 30),
    "std": (lambda x: x.std((1, 2), correction=0), [PLANE], 30),
    "var_mean": (lambda x: torch.var_mean(x + 2, 1, keepdim=True), [PLANE], 30),
    "norm": (lambda x: torch.linalg.vector_norm(x, dim=(2, 3), keepdim=True), [PLANE], 40),
    "norm 1": (lambda x: x.norm(p=1, dim=1), [PLANE], 100),
    "normalize": (lambda x: F.normalize(x, dim=1), [PLANE], 40),
    "softmax": (lambda x: x.softmax(-1), [PLANE], 8),
    "softmax of channels": (lambda x: x.softmax(1), [PLANE], 8),
    "log_softmax": (lambda x: x.log_softmax(-1), [PLANE], 8),
    "logsumexp": (lambda x: x.logsumexp(1), [PLANE], 8),
    "resize": (lambda x: F.interpolate(x, (13, 5), mode="bilinear"), [PLANE], 100),
    "resize, corners": (
        lambda x: F.interpolate(x, (13, 17), mode="bilinear", align_corners=True),
        [PLANE],
        100,
    ),
    "bicubic": (lambda x: F.interpolate(x, (13, 5), mode="bicubic"), [PLANE], 100),
    "antialiased": (
        lambda x: (
            F.interpolate(x, (4, 3), mode="bilinear", antialias=True)
            + F.interpolate(x, (4, 3), mode="bicubic", antialias=True)
        ),
        [PLANE],
        100,
    ),
    "nearest-exact": (lambda x: F.interpolate(x, (3, 16), mode="nearest-exact"), [PLANE], 100),
    "grid_sample": (lambda x, g: sampled(x, g, "bilinear"), [PLANE, (2, 4, 3, 2)], 3),
    "grid_sample nearest": (lambda x, g: sampled(x, g, "nearest"), [PLANE, (2, 4, 3, 2)], 3),
    "grid_sample bicubic": (lambda x, g: sampled(x, g, "bicubic"), [PLANE, (2, 4, 3, 2)], 3),
    "grid_sample 3d": (
        lambda x, g: F.grid_sample(x[None], g, align_corners=True, padding_mode="border"),
        [PLANE, (1, 2, 4, 3, 3)],
        3,
    ),
    "roi_align": (lambda x: torchvision.ops.roi_align(x, BOXES, (2, 3)), [PLANE], 100),
    "roi_align aligned": (
        lambda x: torchvision.ops.roi_align(x, BOXES, 2, 0.5, 2, aligned=True),
        [PLANE],
        100,
    ),
    "embedding bag": (
        lambda w, s: F.embedding_bag(
            torch.arange(6).view(2, 3), w, mode="sum", per_sample_weights=s
        ),
        [(6, 7), (2, 3)],
        40,
    ),
    "embedding bag mean": (
        lambda w: F.embedding_bag(torch.arange(6).view(2, 3), w),
        [(6, 7)],
        100,
    ),
    "scatter_add": (lambda x, y: x.scatter_add(0, INDEX, y), [(6, 7), (6, 7)], 100),
    "scatter_reduce": (
        lambda x, y: sum(
            x.scatter_reduce(0, INDEX, y, reduction) for reduction in ("sum", "mean", "amax")
        ),
        [(6, 7), (6, 7)],
        100,
    ),
    "scatter_reduce prod": (
        lambda x, y: x.scatter_reduce(0, INDEX, y, "prod"),
        [(6, 7), (6, 7)],
        10,
    ),
    "index_add": (lambda x, y: x.index_add(0, INDEX[:, 0], y, alpha=2), [(6, 7), (6, 7)], 100),
    "index_put": (
        lambda x, y: x.index_put([INDEX[:, 0]], y, accumulate=True),
        [(6, 7), (6, 7)],
        100,
    ),
    "unpool": (
        lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2),
        [(2, 6, 8, 8)],
        100,
    ),
    "cumprod": (lambda x: x.cumprod(1), [PLANE], 20),
    "norms": (
        lambda x: sum(torch.linalg.vector_norm(x, p, 1) for p in (0, 0.5, 3, math.inf, -math.inf)),
        [PLANE],
        12,
    ),
    "norm of a negative order": (
        lambda x: torch.linalg.vector_norm(x, -2.5, 1),
        [PLANE],
        4,
    ),
    "cdist": (lambda x, y: torch.cdist(x, y), [(30, 5), (28, 5)], 30),
    "cdist of other orders": (
        lambda x, y: torch.cdist(x, y, 1.0) + torch.cdist(x, y, 3.0),
        [(3, 5), (4, 5)],
        10,
    ),
    "remainder": (lambda x, y: x % (y.abs() + 0.1) + x % 0.3 + torch.fmod(x, 0.7), [PLANE] * 2, 5),
    "fmax": (lambda x, y: torch.fmax(x, y) + torch.fmin(x, y).nan_to_num(), [PLANE] * 2, 100),
    "shrink": (lambda x: F.softshrink(x, 0.3) + F.hardshrink(x), [PLANE], 100),
    "log_sigmoid": (F.logsigmoid, [PLANE], 100),
    "logaddexp": (lambda x, y: torch.logaddexp(x, y) + torch.logaddexp2(x, y), [PLANE] * 2, 8),
    "atan2, hypot": (lambda x, y: torch.atan2(x, y) + torch.hypot(x, y), [PLANE] * 2, 60),
    "hyperbolic": (lambda x: x.sinh() + x.cosh() + x.asinh() + x.exp2(), [PLANE], 5),
    "inverse": (
        lambda x: (y := x.sigmoid()).asin() + y.acos() + y.atanh() + (1 + x.abs()).acosh(),
        [PLANE],
        2,
    ),
    "tan": (lambda x: x.tan() + x.sinc(), [PLANE], 4),
    "erf family": (lambda x: x.erfc() + x.sigmoid().erfinv(), [PLANE], 3),
    "gamma": (lambda x: x.lgamma() + x.digamma(), [PLANE], 4),
    "logit": (lambda x: x.sigmoid().logit(1e-6), [PLANE], 4),
    "logsumexp of planes": (lambda x: x.logsumexp((1, 2)), [PLANE], 8),
    "fft": (lambda x: torch.fft.irfft2(torch.fft.rfft2(x) * (1 + 2j)).abs(), [PLANE], 30),
    "complex": (lambda x, y: (torch.complex(x, y) / (2 + 1j)).abs(), [PLANE] * 2, 30),
    "add": (lambda x, y: x + y, [PLANE, (6, 1, 1)], 100),
    "add scaled": (lambda x, y: torch.add(x, y, alpha=0.3), [PLANE, PLANE], 100),
    "add number": (lambda x: x + 0.1, [PLANE], 100),
    "sub": (lambda x, y: x - y, [PLANE, PLANE], 100),
    "sub from number": (lambda x: 0.1 - x, [PLANE], 100),
    "rsub scaled": (lambda x, y: torch.rsub(x, y, alpha=0.7), [PLANE, PLANE], 100),
    "mul": (lambda x, y: x * y, [PLANE, PLANE], 60),
    "mul number": (lambda x: x * 0.1, [PLANE], 100),
    "div": (lambda x, y: x / (y + 2.0**-140), [PLANE, PLANE], 60),
    "div number": (lambda x: x / 0.3, [PLANE], 100),
    "reciprocal, roots": (
        lambda x: x.reciprocal() + x.abs().sqrt() + x.abs().rsqrt(),
        [PLANE],
        100,
    ),
    "addcmul": (lambda x, y, z: torch.addcmul(x, y, z, value=0.3), [PLANE] * 3, 50),
    "addcdiv": (lambda x, y, z: torch.addcdiv(x, y, z.abs() + 0.1), [PLANE] * 3, 50),
    "lerp": (lambda x, y: torch.lerp(x, y, 0.7), [PLANE] * 2, 50),
    "powers": (lambda x: (x**2) + x**3 + x.abs() ** 0.3 + 1.7**x, [PLANE], 5),
    "exp": (lambda x: x.exp() + x.expm1(), [PLANE], 6),
    "log": (lambda x: x.abs().log() + x.abs().log1p(), [PLANE], 100),
    "erf": (lambda x: x.erf() + x.tanh(), [PLANE], 100),
    "waves": (lambda x: x.sin() + x.cos(), [PLANE], 6),
    "sigmoid": (torch.sigmoid, [PLANE], 100),
    "silu": (F.silu, [PLANE], 100),
    "gelu": (F.gelu, [PLANE], 40),
    "gelu tanh": (lambda x: F.gelu(x, approximate="tanh"), [PLANE], 40),
    "glu": (lambda x: F.glu(x, 1), [PLANE], 40),
    "hard": (lambda x: F.hardswish(x) + F.hardsigmoid(x), [PLANE], 40),
    "elu": (lambda x: F.elu(x) + F.celu(x, 2.0) + F.selu(x), [PLANE], 40),
    "leaky": (lambda x, w: F.leaky_relu(x) + F.prelu(x, w), [PLANE, (6,)], 40),
    "softplus": (lambda x: F.softplus(x) + F.softplus(x, 2.0), [PLANE], 40),
    "mish": (F.mish, [PLANE], 40),
    "clamp": (lambda x: x.relu() + F.relu6(x) + F.hardtanh(x) + x.clamp(max=0.1), [PLANE], 100),
    "movement": (
        lambda x: torch.cat([x.roll(1, 2), F.pad(x, (1, 0)).flip(1)[..., 1:]], 1).permute(
            1, 0, 3, 2
        ),
        [PLANE],
        100,
    ),
    "selection": (
        lambda x: torch.where(x > 0, x, x.amax(1, True)).masked_fill(x < -1, -math.inf),
        [PLANE],
        100,
    ),
    "shuffles": (lambda x: F.pixel_shuffle(F.channel_shuffle(x[:, :4], 2), 2), [PLANE], 100),
    "index": (lambda x: x[:, torch.tensor([2, 0])].sort(1).values.argmax(1), [PLANE], 100),
    "floor": (lambda x, y: torch.div(x, y.abs() + 0.1, rounding_mode="floor"), [PLANE] * 2, 5),
    "range": (lambda x: torch.arange(0.0, 1.0, 0.1) + torch.linspace(-1, 1, 10), [(1,)], 0),
}


@pytest.mark.parametrize("name", [*PRODUCTS, *OTHERS])
@settings(max_examples=6, deadline=None)
@given(data=st.data())
def test_cpu_stays_within_every_bound(name, data):
    function, shapes, top = {**PRODUCTS, **OTHERS}[name]
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 999)))
    wide = data.draw(st.booleans())
    exponents = st.one_of(st.integers(-3, min(3, top)), st.integers(-140, top))
    operands = [values(generator, s, data.draw(exponents), wide) for s in shapes]
    calls = recorded(function, *operands)
    assert calls
    for call in calls:
        assert max(shares(call), default=0) <= 1, call.operator


@pytest.mark.parametrize("name", PRODUCTS)
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_emulated_devices_stay_within_the_bound_of_their_products(name, data):
    function, shapes, top = PRODUCTS[name]
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 999)))
    formats = st.sampled_from(list(FORMATS))
    numerics = Numerics(
        data.draw(formats),
        data.draw(st.one_of(st.none(), formats)),
        data.draw(formats),
        data.draw(st.sampled_from(ROUNDINGS)),
    )
    # float16 overflows from 2^16 on, which is a failure (below).
    exponents = st.one_of(
        st.integers(-3, 3), st.integers(-140, 8 if "fp16" in str(numerics) else top)
    )
    wide = data.draw(st.booleans())
    operands = [values(generator, s, data.draw(exponents), wide) for s in shapes]
    for call in recorded(function, *operands):
        assert max(shares(call, numerics), default=0) <= 1, call.operator


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("onednn", [True, False])
def test_every_path_of_a_convolution(threads, onednn):
    before = torch.get_num_threads()
    torch.manual_seed(0)
    try:
        torch.set_num_threads(threads)
        with torch.backends.mkldnn.flags(enabled=onednn):
            for layout in (torch.contiguous_format, torch.channels_last):
                x = torch.randn(1, 16, 20, 20).to(memory_format=layout)
                for groups, k in ((1, 1), (1, 3), (1, 5), (16, 3), (4, 3)):
                    w = torch.randn(16, 16 // groups, k, k)
                    for call in recorded(lambda x, w=w, g=groups: F.conv2d(x, w, groups=g), x):
                        assert 0 < shares(call)[0] <= 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("form", FORMATS)
def test_product_bound_by_hand(form):
    u = 2.0 ** {"fp32": -24, "hf32": -12, "tf32": -11, "fp16": -11, "bf16": -8}[form]
    x, w, b = torch.randn(3, 7), torch.randn(4, 7), torch.randn(4)
    call = recorded(F.linear, x, w, b, name="addmm")[0]
    (expected,) = exact_and_bound(call, Numerics(matmul=form))
    for i, j in np.ndindex(3, 4):
        terms = [abs(float(x[i, k])) * abs(float(w[j, k])) for k in range(7)]
        bias = abs(float(b[j]))
        bound = (2 * u + u * u) * sum(terms) + 8 * 2.0**-24 * ((1 + u) ** 2 * sum(terms) + bias)
        assert 1 <= float(expected.bound[i, j]) / bound < 1 + 1e-6  # float32 sums
        exact = math.fsum([*(float(x[i, k]) * float(w[j, k]) for k in range(7)), float(b[j])])
        assert float(expected.exact[i, j]) == pytest.approx(exact, abs=1e-12)


@pytest.mark.parametrize("form", ["hf32", "tf32", "fp16", "bf16"])
@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_product_bound_is_reached(form, rounding):
    """Two operands that are rounded as badly as can be, in the same direction."""
    step = 2.0 ** -FORMATS[form].mantissa_bits
    worst = 1 + step * (0.999 if rounding == "toward_zero" else 0.5001)
    x = torch.full((1, 1), worst)
    call = recorded(torch.mm, x, x, name="mm")[0]
    numerics = Numerics(matmul=form, rounding=rounding)
    assert 0.9 < shares(call, numerics)[0] <= 1
    nearest = exact_and_bound(call, Numerics(matmul=form))[0]
    with emulate(numerics):
        share = float(nearest.share(execute(call, CPU)).max())
    assert (share > 1) == (rounding == "toward_zero")


def test_number_of_terms_counts():
    """A sum in the worst order loses a unit a step: its error is near the bound without u."""
    n = 4096
    terms = torch.full((1, n), 1.0)
    terms[0, 1:] = 2.0**-24 * 1.0001  # each vanishes when added to 1 alone
    call = recorded(torch.mm, terms, torch.ones(n, 1), name="mm")[0]
    lost = torch.tensor([[1.0]])
    assert 0.9 < float(exact_and_bound(call, Numerics())[0].share(lost)) <= 1
    half = recorded(torch.mm, terms[:, : n // 2], torch.ones(n // 2, 1), name="mm")[0]
    (expected,) = exact_and_bound(half, Numerics())
    assert float(expected.share(lost - n / 2 * U)) > 1


def test_depthwise_convolutions_have_their_own_numerics():
    x, w = torch.randn(1, 4, 8, 8), torch.randn(4, 1, 3, 3)
    call = recorded(lambda x, w: F.conv2d(x, w, groups=4), x, w)[0]
    bounds = [
        float(exact_and_bound(call, n)[0].bound.mean())
        for n in (Numerics("bf16"), Numerics("bf16", "fp32"), Numerics())
    ]
    assert bounds[0] > 1000 * bounds[1] and bounds[1] == bounds[2]
    plain = recorded(F.conv2d, x, torch.randn(4, 4, 3, 3))[0]
    bf16, own = (exact_and_bound(plain, n)[0] for n in (Numerics("bf16"), Numerics("bf16", "fp32")))
    assert torch.equal(bf16.bound, own.bound)


def test_float16_small_operands_round_to_a_fixed_distance():
    x = torch.full((1, 1), 2.0**-24 * 1.49)
    call = recorded(torch.mm, x, torch.ones(1, 1), name="mm")[0]
    with emulate(Numerics(matmul="fp16")):
        found = execute(call, CPU)
    own, tf32 = (
        exact_and_bound(call, Numerics(matmul=f))[0].share(found) for f in ("fp16", "tf32")
    )
    assert 0.9 < float(own) <= 1 and float(tf32) > 100


def test_float16_overflow_is_a_failure_with_a_note():
    call = recorded(torch.mm, torch.full((1, 1), 7e4), torch.ones(1, 1), name="mm")[0]
    numerics = Numerics(matmul="fp16")
    assert shares(call, numerics) == [math.inf]
    assert "65504" in exact_and_bound(call, numerics)[0].note
    assert exact_and_bound(call, Numerics(matmul="bf16"))[0].note == ""


def test_subnormals_may_be_flushed_to_zero():
    x = torch.tensor([[2.0**-126, 2.0**-130, 3.0]])
    w = torch.tensor([[0.5], [1.0], [2.0**-127]])
    (expected,) = exact_and_bound(recorded(torch.mm, x, w, name="mm")[0], Numerics())
    assert float(expected.share(torch.zeros(1, 1))) <= 1
    assert float(expected.share(torch.full((1, 1), 20 * TINY))) > 1


def test_share_of_what_is_not_finite():
    inf, nan = math.inf, math.nan
    exact = torch.tensor([1.0, nan, inf, -inf, 3.5e38, -3.5e38, inf, 3e38, 0.0, 0.0]).double()
    found = torch.tensor([nan, nan, inf, inf, inf, inf, 3e38, inf, -0.0, inf])
    expected = Expected(exact, torch.full_like(exact, 1e-30))
    assert expected.share(found).tolist() == [inf, 0, 0, inf, 0, inf, inf, inf, 0, inf]
    unbounded = Expected(torch.ones(2).double(), torch.full((2,), inf).double())
    assert unbounded.share(torch.tensor([1.0, 1.5])).tolist() == [0, inf]
    equal = Expected(found, None)
    assert equal.share(found).tolist() == [0] * 10
    assert equal.share(torch.zeros(10)).tolist() == [inf] * 8 + [0, inf]


def test_share_is_measured_against_each_elements_own_bound():
    expected = Expected(torch.tensor([1.0, 100.0]).double(), torch.tensor([0.5, 10.0]).double())
    assert expected.share(torch.tensor([1.25, 120.0])).tolist() == [0.5, 2.0]


def test_masked_attention_scores():
    x = torch.randn(4, 5)
    x[0, 2:] = x[1] = -math.inf
    for call in recorded(lambda x: x.softmax(1) + x.log_softmax(1), x):
        assert max(shares(call)) <= 1, call.operator


def test_ties_of_a_maximum_may_go_either_way():
    call = recorded(lambda x: F.max_pool2d(x, 2), torch.zeros(1, 1, 2, 2))[0]
    values, indices = exact_and_bound(call, Numerics())
    assert indices.share(torch.full((1, 1, 1, 1), 3)).tolist() == [[[[0.0]]]]
    assert indices.share(torch.full((1, 1, 1, 1), 4)).tolist() == [[[[math.inf]]]]
    assert values.bound is None
    assert float(values.share(torch.full((1, 1, 1, 1), 1e-30))) == math.inf


@pytest.mark.parametrize(
    ("function", "operand"),
    [
        (torch.special.bessel_j0, torch.randn(3)),
        (torch.rand_like, torch.randn(3)),
        (lambda x: torch.randint_like(x, 9), torch.arange(3)),
        (torch.tanh, torch.randn(3, dtype=torch.complex64)),
        (lambda x: torch.std(x, 0), torch.randn(3).double()),
    ],
)
def test_what_has_no_bound_says_so(function, operand):
    assert any(exact_and_bound(c, Numerics()) is None for c in recorded(function, operand))


@pytest.mark.parametrize("name", [*PRODUCTS, *OTHERS])
def test_no_element_of_ordinary_operands_is_free(name):
    function, shapes, _ = {**PRODUCTS, **OTHERS}[name]
    for call in recorded(function, *(torch.rand(s) + 0.1 for s in shapes)):
        for expected in exact_and_bound(call, Numerics()):
            assert expected is None or expected.free is None, call.operator


def only(function, *operands, name=None, numerics=None):
    """Return what the single tensor of the last call must be."""
    *_, call = recorded(function, *operands, name=name)
    return exact_and_bound(call, numerics or Numerics())[0]


def test_a_negative_divisor_is_no_negative_bound():
    x = torch.rand(1, 1, 4, 4)
    expected = only(lambda x: F.avg_pool2d(x, 2, divisor_override=-3), x)
    assert (expected.bound > 0).all()
    assert (expected.share(torch.full((1, 1, 2, 2), 7.0)) > 1).all()


def test_a_negative_bound_is_no_bound(monkeypatch):
    call = recorded(torch.tanh, torch.ones(3))[0]
    monkeypatch.setitem(rules.RULES, "tanh", lambda operator, exact: -exact)
    assert exact_and_bound(call, Numerics()) is None
    assert "negative" in tried(call, Numerics())[1]


def test_a_rule_that_fails_costs_its_operator_only(monkeypatch):
    def fails(operator, exact):
        raise IndexError("no such dimension")

    monkeypatch.setitem(rules.RULES, "tanh", fails)
    found = check_operators(recorded(lambda x: x.tanh() + 1, torch.ones(3)), Device("cpu"))
    assert [r.passed for r in found] == [None, True]
    end = "for aten.tanh.default: IndexError: no such dimension"
    assert found[0].note == f"no bound is known {end}"


@pytest.mark.parametrize(
    ("function", "shape"),
    [
        (lambda x: x.softmax(0), ()),
        (lambda x: x.log_softmax(0), ()),
        (lambda x: x.cumsum(0) + x.cumprod(0), ()),
        (lambda x: x.logsumexp(0), ()),
        (lambda x: x.logsumexp((0, 2)), (2, 3, 4)),
        (lambda x: x.logsumexp((0, -1), keepdim=True), (2, 3, 4)),
        (lambda x: x[:, :0] @ x[:0], (3, 3)),
        (lambda x: torch.addmm(x, x[:, :0], x[:0], beta=0.3), (3, 3)),
        (lambda x: F.conv2d(x[:, :0], torch.ones(3, 0, 1, 1)), (1, 2, 3, 3)),
    ],
)
def test_odd_shapes(function, shape):
    for call in recorded(function, torch.randn(shape)):
        assert max(shares(call), default=0) <= 1, call.operator


def test_complex_results_have_a_bound_for_each_component():
    x = torch.tensor([1 + 2j, 3 - 1j])
    expected = only(lambda x: x * x, x)
    off = torch.tensor([1 + 1e-7j, 1e-3])
    share = expected.share(x * x * off)
    assert share[0] <= 1 < share[1]
    last_bit = torch.complex((x * x).real, (x * x).imag * (1 + 2 * U))
    assert (expected.share(last_bit) <= 1).all()
    assert (only(torch.abs, x).bound > 0).all()
    total = only(lambda x: x.sum(0, dtype=torch.complex64), x)
    assert 0 < float(total.bound) < 1e-5


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.argmax(1),
        lambda x: x.argmin(1, keepdim=True),
        lambda x: x.max(1),
        lambda x: x.min(1),
        lambda x: x.topk(2, 1),
        lambda x: x.sort(1),
        lambda x: x.median(1),
        lambda x: x.kthvalue(2, 1),
        lambda x: x.mode(1),
        lambda x: x.cummax(1),
    ],
)
def test_an_index_must_select_the_value(function):
    """Any index of equal values passes, no other index does."""
    tied = torch.tensor([[1.0, 1.0, 1.0, 1.0], [2.0, 2.0, 2.0, 2.0]])
    *_, call = recorded(function, tied)
    indices = exact_and_bound(call, Numerics())[-1]
    size = tied.shape[call.arguments["dim"]]
    found = tensors(call.result)[-1]
    for index in range(size):
        assert (indices.share(torch.full_like(found, index)) == 0).all()
    for index in (-1, size):
        assert (indices.share(torch.full_like(found, index)) == math.inf).all()
    different = torch.arange(8.0).view(2, 4)
    *_, call = recorded(function, different)
    right = tensors(call.result)[-1]
    indices = exact_and_bound(call, Numerics())[-1]
    wrong = (right + 1) % different.shape[call.arguments["dim"]]
    assert (indices.share(right) == 0).all() and (indices.share(wrong) == math.inf).all()


@pytest.mark.parametrize("odd", [math.nan, math.inf])
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_nan_in_an_interpolation_voids_its_neighbours_only(mode, odd):
    x = torch.randn(1, 1, 16, 16)
    x[0, 0, 2, 2] = odd
    expected = only(lambda x: F.interpolate(x, (32, 32), mode=mode), x)
    found = expected.exact.float()
    assert (expected.share(found) <= 1).all()
    found[..., 4, 4] = 7  # a weight of almost 0 may be 0
    assert (expected.share(found) <= 1).all()
    found[..., 20, 20] += 1
    assert float(expected.share(found)[0, 0, 20, 20]) > 1


@pytest.mark.parametrize(
    ("function", "operand", "found"),
    [
        (lambda x: torch.linalg.vector_norm(x), [3e19, 4e19], math.inf),
        (lambda x: torch.linalg.vector_norm(x, 3), [3e15, 4e15], math.inf),
        (lambda x: x.sum(), [3e38, 3e38, -3e38], math.inf),
        (lambda x: x.mean(), [3e38, 3e38], math.inf),
        (lambda x: x.prod(), [1e30, 1e30, 1e-30], math.inf),
        (lambda x: x.prod(), [1e-30, 1e-30, 1e30], 0.0),
        (lambda x: x.var(), [1e20, 2e20, 3e18], math.nan),
        (lambda x: F.layer_norm(x, (3,)), [1e20, 2e20, 3e18], 0.0),
        (lambda x: torch.hypot(x, x), [1e30], math.inf),
    ],
)
def test_a_usual_algorithm_may_overflow_on_the_way(function, operand, found):
    expected = only(function, torch.tensor(operand))
    assert expected.exact.isfinite().all()
    assert (expected.share(torch.full(expected.exact.shape, found)) <= 1).all()
    tame = only(function, torch.tensor(operand) / 2.0**80)
    assert not (tame.share(torch.full(tame.exact.shape, math.inf)) <= 1).any()


@pytest.mark.parametrize("order", [0, 0.5, 1, 2, 3])
def test_a_norm_of_nothing_is_exact(order):
    expected = only(lambda x: torch.linalg.vector_norm(x, order, 0), torch.ones(0, 3))
    found = expected.exact.float()
    assert (expected.share(found) == 0).all()
    assert (expected.share(found + 1) > 1).all()


@pytest.mark.parametrize(
    ("function", "flushed"),
    [
        (torch.log, -math.inf),
        (torch.sqrt, 0.0),
        (torch.rsqrt, math.inf),
        (lambda x: x * 2.0**100, 0.0),
        (lambda x: x**0.5, 0.0),
        (lambda x: (x > 0).float(), 0.0),
        (F.relu, 0.0),
        (lambda x: x > 0, False),
        (torch.sign, 0.0),
    ],
)
def test_subnormal_operands_may_be_flushed(function, flushed):
    x = torch.tensor([2.0**-130])
    for call in recorded(function, x)[:1]:
        (expected,) = exact_and_bound(call, Numerics())
        device = torch.full_like(expected.exact, flushed)
        assert float(expected.share(device)) <= 1
        assert float(expected.share(call.result)) <= 1
        wrong = ~device if device.dtype == torch.bool else device + 3
        assert device.dtype == torch.bool or float(expected.share(wrong.nan_to_num())) > 1


def test_moved_values_are_not_flushed():
    expected = only(lambda x: x.roll(1), torch.tensor([2.0**-130, 1.0]))
    assert expected.share(torch.tensor([1.0, 0.0])).tolist() == [0, math.inf]


def test_float64_has_its_own_rounding_unit():
    x = torch.rand(3, 4, dtype=torch.float64)
    for function in (lambda x: x @ x.T, lambda x: x.sum(), torch.exp):
        expected = only(function, x)
        assert (expected.share(expected.exact * (1 + 2e-16)) <= 1).all()
        assert (expected.share(expected.exact * (1 + 1e-12)) > 1).all()
        coarse = only(function, x, numerics=Numerics(matmul="bf16"))
        assert torch.equal(coarse.bound, expected.bound)


def test_integers_become_float64():
    expected = only(lambda x: x / 3, torch.tensor([1, 2]))
    assert expected.exact.dtype == torch.float64 and float(expected.exact[0]) == 1 / 3


def test_boxes_whose_overlap_rounding_decides_have_no_bound():
    def suppressed(boxes, scores):
        call = recorded(lambda b: torchvision.ops.nms(b, scores, 0.5), boxes, name="nms")[0]
        return tried(call, Numerics())

    scores = torch.tensor([0.9, 0.8])
    boxes = torch.tensor([[0.0, 0.0, 1.0, 2.0], [0.0, 0.0, 1.0, 1.5]])
    (kept,), _ = suppressed(boxes, scores)
    assert kept.exact.tolist() == [0]
    boxes[1, 3] = 1.0
    found, why = suppressed(boxes, scores)
    assert found is None and "rounding" in why
    boxes[1, 3] = 1.5
    assert "equal scores" in suppressed(boxes, torch.tensor([0.5, 0.5]))[1]


def test_an_operator_of_another_library_is_not_judged_by_its_name():
    library = torch.library.Library("npu_parity_test", "FRAGMENT")
    library.define("tanh(Tensor x) -> Tensor")
    library.impl("tanh", lambda x: 2 * x, "CPU")
    calls = recorded(torch.ops.npu_parity_test.tanh, torch.ones(2), name="tanh")
    assert calls and exact_and_bound(calls[0], Numerics()) is None


def test_rounding_decides_between_neighbours_of_nearest_exact():
    x = torch.arange(8.0).view(1, 1, 8)
    expected = only(lambda x: F.interpolate(x, 5, mode="nearest-exact"), x)
    assert expected.free.tolist() == [[[False, False, True, False, False]]]  # 2.5 * 8 / 5 = 4
    assert expected.share(x[..., [0, 2, 3, 5, 7]]).max() == 0
    assert expected.share(x[..., [0, 1, 4, 5, 7]]).max() == math.inf
