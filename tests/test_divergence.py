"""Where two runs part: operator by operator, on networks that are changed in one place."""

import copy
import io
import math

import pandas as pd
import pytest
import torch
from torch import nn

from npu_parity.numerics.emulation import emulate
from npu_parity.numerics.formats import Numerics
from npu_parity.verdict.divergence import Step, divergence, first_beyond
from npu_parity.verdict.envelope import ENVELOPE
from npu_parity.verdict.recording import record

HF32 = Numerics(conv="hf32")


@pytest.fixture(scope="module")
def x():
    return torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8),
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
    ).eval()  # fmt: skip


def followed(net, x, port=None, numerics=HF32, on_device=None, alone=None):
    measured = []
    if port is not None:
        with emulate(on_device or numerics):
            measured = record(port, x)
    with emulate(numerics):
        predicted = record(net, x)
    exact = record(copy.deepcopy(net).double(), x.double())
    return divergence(record(net, x), exact, predicted, measured, alone)


def test_same_network_keeps_to_its_prediction(net, x):
    steps = followed(net, x, copy.deepcopy(net))
    assert [s.operator for s in steps] == [c.operator for c in record(net, x)]
    for step in steps:
        assert step.measured == step.predicted
        assert 0 <= step.float32 < 1e-6
    assert steps[0].predicted > 1e-5
    assert first_beyond(steps, ENVELOPE) is None


def test_float32_is_measured_against_float64(net, x):
    steps = followed(net, x)
    exact = copy.deepcopy(net).double()(x.double())
    error = ((net(x).double() - exact).norm() / exact.norm()).item()
    assert steps[-1].float32 == pytest.approx(error, rel=1e-12) and error > 0


def test_prediction_alone_has_nothing_measured(net, x):
    steps = followed(net, x)
    assert all(step.measured is step.alone is None for step in steps)
    assert first_beyond(steps, ENVELOPE) is None


@pytest.mark.parametrize("number", [1, 4])
def test_first_is_the_layer_that_was_changed(net, x, number):
    port = copy.deepcopy(net)
    port[number].eps = 0.1
    steps = followed(net, x, port)
    first = first_beyond(steps, ENVELOPE)
    assert first.module == str(number) and first.operator == "aten.native_batch_norm.default"
    assert all(s.measured == s.predicted for s in steps[: first.index])


def test_fault_of_a_device_in_float32(net, x):
    """The prediction is no error at all there, and float32's own rounding is the floor."""
    port = copy.deepcopy(net)
    with torch.no_grad():
        port[3].weight[0, 0, 0, 0] += 1e-3
    first = first_beyond(followed(net, x, port, numerics=Numerics()), ENVELOPE)
    assert first.module == "3"


def test_an_operator_beyond_its_bound_comes_before_all_others(net, x):
    port = copy.deepcopy(net)
    port[1].eps = 0.1
    steps = followed(net, x, port, alone={0: 0.5, 1: 0.9, 3: 7.0, 4: math.inf})
    assert first_beyond(steps, ENVELOPE).index == 3
    assert first_beyond([s for s in steps if s.index != 3], ENVELOPE).index == 4


def test_what_is_not_finite_is_infinitely_far(net, x):
    port = copy.deepcopy(net)
    with torch.no_grad():
        port[3].bias[2] = math.nan
    steps = followed(net, x, port)
    assert all(s.measured < math.inf for s in steps[:3])
    assert all(s.measured == math.inf for s in steps[3:] if s.operator != "aten.t.default")
    assert first_beyond(steps, ENVELOPE).module == "3"


def test_operators_more_or_fewer_are_passed_over(net, x):
    """What follows is still paired: a port may fuse two operators, or need one more."""
    layers = list(copy.deepcopy(net))
    fewer = nn.Sequential(*layers[:2], *layers[3:]).eval()
    more = nn.Sequential(layers[0], nn.Identity(), *layers[1:6], nn.Sigmoid(), *layers[6:]).eval()
    steps = followed(net, x, fewer)
    assert [s.index for s in steps if s.measured is None] == [2]
    assert steps[-1].measured > ENVELOPE * steps[-1].predicted
    steps = followed(net, x, more)
    assert not [s for s in steps if s.measured is None]
    assert first_beyond(steps, ENVELOPE).operator == "aten.mean.dim"


def test_integers_and_zeros():
    class Net(nn.Module):
        def forward(self, x):
            return (x * 0).sum(), x.argmax(), x + 1

    port = nn.Sequential(Net())
    x = torch.ones(1, 4)
    steps = {s.operator: s for s in followed(Net(), x, port)}
    assert steps["aten.argmax.default"].measured is None
    assert steps["aten.mul.Tensor"].measured == steps["aten.mul.Tensor"].float32 == 0.0


def test_operators_of_another_shape_are_not_paired():
    """A port may compute more with an operator of the same name. A scalar has no shape."""

    class Net(nn.Module):
        def forward(self, x):
            return x * x.sum().item()

    class More(nn.Module):
        def forward(self, x):
            return x * (x[:, :2] * 3).sum().item()

    (step,) = [s for s in followed(Net(), torch.ones(1, 4), More()) if s.operator[:8] == "aten.mul"]
    assert step.float32 == 0 and step.measured == 0.5  # 6 x instead of 4 x


def test_rows_are_read_back():
    steps = [
        Step(0, "0", "aten.mm.default", 1e-7, 2e-4, math.inf, 0.25),
        Step(1, "", "aten.argmax.default", None, None, None, None),
    ]
    text = pd.DataFrame(step.row() for step in steps).to_csv(index=False)
    frame = pd.read_csv(io.StringIO(text), dtype={"module": str})
    assert [Step.from_row(row) for row in frame.to_dict("records")] == steps
