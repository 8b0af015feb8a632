"""Bounds of arithmetic, elementary functions and activations, element by element."""

import math

import torch
from torch import Tensor

from npu_parity.verdict.bounds.arithmetic import ERF, FUNCTION, LARGEST, ROOT, TINY, U
from npu_parity.verdict.bounds.rules import Operator, bound, by_parts
from npu_parity.verdict.bounds.running import Rounded


@bound("add", "sub", "rsub")
def _add(operator: Operator, exact: Tensor) -> Tensor:
    """2U |y|, plus 2U of an operand scaled by alpha, plus U of a scalar operand.

    The device may return either neighbour of the exact sum. Float32 rounds the scalar.
    """
    other, alpha = operator["other"], operator["alpha"]
    scaled = operator.tensor("self") if operator.name == "rsub" else other
    bound: Tensor = 2 * U * exact.abs() + TINY
    if alpha != 1:
        bound = bound + 2 * U * abs(alpha * scaled)
    if not isinstance(other, Tensor):
        bound = bound + U * abs(other) * max(1, abs(alpha))
    return bound


@bound("arange", "linspace")
def _ranges(operator: Operator, exact: Tensor) -> Tensor:
    """4U (|y| + |start| + |end|).

    The device computes start + i · step. It rounds the step, the product and the sum.
    """
    ends: float = sum(abs(operator.arguments.get(name, 0)) for name in ("start", "end"))
    return 4 * U * (exact.abs() + ends) + TINY


@bound("mul", "square", "leaky_relu", "prelu", "_prelu_kernel", "deg2rad", "rad2deg")
@by_parts
def _mul(operator: Operator, exact: Tensor) -> Tensor:
    """3U |y|.

    The device rounds the product once. A scalar that float32 rounds adds two roundings.
    """
    return 3 * U * exact.abs() + TINY


@bound("div", "floor_divide")
def _div(operator: Operator, exact: Tensor) -> Tensor:
    """(`ROOT` + 2U) |y|; plus 1 for an integer quotient that rounding may decide.

    The device divides once. Float32 may round a scalar divisor. A quotient near an integer may
    become that integer or the next one.
    """
    bound = (ROOT + 2 * U) * exact.abs() + TINY
    if operator.name == "div" and operator.arguments.get("rounding_mode") is None:
        return bound
    quotient = operator.tensor("self") / operator["other"]
    error = (ROOT + 2 * U) * quotient.abs() + TINY
    near_integer: Tensor = (quotient - quotient.round()).abs() <= error
    return bound + near_integer.double()


@bound("remainder", "fmod")
def _remainder(operator: Operator, exact: Tensor) -> Tensor:
    """4U (|x| + |divisor|), plus |divisor| if y is as near as that to 0 or to the divisor.

    The device subtracts a multiple of the divisor. Float32 may round a scalar divisor. An error at
    the end of a period leads to its other end.
    """
    size = torch.as_tensor(operator["other"]).abs()
    error = 4 * U * (torch.as_tensor(operator.tensor("self")).abs() + size) + TINY
    y = exact.abs()
    return error + size * ((y <= error) | (size - y <= error))


@bound("reciprocal", "sqrt", "rsqrt")
@by_parts
def _roots(operator: Operator, exact: Tensor) -> Tensor:
    """`ROOT` |y|."""
    return ROOT * exact.abs() + TINY


@bound("addcmul", "addcdiv")
def _addc(operator: Operator, exact: Tensor) -> Tensor:
    """2U |y| + (`ROOT` + 4U) |t|, where t is value · first · second or value · first / second.

    The device rounds t up to four times and the sum once.
    """
    first, second = operator["tensor1"].abs(), operator["tensor2"].abs()
    if operator.name == "addcdiv":
        second = second.reciprocal()
    factors: Tensor = first + second + abs(operator["value"])  # each may multiply an underflow
    # The difference loses a term that is small against self; the last summand makes up for it.
    term: Tensor = (exact - operator.tensor("self")).abs() + 2.0**-52 * operator.tensor(
        "self"
    ).abs()
    operator.allow(first * second * max(abs(operator["value"]), 1) >= LARGEST)
    return 2 * U * exact.abs() + (ROOT + 4 * U) * term + TINY * (2 + factors)


