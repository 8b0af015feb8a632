"""Question 2 of products: sound kernels pass three tests, small faults do not."""

import math
import runpy
from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_numerics import gfloat_round
from torch import nn

from npu_parity.backends.device import Device
from npu_parity.numerics.emulation import emulate
from npu_parity.numerics.formats import Numerics
from npu_parity.numerics.rounding import round_mantissa, round_to
from npu_parity.verdict import kernels, statistic
from npu_parity.verdict.bounds.products import Product
from npu_parity.verdict.bounds.rules import Operator
from npu_parity.verdict.kernels import check_operator, check_operators, execute
from npu_parity.verdict.operators import IDENTICAL, NO_BOUND, without_bound
from npu_parity.verdict.recording import record

CPU = Device("cpu")
TRIALS = 20


class Net(nn.Module):
    """A function as a network."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def calls_of(function, x):
    """Record the products of a function."""
    names = {"mm", "bmm", "addmm", "convolution"}
    return [c for c in record(Net(function).eval(), x) if c.name in names]


def only(results):
    (result,) = results
    return result


def everywhere(form):
    return Numerics(conv=form, matmul=form)


def sound(numerics):
    """Return a device that keeps its promise."""

    def run(call, target):
        with emulate(numerics):
            return execute(call, target)

    return run


def checked(function, x, form="hf32", kernel=None):
    """Check a product on a sound device, or with a kernel of its two operands."""
    numerics = everywhere(form)
    calls = calls_of(function, x)

    def run(call, target):
        return kernel(*call.args[-2:])

    return only(check_operators(calls, CPU, run if kernel else sound(numerics), numerics))


def operands(n, seed=0, side=64):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(side, n, generator=generator).relu()
    return x, torch.randn(n, side, generator=generator)


# --- Sound operators


def photograph(channels=1, side=48):
    """Return pixels with 256 levels, smooth over most of the image."""
    torch.manual_seed(0)
    coarse = torch.rand(1, channels, 6, 6)
    smooth = F.interpolate(coarse, (side, side), mode="bilinear")
    return (smooth * 255).round() / 255


def filtered(*rows):
    weight = torch.tensor(rows)
    weight = weight[None, None].repeat(3, 1, 1, 1)
    return lambda x: F.conv2d(x, weight, padding=1, groups=3)


def dirac(x):
    return F.conv2d(x, nn.init.dirac_(torch.empty(8, x.shape[1], 3, 3)), padding=1)


def one_hot(x):
    return F.one_hot(torch.arange(48) % 40, 48).float() @ x[0, 0]


def attention(scale):
    def function(x):
        torch.manual_seed(1)
        query, key, value = (torch.randn(2, 50, 16) for _ in range(3))
        return (scale * query @ key.mT).softmax(-1).bmm(value)

    return function


SOBEL = filtered([1.0, 0, -1], [2, 0, -2], [1, 0, -1])
BOX = filtered(*[[1 / 9] * 3] * 3)
SHARP_BOX = filtered(*[[0.125] * 3] * 3)
HAAR = filtered([0.5, -0.5, 0], [0.5, -0.5, 0], [0.0, 0, 0])
BLUR = filtered([1 / 16, 1 / 8, 1 / 16], [1 / 8, 1 / 4, 1 / 8], [1 / 16, 1 / 8, 1 / 16])


@pytest.mark.parametrize("form", ["fp32", "hf32", "tf32", "fp16", "bf16"])
@pytest.mark.parametrize(
    ("function", "channels"),
    [
        *((dirac, 3), (one_hot, 1), (attention(1), 1), (attention(30), 1), (attention(300), 1)),
        *((SOBEL, 3), (BOX, 3), (SHARP_BOX, 3), (HAAR, 3), (BLUR, 3)),
    ],
)
@pytest.mark.parametrize("noise", [0, 1])
def test_operators_whose_results_have_few_bits(function, channels, form, noise):
    """Filters, selections and saturated attention give exact results with few bits."""
    x = photograph(channels)
    x = x + noise * torch.randn_like(x)
    numerics = everywhere(form)
    results = check_operators(calls_of(function, x), CPU, sound(numerics), numerics)
    assert results and all(r.passed for r in results), results


@pytest.mark.parametrize("form", ["fp32", "hf32", "bf16"])
@pytest.mark.parametrize("n", [1, 2, 9, 64, 576, 4608])
@pytest.mark.parametrize("kind", ["one value", "one row", "small", "few values", "tiny", "huge"])
def test_constant_and_unusual_operands_raise_no_alarm(kind, n, form):
    x, w = operands(n)
    if kind == "one value":
        x, w = torch.full_like(x, 0.3), torch.full_like(w, -0.7)
    elif kind == "one row":
        x, w = x[:1].expand_as(x).contiguous(), w[:, :1].expand_as(w)
    elif kind == "small":
        x = 1e-5 + 1e-9 * x
    elif kind == "few values":
        x, w = x.sign(), 0.1 * w.sign()
    elif kind == "tiny":
        x, w = x * 1e-25, w * 1e-19
    elif kind == "huge":
        x, w = x * 1e18, w * 1e18
    result = checked(lambda x: x @ w, x, form)
    assert result.passed, result


def sums_in_order(x, w):
    """Add one term after the other in float32."""
    total = torch.zeros(x.shape[0], w.shape[1])
    for k in range(x.shape[1]):
        total = torch.addcmul(total.double(), x[:, k, None].double(), w[k].double()).float()
    return total


def sums_truncated(x, w, step=8):
    """Truncate a sum after every eight terms, like the matrix units of NVIDIA."""
    total = torch.zeros(x.shape[0], w.shape[1])
    for a, b in zip(x.split(step, 1), w.split(step), strict=True):
        exact = total.double() + a.double() @ b.double()
        total = exact.float()
        past = total.double().abs() > exact.abs()
        total = total.where(~past, total.nextafter(torch.zeros_like(total)))
    return total


@pytest.mark.parametrize("n", [8, 64, 576, 2304])
@pytest.mark.parametrize("add", [sums_in_order, sums_truncated, torch.mm])
@pytest.mark.parametrize("rounding", ["nearest_even", "nearest_away", "fp32"])
def test_other_orders_of_a_sum_and_better_operands_pass(n, add, rounding):
    """A device may use float32 operands where it promises HF32, and may round ties away."""

    def kernel(x, w):
        if rounding != "fp32":
            x, w = (round_to(t, "hf32", rounding) for t in (x, w))
        return add(x, w)

    x, w = operands(n)
    result = checked(lambda x: x @ w, x, kernel=kernel)
    assert result.passed, result
    if rounding != "nearest_away":  # long sums do not show how ties are rounded
        assert result.rms_z < 0.5 * statistic.RMS_Z and result.largest_z < 0.5 * statistic.LARGEST_Z


def test_results_of_a_clean_product_say_how_small_its_errors_are():
    x, w = operands(576)
    result = checked(lambda x: x @ w, x)
    assert 0 < result.predicted_error < 0.1 and 0 < result.rms_z < result.largest_z < 4
    row = result.row()
    found = row["max_error_of_predicted"], row["rms_z"], row["max_z"]
    assert found == (result.predicted_error, result.rms_z, result.largest_z)
    relu = only(check_operators(record(nn.ReLU(), x), CPU))
    assert math.isnan(relu.predicted_error) and math.isnan(relu.rms_z)


# --- Faults


def rounded(*how):
    return lambda x, w: round_to(x, *how) @ round_to(w, *how)


def float16_sums(x, w):
    total = torch.zeros(x.shape[0], w.shape[1])
    for a, b in zip(round_to(x, "hf32").split(16, 1), round_to(w, "hf32").split(16), strict=True):
        total = (total + a @ b).half().float()
    return total


def scaled_tile(error):
    def kernel(x, w):
        y = rounded("hf32")(x, w)
        y[8:16, 8:16] *= 1 + error
        return y

    return kernel


def stored_in(bits):
    return lambda x, w: round_mantissa(rounded("hf32")(x, w), bits)


FAULTS = {
    "TF32 operands": rounded("tf32"),
    "truncation toward zero": rounded("hf32", "toward_zero"),
    "float16 sums": float16_sums,
    "0.1 % in one tile": scaled_tile(1e-3),
    "0.01 % in one tile": scaled_tile(1e-4),
    "results in float16": stored_in(10),
    "results in 18 bits": stored_in(18),
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_small_faults_of_576_terms_are_caught(fault):
    caught = 0
    for seed in range(TRIALS):
        x, w = operands(576, seed)
        result = checked(lambda x, w=w: x @ w, x, kernel=FAULTS[fault])
        caught += result.passed is False and result.largest_error > 1
    assert caught >= 0.95 * TRIALS


def test_the_worst_case_alone_does_not_see_most_of_them():
    """Thus the other tests are necessary."""
    x, w = operands(576)
    of = product(x, w)
    within = [
        name
        for name, kernel in FAULTS.items()
        if ((kernel(x, w).double() - of.exact).abs() <= of.part().bound).all()
    ]
    assert within == [name for name in FAULTS if name != "float16 sums"]


def test_a_fault_of_a_float32_sum_is_caught():
    x, w = operands(576)

    def kernel(x, w):
        y = x @ w
        y[8:16, 8:16] *= 1 + 1e-4
        return y

    result = checked(lambda x: x @ w, x, "fp32", kernel)
    assert result.passed is False and "standard deviations" in result.note


@pytest.mark.parametrize(("error", "passed"), [(0, True), (1e-3, False)])
def test_a_fault_of_huge_operands_is_caught(error, passed):
    """The sum of magnitudes overflows in float32, but the results do not."""
    x, w = operands(576)
    x, w = 2e18 * x, 2e18 * w

    def kernel(x, w):
        y = x @ w
        y[3, 5] *= 1 + error
        return y

    assert (x @ w).isfinite().all() and not (x @ w.abs()).isfinite().all()
    assert checked(lambda x: x @ w, x, "fp32", kernel).passed is passed


@pytest.mark.parametrize("rows", [slice(None), slice(5, 6)])
@pytest.mark.parametrize("bias", [0, 0.1, 3.0])
def test_coarse_sums_are_seen_through_a_bias_and_in_one_row(bias, rows):
    """A convolution stores its sums in 16 bits, in all channels or in one, and adds the bias."""
    torch.manual_seed(0)
    layer = nn.Conv2d(64, 16, 3, bias=False)
    added = bias * torch.randn(16, 1, 1)

    def run(call, target):
        sums = F.conv2d(*(round_to(t, "hf32") for t in call.args[:2]))
        sums[:, rows] = round_mantissa(sums, 16)[:, rows]
        return sums + added

    x = torch.randn(1, 64, 14, 14)
    calls = calls_of(lambda x: F.conv2d(x, layer.weight, added.flatten()), x)
    result = only(check_operators(calls, CPU, run, everywhere("hf32")))
    assert result.passed is False
    assert result.note.startswith("results use ") and "predicted results use 2" in result.note
    assert math.isinf(result.largest_error)


def test_a_coarse_sum_is_seen_through_any_bias():
    """The addition of a bias rounds up in some channels, and down in others."""
    torch.manual_seed(0)
    x, w, added = torch.randn(1, 64, 12, 12), torch.randn(16, 64, 3, 3), torch.randn(16)
    call = only(calls_of(lambda x: F.conv2d(x, w, added), x))
    sums = F.conv2d(*(round_to(t, "hf32") for t in (x, w)))
    for row in range(16):
        found = sums.clone()
        found[:, row] = round_mantissa(found[:, row], 16)
        found += added[:, None, None]
        result = check_operator(call, CPU, lambda *_, y=found: y, everywhere("hf32"))
        assert result.passed is False and result.note.startswith("results use "), row


def test_results_of_much_larger_sums_have_few_bits():
    """Two halves of the sum nearly cancel. The last bit of the result is theirs."""
    x, w = operands(64)
    x, w = torch.cat([x, x + 1e-3 * x.roll(1, 1)], 1), torch.cat([w, -w])

    def halves(x, w):
        return x[:, :64] @ w[:64] + x[:, 64:] @ w[64:]

    assert checked(lambda x: x @ w, x, "fp32", halves).passed


def test_coarse_results_in_short_rows_are_judged_together():
    x, w = operands(64, side=8)
    result = checked(lambda x: x @ w, x, kernel=lambda a, b: round_mantissa(a @ b, 12))
    assert result.passed is False and result.note.startswith("results use 12 mantissa bits")


def test_a_device_may_return_more_tensors_but_not_fewer():
    calls = record(Net(lambda x: x.max(1)).eval(), torch.randn(4, 8))

    def run(results):
        return only(
            check_operators(calls, CPU, lambda call, target: results(execute(call, target)))
        )

    assert run(lambda found: (*found, torch.zeros(3))).passed
    assert run(lambda found: found[:1]).note == "returned 1 tensors, expected 2"


def test_a_note_says_which_operands_were_expected():
    x, w = operands(64)
    result = checked(lambda x: x @ w, x, kernel=rounded("tf32"))
    assert result.passed is False and "follows from operands in hf32" in result.note
    assert result.note.startswith("found ") and len(result.note) < 300


# --- Two runs


def twice(change, function=torch.sigmoid):
    """Check an operator whose second run differs."""
    x, w = operands(576)
    runs = []

    def run(call, target):
        runs.append(execute(call, target))
        return change(runs[-1]) if len(runs) % 2 == 0 else runs[-1]

    return check_operators(record(Net(function or (lambda x: x @ w)).eval(), x), CPU, run)[-1]


@pytest.mark.parametrize("function", [torch.sigmoid, None])
def test_two_runs_that_differ(function):
    same = twice(lambda y: y.clone(), function)
    assert same.passed and not same.note
    close = twice(lambda y: y * (1 + 2.0**-23), function)
    assert close.passed and close.note.startswith("two runs on the same operands differ by 0.")
    far = twice(lambda y: y * 1.01, function)
    assert far.passed is False and far.largest_error > 1
    assert far.note.startswith("two runs on the same operands differ by ")
    assert "mantissa bits" not in far.note


def test_both_runs_keep_to_the_bound():
    """They differ by less than the bound, but only one of them is within it."""
    call = record(Net(torch.sigmoid).eval(), torch.randn(4, 8))[-1]

    def off(*last_bits):
        runs = iter([call.result * (1 + bits * 2.0**-23) for bits in last_bits])
        return check_operator(call, CPU, lambda *_: next(runs))

    wrong = next(bits for bits in range(100) if off(bits, bits).largest_error > 1)
    assert 3 < wrong < 50 and off(wrong - 2, wrong - 2).passed
    for runs in ((wrong - 2, wrong), (wrong, wrong - 2)):
        assert off(*runs).passed is False and off(*runs).note.startswith("two runs")


def test_two_runs_with_operands_in_two_formats():
    """Each run alone is right, and the bound of HF32 is wide. But the device is not stable."""
    x, w = operands(576)
    runs = iter([rounded("hf32")(x, w), x @ w])
    result = checked(lambda x: x @ w, x, "hf32", lambda *_: next(runs))
    assert result.passed is False and result.note.startswith("two runs")


def test_two_runs_must_be_equal_if_the_result_must_be_exact():
    far = twice(lambda y: y + 1, torch.relu)
    assert far.passed is False and far.note.startswith("two runs")


def test_nan_in_both_runs_is_no_difference():
    calls = record(Net(torch.log).eval(), torch.tensor([-1.0, 1.0]))
    assert all(r.passed and not r.note for r in check_operators(calls, CPU))


# --- Results that are exactly the reference's


def identical(call, *results, recorded=False):
    """Check an operator without its shares of the bound; `results` are those of its runs."""
    runs = iter(results)
    return check_operator(call, CPU, lambda *_: next(runs), recorded=recorded, shares=False)


@pytest.mark.parametrize("function", [torch.relu, torch.sigmoid, None])
def test_the_references_own_result_needs_no_bound(function, monkeypatch):
    x, w = operands(576)
    call = record(Net(function or (lambda x: x @ w)).eval(), x)[-1]
    with monkeypatch.context() as patched:
        patched.setattr(kernels, "tried", lambda *_: pytest.fail("computed a float64 result"))
        result = identical(call, call.result.clone(), call.result.clone())
    assert (result.passed, result.note) == (True, IDENTICAL)
    assert math.isnan(result.largest_error) and not without_bound([result])


def test_one_value_that_differs_is_compared_with_float64():
    call = record(Net(torch.sigmoid).eval(), torch.randn(4, 8))[-1]
    off = call.result.clone()
    off[2, 3] *= 1 + 2.0**-23
    for results in ((off, off), (call.result, off), (off, call.result)):
        result = identical(call, *results)
        assert result.passed and result.note != IDENTICAL and 0 < result.largest_error < 1
    off[2, 3] *= 1.01
    for results in ((off, off), (call.result, off), (off, call.result)):
        assert identical(call, *results).passed is False
    assert identical(call, off, recorded=True).passed is False


@pytest.mark.parametrize(
    "other", [lambda y: y.double(), lambda y: y[:2], lambda y: y.reshape(8, 4), lambda y: ()]
)
def test_another_shape_or_type_is_not_the_references_result(other):
    call = record(Net(torch.relu).eval(), torch.ones(4, 8))[-1]
    result = identical(call, other(call.result), other(call.result))
    assert result.passed is False and result.note.startswith("returned ")


def test_a_view_of_the_same_memory_in_another_order():
    x = torch.randn(4, 4)
    call = record(Net(lambda x: x.mT).eval(), x)[-1]
    assert identical(call, call.result, call.result).note == IDENTICAL
    assert identical(call, call.result.mT, call.result.mT).passed is False
    assert check_operator(call, CPU, lambda *_: call.result.mT).passed is False


def test_a_result_without_values_is_not_compared():
    call = record(Net(torch.relu).eval(), torch.ones(0, 8))[-1]
    result = identical(call, call.result, call.result)
    assert result.passed is None and result.note == "no values to compare"


def layouts(function, x, factor=1.0):
    """Check an operator whose kernel for channels last is off by a factor. Count its runs."""
    seen = []

    def run(call, target, channels_last=False):
        found = execute(call, target, channels_last)
        seen.append(found.is_contiguous(memory_format=torch.channels_last))
        return found * factor if channels_last else found

    call = record(Net(function).eval(), x)[-1]
    return check_operator(call, CPU, run, channels_last=True), seen


def test_a_kernel_that_is_wrong_for_channels_last():
    x = torch.randn(2, 5, 6, 7)
    for function in (torch.sigmoid, lambda x: F.conv2d(x, x[:, :, :3, :3].contiguous())):
        right, seen = layouts(function, x)
        assert right.passed and seen == [False, False, True]  # the layout of the result
        wrong, _ = layouts(function, x, 1.01)
        assert wrong.passed is False and wrong.largest_error > 1
    assert len(layouts(torch.sigmoid, torch.randn(5, 6))[1]) == 2


def test_a_kernel_that_is_wrong_on_both_sides():
    """It computes what the reference does. Only shares of the bound judge the reference itself."""
    call = record(Net(torch.sigmoid).eval(), torch.randn(4, 8))[-1]
    wrong = replace(call, result=call.result * 1.01)
    assert identical(wrong, wrong.result, recorded=True).note == IDENTICAL
    own = check_operator(wrong, CPU, lambda *_: wrong.result, recorded=True)
    assert own.passed is False and own.largest_error > 1


def test_an_operator_without_a_rule_stays_without_a_bound():
    call = record(Net(torch.special.bessel_j0).eval(), torch.randn(4, 8))[-1]
    result = identical(call, call.result, call.result)
    assert result.passed is None and result.note.startswith(NO_BOUND)


def test_nan_is_not_the_references_result():
    """NaN is compared like before: where the exact result is a number, it fails."""
    call = record(Net(torch.sigmoid).eval(), torch.randn(4, 8))[-1]
    nan = replace(call, result=torch.full_like(call.result, math.nan))
    assert identical(nan, nan.result.clone(), nan.result.clone()).passed is False


# --- The products themselves


def product(x, w, form="hf32", rounding="nearest_even"):
    numerics = Numerics(conv=form, matmul=form, rounding=rounding)
    operator = Operator(only(calls_of(lambda x: x @ w, x)), torch.float64, numerics)
    return Product(operator, operator.run())


def predictions(of):
    """Yield the name of each accepted format, and the product of operands in it."""
    for form, lost in of.predicted():
        yield form, of.exact if lost is None else of.exact - lost


ORACLES = {
    "bf16": lambda a: a.astype(ml_dtypes.bfloat16).astype(np.float64),
    "fp16": lambda a: a.astype(np.float16).astype(np.float64),
    "hf32": lambda a: gfloat_round(torch.from_numpy(a), 11, "nearest_even").double().numpy(),
    "tf32": lambda a: gfloat_round(torch.from_numpy(a), 10, "nearest_even").double().numpy(),
    "fp32": lambda a: a.astype(np.float64),
}


@pytest.mark.parametrize("form", ORACLES)
@pytest.mark.parametrize("scale", [1.0, 1e-3, 3e-5])
def test_predicted_products_against_other_libraries(form, scale):
    """The prediction differs from the float64 product by much less than float32 sums do."""
    for n in (1, 7, 100, 1000):
        x, w = operands(n, side=8)
        x = x * scale
        of = product(x, w, form)
        name, predicted = next(predictions(of))
        oracle = ORACLES[form](x.numpy()) @ ORACLES[form](w.numpy())
        assert name == form
        error = np.abs(predicted.numpy() - oracle)
        assert (error <= 0.02 * of.part().sums.numpy()).all()


def test_predicted_products_are_scaled_and_added_to():
    x, w = operands(50, side=6)
    bias = torch.randn(6)
    for alpha, beta in ((1, 1), (-2, 0.5), (0, 3)):
        calls = calls_of(lambda x, a=alpha, b=beta: torch.addmm(bias, x, w, alpha=a, beta=b), x)
        operator = Operator(only(calls), torch.float64, everywhere("hf32"))
        of = Product(operator, operator.run())
        a, b = (round_to(t, "hf32").double() for t in (x, w))
        _, predicted = next(predictions(of))
        assert ((predicted - (alpha * a @ b + beta * bias)).abs() <= 0.02 * of.part().sums).all()


@pytest.mark.parametrize("form", ["fp32", "hf32", "fp16", "bf16"])
def test_bound_of_sums_by_hand(form):
    """(n + 1) U (|x̂| ∗ |ŵ| + |bias|), and hardly more: a wider bound would hide faults."""
    x, w = operands(64, side=8)
    of = product(x, w, form)
    a, b = (round_to(t, form).double().abs() for t in (x, w))
    least = 65 * 2.0**-24 * (a @ b)
    assert (of.part().sums >= least).all() and (of.part().sums <= 1.02 * least).all()


@pytest.mark.parametrize("form", ["hf32", "tf32", "fp16", "bf16"])
@pytest.mark.parametrize("n", [8, 64, 576])
def test_a_fault_beyond_the_sums_shows_where_all_terms_are_equal(form, n):
    """The statistic decides nothing there, and the worst case of coarse operands is wide."""
    x, w = torch.full((8, n), 0.7), torch.full((n, 8), -0.3)
    a, b = (round_to(t, form).double() for t in (x, w))
    bound = (n + 1) * 2.0**-24 * (a.abs() @ b.abs())[3, 5]

    def off_by(times):
        found = (a @ b).float()
        found[3, 5] += times * bound
        return checked(lambda x: x @ w, x, form, lambda *operands: found)

    assert off_by(0.5).passed
    wrong = off_by(2.0)
    assert wrong.passed is False and wrong.worst == (3, 5)
    assert f"follows from operands in {form}" in wrong.note


@pytest.mark.parametrize("n", [1, 3, 16, 300])
def test_sums_in_any_order_keep_to_their_bound(n):
    x, w = operands(n, side=8)
    of = product(x, w)
    _, predicted = next(predictions(of))
    a, b = round_to(x, "hf32"), round_to(w, "hf32")
    for order in (torch.arange(n), torch.randperm(n), (a[0] * b[:, 0]).argsort()):
        found = sums_in_order(a[:, order], b[order]).double()
        assert ((found - predicted).abs() <= of.part().sums).all()


def test_flushed_subnormals_keep_to_the_bound():
    x, w = operands(9, side=8)
    x, w = x * 1e-39, w * 1e20
    of = product(x, w, "bf16")
    _, predicted = next(predictions(of))
    assert (predicted.abs() <= of.part().sums).all()  # all operands become zero


def test_products_without_terms():
    x = torch.zeros(3, 0)
    result = checked(lambda x: x @ torch.zeros(0, 4), x)
    assert result.passed and result.largest_error == 0


@pytest.mark.parametrize(("signs", "total"), [((1, 1, 1, 1), 24), ((1, -1, 1, -1), 0)])
def test_deviation_by_hand(signs, total):
    """Partial sums that grow to the result, a random walk that returns to 0, and truncation."""
    of = product(torch.full((1, 4), 2.0), 3 * torch.tensor(signs).float()[:, None], "fp32")
    square = 0.42**2, (0.1 * 4) ** 2  # of a rounding, of a truncated sum
    growing = total**2 * (square[0] * (4 / 3 + 2) + square[1])
    walk = 24**2 / 4 * (math.pi / 2) ** 2 * (square[0] * 4 / 6 + square[1])
    expected = 2.0**-24 * math.sqrt(growing + walk)
    assert float(statistic.deviation(of.part())) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("times", [0, 3])
def test_errors_by_hand(times):
    """One of 24 values is off by three standard deviations, or none."""
    of = product(torch.randn(4, 9), torch.randn(9, 6), "fp32")
    found, deviation = of.exact.clone(), statistic.deviation(of.part())
    found[2, 5] -= times * deviation[2, 5]
    errors = statistic.compare(of, found)
    assert errors.z.value == pytest.approx(times) and errors.rms_z == pytest.approx(times / 24**0.5)
    share = times * float(deviation[2, 5] / of.part().sums[2, 5])
    assert errors.of_sums.value == pytest.approx(share)
    assert errors.z.position == errors.of_sums.position == ((2, 5) if times else ())


def test_deviation_of_zeros_is_an_underflow_for_each_rounding():
    of = product(torch.zeros(2, 4), torch.zeros(4, 2), "fp32")
    assert (statistic.deviation(of.part()) == 5 * 2.0**-126).all()


def test_limits_lie_between_sound_kernels_and_faults():
    """The deviation has the right size: the errors of random sums in order are near 1 or below."""
    x, w = operands(27, side=64)
    of = product(x, w, "fp32")
    errors = statistic.compare(of, sums_in_order(x, w))
    assert 0.1 < errors.rms_z < 1 and errors.z.value < 5


@pytest.mark.slow
def test_detection_of_the_benchmark():
    path = Path(__file__).resolve().parents[1] / "benchmarks" / "detection.py"
    detection = runpy.run_path(str(path), run_name="detection")
    low, high = detection["wilson"](0, 10_000)
    assert low == 0 and 3.8e-4 < high < 3.9e-4  # z² / (n + z²)
    detection["limits"].__globals__.update(TERMS=(144,))
    least = detection["smallest"](detection["limits"](2)).set_index(["fault", "test"])["size"]
    assert least["operands in fewer bits", "worst case"] < 10
    assert least["operands in fewer bits", "all"] == 10
    assert least["results stored in fewer bits", "mantissa bits"] >= 18
