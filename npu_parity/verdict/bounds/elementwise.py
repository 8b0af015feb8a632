"""Bounds of arithmetic, elementary functions and activations, element by element."""

import math

import torch
from torch import Tensor

from npu_parity.verdict.bounds.arithmetic import ERF, FUNCTION, ROOT, TINY, U
from npu_parity.verdict.bounds.rules import Operator, bound


@bound("add", "sub", "rsub")
def _add(operator: Operator, exact: Tensor) -> Tensor:
    """2U |y|, plus 2U of an operand scaled by alpha, plus U of a scalar operand.

    The device may return either neighbour of the exact sum. Float32 rounds the scalar.
    """
    other, alpha = operator["other"], operator["alpha"]
    scaled = operator["self"] if operator.name == "rsub" else other
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


@bound("mul", "square", "leaky_relu", "prelu", "_prelu_kernel")
def _mul(operator: Operator, exact: Tensor) -> Tensor:
    """3U |y|.

    The device rounds the product once. A scalar that float32 rounds adds two roundings.
    """
    return 3 * U * exact.abs() + TINY


@bound("div")
def _div(operator: Operator, exact: Tensor) -> Tensor:
    """(`ROOT` + 2U) |y|.

    The device divides once. Float32 may round a scalar divisor.
    """
    return (ROOT + 2 * U) * exact.abs() + TINY


@bound("reciprocal", "sqrt", "rsqrt")
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
    term: Tensor = (exact - operator["self"]).abs() + 2.0**-52 * operator["self"].abs()
    return 2 * U * exact.abs() + (ROOT + 4 * U) * term + TINY * (2 + factors)


@bound("lerp")
def _lerp(operator: Operator, exact: Tensor) -> Tensor:
    """2U |y| + 4U ((1 + |weight|) |start| + |weight · end|).

    The device computes start + weight · (end - start), or the same from the other end. It rounds
    each step once.
    """
    start, end, weight = operator["self"].abs(), operator["end"].abs(), abs(operator["weight"])
    parts: Tensor = (1 + weight) * start + weight * end
    return 2 * U * exact.abs() + 4 * U * parts + 2 * TINY


@bound("exp", "expm1", "log", "log1p", "log2", "log10", "tanh", "atan")
def _functions(operator: Operator, exact: Tensor) -> Tensor:
    """`FUNCTION` |y|; exp adds 2U |x| y."""
    bound = FUNCTION * exact.abs() + TINY
    if operator.name == "exp":  # a device that uses exp2 multiplies the argument first
        bound = bound + 2 * U * operator["self"].abs().clamp(max=1e3) * exact
    return bound


@bound("sin", "cos")
def _waves(operator: Operator, exact: Tensor) -> Tensor:
    """`FUNCTION` |y| + 2U.

    The reduction of the argument causes the absolute error 2U near a root.
    """
    return FUNCTION * exact.abs() + 2 * U


@bound("erf")
def _erf(operator: Operator, exact: Tensor) -> Tensor:
    """`ERF`."""
    return torch.full_like(exact, ERF)


@bound("pow")
def _pow(operator: Operator, exact: Tensor) -> Tensor:
    """(`FUNCTION` + 2U |b log x|) |y|, where b is the exponent.

    The device computes exp(b log x). Rounding the product b log x costs 2U |b log x|.
    """
    base, exponent = operator["self"], operator["exponent"]
    logarithm = math.log(abs(base) or 1) if not isinstance(base, Tensor) else base.abs().log()
    condition = torch.as_tensor(exponent * logarithm).abs().nan_to_num(posinf=0.0)
    return (FUNCTION + 2 * U * condition) * exact.abs() + TINY


@bound("sigmoid", "silu", "glu")
def _sigmoids(operator: Operator, exact: Tensor) -> Tensor:
    """((2U |x| + `FUNCTION`) σ(-x) + `ROOT` + 3U) |y| + 2U |f|, for y = f · σ(x), σ the sigmoid.

    The device computes σ(x) as 1 / (1 + exp(-x)) or as (1 + tanh(x / 2)) / 2. The factor f is 1 for
    sigmoid, x for SiLU, and the other half of the channels for GLU.
    """
    x: Tensor = operator["self"]
    factor: Tensor | float = 1.0
    if operator.name == "silu":
        factor = x.abs()
    elif operator.name == "glu":
        first, x = x.chunk(2, operator["dim"])
        factor = first.abs()
    condition = (2 * U * x.abs() + FUNCTION) * torch.sigmoid(-x)
    bound = exact.abs() * (condition + ROOT + 3 * U) + 2 * U * factor
    return bound + TINY * (1 + x.abs()) * (1 + factor)


@bound("gelu")
def _gelu(operator: Operator, exact: Tensor) -> Tensor:
    """|x| / 2 · (error of f + 3U (1 + |f|)), for y = x / 2 · (1 + f) with f from erf or tanh.

    Near f = -1 the sum cancels and the error of f remains.
    """
    x: Tensor = operator["self"]
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
def _hard(operator: Operator, exact: Tensor) -> Tensor:
    """`ROOT` + 6U; Hardswish multiplies it by |x|.

    The device clamps (x + 3) / 6 or x / 6 + 1 / 2. The rounded values are at most 1.
    """
    hard_swish = operator.name == "hardswish"
    factor: Tensor = operator["self"].abs() if hard_swish else torch.ones_like(exact)
    return (6 * U + ROOT) * factor + TINY


@bound("elu", "celu")
def _elu(operator: Operator, exact: Tensor) -> Tensor:
    """3U |y|, plus (`FUNCTION` + 4U) · scale if x is negative.

    For negative x the device computes scale · (exp(x) - 1). The difference cancels and the error
    of exp remains.
    """
    scale = abs(operator["alpha"] * operator.arguments.get("scale", 1))
    negative: Tensor = (operator["self"] < 0) * scale
    return 3 * U * exact.abs() + (FUNCTION + 4 * U) * negative + TINY


@bound("softplus")
def _softplus(operator: Operator, exact: Tensor) -> Tensor:
    """(`FUNCTION` + 4U) (|y| + 1 / β), for y = log(1 + exp(βx)) / β.

    Both functions have an error. The logarithm does not enlarge the error of exp.
    """
    beta: float = abs(operator["beta"])
    return (FUNCTION + 4 * U) * (exact.abs() + 1 / beta) + TINY


@bound("mish")
def _mish(operator: Operator, exact: Tensor) -> Tensor:
    """(2 `FUNCTION` + 8U) |x|, for y = x · tanh(softplus(x)).

    Both functions have an error, and tanh is at most 1.
    """
    x: Tensor = operator["self"]
    return (2 * FUNCTION + 8 * U) * x.abs() + TINY
