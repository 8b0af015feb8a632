"""Running error analysis: a formula in float32 arithmetic, and the bound of its error.

Each operation passes the errors of its operands on and adds its own (Higham, *Accuracy and
Stability of Numerical Algorithms*, 2nd ed., section 3.3).
"""

from collections.abc import Callable

import torch
from torch import Tensor

from npu_parity.verdict.bounds.arithmetic import FUNCTION, ROOT, TINY, U


class Rounded:
    """A float64 tensor and the bound of the error that float32 arithmetic made in it.

    >>> x = Rounded(torch.tensor([0.5], dtype=torch.float64))
    >>> bool((x * x + x).error < 1e-6)
    True
    """

    def __init__(self, value: "Tensor | float | Rounded", error: Tensor | float | None = None):
        """Take an operand, which has no error, or a number, which float32 rounds."""
        self.value: Tensor
        if isinstance(value, Rounded):
            self.value, error = value.value, value.error
        elif isinstance(value, Tensor):
            self.value = value
        else:
            self.value = torch.tensor(float(value), dtype=torch.float64)
            error = U * abs(value)
        self.error: Tensor = torch.zeros_like(self.value) + (0.0 if error is None else error)

    def _rounded(self, value: Tensor, error: Tensor, relative: float = 2 * U) -> "Rounded":
        """Add the error of one operation. The device may return either neighbour of a result."""
        return Rounded(value, error * (1 + relative) + relative * value.abs() + TINY)

    def __neg__(self) -> "Rounded":
        return Rounded(-self.value, self.error)

    def __abs__(self) -> "Rounded":
        return Rounded(self.value.abs(), self.error)

    def __add__(self, other: "Rounded | float") -> "Rounded":
        y = Rounded(other)
        return self._rounded(self.value + y.value, self.error + y.error)

    def __sub__(self, other: "Rounded | float") -> "Rounded":
        return self + -Rounded(other)

    def __mul__(self, other: "Rounded | float") -> "Rounded":
        y = Rounded(other)
        error = self.value.abs() * y.error + self.error * (y.value.abs() + y.error)
        return self._rounded(self.value * y.value, error)

    def __truediv__(self, other: "Rounded | float") -> "Rounded":
        y = Rounded(other)
        quotient = self.value / y.value
        smallest = (y.value.abs() - y.error).clamp(min=0)
        error = (self.error + quotient.abs() * y.error) / smallest
        return self._rounded(quotient, error, ROOT)

    def maximum(self, other: "Rounded") -> "Rounded":
        """Return the larger of two numbers."""
        error = torch.maximum(self.error, other.error)
        return Rounded(self.value.maximum(other.value), error)

    def apply(self, function: Callable[[Tensor], Tensor], relative: float = FUNCTION) -> "Rounded":
        """Apply a monotone function that has this relative error.

        The error of the argument moves the result at most to the function's value at either end.
        """
        value = function(self.value)
        ends = [function(self.value + sign * self.error) - value for sign in (-1, 1)]
        error = torch.maximum(ends[0].abs(), ends[1].abs())
        return self._rounded(value, torch.where(self.error > 0, error, 0.0), relative)

    def exp(self) -> "Rounded":
        """Return exp; a device that uses exp2 multiplies the argument first, which rounds."""
        x = Rounded(self.value, self.error + 2 * U * self.value.abs().clamp(max=1e3))
        return x.apply(torch.exp)

    def log(self) -> "Rounded":
        """Return log. A number that may be zero has an infinite error."""
        return self.apply(lambda x: x.clamp(min=0).log())

    def sqrt(self) -> "Rounded":
        """Return the square root. Errors do not make a number negative."""
        return self.apply(lambda x: x.clamp(min=0).sqrt(), ROOT)
