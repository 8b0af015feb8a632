"""How far an operator's float32 result may lie from the exact one: bounds that need no tuning.

Every bound is a worst case over all orders of summation, derived from the arithmetic:

- A sum of n terms is off by at most n U times the sum of magnitudes (Higham, *Accuracy and
  Stability of Numerical Algorithms*, 2nd ed., section 3.1; without the usual second-order term
  after Jeannerod and Rump, SIAM J. Matrix Anal. Appl. 34 (2013) 338).
- Rounding both operands of a product to unit roundoff u adds 2u + u² times it.
- An elementary function may be off by as many units in the last place as libraries document.
- Data movement, selection and comparison must be equal.

Convolutions are taken as sums of products. Winograd and FFT algorithms are not: they add and
subtract values of a whole tile, their errors are relative to the tile's largest value, and they
exceed these bounds wherever a tile holds large and small values.
"""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map, tree_map_only

from npu_parity.numerics import FORMATS, Numerics
from npu_parity.recording import Call, tensors
from npu_parity.thresholds import Threshold

# Everything below follows from these numbers.
U = Threshold(
    2.0**-24,
    question=2,
    decides="error of one rounded addition or multiplication, of its result",
    reason="The unit roundoff of float32 (IEEE 754).",
)
TINY = Threshold(
    2.0**-126,
    question=2,
    decides="error of what is smaller than any normal number",
    reason="The smallest normal float32: devices may flush what is smaller to zero (OpenCL).",
)
FUNCTION = Threshold(
    20 * 2 * U,
    question=2,
    decides="error of exp, log, tanh, erf, pow, sin, cos, of the result",
    reason="20 units in the last place, each at most 2U: OpenCL 3.0 (Relative Error as ULPs, full "
    "profile) allows 3 to 16, PyTorch's softmax on CPUs 20 (exp_u20 in ATen/cpu/vec).",
)
ROOT = Threshold(
    3 * 2 * U,
    question=2,
    decides="error of a division or square root, of the result",
    reason="3 units in the last place: division 2.5, rsqrt 2, sqrt 3 (same table).",
)
ERF = Threshold(
    1.5e-7 + FUNCTION,
    question=2,
    decides="error of erf, absolute",
    reason="PyTorch's on CPUs is 1 - p(x) exp(-x²), Abramowitz and Stegun 7.1.26: off by 1.5e-7, "
    "and near 0 by as much as the exponential is.",
)
LARGEST = float(torch.finfo(torch.float32).max)


@dataclass(frozen=True, eq=False)
class Expected:
    """One tensor that an operator must return.

    Attributes:
        exact: the result; float64, or the operator's own dtype where it must be equal.
        bound: float64 of the same shape, how far from `exact` each element may lie; None where
            it must be equal.
        note: what explains a failure in advance, e.g. operands beyond a format's range.
    """

    exact: Tensor
    bound: Tensor | None
    note: str = ""

    def share(self, found: Tensor) -> Tensor:
        """Return each element's error as a share of its bound: at most 1 is a pass.

        NaN and infinity pass only where the exact result has the same, or overflows float32.

        Args:
            found: of the shape of `exact`; any device.

        Returns:
            float64, the shape of `exact`; infinite where an element must be equal and is not.
        """
        found, exact = found.cpu(), self.exact
        if self.bound is None:
            share = torch.where(found == exact, 0.0, math.inf).double()
            return share.masked_fill_((found != found) & (exact != exact), 0.0)
        found = found.double()
        share = (found - exact).abs_().div_(self.bound)
        odd = ~(share.isfinite() & self.bound.isfinite())
        if odd.any():
            overflow = found.isinf() & (exact.abs() + self.bound >= LARGEST)
            overflow &= found.sign() == exact.sign()
            equal = (found == exact) | (found.isnan() & exact.isnan()) | overflow
            share[odd] = torch.where(equal, 0.0, math.inf).double()[odd]
        return share


