"""The sum over taps is torch's own depthwise convolution in float64."""

import itertools

import pytest
import torch

from npu_parity.numerics import depthwise

CONVOLUTION = torch.ops.aten.convolution.default


@pytest.mark.parametrize(
    "stride, padding, dilation",
    list(itertools.product([[1, 1], [2, 3], [2]], [[0, 0], [1, 2]], [1, 2])),
)
@pytest.mark.parametrize("bias", [True, False])
def test_taps_are_the_convolution(stride, padding, dilation, bias):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 5, 12, 9, generator=generator).double()
    w = torch.randn(5, 1, 3, 2, generator=generator).double()
    b = torch.randn(5, generator=generator).double() if bias else None
    args = (x, w, b, stride, padding, [dilation, dilation], False, [0, 0], 5)
    found, expected = depthwise.run(CONVOLUTION, args, {}), CONVOLUTION(*args)
    assert found.is_contiguous()
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(
    "channels, outputs, groups, transposed", [(4, 8, 4, False), (4, 4, 4, True), (4, 4, 2, False)]
)
def test_other_convolutions_stay_torchs_own(channels, outputs, groups, transposed):
    x = torch.randn(1, channels, 6, 6, dtype=torch.float64)
    inner = outputs // groups if transposed else channels // groups
    w = torch.randn(channels if transposed else outputs, inner, 3, 3, dtype=torch.float64)
    args = (x, w, None, [1, 1], [1, 1], [1, 1], transposed, [0, 0], groups)
    assert depthwise.run(CONVOLUTION, args, {}).equal(CONVOLUTION(*args))


def test_other_operators_and_arguments_by_name_stay_torchs_own():
    x, w = torch.randn(1, 4, 9, 9).double(), torch.randn(4, 1, 3, 3).double()
    args = (x, w, None, [1, 1], [1, 1], [1, 1], False, [0, 0])
    assert depthwise.run(CONVOLUTION, args, {"groups": 4}).equal(CONVOLUTION(*args, 4))
    assert depthwise.run(torch.ops.aten.relu.default, (x,), {}).equal(x.relu())