@bound("lerp")
def _lerp(operator: Operator, exact: Tensor) -> Tensor:
    """2U |y| + 4U ((1 + |weight|) |start| + |weight · end|).

    The device computes start + weight · (end - start), or the same from the other end. It rounds
    each step once.
    """
    start, end, weight = (
        operator.tensor("self").abs(),
        operator["end"].abs(),
        abs(operator["weight"]),
    )
    parts: Tensor = (1 + weight) * start + weight * end
    operator.allow(start + end >= LARGEST)
    return 2 * U * exact.abs() + 4 * U * parts + 2 * TINY


@bound(
    *("log", "log1p", "log2", "log10", "expm1", "tanh", "atan", "atan2", "asin", "acos", "asinh"),
    *("acosh", "atanh", "erfc", "special_i0e", "special_i1e"),
)
@by_parts
def _functions(operator: Operator, exact: Tensor) -> Tensor:
    """`FUNCTION` |y|.

    OpenCL and the CUDA programming guide (Mathematical Functions) give the errors; CUDA those of
    Bessel functions.
    """
    return FUNCTION * exact.abs() + TINY


@bound("exp", "exp2", "sinh", "cosh", "i0", "special_i1")
def _exponentials(operator: Operator, exact: Tensor) -> Tensor:
    """(`FUNCTION` + 2U |x|) |y|.

    A device that uses exp2 multiplies the argument first.
    """
    if not operator.name.startswith("exp"):  # it multiplies exp(|x|) by a smaller number
        operator.allow(exact.isfinite() & (operator.tensor("self").abs().exp() >= LARGEST))
    return (FUNCTION + 2 * U * operator.tensor("self").abs().clamp(max=1e3)) * exact.abs() + TINY


@bound("sin", "cos", "tan", "sinc")
def _waves(operator: Operator, exact: Tensor) -> Tensor:
    """`FUNCTION` |y| + 2U; tan: 2U (1 + y²); sinc: 4U.

    The reduction of the argument causes the absolute error 2U near a root. It grows with the slope
    of the tangent. sinc rounds πx before it divides by it.
    """
    absolute: Tensor | float = 2 * U
    if operator.name == "tan":
        absolute = 2 * U * (1 + exact.square())
    elif operator.name == "sinc":
        absolute = 4 * U
    return FUNCTION * exact.abs() + absolute


@bound("lgamma", "digamma")
def _gammas(operator: Operator, exact: Tensor) -> Tensor:
    """`FUNCTION` (|y| + 1); for negative x more, by the reflection formula.

    The CUDA programming guide gives 6 units for lgamma except near its roots, where the error is
    absolute. For negative x, lgamma is log π - log|sin πx| - lgamma(1 - x), and digamma is
    digamma(1 - x) - π / tan πx. Rounding πx moves both by 2U |πx| times the slope.
    """
    x = operator.tensor("self")
    reflected = torch.where(x <= 0, 1 - x, x)
    size = (torch.lgamma if operator.name == "lgamma" else torch.digamma)(reflected).abs()
    slope = math.pi / torch.tan(math.pi * x).abs()
    if operator.name == "digamma":
        slope = math.pi * (math.pi + slope * slope / math.pi)
    error = FUNCTION * (exact.abs() + size + 1)
    return error + torch.where(x <= 0, 4 * U * (1 + x.abs()) * slope, 0.0)


@bound("erfinv")
def _erfinv(operator: Operator, exact: Tensor) -> Tensor:
    """`FUNCTION` |y| + 2U √π exp(y²).

    A Newton step computes (erf(y) - x) √π / 2 · exp(y²), where erf(y) has an error of 2U and more.
    """
    return FUNCTION * exact.abs() + 2 * U * math.sqrt(math.pi) * exact.square().exp() + TINY


