"""Oracles: gfloat, ml_dtypes and torch's casts for rounding, float64 for error bounds."""

import itertools

import ml_dtypes
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from gfloat import Domain, FormatInfo, RoundMode, round_ndarray
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from npu_parity.errors import ParityError
from npu_parity.numerics.emulation import Emulation, emulate
from npu_parity.numerics.formats import FORMATS, PRESETS, ROUNDINGS, Numerics
from npu_parity.numerics.probing import probe
from npu_parity.numerics.rounding import round_mantissa, round_to
from npu_parity.verdict.recording import record

GFLOAT = {
    "nearest_even": RoundMode.TiesToEven,
    "nearest_away": RoundMode.TiesToAway,
    "toward_zero": RoundMode.TowardZero,
}
REDUCED = [name for name in FORMATS if name != "fp32"]
GRAD_MODES = [torch.no_grad, torch.inference_mode]

# The tails of a bit pattern that decide a rounding when `k` bits are dropped.
TAILS = [
    (k, tail)
    for k in range(1, 24)
    for tail in {0, 1, 2 ** (k - 1) - 1, 2 ** (k - 1), 2 ** (k - 1) + 1, 2**k - 1}
]


def from_patterns(patterns) -> torch.Tensor:
    return torch.from_numpy(np.asarray(patterns, dtype=np.uint32).view(np.float32).copy())


def assert_same(a: torch.Tensor, b: torch.Tensor) -> None:
    """Equal bit by bit, signs of zero included; a NaN equals any NaN."""
    assert a.dtype == b.dtype == torch.float32 and a.shape == b.shape
    wrong = (a.view(torch.int32) != b.view(torch.int32)) & ~(a.isnan() & b.isnan())
    assert not wrong.any(), (a[wrong], b[wrong])


def gfloat_round(x, bits, rounding, exponent_bits=8):
    info = FormatInfo(
        "",
        1 + exponent_bits + bits,
        bits + 1,
        bias=2 ** (exponent_bits - 1) - 1,
        is_signed=True,
        domain=Domain.Extended,
        has_nz=True,
        num_high_nans=max(2**bits - 1, 0),
        has_subnormals=True,
        is_twos_complement=False,
    )
    with np.errstate(over="ignore", invalid="ignore"):
        rounded = round_ndarray(info, x.numpy().astype(np.float64), GFLOAT[rounding])
        return torch.from_numpy(rounded.astype(np.float32))


patterns = st.lists(
    st.one_of(
        st.integers(0, 2**32 - 1),
        st.builds(
            lambda high, tail: (high >> tail[0] << tail[0]) | tail[1],
            st.integers(0, 2**32 - 1),
            st.sampled_from(TAILS),
        ),
    ),
    min_size=1,
    max_size=64,
).map(from_patterns)
roundings = st.sampled_from(ROUNDINGS)
reduced = st.sampled_from(REDUCED)


# Rounding


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("name", FORMATS)
def test_every_exponent_and_tie_as_in_gfloat(name, rounding):
    heads = np.random.default_rng(0).integers(0, 2**23, len(TAILS))
    mantissas = [(head >> k << k) | tail for head, (k, tail) in zip(heads, TAILS, strict=True)]
    exponents = np.arange(512)[:, None] << 23  # and signs
    x = from_patterns((exponents | np.array([0, *mantissas])).ravel())
    f = FORMATS[name]
    expected = gfloat_round(x, f.mantissa_bits, rounding, f.exponent_bits)
    assert_same(round_to(x, name, rounding), expected)


@given(patterns, st.integers(1, 23), roundings)
def test_any_number_of_bits_as_in_gfloat(x, bits, rounding):
    assert_same(round_mantissa(x, bits, rounding), gfloat_round(x, bits, rounding))


@given(patterns)
def test_casts_as_in_ml_dtypes(x):
    with np.errstate(over="ignore", invalid="ignore"):
        for name, dtype in ("bf16", ml_dtypes.bfloat16), ("fp16", np.float16):
            expected = torch.from_numpy(x.numpy().astype(dtype).astype(np.float32))
            assert_same(round_to(x, name), expected)


@given(patterns)
def test_the_bit_trick_equals_torchs_cast(x):
    assert_same(round_mantissa(x, 7), x.to(torch.bfloat16).to(torch.float32))


