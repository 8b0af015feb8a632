"""What float32 arithmetic may cost: all bounds follow from these numbers."""

import torch

from npu_parity.verdict.thresholds import Threshold

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