@bound("erf")
def _erf(operator: Operator, exact: Tensor) -> Tensor:
    """`ERF`."""
    return torch.full_like(exact, ERF)


@bound("pow")
def _pow(operator: Operator, exact: Tensor) -> Tensor:
    """(`FUNCTION` + 2U |b log x|) |y|, where b is the exponent.

    The device computes exp(b log x). Rounding the product b log x costs 2U |b log x|.
    """
    base, exponent = operator.tensor("self"), operator["exponent"]
    logarithm = math.log(abs(base) or 1) if not isinstance(base, Tensor) else base.abs().log()
    condition = torch.as_tensor(exponent * logarithm).abs().nan_to_num(posinf=0.0)
    return (FUNCTION + 2 * U * condition) * exact.abs() + TINY


@bound("sigmoid", "silu")
@by_parts
def _sigmoids(operator: Operator, exact: Tensor) -> Tensor:
    """((2U |x| + `FUNCTION`) σ(-x) + `ROOT` + 3U) |y| + 2U |f|, for y = f · σ(x), σ the sigmoid.

    The device computes σ(x) as 1 / (1 + exp(-x)) or as (1 + tanh(x / 2)) / 2. The factor f is 1 for
    sigmoid, and x for SiLU.
    """
    x = operator.tensor("self")
    return _scaled_sigmoid(x, x.abs() if operator.name == "silu" else 1.0, exact)


@bound("glu")
def _glu(operator: Operator, exact: Tensor) -> Tensor:
    """The bound of SiLU; the factor f is the other half of the channels."""
    first, x = operator.tensor("self").chunk(2, operator["dim"])
    return _scaled_sigmoid(x, first.abs(), exact)


def _scaled_sigmoid(x: Tensor, factor: Tensor | float, exact: Tensor) -> Tensor:
    condition = (2 * U * x.abs() + FUNCTION) * torch.sigmoid(-x)
    bound = exact.abs() * (condition + ROOT + 3 * U) + 2 * U * factor
    return bound + TINY * (1 + x.abs()) * (1 + factor)


@bound("gelu")
@by_parts
def _gelu(operator: Operator, exact: Tensor) -> Tensor:
    """|x| / 2 · (error of f + 3U (1 + |f|)), for y = x / 2 · (1 + f) with f from erf or tanh.

    Near f = -1 the sum cancels and the error of f remains.
    """
    x = operator.tensor("self")
    if operator["approximate"] == "tanh":
        inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
        f = torch.tanh(inner)
        error = FUNCTION * f.abs() + 6 * U * inner.abs() * (1 - f * f)
    else:
        inner = x / math.sqrt(2)
        f = torch.erf(inner)
        slope = 2 / math.sqrt(math.pi) * torch.exp(-inner * inner)
        error = ERF + 2 * U * inner.abs() * slope
    return x.abs() / 2 * (error + 3 * U * (1 + f.abs())) + TINY


@bound("hardswish", "hardsigmoid")
@by_parts
def _hard(operator: Operator, exact: Tensor) -> Tensor:
    """`ROOT` + 6U; Hardswish multiplies it by |x|.

    The device clamps (x + 3) / 6 or x / 6 + 1 / 2. The rounded values are at most 1.
    """
    hard_swish = operator.name == "hardswish"
    factor: Tensor = operator.tensor("self").abs() if hard_swish else torch.ones_like(exact)
    return (6 * U + ROOT) * factor + TINY


@bound("elu", "celu")
@by_parts
def _elu(operator: Operator, exact: Tensor) -> Tensor:
    """3U |y|, plus (`FUNCTION` + 4U) · scale if x is negative.

    For negative x the device computes scale · (exp(x) - 1). The difference cancels and the error
    of exp remains.
    """
    scale = abs(operator["alpha"] * operator.arguments.get("scale", 1))
    negative: Tensor = (operator.tensor("self") < 0) * scale
    return 3 * U * exact.abs() + (FUNCTION + 4 * U) * negative + TINY