def test_no_bits_leave_powers_of_two():
    x = torch.tensor([1.0, 1.25, 1.75, -3.5, 0.0, torch.inf])
    assert_same(round_mantissa(x, 0), torch.tensor([1.0, 1.0, 2.0, -4.0, 0.0, torch.inf]))
    assert_same(
        round_mantissa(x, 0, "toward_zero"), torch.tensor([1.0, 1.0, 1.0, -2.0, 0.0, torch.inf])
    )


@given(patterns, reduced, roundings)
def test_error_is_within_the_unit_roundoff(x, name, rounding):
    f = FORMATS[name]
    exact = x.double()
    lowest = 2.0 ** (2 - 2 ** (f.exponent_bits - 1))
    x, exact = (t[(exact.abs() >= lowest) & (exact.abs() < 1 / lowest)] for t in (x, exact))
    error = (round_to(x, name, rounding).double() - exact).abs()
    u = f.unit_roundoff * (2 if rounding == "toward_zero" else 1)
    assert (error <= u * exact.abs()).all()


@given(patterns, reduced, roundings)
def test_idempotent_odd_and_monotonic(x, name, rounding):
    rounded = round_to(x, name, rounding)
    assert_same(round_to(rounded, name, rounding), rounded)
    assert_same(round_to(-x, name, rounding), -rounded)
    ordered = x[~x.isnan()].sort().values
    rounded = round_to(ordered, name, rounding)
    assert (rounded[1:] >= rounded[:-1]).all()


