"""Error bounds of each operator's result. They follow from the arithmetic, not from tuning.

Every bound is a worst case over all orders of summation:

- The error of a sum of n terms is at most n U times the sum of their magnitudes (Higham,
  *Accuracy and Stability of Numerical Algorithms*, 2nd ed., section 3.1; Jeannerod and Rump,
  SIAM J. Matrix Anal. Appl. 34 (2013) 338, show that no second-order term is needed).
- Rounding both operands to unit roundoff u changes a product by at most 2u + u² times itself.
- The error of an elementary function is at most the error that libraries document.
- An operator in 16 bits computes in float32 and rounds its result once (`storage`).
- Data movement, selection and comparison must return equal values.

The bound of a convolution holds for direct sums of products. Winograd and FFT algorithms add and
subtract values of a whole tile, so their error is relative to the largest value of the tile. They
exceed the bound if a tile holds large and small values.
"""

from npu_parity.verdict.bounds.expected import Expected, exact_and_bound, has_rule, tried

__all__ = ["Expected", "exact_and_bound", "has_rule", "tried"]
