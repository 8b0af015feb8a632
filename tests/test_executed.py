"""The path of a port on the device: other settings, other operators, other layouts."""

import contextlib
import copy

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from npu_parity.check import Original, check_port
from npu_parity.verdict.executed import Executed, Path, Step, compare, executed

HERE = []  # not empty on the simulated device


class Device(TorchDispatchMode):
    """A simulated device whose convolutions may be wrong for operands with channels last."""

    def __init__(self, wrong=False):
        super().__init__()
        self.wrong = wrong

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **kwargs or {})
        if self.wrong and func.overloadpacket is torch.ops.aten.convolution:
            last = args[0].is_contiguous(memory_format=torch.channels_last)
            if last and not args[0].is_contiguous():
                result[:, 0] *= 1.01
        return result


def on_device(wrong=False):
    @contextlib.contextmanager
    def within():
        HERE.append(True)
        try:
            with Device(wrong):
                yield
        finally:
            HERE.pop()

    return within


class Branch(nn.Module):
    """A layer, and another one on the device."""

    def __init__(self, layer, other):
        super().__init__()
        self.layer, self.other = layer, [other]  # a list hides its modules

    def forward(self, x):
        return (self.other[0] if HERE else self.layer)(x)


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
    ).eval()


X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def test_another_setting_on_the_device_is_a_no(net):
    """The outputs hardly differ, and question 2 runs the reference's operators."""
    other = copy.deepcopy(net[1])
    other.eps = net[1].eps * (1 + 1e-3)
    port = copy.deepcopy(net)
    port[1] = Branch(port[1], other)
    report = check_port(net, port, X, "cpu", {"conv": "hf32"}, kernels=on_device())
    assert report.verdict.failed.question == 1
    assert "on the device where it is 1e-05" in report.verdict.failed.findings[0]
    assert check_port(net, port, X).passed  # the path on the CPU is right


class Candidates(nn.Module):
    """The best candidates above a score, at most three, like in a detector."""

    def forward(self, x):
        kept = x[x > 0]
        return kept.topk(min(3, len(kept))).values


def test_a_number_of_candidates_is_no_setting():
    """Rounding may lift one value above the threshold. Then one more is kept."""
    here, there = (executed(Candidates(), torch.tensor(x)) for x in ([1.0, -0.1], [1.0, 0.1]))
    assert [step.settings["k"] for step in (here.steps[-1], there.steps[-1])] == [1, 2]
    assert compare(here, there) == Path()


def test_another_number_for_the_same_operands_is_a_setting():
    few, many = (
        Executed((Step("", "topk", {"k": k, "largest": True}, (torch.Size([4]),)),)) for k in (2, 3)
    )
    assert compare(few, many).wrong == ("topk k 3 on the device where it is 2, at the top level",)


def test_other_operators_on_the_device_are_told(net):
    port = copy.deepcopy(net)
    port[2] = Branch(port[2], nn.Hardtanh(0, 1e9))
    report = check_port(net, port, X, kernels=on_device())
    assert report.passed
    reasons = " / ".join(report.questions[3].findings)
    assert "on the device, the port runs hardtanh where it runs relu" in reasons


def test_a_kernel_wrong_for_the_layout_of_the_port(net):
    """Question 2 runs it in this layout, too."""
    port = copy.deepcopy(net).to(memory_format=torch.channels_last)
    original = Original(net, X.expand(2, 3, 8, 8) * 1e-3, kernels=on_device(wrong=True))
    second = original.check(port).questions[1]
    assert not second.passed and "convolution" in second.findings[0]
    assert original.check(copy.deepcopy(net)).passed
    assert Original(net, X, kernels=on_device()).check(port).passed


def test_a_port_without_visible_operators(net):
    here = Executed((Step("", "relu", {}),))
    assert compare(here, here) == Path()
    longer = compare(here, Executed((*here.steps, Step("", "mul", {"other": 1.002}))))
    assert longer.wrong == () and "2 operators where it runs 1" in longer.unseen[0]


def test_layouts_are_seen(net):
    assert not executed(net, X).channels_last
    assert executed(net, X.to(memory_format=torch.channels_last)).channels_last
    names = [step.name for step in executed(net, X).steps]
    assert names == ["convolution", "native_batch_norm", "relu", "addmm"]


def test_steps_are_operators_that_compute_with_their_settings():
    class Net(nn.Module):
        def forward(self, x):
            return nn.functional.leaky_relu(x.clone().mean(1), 0.2)

    mean, leaky = executed(Net(), X).steps
    assert (mean.name, leaky.name) == ("mean", "leaky_relu")
    assert mean.settings == {} and leaky.settings == {"negative_slope": 0.2}
    assert mean.place == "at the top level" and Step("a.b", "relu", {}).place == "at a.b"
