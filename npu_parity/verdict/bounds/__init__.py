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

from npu_parity.verdict.bounds.expected import Expected, exact_and_bound

__all__ = ["Expected", "exact_and_bound"]