@given(patterns, reduced)
def test_toward_zero_never_grows(x, name):
    x = x[~x.isnan()]
    assert (round_to(x, name, "toward_zero").abs() <= x.abs()).all()


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("name", FORMATS)
def test_special_values(name, rounding):
    nans = [0x7FC00000, 0x7F800001, 0x7FFFFFFF, 0xFFFFFFFF, 0xFF800001]
    assert round_to(from_patterns(nans), name, rounding).isnan().all()
    rest = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, 1.0, -2.0])
    assert_same(round_to(rest, name, rounding), rest)


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("name", FORMATS)
def test_input_is_kept_and_layout_follows_it(name, rounding):
    x = torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    before = x.clone()
    rounded = round_to(x, name, rounding)
    assert_same(x, before)
    assert rounded.stride() == x.stride()
    assert (rounded is x) == (name == "fp32")
    assert_same(round_to(x[0].mT, name, rounding), rounded[0].mT)
    assert_same(round_to(x[:1].expand(3, 3, 4, 5), name, rounding), rounded[:1].expand(3, 3, 4, 5))
    assert round_to(torch.empty(0), name, rounding).shape == (0,)
    assert round_to(torch.tensor(1 / 3), name, rounding).shape == ()
    if name != "fp32":
        out = torch.empty_like(x)
        assert round_to(nn.Parameter(x), name, rounding, out=out) is out
        assert_same(out, rounded)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: round_mantissa(torch.ones(1).double(), 7), "float64, expected one of .*float32"),
        (lambda: round_mantissa(torch.ones(1), 24), "mantissa bits: found 24"),
        (lambda: round_mantissa(torch.ones(1), 7, "up"), "rounding: found 'up'"),
        (lambda: round_to(torch.ones(1), "fp8"), "format: found 'fp8', expected one of fp32, hf32"),
        (lambda: round_to(torch.ones(1).half(), "fp16"), "found torch.float16"),
        (lambda: round_to(torch.ones(1), "fp16", "up"), "rounding: found 'up'"),
        (lambda: Numerics(conv="hf23"), "numerics.conv: found 'hf23'"),
        (lambda: Numerics(depthwise_conv="x"), "numerics.depthwise_conv: found 'x'"),
        (lambda: Numerics(matmul=None), "numerics.matmul: found None"),
        (lambda: Numerics(rounding="x"), "numerics.rounding: found 'x'"),
        (lambda: Numerics.from_dict({"gemm": "hf32"}), "key of numerics: found 'gemm'"),
        (lambda: Numerics.from_dict({"conv": ["hf32"]}), "numerics.conv: found"),
    ],
)
def test_mistakes_are_told_in_one_line(call, message):
    with pytest.raises(ParityError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


# Numerics


def test_formats_and_unit_roundoffs():
    assert {name: f.unit_roundoff for name, f in FORMATS.items()} == {
        "fp32": 2**-24,
        "hf32": 2**-12,
        "tf32": 2**-11,
        "fp16": 2**-11,
        "bf16": 2**-8,
    }
    assert list(FORMATS) == ["fp32", "hf32", "tf32", "fp16", "bf16"]


@pytest.mark.parametrize("numerics", PRESETS.values(), ids=PRESETS)
def test_numerics_survive_a_dictionary(numerics):
    assert Numerics.from_dict(numerics.to_dict()) == numerics


def test_exact_means_that_nothing_is_rounded():
    assert Numerics().is_exact and Numerics(rounding="toward_zero").is_exact
    assert Numerics(depthwise_conv="fp32").is_exact
    for key in "conv", "depthwise_conv", "matmul":
        assert not Numerics.from_dict({key: "hf32"}).is_exact
    assert [name for name, n in PRESETS.items() if n.is_exact] == ["ieee"]


# Emulation


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def run(mode, numerics, function):
    with mode(), emulate(numerics):
        return function()


class Record(TorchDispatchMode):
    """Names of the operators that reach the device."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


CONVOLUTIONS = {
    "conv2d": (F.conv2d, (2, 6, 9, 9), (8, 6, 3, 3), {"stride": 2, "padding": 1}),
    "unbatched": (F.conv2d, (6, 9, 9), (8, 6, 3, 3), {}),
    "same": (F.conv2d, (2, 6, 9, 9), (8, 6, 3, 3), {"padding": "same"}),
    "grouped": (F.conv2d, (2, 6, 9, 9), (8, 3, 3, 3), {"groups": 2}),
    "conv1d": (F.conv1d, (2, 6, 9), (8, 6, 3), {}),
    "conv3d": (F.conv3d, (1, 6, 5, 5, 5), (8, 6, 3, 3, 3), {}),
    "transposed": (F.conv_transpose2d, (2, 6, 9, 9), (6, 8, 3, 3), {"stride": 2}),
}


@pytest.mark.parametrize("mode", GRAD_MODES)
@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_convolution_of_rounded_operands(case, rounding, mode):
    convolve, x_shape, w_shape, options = CONVOLUTIONS[case]
    x, w, bias = torch.randn(x_shape), torch.randn(w_shape), torch.randn(8)
    plain = convolve(x, w, bias, **options)
    for name in REDUCED:
        numerics = Numerics(conv=name, rounding=rounding)
        found = run(mode, numerics, lambda: convolve(x, w, bias, **options))
        rounded = round_to(x, name, rounding), round_to(w, name, rounding)
        assert_same(found, convolve(*rounded, bias, **options))
        assert not found.equal(plain)


@pytest.mark.parametrize("mode", GRAD_MODES)
@pytest.mark.parametrize("convolve", [F.conv2d, F.conv_transpose2d])
def test_depthwise_convolutions_have_their_own_format(convolve, mode):
    x, w = torch.randn(1, 8, 9, 9), torch.randn(8, 1, 3, 3)

    def depthwise():
        return convolve(x, w, groups=8)

    rounded = convolve(round_to(x, "bf16"), round_to(w, "bf16"), groups=8)
    assert_same(run(mode, Numerics(conv="bf16"), depthwise), rounded)
    assert_same(run(mode, Numerics(depthwise_conv="bf16"), depthwise), rounded)
    assert_same(run(mode, PRESETS["cpu_bf16"], depthwise), depthwise())


@pytest.mark.parametrize("groups", [1, 2])
def test_one_group_or_groups_of_several_channels_are_not_depthwise(groups):
    x, w = torch.randn(1, groups**2, 9, 9), torch.randn(4, groups, 3, 3)
    found = run(torch.no_grad, PRESETS["cpu_bf16"], lambda: F.conv2d(x, w, groups=groups))
    assert_same(found, F.conv2d(round_to(x, "bf16"), round_to(w, "bf16"), groups=groups))


A, B, V = (3, 4, 5), (3, 5, 6), (5,)
PRODUCTS = {
    "mm": (lambda a, b: a[0] @ b[0], A, B),
    "keywords": (lambda a, b: torch.ops.aten.mm(self=a[0], mat2=b[0]), A, B),
    "out": (lambda a, b: torch.mm(a[0], b[0], out=torch.empty(4, 6)), A, B),
    "bmm": (torch.bmm, A, B),
    "matmul": (torch.matmul, A, B[1:]),
    "mv": (torch.matmul, A[1:], V),
    "dot": (torch.dot, V, V),
    "vdot": (torch.vdot, V, V),
    "linear": (lambda a, b: F.linear(a, b, torch.full((4,), 1 / 3)), A, A[1:]),
    "vector linear": (lambda a, b: F.linear(a, b, torch.full((4,), 1 / 3)), V, A[1:]),
    "addmm": (lambda a, b: torch.addmm(torch.full((6,), 1 / 3), a, b), A[1:], B[1:]),
    "addmm_": (lambda a, b: torch.full((4, 6), 1 / 3).addmm_(a, b), A[1:], B[1:]),
    "addmv": (lambda a, b: torch.addmv(torch.full((4,), 1 / 3), a, b), A[1:], V),
    "baddbmm": (lambda a, b: torch.baddbmm(torch.full((6,), 1 / 3), a, b), A, B),
    "addbmm": (lambda a, b: torch.addbmm(torch.full((6,), 1 / 3), a, b), A, B),
    "einsum": (lambda a, b: torch.einsum("bij,bjk->ki", a, b), A, B),
    "tensordot": (lambda a, b: torch.tensordot(a, b, dims=([0, 2], [0, 1])), A, B),
}


@pytest.mark.parametrize("mode", GRAD_MODES)
@pytest.mark.parametrize("case", PRODUCTS)
def test_matrix_product_of_rounded_operands(case, mode):
    multiply, *shapes = PRODUCTS[case]
    a, b = map(torch.randn, shapes)
    found = run(mode, Numerics(matmul="bf16"), lambda: multiply(a, b))
    assert_same(found, multiply(round_to(a, "bf16"), round_to(b, "bf16")))
    assert not found.equal(multiply(a, b))
    assert_same(run(mode, Numerics(conv="bf16"), lambda: multiply(a, b)), multiply(a, b))


@pytest.mark.parametrize("mode", GRAD_MODES)
def test_bias_and_other_operators_are_not_rounded(mode):
    x = torch.full((1, 2, 4, 4), 1 + 2**-20)
    numerics = Numerics(conv="bf16", matmul="bf16")

    def others():
        return F.batch_norm(x, x[0, :, 0, 0], x[0, :, 0, 0]), F.softmax(x, 1), x * x + x, x.mean()

    for found, expected in zip(run(mode, numerics, others), others(), strict=True):
        assert_same(found, expected)
    bias = torch.full((2,), 1 + 2**-20)
    zeros = torch.zeros(2, 2)
    assert_same(run(mode, numerics, lambda: F.linear(zeros, zeros, bias))[0], bias)
    kernel = zeros[:, :, None, None]
    assert_same(run(mode, numerics, lambda: F.conv2d(x, kernel, bias))[0, :, 0, 0], bias)


@pytest.mark.parametrize("mode", GRAD_MODES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes_are_left_alone(dtype, mode):
    a, b = torch.randn(4, 4, dtype=dtype), torch.randn(4, 4, dtype=dtype)
    numerics = Numerics(conv="bf16", matmul="bf16", rounding="toward_zero")
    assert run(mode, numerics, lambda: a @ b).equal(a @ b)


@pytest.mark.parametrize("mode", GRAD_MODES)
def test_attention_is_taken_apart(mode):
    # A head size of 16 scales by a power of two, which commutes with rounding.
    q, k, v = torch.randn(3, 2, 4, 10, 16)

    def attend():
        return F.scaled_dot_product_attention(q, k, v)

    def by_hand(name):
        scores = round_to(q, name) @ round_to(k, name).mT / 4
        return round_to(scores.softmax(-1), name) @ round_to(v, name)

    for name in "hf32", "bf16":
        found = run(mode, Numerics(matmul=name), attend)
        assert (found - by_hand(name)).norm() < 0.05 * (found - attend()).norm()
    with Record() as record:
        run(mode, Numerics(matmul="hf32"), attend)
    assert record.names.count("bmm") == 2
    assert not any("attention" in name for name in record.names)


@pytest.mark.parametrize("mode", GRAD_MODES)
def test_fused_encoder_layers_are_taken_apart(mode):
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval()
    x = torch.randn(2, 5, 16)
    with Record() as record:
        run(mode, Numerics(matmul="bf16"), lambda: layer(x))
    assert sum(name in ("mm", "addmm", "bmm") for name in record.names) == 6
    with Record() as record, mode():
        layer(x)
    assert record.names == ["_transformer_encoder_layer_fwd"]  # what emulate has to prevent


@pytest.mark.parametrize("mode", GRAD_MODES)
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}], ids=str)
def test_fused_lstms_are_taken_apart(mode, options):
    lstm = nn.LSTM(4, 5, **options).eval()
    x = torch.randn(3, 2, 4)
    with torch.no_grad():
        expected = lstm(x)[0]
    found = run(mode, Numerics(matmul="bf16"), lambda: lstm(x)[0])
    assert 1e-4 < (found - expected).norm() / expected.norm() < 1e-1
    calls = record(lstm, x)
    assert not any(call.name == "mkldnn_rnn_layer" for call in calls)
    last = next(c.result for c in reversed(calls) if c.result.shape == expected.shape)
    assert torch.allclose(last, expected, atol=1e-6)
    cell = nn.LSTM(4, 5, bias=False).eval()
    states = torch.randn(2, 1, 2, 5)
    with torch.no_grad():
        expected = cell(x, (states[0], states[1]))[1][1]
    with mode(), Emulation(Numerics(matmul="hf32")):
        found = cell(x, (states[0], states[1]))[1][1]
    assert (found - expected).norm() / expected.norm() < 1e-2


@pytest.mark.parametrize("mode", GRAD_MODES)
def test_products_out_of_reach_are_an_error(mode):
    with pytest.raises(ParityError, match=r"attention.*expected separate"), mode():  # noqa: SIM117
        with Emulation(Numerics(matmul="bf16")):
            F.scaled_dot_product_attention(*torch.randn(3, 1, 2, 5, 4))


def network():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.MaxPool2d(2),
        nn.Flatten(2),
        nn.TransformerEncoderLayer(49, 7, 32, batch_first=True),
        nn.Flatten(),
        nn.Linear(392, 10),
    ).eval()


@pytest.mark.parametrize("mode", GRAD_MODES)
def test_exact_numerics_change_no_bit(mode):
    model, x = network(), torch.randn(4, 3, 16, 16)
    with mode():
        assert_same(run(mode, Numerics(), lambda: model(x)), model(x))


def test_grad_modes_agree_and_may_follow_each_other():
    model, x = network(), torch.randn(4, 3, 16, 16)
    numerics = Numerics(conv="hf32", matmul="hf32")
    alone = [run(mode, numerics, lambda: model(x)) for mode in GRAD_MODES]
    assert_same(*(t.clone() for t in alone))
    with emulate(numerics):
        for mode in torch.inference_mode, torch.no_grad, torch.inference_mode:
            with mode():
                assert_same(model(x), alone[0])
        assert_same(model(x).detach(), alone[0])


def test_nothing_is_left_behind():
    def state():
        names = "flash", "mem_efficient", "math", "cudnn"
        flags = [getattr(torch.backends.cuda, f"{name}_sdp_enabled")() for name in names]
        return torch.backends.mha.get_fastpath_enabled(), *flags

    before = state()
    with pytest.raises(KeyError), emulate(Numerics(matmul="bf16")):
        assert state() != before
        raise KeyError
    assert state() == before
    x = torch.full((1, 1), 1 + 2**-20)
    assert_same(x @ torch.ones(1, 1), x)


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("channels", [1, 16, 64])
def test_error_is_within_the_elementwise_bound(channels, name, rounding):
    """Higham, ASNA, 2nd ed., chapter 3: (2u + u^2 + n 2^-24) (|x| * |w|)."""
    x, w = torch.randn(2, channels, 8, 8), torch.randn(8, channels, 3, 3)
    x, w = (t.sign() * t.abs().clamp(2**-10, 2**10) for t in (x, w))  # fp16's normal numbers
    with torch.no_grad(), emulate(Numerics(conv=name, rounding=rounding)):
        found = F.conv2d(x, w).double()
    x, w = x.double(), w.double()
    error, size = (found - F.conv2d(x, w)).abs(), F.conv2d(x.abs(), w.abs())

    def bound(u):
        return 2 * u + u**2 + channels * 9 * 2**-24

    u = FORMATS[name].unit_roundoff * (2 if rounding == "toward_zero" else 1)
    assert (error <= bound(u) * size).all()
    # Not vacuous: a format of four bits fewer would be noticed.
    if name != "fp32" and channels == 1:
        assert (error > bound(u / 16) * size).any()


# The probe


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("name", FORMATS)
def test_probe_names_what_is_emulated(name, rounding):
    exact = {"mantissa_bits": 23, "rounding": None, "format": "fp32"}
    bits = FORMATS[name].mantissa_bits
    reduced = {"mantissa_bits": bits, "rounding": rounding, "format": name}
    expected = exact if name == "fp32" else reduced
    with emulate(Numerics(conv=name, rounding=rounding)):
        assert probe() == {"conv": expected, "matmul": exact}
    with torch.inference_mode(), emulate(Numerics(matmul=name, rounding=rounding)):
        assert probe() == {"conv": exact, "matmul": expected}


@pytest.mark.parametrize(("bits", "rounding"), list(itertools.product((1, 8, 22), ROUNDINGS)))
def test_probe_of_a_format_without_a_name(bits, rounding):
    found = probe(lambda x, w: F.conv2d(round_mantissa(x, bits, rounding), w))
    assert found["conv"] == {"mantissa_bits": bits, "rounding": rounding, "format": None}


@pytest.mark.parametrize(("name", "dtype"), [("fp16", torch.float16), ("bf16", torch.bfloat16)])
def test_probe_of_torchs_own_kernels(name, dtype):
    found = probe(lambda x, w: F.conv2d(x.to(dtype), w.to(dtype)).float())
    bits = FORMATS[name].mantissa_bits
    assert found["conv"] == {"mantissa_bits": bits, "rounding": "nearest_even", "format": name}


def test_probe_of_an_unknown_rounding():
    def away_from_zero(x):
        down = round_mantissa(x, 11, "toward_zero")
        return torch.where(down == x, x, down + down.sign() * 2**-11)

    found = probe(lambda x, w: F.conv2d(away_from_zero(x), w))
    assert found["conv"] == {"mantissa_bits": 11, "rounding": None, "format": "hf32"}
    assert probe(lambda x, w: x * torch.nan)["conv"]["mantissa_bits"] == 0


@pytest.fixture
def onednn_bf16(request):
    """Have oneDNN use bf16 units for float32 operands of "conv" or "matmul"; skip without."""
    kind = request.param
    backend = getattr(torch.backends.mkldnn, kind, None)
    if not hasattr(backend, "fp32_precision"):
        pytest.skip(f"torch {torch.__version__} has no torch.backends.mkldnn.{kind}.fp32_precision")
    x, w, a = torch.randn(16, 64, 14, 14), torch.randn(64, 64, 3, 3), torch.randn(512, 512)
    function = {"conv": lambda: F.conv2d(x, w), "matmul": lambda: a @ a}[kind]
    before, plain = backend.fp32_precision, function()
    try:
        backend.fp32_precision = "bf16"
        if (function() - plain).norm() < 1e-4 * plain.norm():
            pytest.skip(f"oneDNN runs a float32 {kind} in float32 on this CPU")
        yield kind
    finally:
        backend.fp32_precision = before


@pytest.mark.parametrize("onednn_bf16", ["conv", "matmul"], indirect=True)
def test_probe_finds_the_bf16_units_of_a_cpu(onednn_bf16):
    expected = {"mantissa_bits": 7, "rounding": "nearest_even", "format": "bf16"}
    assert probe()[onednn_bf16] == expected


@pytest.mark.parametrize("onednn_bf16", ["conv"], indirect=True)
def test_depthwise_convolutions_of_a_cpu_stay_in_float32(onednn_bf16):
    x, w = torch.randn(16, 64, 14, 14), torch.randn(64, 1, 3, 3)
    exact = F.conv2d(x.double(), w.double(), groups=64)
    assert (F.conv2d(x, w, groups=64) - exact).norm() < 1e-6 * exact.norm()


def test_weights_are_rounded_anew_when_they_change():
    layer = nn.Conv2d(1, 1, 1, bias=False)
    x = torch.ones(1, 1, 1, 1)
    value = 1 + 3 * 2.0**-13  # of which HF32 keeps 12 significant bits
    with torch.no_grad(), emulate(PRESETS["ascend910b"]):
        for factor in (1, 2, 0.5):
            layer.weight.fill_(value * factor)
            rounded = round_mantissa(layer.weight, 11)
            assert layer(x).item() == layer(x).item() == rounded.item() != value * factor
        layer.weight = nn.Parameter(torch.full((1, 1, 1, 1), -value))
        assert layer(x).item() == round_mantissa(layer.weight, 11).item()


def test_network_made_in_inference_mode():
    """Its weights have no version to tell a change by: they are rounded in every pass."""
    with torch.inference_mode():
        layer = nn.Conv2d(1, 1, 1, bias=False)
        x = torch.ones(1, 1, 1, 1)
        with emulate(PRESETS["ascend910b"]):
            for value in (1 + 3 * 2.0**-13, 1 + 2.0**-13):
                layer.weight.fill_(value)
                assert layer(x).item() == round_mantissa(layer.weight, 11).item() != value