@torch.no_grad()
def exact_and_bound(call: Call, numerics: Numerics) -> list[Expected | None] | None:
    """Compute what a recorded operator must return, and how precisely.

    Args:
        call: with operands on the CPU.
        numerics: of the device that is to be held against the bound.

    Returns:
        One entry for each tensor that the operator returns; None for one that is not held
        against anything (indices of equal maxima, statistics that inference does not use). None
        altogether where there is no bound for this operator.
    """
    results = tensors(call.result)
    if call.arguments.get("accumulate") or call.arguments.get("reduce"):
        return None
    computed = any(result.is_floating_point() for result in results)
    equal = call.func.is_view or call.name in _EQUAL or call.arguments.get("rounding_mode")
    random = torch.Tag.nondeterministic_seeded in call.func.tags
    if equal or not (computed or random):
        return [Expected(exact, None) for exact in tensors(_Operator(call).run())]
    if call.name in _EQUAL_VALUES:
        values = tensors(_Operator(call).run())[0]
        return [Expected(values, None), *[None] * (len(results) - 1)]
    if call.name not in _RULES or results[0].dtype != torch.float32:
        return None
    operator = _Operator(call, torch.float64, numerics)
    exact = operator.run()
    bounds = _RULES[call.name](operator, exact)
    if bounds is None:
        return None
    bounds = bounds if isinstance(bounds, tuple) else (bounds,)
    held = zip(tensors(exact), bounds, strict=False)
    expected = [Expected(e, b.expand(e.shape), operator.note) for e, b in held]
    return [*expected, *[None] * (len(results) - len(expected))]


class _Operator:
    """A recorded operator that can be run again, with other operands and in other precision."""

    def __init__(self, call: Call, dtype: torch.dtype | None = None, numerics=None):
        self.func, self.name, self.note = call.func, call.name, ""
        self.numerics: Numerics = numerics or Numerics()
        self.arguments: dict[str, Any] = call.arguments
        if dtype:

            def converted(value: Any) -> Any:
                if isinstance(value, Tensor) and value.is_floating_point():
                    return value.to(dtype)
                return dtype if value is torch.float32 else value

            self.arguments = tree_map(converted, call.arguments)

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]

    def run(self, /, **changed: Any) -> Any:
        arguments = {**self.arguments, **changed}
        if self.func._schema.is_mutable:
            arguments = tree_map_only(Tensor, Tensor.clone, arguments)
        return self.func(**arguments)

    def magnitude(self) -> Tensor:
        """Return the operator's sum over the magnitudes of its first operand."""
        name = next(iter(self.arguments))
        return self.run(**{name: self[name].double().abs()})


Rule = Callable[[_Operator, Any], Tensor | tuple[Tensor, ...] | None]
_RULES: dict[str, Rule] = {}


def _bounds(*names: str) -> Callable[[Rule], Rule]:
    def register(rule: Rule) -> Rule:
        _RULES.update(dict.fromkeys(names, rule))
        return rule

    return register


def rules() -> dict[str, list[str]]:
    """Return the operators that have a bound, by what the bound is, in the order of this module."""
    found: dict[str, list[str]] = {}
    for name, rule in _RULES.items():
        text = " ".join((inspect.getdoc(rule) or "").partition("\n\n")[0].split())
        found.setdefault(text, []).append(name)
    return found


