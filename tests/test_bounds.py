"""Every bound against real float32 kernels and emulated ones, at random shapes and magnitudes."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from npu_parity.numerics.emulation import emulate
from npu_parity.numerics.formats import FORMATS, ROUNDINGS, Numerics
from npu_parity.verdict.bounds import Expected, exact_and_bound
from npu_parity.verdict.bounds.arithmetic import TINY, U
from npu_parity.verdict.kernels import execute
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
            assert e.bound.shape == e.exact.shape and e.bound.dtype == e.exact.dtype
            bound = e.bound[e.exact.isfinite()]
            assert ((bound > 0) & (bound < math.inf)).all()
    return [float(e.share(f).max()) for e, f in pairs if e is not None]


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


PLANE = (2, 6, 9, 8)
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
        assert float(expected.bound[i, j]) == pytest.approx(bound, rel=1e-9)
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
    assert indices is None and values.bound is None
    assert float(values.share(torch.full((1, 1, 1, 1), 1e-30))) == math.inf


@pytest.mark.parametrize(
    ("function", "operand"),
    [
        (lambda x: F.interpolate(x, (5, 5), mode="bicubic"), torch.randn(1, 2, 8, 8)),
        (torch.rand_like, torch.randn(3)),
        (lambda x: torch.randint_like(x, 9), torch.arange(3)),
        (lambda x: x @ x, torch.randn(3, 3).double()),
        (lambda x: x.index_put([torch.tensor([0, 0])], x[:2], accumulate=True), torch.randn(3)),
        (lambda x: torch.linalg.vector_norm(x, ord=3), torch.randn(3)),
    ],
)
def test_what_has_no_bound_says_so(function, operand):
    assert any(exact_and_bound(c, Numerics()) is None for c in recorded(function, operand))
