import weakref

import pytest
import timm
import torch
from torch import nn

from npu_parity.errors import ParityError
from npu_parity.numerics.emulation import emulate
from npu_parity.numerics.formats import Numerics
from npu_parity.verdict.kernels import execute
from npu_parity.verdict.recording import record, tensors, visit


class InPlace(nn.Module):
    """Writes to a result, to an operand that is used again, to part of a tensor and to a view."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x):
        x = self.conv(x)
        kept = x * 1.0
        flat = x.view(-1)
        self.act(x)
        y = x + kept
        y[:, 1:3] = 0.5
        flat.mul_(2)
        y += x
        z = torch.empty_like(y)
        z.copy_(y).clamp_(max=1.0)
        return z.sum(1)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)

    def forward(self, x):
        q, k, v = self.layer(x)[:, None].expand(-1, 3, -1, -1).unbind(1)
        return nn.functional.scaled_dot_product_attention(q, k, v)


NETWORKS = {
    "in place": (InPlace, (2, 3, 8, 8)),
    "attention": (Attention, (2, 5, 16)),
    "resnet": (lambda: timm.create_model("resnet10t"), (1, 3, 32, 32)),
    "mobile": (lambda: timm.create_model("mobilenetv3_small_050"), (1, 3, 32, 32)),
}


def same_bits(a, b):
    """Also where memory that was only allocated happens to hold NaN."""
    return a.shape == b.shape and torch.equal(a.view(torch.int32), b.view(torch.int32))


@pytest.mark.parametrize("name", NETWORKS)
def test_each_call_repeats_its_result(name):
    build, shape = NETWORKS[name]
    torch.manual_seed(0)
    calls = record(build(), torch.randn(shape))
    assert len(calls) > 5
    for call in calls:
        before = [t.clone() for t in tensors((call.args, call.kwargs))]
        again = tensors(execute(call, torch.device("cpu")))
        assert all(map(same_bits, again, tensors(call.result))), call.operator
        assert all(map(same_bits, before, tensors((call.args, call.kwargs)))), call.operator


def test_operands_are_as_they_were_before_something_wrote_to_them():
    class Net(nn.Module):
        def forward(self, x):
            x = x - 1
            view = x[1:]
            x.relu_()
            return view.add_(x[:1])

    calls = record(Net(), torch.tensor([0.0, 3.0]))
    sub, _, relu, *_, add = calls
    assert [c.name for c in calls] == ["sub", "slice", "relu", "slice", "add"]
    assert sub.result.tolist() == relu.args[0].tolist() == [-1, 2]
    assert relu.result.tolist() == [0, 2]
    assert add.args[0].tolist() == [2] and add.args[1].tolist() == [0]
    assert add.result.tolist() == [2]


@pytest.mark.parametrize("name", NETWORKS)
def test_a_visit_sees_the_recorded_calls_one_at_a_time(name):
    build, shape = NETWORKS[name]
    torch.manual_seed(0)
    model, x = build(), torch.randn(shape)
    recorded, alive, seen = record(model, x), weakref.WeakSet(), []

    def each(call):
        alive.add(call)
        assert len(alive) <= 2
        found = tensors(execute(call, torch.device("cpu")))
        assert all(map(same_bits, found, tensors(call.result)))
        seen.append((call.index, call.module, call.operator, call.first.shape))

    visit(model, x, each=each)
    assert seen == [(c.index, c.module, c.operator, c.first.shape) for c in recorded]


def test_a_visitor_runs_outside_of_the_emulation():
    x, found = torch.tensor([[1 + 2.0**-20]]), []
    with emulate(Numerics(matmul="hf32")):
        visit(nn.Linear(1, 1), x, each=lambda call: found.append(x @ torch.ones(1, 1)))
    assert found and all(torch.equal(f, x) for f in found)


def test_calls_outlive_changes_of_the_network():
    model = nn.Linear(3, 2)
    weight = model.weight.detach().clone()
    calls = record(model, torch.randn(1, 3))
    model.double()
    t = next(c for c in calls if c.name == "t")
    assert t.args[0].dtype == torch.float32 and torch.equal(t.args[0], weight)


def test_module_paths():
    model = nn.Sequential(nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU()), nn.Flatten())

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.features = model

        def forward(self, x):
            return self.features(x * 2) + 1

    calls = record(Net(), torch.randn(1, 1, 2, 2))
    assert [(c.module, c.name) for c in calls] == [
        ("", "mul"),
        ("features.0.0", "convolution"),
        ("features.0.1", "relu"),
        ("features.1", "view"),
        ("", "add"),
    ]
    assert [c.index for c in calls] == list(range(5))
    assert calls[1].operator == "aten.convolution.default"


def test_arguments_by_name_with_defaults():
    call, *_ = record(nn.MaxPool2d(3, ceil_mode=True), torch.randn(1, 1, 5, 5))
    assert call.arguments["kernel_size"] == [3, 3]
    assert call.arguments["dilation"] == [1, 1] or call.arguments["dilation"] == 1
    assert call.arguments["ceil_mode"] is True
    assert next(iter(call.arguments)) == "self"


def test_leaves_the_network_as_it_was():
    class Fails(nn.Module):
        def forward(self, x):
            raise RuntimeError("no")

    model = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(3), Fails())
    model[1].eval()
    fastpath = torch.backends.mha.get_fastpath_enabled()
    with pytest.raises(ParityError, match="RuntimeError: no"):
        record(model, torch.randn(4, 3))
    assert [m.training for m in model.modules()] == [True, True, False, True]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert torch.backends.mha.get_fastpath_enabled() == fastpath

    calls = record(model[:2], torch.randn(4, 3))  # in evaluation mode: no dropout, no statistics
    assert [c.name for c in calls] == ["native_batch_norm"]
    assert model[0].training and model[1].num_batches_tracked == 0


def test_output_is_unchanged_and_without_gradient():
    model = timm.create_model("resnet10t").eval()
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        expected = model(x)
    found = record(model, x)[-1].result
    assert torch.equal(found, expected) and not found.requires_grad


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_attention_and_composites_are_taken_apart_in_every_mode(mode):
    model = Attention()
    with mode():
        names = [c.name for c in record(model, torch.randn(1, 5, 16))]
    assert names.count("bmm") == 4 and "addmm" in names
    assert not any("attention" in n or "linear" in n for n in names)


def test_memory_without_values_is_no_call():
    class Net(nn.Module):
        def forward(self, x):
            return torch.empty_like(x).fill_(2.0)

    assert [c.name for c in record(Net(), torch.ones(2))] == ["fill"]
