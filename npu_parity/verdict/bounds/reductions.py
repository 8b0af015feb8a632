"""Bounds of sums, means, pooling, norms, Fourier transforms and softmax."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from npu_parity.numerics.formats import FORMATS
from npu_parity.verdict.bounds.arithmetic import FUNCTION, LARGEST, ROOT, TINY, U
from npu_parity.verdict.bounds.rules import Operator, bound


@bound("sum", "mean", "cumsum", "nansum", "trace")
def _sums(operator: Operator, exact: Tensor) -> Tensor:
    """(n + 1) U times the sum or mean of |x| (Higham, section 4.2)."""
    x = operator.tensor("self")
    magnitude: Tensor = operator.magnitude().abs()  # of a complex dtype, if it is given
    n = _size(x, operator["dim"]) if operator.name == "cumsum" else x.numel() // exact.numel()
    operator.allow(magnitude * (n if operator.name == "mean" else 1) >= LARGEST)
    return (n + 1) * (U * magnitude + TINY)


def _size(x: Tensor, dim: int) -> int:
    """Return the length of a dimension. A number is a sum of one term."""
    return x.shape[dim] if x.ndim else 1


@bound("avg_pool2d", "avg_pool3d", "_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "col2im")
def _windows(operator: Operator, exact: Tensor) -> Tensor:
    """(n + 2) U times the same operator on |x|, with n terms in the largest window.

    The device divides the sum by n or multiplies it by 1 / n.
    """
    if "kernel_size" in operator.arguments:
        sides = operator["kernel_size"]
        n: int = math.prod(sides * 2 if len(sides) == 1 else sides)
    else:
        dims = len(operator["output_size"])
        pairs = zip(operator.tensor("self").shape[-dims:], exact.shape[-dims:], strict=True)
        n = math.prod(-(-size // parts) + 1 for size, parts in pairs)
    divisor = operator.arguments.get("divisor_override")
    changed = {"divisor_override": abs(divisor)} if divisor else {}
    magnitude: Tensor = operator.magnitude(**changed)
    operator.allow(magnitude * n >= LARGEST)
    return (n + 2) * (U * magnitude + TINY)


@bound("prod", "cumprod")
def _prod(operator: Operator, exact: Tensor) -> Tensor:
    """For n factors n U |y|: the device rounds n - 1 times (Higham, lemma 3.1).

    A partial product may overflow or underflow. The product of the factors above 1 limits both.
    """
    x = operator.tensor("self")
    cumulates = operator.name == "cumprod"
    n: int = _size(x, operator["dim"]) if cumulates else x.numel() // exact.numel()
    factors: Tensor = operator.run(self=x.abs().double().clamp(min=1))
    operator.allow(factors >= LARGEST)
    return n * (U * exact.abs() + TINY * factors)


@bound("linalg_vector_norm", "norm", "dist", "_cdist_forward", "_euclidean_dist", "_pdist_forward")
def _norms(operator: Operator, exact: Tensor) -> Tensor:
    """For the order 1 n U y, for 2 ((n + 2) / 2 · U + `ROOT`) y, for p (n U + e) y / p + e y.

    A sum of n non-negative terms has the relative error n U, a sum of squares (n + 1) U. A power t
    has the error e = `FUNCTION` + 2U |log t|; in a sum of them, |log t| is at most the logarithm of
    the sum plus log n. Maximum, minimum and count (order 0) are exact. A distance adds 2U y for the
    differences. Squared distances may come from products: |x|² + |y|² - 2 x · y.
    """
    order = next((operator[k] for k in ("ord", "p") if k in operator.arguments), 2)
    order = 2.0 if order is None else float(order)
    differs = "dist" in operator.name
    bound = 2 * U * exact * differs
    if order == 0 or math.isinf(order):
        return bound
    n = _norm_terms(operator, exact)
    if order == 1:
        return bound + n * (U * exact + TINY)
    powers = exact**order  # their sum; it may overflow, or underflow
    operator.allow(exact.isfinite() & (powers >= LARGEST))
    if order < 0:
        operator.allow(powers <= 2 * n * TINY)
    bound = bound + ((powers + n * TINY) ** (1 / order) - exact).abs() + TINY
    if order == 2:
        bound = bound + ((n + 2) / 2 * U + ROOT) * exact
        by_products = operator.name in ("_cdist_forward", "_euclidean_dist")
        return bound.maximum(_by_products(operator, exact)) if by_products else bound
    logarithm = exact.clamp(min=TINY).log().abs()
    of_sum = n * U + FUNCTION + 2 * U * (abs(order) * logarithm + math.log(n))
    return bound + (of_sum / abs(order) + FUNCTION + 2 * U * logarithm) * exact


def _norm_terms(operator: Operator, exact: Tensor) -> int:
    if "x1" in operator.arguments:
        return int(operator.tensor("x1").shape[-1])
    x = operator.tensor("self")
    if operator.name == "_pdist_forward":
        return int(x.shape[-1])
    if operator.name == "dist":
        return int((x - operator.tensor("other")).numel())
    return max(1, x.numel() // exact.numel())  # a norm of nothing is 0


def _by_products(operator: Operator, exact: Tensor) -> Tensor:
    """Return the error of √(|x|² + |y|² - 2 x · y); the products have rounded operands."""
    x, y = operator.tensor("x1"), operator.tensor("x2")
    sizes = x.norm(dim=-1).unsqueeze(-1) + y.norm(dim=-1).unsqueeze(-2)
    numerics = operator.numerics
    u = FORMATS[numerics.matmul].unit_roundoff * (2 if numerics.rounding == "toward_zero" else 1)
    error = (2 * u + u * u + (x.shape[-1] + 4) * U) * sizes.square() + TINY
    squares = exact.square()
    least, most = (squares - error).clamp(min=0).sqrt(), (squares + error).sqrt()
    return torch.maximum(exact - least, most - exact) + ROOT * exact


@bound("scatter_add", "scatter_reduce", "scatter", "index_add", "index_reduce", "index_put", "put")
def _scattered(operator: Operator, exact: Tensor) -> Tensor:
    """(n + 2) U times the sum, mean or product of magnitudes; n terms meet in the element.

    A maximum or minimum is exact. The device adds in any order, and divides the mean once.
    """
    source = next(k for k in ("src", "source", "values", "value") if k in operator.arguments)
    reduction = operator.arguments.get("reduce")
    if reduction in ("amax", "amin"):
        return torch.zeros_like(exact)

    def run(change: Callable[[Tensor], Tensor], **changed: Any) -> Tensor:
        """Run the operator with both operands changed, and without signs."""
        value = operator[source]
        moved = change(torch.as_tensor(value, dtype=torch.float64))
        changed |= {"self": change(operator.tensor("self"))}
        changed |= {source: moved if isinstance(value, Tensor) else moved.item()}
        if "alpha" in operator.arguments:
            changed["alpha"] = abs(operator["alpha"])
        result: Tensor = operator.run(**changed)
        return result

    if reduction in ("prod", "multiply"):
        factors = run(lambda x: x.abs().clamp(min=1))
        operator.allow(factors >= LARGEST)
        return (operator.tensor("index").numel() + 2) * (U * exact.abs() + TINY * factors)
    magnitude = run(torch.abs)
    if operator.name == "index_reduce":  # it has no sum that counts
        count = torch.tensor(operator.tensor("index").numel() + 1)
    else:
        count = run(torch.ones_like, **({"reduce": "sum"} if reduction == "mean" else {}))
    operator.allow(magnitude * count >= LARGEST)
    bound: Tensor = (count + 2) * (U * magnitude + TINY)
    return bound


@bound("_embedding_bag", "_embedding_bag_forward_only")
def _embedding_bag(operator: Operator, exact: tuple[Tensor, ...]) -> Tensor:
    """(n + 2) U times the sum or mean of magnitudes; 0 for the maximum. n counts all indices."""
    if operator["mode"] == 2:
        return torch.zeros_like(exact[0])
    scales = operator["per_sample_weights"]
    scaled = {} if scales is None else {"per_sample_weights": scales.abs()}
    magnitude: Tensor = operator.magnitude(**scaled)[0]
    return (operator.tensor("indices").numel() + 2) * (U * magnitude + TINY)


@bound("_fft_r2c", "_fft_c2c", "_fft_c2r")
def _fft(operator: Operator, exact: Tensor) -> Tensor:
    """10U (1 + log₂ n) |y|, where |y| is the 2-norm of the whole transform of n values.

    Higham, section 24.1: each of log₂ n steps adds the relative error of a multiplication with a
    rounded factor and of an addition. Algorithms for prime n transform three times.
    """
    dims = operator["dim"]
    n = math.prod(max(operator.tensor("self").shape[d], exact.shape[d]) for d in dims)
    size = exact.abs().square().sum(dims, keepdim=True).mul(2).sqrt()  # half of it may be left out
    return (10 * U * (1 + math.log2(max(n, 1))) * size).expand(exact.shape) + TINY


@bound("_softmax", "_safe_softmax", "_log_softmax", "logsumexp")
def _softmax(operator: Operator, exact: Tensor) -> Tensor:
    """The sum of the errors of exp, of its argument, of the sum, and of the division or logarithm.

    The device computes exp(x - max) / Σ, its logarithm, or max + log Σ. It rounds the difference
    x - max, and once more if it uses exp2. Both errors grow with the distance of x from the maximum
    (after Blanchard, Higham and Higham, IMA J. Numer. Anal. 41 (2021) 2311, section 4).
    """
    x = operator.tensor("self")
    x = x if x.ndim else x.view(1)
    dims = operator["dim"]
    dims = [dims] if isinstance(dims, int) else list(dims) or list(range(x.ndim))
    largest = x.amax(dims, keepdim=True)
    powers = torch.where(x == largest, 1.0, (x - largest).exp())  # also if both are infinite
    sum_of_powers = powers.sum(dims, keepdim=True)
    p = powers / sum_of_powers
    below = torch.where(p > 0, largest - x, 0.0)
    n = math.prod(x.shape[d] for d in dims)
    total = (p * below).sum(dims, keepdim=True) * 2 * U + FUNCTION + (n + 2) * U
    if operator.name in ("_softmax", "_safe_softmax"):
        error: Tensor = exact.view(x.shape) * (2 * U * below + FUNCTION + total + ROOT)
        return error.view(exact.shape) + TINY
    error = total + FUNCTION * sum_of_powers.log() + 2 * U * largest.abs()
    if operator.name == "logsumexp":
        return error.view(exact.shape) + 2 * U * exact.abs() + TINY
    return (error + 2 * U * (exact.view(x.shape).abs() + x.abs())).view(exact.shape) + TINY
