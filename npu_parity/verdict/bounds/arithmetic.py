"""Errors of float32 arithmetic. All bounds follow from these numbers."""

import torch

from npu_parity.verdict.thresholds import Threshold

U = Threshold(
    2.0**-24,
    question=2,
    decides="The relative error of one addition or multiplication is at most this.",
    reason="The unit roundoff of float32 (IEEE 754).",
)
TINY = Threshold(
    2.0**-126,
    question=2,
    decides="The absolute error of an underflow is at most this.",
    reason="The smallest normal float32. Devices may flush smaller numbers to zero (OpenCL).",
)
FUNCTION = Threshold(
    20 * 2 * U,
    question=2,
    decides="The relative error of an elementary function (exp, log, tanh, pow …) is at most this.",
    reason="20 units in the last place, each at most 2U. OpenCL 3.0 (Relative Error as ULPs, full "
    "profile) allows 3 to 16 units. PyTorch's softmax on CPUs allows 20 (exp_u20 in ATen/cpu/vec).",
)
ROOT = Threshold(
    3 * 2 * U,
    question=2,
    decides="The relative error of a division or a square root is at most this.",
    reason="3 units in the last place. The same OpenCL table allows 2.5 units for a division, 2 "
    "for rsqrt and 3 for sqrt.",
)
ERF = Threshold(
    1.5e-7 + FUNCTION,
    question=2,
    decides="The absolute error of erf is at most this.",
    reason="PyTorch computes erf on CPUs as 1 - p(x) exp(-x²) (Abramowitz and Stegun 7.1.26). This "
    "formula has an error of 1.5e-7. Near 0, the error of exp adds to it.",
)
DOUBLE = Threshold(
    2.0**-28,
    question=2,
    decides="The bound of a float64 result is this many times the bound of a float32 result.",
    reason="The unit roundoff of float64 is 2^-29 times that of float32. The result that it is "
    "compared with is in float64, too, and has the same error.",
)
LARGEST = float(torch.finfo(torch.float32).max)