# Movement, selection, comparison and what IEEE 754 rounds correctly without an error.
_MOVED = """
    alias as_strided cat channel_shuffle clone constant_pad_nd contiguous copy detach diag_embed
    embedding expand_copy fill flip full full_like gather im2col index index_put index_select lift
    lift_fresh native_channel_shuffle new_full new_ones new_zeros ones ones_like permute_copy
    pixel_shuffle pixel_unshuffle reflection_pad1d reflection_pad2d reflection_pad3d repeat
    replication_pad1d replication_pad2d replication_pad3d roll scalar_tensor scatter select_scatter
    slice_scatter squeeze stack t _to_copy transpose tril triu unsafe_split _unsafe_view unsqueeze
    upsample_nearest1d upsample_nearest2d upsample_nearest3d zero zeros zeros_like
"""
_SELECTED = """
    abs amax amin argmax argmin ceil clamp clamp_max clamp_min floor hardtanh masked_fill
    masked_select max maximum min minimum neg relu relu6 round sign threshold trunc where
"""
_EQUAL = {*_MOVED.split(), *_SELECTED.split()}
# Equal values; where two are equal, which one an index names is the device's choice.
_EQUAL_VALUES = {
    *("max_pool2d_with_indices", "max_pool3d_with_indices", "fractional_max_pool2d"),
    *("adaptive_max_pool2d", "adaptive_max_pool3d", "topk", "sort", "kthvalue"),
}


# --- Sums of products


# Names of the two factors and of what is added to their product.
PRODUCTS = {
    **dict.fromkeys(("convolution", "_convolution"), ("input", "weight", "bias")),
    **dict.fromkeys(("mm", "bmm"), ("self", "mat2", None)),
    "mv": ("self", "vec", None),
    "dot": ("self", "tensor", None),
    "addmm": ("mat1", "mat2", "self"),
    "addmv": ("mat", "vec", "self"),
    **dict.fromkeys(("addbmm", "baddbmm"), ("batch1", "batch2", "self")),
}


@_bounds(*PRODUCTS)
def _products(operator: _Operator, exact: Tensor) -> Tensor:
    """(2u + u²) |x| ∗ |w| + (n + 1) U ((1 + u)² |x| ∗ |w| + |bias|), Higham, sections 3.1 and 3.5.

    u is that of the format to which the device rounds both operands, twice as large where it
    rounds toward zero; float32 is no exception, though nothing is rounded to it. Where a format
    rounds small numbers to a fixed distance, that distance takes the place of u times them.
    """
    first, second, added = PRODUCTS[operator.name]
    x, w = operator[first].abs(), operator[second].abs()
    u, distance, largest = _rounding(operator)
    if max(x.max(), w.max()) > largest:
        operator.note = f"an operand lies beyond {largest:g}, the largest number of the format"

    def product(x: Tensor, w: Tensor) -> Tensor:
        if added == "bias":
            return operator.run(**{first: x, second: w, added: None})
        scale = {} if added is None else {"beta": 0, "alpha": abs(operator["alpha"])}
        return operator.run(**{first: x, second: w, **scale})

    def small(x: Tensor) -> Tensor:
        return (x > 0) & (x * u < distance)

    def raised(x: Tensor) -> Tensor:
        return x + (x * u).clamp(min=distance) * (x > 0)

    magnitude = product(x, w)
    if small(x).any() or small(w).any():
        perturbed = product(raised(x), raised(w))
    else:
        perturbed = magnitude * (1 + u) ** 2
    n = _terms(operator, x, w)
    bias = _added(operator, added, exact)
    return perturbed - magnitude + (n + 1) * (U * (perturbed + bias) + TINY)


def _rounding(operator: _Operator) -> tuple[float, float, float]:
    """Return unit roundoff, smallest error of a small operand and largest operand."""
    numerics = operator.numerics
    name = numerics.matmul
    if "groups" in operator.arguments:
        groups = operator["groups"]
        depthwise = groups > 1 and groups == operator["input"].shape[1]
        name = (depthwise and numerics.depthwise_conv) or numerics.conv
    form = FORMATS[name]
    u = form.unit_roundoff * (2 if numerics.rounding == "toward_zero" else 1)
    bias = 2 ** (form.exponent_bits - 1) - 1
    largest = (2 - 2.0**-form.mantissa_bits) * 2.0**bias
    return u, max(u * 2.0 ** (1 - bias), TINY), largest


