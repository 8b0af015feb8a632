"""Bounds of arithmetic, elementary functions and activations, element by element."""

import math

import torch
from torch import Tensor

from npu_parity.verdict.bounds.arithmetic import ERF, FUNCTION, ROOT, TINY, U
from npu_parity.verdict.bounds.rules import Operator, bound


@bound("add", "sub", "rsub")
def _add(operator: Operator, exact: Tensor) -> Tensor:
    """Either neighbour of the exact sum; more for a factor, or a number that float32 lacks."""
    other, alpha = operator["other"], operator["alpha"]
    scaled = operator["self"] if operator.name == "rsub" else other
    bound = 2 * U * exact.abs() + TINY
    if alpha != 1:
        bound = bound + 2 * U * abs(alpha * scaled)
    if not isinstance(other, Tensor):
        bound = bound + U * abs(other) * max(1, abs(alpha))
    return bound


@bound("arange", "linspace")
def _ranges(operator: Operator, exact: Tensor) -> Tensor:
    """Of start + i · step, the step, the product and the sum are rounded."""
    ends = (operator.arguments.get(name, 0) for name in ("start", "end"))
    return 4 * U * (exact.abs() + sum(map(abs, ends))) + TINY


@bound("mul", "square", "leaky_relu", "prelu", "_prelu_kernel")
def _mul(operator: Operator, exact: Tensor) -> Tensor:
    """One rounding, two more for a number that float32 lacks."""
    return 3 * U * exact.abs() + TINY


@bound("div")
def _div(operator: Operator, exact: Tensor) -> Tensor:
    """`ROOT`, and a divisor that float32 lacks."""
    return (ROOT + 2 * U) * exact.abs() + TINY


@bound("reciprocal", "sqrt", "rsqrt")
def _roots(operator: Operator, exact: Tensor) -> Tensor:
    """`ROOT` of the result."""
    return ROOT * exact.abs() + TINY


@bound("addcmul", "addcdiv")
def _addc(operator: Operator, exact: Tensor) -> Tensor:
    """The term value · first ∘ second is rounded up to four times, the sum once."""
    first, second = operator["tensor1"].abs(), operator["tensor2"].abs()
    if operator.name == "addcdiv":
        second = second.reciprocal()
    factors = first + second + abs(operator["value"])  # of what underflows, in any order
    # The term is found as a difference, which may miss what is too small against either.
    term = (exact - operator["self"]).abs() + 2.0**-52 * operator["self"].abs()
    return 2 * U * exact.abs() + (ROOT + 4 * U) * term + TINY * (2 + factors)


@bound("lerp")
def _lerp(operator: Operator, exact: Tensor) -> Tensor:
    """Of start + weight · (end - start), or from the other end, each step is rounded once."""
    start, end, weight = operator["self"].abs(), operator["end"].abs(), abs(operator["weight"])
    return 2 * U * exact.abs() + 4 * U * ((1 + weight) * start + weight * end) + 2 * TINY


@bound("exp", "expm1", "log", "log1p", "log2", "log10", "tanh", "atan")
def _functions(operator: Operator, exact: Tensor) -> Tensor:
    """`FUNCTION` of the result."""
    bound = FUNCTION * exact.abs() + TINY
    if operator.name == "exp":  # by way of exp2, the argument is multiplied first
        bound = bound + 2 * U * operator["self"].abs().clamp(max=1e3) * exact
    return bound


@bound("sin", "cos")
def _waves(operator: Operator, exact: Tensor) -> Tensor:
    """`FUNCTION` of the result; absolute near a root, where the argument's reduction rounds."""
    return FUNCTION * exact.abs() + 2 * U


@bound("erf")
def _erf(operator: Operator, exact: Tensor) -> Tensor:
    """`ERF`, absolute."""
    return torch.full_like(exact, ERF)


@bound("pow")
def _pow(operator: Operator, exact: Tensor) -> Tensor:
    """Of exp(y log x), the exponent's rounding costs 2U of |y log x|, and the functions err."""
    base, exponent = operator["self"], operator["exponent"]
    logarithm = math.log(abs(base) or 1) if not isinstance(base, Tensor) else base.abs().log()
    condition = torch.as_tensor(exponent * logarithm).abs().nan_to_num(posinf=0.0)
    return (FUNCTION + 2 * U * condition) * exact.abs() + TINY


@bound("sigmoid", "silu", "glu")
def _sigmoids(operator: Operator, exact: Tensor) -> Tensor:
    """1 / (1 + exp(-x)), or (1 + tanh(x / 2)) / 2, times x, 1 or another half of the channels."""
    x, factor = operator["self"], 1.0
    if operator.name == "silu":
        factor = x.abs()
    elif operator.name == "glu":
        factor, x = (half for half in x.chunk(2, operator["dim"]))
        factor = factor.abs()
    condition = (2 * U * x.abs() + FUNCTION) * torch.sigmoid(-x)
    bound = exact.abs() * (condition + ROOT + 3 * U) + 2 * U * factor
    return bound + TINY * (1 + x.abs()) * (1 + factor)


@bound("gelu")
def _gelu(operator: Operator, exact: Tensor) -> Tensor:
    """x/2 · (1 + f): near f = -1 the sum cancels, and f's error is left."""
    x = operator["self"]
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
    """Clamp of (x + 3) / 6 or of x/6 + 1/2: each rounds what is at most 1."""
    factor = operator["self"].abs() if operator.name == "hardswish" else torch.ones_like(exact)
    return (6 * U + ROOT) * factor + TINY


@bound("elu", "celu")
def _elu(operator: Operator, exact: Tensor) -> Tensor:
    """Below zero, scale · (exp(x) - 1): the difference cancels, the exponential's error stays."""
    scale = abs(operator["alpha"] * operator.arguments.get("scale", 1))
    negative = (operator["self"] < 0) * scale
    return 3 * U * exact.abs() + (FUNCTION + 4 * U) * negative + TINY


@bound("softplus")
def _softplus(operator: Operator, exact: Tensor) -> Tensor:
    """Of log(1 + exp(βx)) / β, both functions err; the inner error counts at most once."""
    return (FUNCTION + 4 * U) * (exact.abs() + 1 / abs(operator["beta"])) + TINY


@bound("mish")
def _mish(operator: Operator, exact: Tensor) -> Tensor:
    """Of x · tanh(softplus(x)), both functions err, and tanh is at most 1."""
    return (2 * FUNCTION + 8 * U) * operator["self"].abs() + TINY