@bound("softplus")
@by_parts
def _softplus(operator: Operator, exact: Tensor) -> Tensor:
    """(`FUNCTION` + 4U) (|y| + 1 / β), for y = log(1 + exp(βx)) / β.

    Both functions have an error. The logarithm does not enlarge the error of exp.
    """
    beta: float = abs(operator["beta"])
    return (FUNCTION + 4 * U) * (exact.abs() + 1 / beta) + TINY


@bound("mish")
@by_parts
def _mish(operator: Operator, exact: Tensor) -> Tensor:
    """(2 `FUNCTION` + 8U) |x|, for y = x · tanh(softplus(x)).

    Both functions have an error, and tanh is at most 1.
    """
    x = operator.tensor("self")
    return (2 * FUNCTION + 8 * U) * x.abs() + TINY


@bound("hypot")
def _hypot(operator: Operator, exact: Tensor) -> Tensor:
    """(2U + `ROOT`) |y|: the root halves the error 4U of the sum of squares."""
    x, y = operator.tensor("self").abs(), operator["other"].abs()
    operator.allow(x.square() + y.square() >= LARGEST)
    return (2 * U + ROOT) * exact + math.sqrt(2 * TINY)


@bound("abs")
def _modulus(operator: Operator, exact: Tensor) -> Tensor:
    """Of a complex number: (2U + `ROOT`) |y|, as hypot."""
    operator.allow(exact.square() >= LARGEST)
    return (2 * U + ROOT) * exact + math.sqrt(2 * TINY)


@bound("softshrink")
def _softshrink(operator: Operator, exact: Tensor) -> Tensor:
    """2U |y| + U λ: one difference; float32 rounds the scalar λ."""
    threshold: float = operator["lambd"]
    return 2 * U * exact.abs() + U * abs(threshold) + TINY


@bound("log_sigmoid_forward")
def _log_sigmoid(operator: Operator, exact: tuple[Tensor, ...]) -> Tensor:
    """The running error of min(x, 0) - log(1 + exp(-|x|))."""
    x = Rounded(operator.tensor("self"))
    smaller = Rounded(operator.tensor("self").clamp(max=0))
    return (smaller - ((-abs(x)).exp() + 1.0).log()).error


@bound("logaddexp", "logaddexp2")
def _logaddexp(operator: Operator, exact: Tensor) -> Tensor:
    """The running error of max(x, y) + log(1 + exp(-|x - y|)), for the base 2 divided by log 2."""
    x, y = Rounded(operator.tensor("self")), Rounded(operator["other"])
    distance = -abs(x - y)
    if operator.name == "logaddexp":
        return (x.maximum(y) + (distance.exp() + 1.0).log()).error
    base = math.log(2)
    return (x.maximum(y) + ((distance * base).exp() + 1.0).log() / base).error


@bound("logit")
def _logit(operator: Operator, exact: Tensor) -> Tensor:
    """The running error of log(x / (1 - x))."""
    x = operator.tensor("self")
    if operator["eps"] is not None:
        x = x.clamp(operator["eps"], 1 - operator["eps"])
    return (Rounded(x, U * x.abs()) / (-Rounded(x, U * x.abs()) + 1.0)).log().error


@bound("xlogy", "special_xlog1py", "special_entr")
def _xlogy(operator: Operator, exact: Tensor) -> Tensor:
    """(`FUNCTION` + 3U) |y|: a logarithm and a product."""
    return (FUNCTION + 3 * U) * exact.abs() + TINY


@bound("addr")
def _addr(operator: Operator, exact: Tensor) -> Tensor:
    """The running error of beta · x + alpha · first · second."""
    outer = Rounded(operator.tensor("vec1").unsqueeze(1)) * Rounded(operator.tensor("vec2"))
    scaled: Rounded = (
        Rounded(operator.tensor("self")) * operator["beta"] + outer * operator["alpha"]
    )
    return scaled.error