def _terms(operator: _Operator, x: Tensor, w: Tensor) -> int:
    if operator.name in ("convolution", "_convolution"):
        inputs = w.shape[0] // operator["groups"] if operator["transposed"] else w.shape[1]
        return inputs * math.prod(w.shape[2:])
    return x.shape[-1] * (x.shape[0] if operator.name == "addbmm" else 1)


def _added(operator: _Operator, added: str | None, exact: Tensor) -> Tensor | float:
    if added is None or operator[added] is None:
        return 0.0
    bias = operator[added].abs()
    if added == "bias":
        return bias.view(-1, *[1] * (operator["weight"].ndim - 2))
    return bias * abs(operator["beta"])


# --- Sums


@_bounds("sum", "mean", "cumsum")
def _sums(operator: _Operator, exact: Tensor) -> Tensor:
    """(n + 1) U Σ|x|, Higham, section 4.2, and the division of a mean."""
    x = operator["self"]
    n = x.shape[operator["dim"]] if operator.name == "cumsum" else x.numel() // exact.numel()
    return (n + 1) * (U * operator.magnitude() + TINY)


@_bounds("avg_pool2d", "avg_pool3d", "_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "col2im")
def _windows(operator: _Operator, exact: Tensor) -> Tensor:
    """As of sums, of the n terms of the largest window; a division, or a product with 1/n."""
    if "kernel_size" in operator.arguments:
        sides = operator["kernel_size"]
        n = math.prod(sides * 2 if len(sides) == 1 else sides)
    else:
        dims = len(operator["output_size"])
        pairs = zip(operator["self"].shape[-dims:], exact.shape[-dims:], strict=True)
        n = math.prod(-(-size // parts) + 1 for size, parts in pairs)
    return (n + 2) * (U * operator.magnitude() + TINY)


@_bounds("prod")
def _prod(operator: _Operator, exact: Tensor) -> Tensor:
    """A product of n is rounded n - 1 times, each relative to it: Higham, lemma 3.1."""
    return (operator["self"].numel() // exact.numel()) * U * exact.abs() + TINY


@_bounds("linalg_vector_norm", "norm")
def _norms(operator: _Operator, exact: Tensor) -> Tensor | None:
    """A sum of n non-negative terms is off by n U of itself; of squares by n + 1."""
    n = operator["self"].numel() // exact.numel()
    order = operator.arguments.get("ord", operator.arguments.get("p"))
    if order == 1:
        return n * (U * exact + TINY)
    if order in (None, 2):  # a root halves the relative error, and adds its own; squares underflow
        return ((n + 2) / 2 * U + ROOT) * exact + math.sqrt(n * TINY)
    return None


@_bounds("upsample_linear1d", "upsample_bilinear2d", "upsample_trilinear3d")
def _interpolation(operator: _Operator, exact: Tensor) -> Tensor:
    """Few roundings, and positions that are off by 4U of the side, by which weights are off."""
    x = operator["self"]
    dims = tuple(range(2, x.ndim))
    sides = sum(x.shape[2:]) + sum(exact.shape[2:])
    largest = x.abs().amax(dims, keepdim=True)
    return 12 * U * operator.magnitude() + 4 * U * sides * 2 * largest + TINY


# --- Statistics and normalisation


def _moments(x: Tensor, dims: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean and variance, and how far off they may be, by any of the usual algorithms.

    The least accurate, E[x²] - E[x]², is off by n U E[x²] (Chan, Golub and LeVeque, The American
    Statistician 37 (1983) 242, table 1); PyTorch's group norm uses it for channels-last tensors.
    """
    n = math.prod(x.shape[d] for d in dims)
    mean = x.mean(dims, keepdim=True)
    variance = (x - mean).square().mean(dims, keepdim=True)
    mean_error = (n + 1) * (U * x.abs().mean(dims, keepdim=True) + TINY)
    variance_error = (n + 4) * (U * (variance + mean.square()) + TINY)
    return mean, variance, mean_error, variance_error


def _normalized(
    x: Tensor,
    moments: tuple[Tensor, Tensor, Tensor | float, Tensor | float],
    eps: float,
    weight: Tensor | None,
    bias: Tensor | None,
) -> Tensor:
    """Error of (x - mean) / sqrt(variance + eps) · weight + bias, or of x · scale + shift."""
    mean, variance, mean_error, variance_error = moments
    scale = (variance + eps).rsqrt()
    # A variance that is computed is never negative, so eps limits what a wrong one can do.
    largest = ((variance - variance_error).clamp(min=0) + eps).rsqrt()
    smallest = (variance + variance_error + eps).rsqrt()
    scale_error = torch.maximum(largest - scale, scale - smallest) + (2 * ROOT + U) * largest
    # Five roundings: two of the scale, a product, a sum, and second-order terms.
    terms = x.abs() + mean.abs()
    error = (x - mean).abs() * scale_error + terms * largest * 5 * U
    error = error + mean_error * largest + TINY * (1 + largest)
    if weight is not None:
        error = error * weight.abs()
    if bias is not None:
        error = error + 5 * U * bias.abs()
    return error + TINY * (1 + terms)


@_bounds("native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training")
def _batch_norm(operator: _Operator, exact: tuple) -> Tensor:
    """Five roundings and a root of (x - mean) / √(variance + eps) · weight + bias.

    In inference mean and variance are given; in training they err as those of a layer norm.
    """
    x = operator["input"]

    def column(values: Tensor | None) -> Tensor | None:
        return None if values is None else values.view(-1, *[1] * (x.ndim - 2))

    if operator.arguments.get("training"):
        moments = _moments(x, (0, *range(2, x.ndim)))
    else:
        moments = column(operator["running_mean"]), column(operator["running_var"]), 0.0, 0.0
    weight, bias = column(operator["weight"]), column(operator["bias"])
    return _normalized(x, moments, operator["eps"], weight, bias)


@_bounds("native_layer_norm")
def _layer_norm(operator: _Operator, exact: tuple) -> Tensor:
    """As of batch norm; mean and variance of n values err by (n + 1) U mean|x|, (n + 4) U mean x².

    `_moments` and `_normalized` say why, and how far that reaches.
    """
    x = operator["input"]
    dims = tuple(range(-len(operator["normalized_shape"]), 0))
    return _normalized(x, _moments(x, dims), operator["eps"], operator["weight"], operator["bias"])


@_bounds("native_group_norm")
def _group_norm(operator: _Operator, exact: tuple) -> Tensor:
    """As of layer norm, in each group of channels."""
    x, groups = operator["input"], operator["group"]
    grouped = x.reshape(x.shape[0], groups, x.shape[1] // groups, -1)

    def column(values: Tensor | None) -> Tensor | None:
        return None if values is None else values.view(1, groups, -1, 1)

    weight, bias = column(operator["weight"]), column(operator["bias"])
    moments = _moments(grouped, (2, 3))
    return _normalized(grouped, moments, operator["eps"], weight, bias).reshape(x.shape)


@_bounds("_fused_rms_norm")
def _rms_norm(operator: _Operator, exact: tuple) -> Tensor:
    """A mean of n squares, halved in relative error by the root, then two products."""
    n = math.prod(operator["normalized_shape"])
    return ((n + 2) / 2 * U + 2 * ROOT + 3 * U) * exact[0].abs() + TINY


@_bounds("var", "std", "var_mean", "std_mean")
def _variances(operator: _Operator, exact: Any) -> tuple[Tensor, ...] | None:
    """Variance and mean as of layer norm, scaled by n / (n - correction); a root for deviations."""
    if "unbiased" in operator.arguments:
        return None
    x = operator["self"]
    dims = tuple(d % x.ndim for d in operator["dim"] or range(x.ndim))
    n = math.prod(x.shape[d] for d in dims)
    correction = 1 if operator["correction"] is None else operator["correction"]
    _, variance, mean_error, error = _moments(x, dims)
    factor = n / max(n - correction, 0) if n > correction else math.inf
    if operator.name.startswith("std"):
        error = variance.sqrt() - (variance - error).clamp(min=0).sqrt() + ROOT * variance.sqrt()
        error = torch.maximum(error, (variance + error).sqrt() - variance.sqrt())
        factor = math.sqrt(factor)
    first, *second = tensors(exact)
    error = (error * factor).view(first.shape) + 2 * U * first.abs()
    return error, *(mean_error.view(m.shape) for m in second)


# --- Element by element


@_bounds("add", "sub", "rsub")
def _add(operator: _Operator, exact: Tensor) -> Tensor:
    """Either neighbour of the exact sum; more for a factor, or a number that float32 lacks."""
    other, alpha = operator["other"], operator["alpha"]
    scaled = operator["self"] if operator.name == "rsub" else other
    bound = 2 * U * exact.abs() + TINY
    if alpha != 1:
        bound = bound + 2 * U * abs(alpha * scaled)
    if not isinstance(other, Tensor):
        bound = bound + U * abs(other) * max(1, abs(alpha))
    return bound


@_bounds("arange", "linspace")
def _ranges(operator: _Operator, exact: Tensor) -> Tensor:
    """Of start + i · step, the step, the product and the sum are rounded."""
    ends = (operator.arguments.get(name, 0) for name in ("start", "end"))
    return 4 * U * (exact.abs() + sum(map(abs, ends))) + TINY


@_bounds("mul", "square", "leaky_relu", "prelu", "_prelu_kernel")
def _mul(operator: _Operator, exact: Tensor) -> Tensor:
    """One rounding, two more for a number that float32 lacks."""
    return 3 * U * exact.abs() + TINY


@_bounds("div")
def _div(operator: _Operator, exact: Tensor) -> Tensor:
    """`ROOT`, and a divisor that float32 lacks."""
    return (ROOT + 2 * U) * exact.abs() + TINY


@_bounds("reciprocal", "sqrt", "rsqrt")
def _roots(operator: _Operator, exact: Tensor) -> Tensor:
    """`ROOT` of the result."""
    return ROOT * exact.abs() + TINY


@_bounds("addcmul", "addcdiv")
def _addc(operator: _Operator, exact: Tensor) -> Tensor:
    """The term value · first ∘ second is rounded up to four times, the sum once."""
    first, second = operator["tensor1"].abs(), operator["tensor2"].abs()
    if operator.name == "addcdiv":
        second = second.reciprocal()
    factors = first + second + abs(operator["value"])  # of what underflows, in any order
    # The term is found as a difference, which may miss what is too small against either.
    term = (exact - operator["self"]).abs() + 2.0**-52 * operator["self"].abs()
    return 2 * U * exact.abs() + (ROOT + 4 * U) * term + TINY * (2 + factors)


@_bounds("lerp")
def _lerp(operator: _Operator, exact: Tensor) -> Tensor:
    """Of start + weight · (end - start), or from the other end, each step is rounded once."""
    start, end, weight = operator["self"].abs(), operator["end"].abs(), abs(operator["weight"])
    return 2 * U * exact.abs() + 4 * U * ((1 + weight) * start + weight * end) + 2 * TINY


@_bounds("exp", "expm1", "log", "log1p", "log2", "log10", "tanh", "atan")
def _functions(operator: _Operator, exact: Tensor) -> Tensor:
    """`FUNCTION` of the result."""
    bound = FUNCTION * exact.abs() + TINY
    if operator.name == "exp":  # by way of exp2, the argument is multiplied first
        bound = bound + 2 * U * operator["self"].abs().clamp(max=1e3) * exact
    return bound


@_bounds("sin", "cos")
def _waves(operator: _Operator, exact: Tensor) -> Tensor:
    """`FUNCTION` of the result; absolute near a root, where the argument's reduction rounds."""
    return FUNCTION * exact.abs() + 2 * U


@_bounds("erf")
def _erf(operator: _Operator, exact: Tensor) -> Tensor:
    """`ERF`, absolute."""
    return torch.full_like(exact, ERF)


@_bounds("pow")
def _pow(operator: _Operator, exact: Tensor) -> Tensor:
    """Of exp(y log x), the exponent's rounding costs 2U of |y log x|, and the functions err."""
    base, exponent = operator["self"], operator["exponent"]
    logarithm = math.log(abs(base) or 1) if not isinstance(base, Tensor) else base.abs().log()
    condition = torch.as_tensor(exponent * logarithm).abs().nan_to_num(posinf=0.0)
    return (FUNCTION + 2 * U * condition) * exact.abs() + TINY


@_bounds("sigmoid", "silu", "glu")
def _sigmoids(operator: _Operator, exact: Tensor) -> Tensor:
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


@_bounds("gelu")
def _gelu(operator: _Operator, exact: Tensor) -> Tensor:
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


@_bounds("hardswish", "hardsigmoid")
def _hard(operator: _Operator, exact: Tensor) -> Tensor:
    """Clamp of (x + 3) / 6 or of x/6 + 1/2: each rounds what is at most 1."""
    factor = operator["self"].abs() if operator.name == "hardswish" else torch.ones_like(exact)
    return (6 * U + ROOT) * factor + TINY


@_bounds("elu", "celu")
def _elu(operator: _Operator, exact: Tensor) -> Tensor:
    """Below zero, scale · (exp(x) - 1): the difference cancels, the exponential's error stays."""
    scale = abs(operator["alpha"] * operator.arguments.get("scale", 1))
    negative = (operator["self"] < 0) * scale
    return 3 * U * exact.abs() + (FUNCTION + 4 * U) * negative + TINY


@_bounds("softplus")
def _softplus(operator: _Operator, exact: Tensor) -> Tensor:
    """Of log(1 + exp(βx)) / β, both functions err; the inner error counts at most once."""
    return (FUNCTION + 4 * U) * (exact.abs() + 1 / abs(operator["beta"])) + TINY


@_bounds("mish")
def _mish(operator: _Operator, exact: Tensor) -> Tensor:
    """Of x · tanh(softplus(x)), both functions err, and tanh is at most 1."""
    return (2 * FUNCTION + 8 * U) * operator["self"].abs() + TINY


@_bounds("_softmax", "_safe_softmax", "_log_softmax", "logsumexp")
def _softmax(operator: _Operator, exact: Tensor) -> Tensor:
    """exp(x - max) / Σ, its logarithm, or max + log Σ, with an exponential that is FUNCTION off.

    Its argument is rounded as a difference, and once more by way of exp2: both cost more the
    further x lies below the maximum (after Blanchard, Higham and Higham, IMA J. Numer. Anal. 41
    (2021) 2311, section 4).
    """
    x, dim = operator["self"], operator["dim"]
    if not isinstance(dim, int):
        (dim,) = dim
    p = torch.softmax(x, dim)
    largest = x.amax(dim, keepdim=True)
    below = torch.where(p > 0, largest - x, 0.0)
    total = (p * below).sum(dim, keepdim=True) * 2 * U + FUNCTION + (x.shape[dim] + 2) * U
    if operator.name in ("_softmax", "_safe_softmax"):
        return exact * (2 * U * below + FUNCTION + total + ROOT) + TINY
    logarithm = torch.logsumexp(x - largest, dim, keepdim=True)
    error = total + FUNCTION * logarithm + 2 * U * largest.abs()
    if operator.name == "logsumexp":
        return error.view(exact.shape) + 2 * U * exact.abs() + TINY
    return error + 2 * U * (exact.abs() + x.abs()) + TINY
