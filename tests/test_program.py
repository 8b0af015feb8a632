import copy

import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef

from npu_parity.verdict import steps
from npu_parity.verdict.answers import Program
from npu_parity.verdict.program import compare
from npu_parity.verdict.steps import find_steps


def differences(*networks_and_inputs):
    found = compare(*networks_and_inputs)
    assert found.same is (not found.differences)
    return list(found.differences)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    net = timm.create_model("mobilenetv3_small_050", num_classes=10).eval()
    nn.init.normal_(net.classifier.bias)
    return net


@pytest.fixture(scope="module")
def image():
    return torch.randn(1, 3, 32, 32)


class Block(nn.Module):
    """A residual block with attention, written in the plainest way."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(8)
        self.qkv = nn.Linear(8, 24)
        self.proj = nn.Linear(8, 8)
        self.register_buffer("scale", torch.full((1,), 0.5), persistent=False)
        self.table = torch.arange(8.0)

    def parts(self, x):
        return self.qkv(self.norm(x)).chunk(3, dim=-1)

    def forward(self, x):
        q, k, v = self.parts(x)
        weights = (q @ k.transpose(-2, -1) * self.scale).softmax(-1)
        return x - self.proj(weights @ v + self.table).relu()


@pytest.fixture
def block():
    torch.manual_seed(0)
    return Block().eval()


TOKENS = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))


def test_copy_is_the_same(network, image):
    assert differences(network, copy.deepcopy(network), image) == []


def test_what_cannot_change_an_inference_is_no_difference(network, image):
    port = copy.deepcopy(network)
    for module in port.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.5
            module.num_batches_tracked += 7
            module.track_running_stats = False
        if hasattr(module, "inplace"):
            module.inplace = not module.inplace
    assert differences(network, port, image) == []


def test_other_libraries_classes_are_the_same_program(image):
    reference = torchvision.models.resnet18().eval()
    port = timm.create_model("resnet18").eval()  # other classes, other module names
    port.load_state_dict(reference.state_dict())
    assert differences(reference, port, image) == []


def test_renamed_modules_are_the_same_program(block):
    class Renamed(Block):
        def __init__(self, block):
            nn.Module.__init__(self)
            self.a, self.b, self.c, self.scale = block.norm, block.qkv, block.proj, block.scale
            self.table = block.table.clone()

        def forward(self, x):
            q, k, v = torch.split(self.b(self.a(x)), 8, dim=-1)
            weights = torch.matmul(q, k.transpose(-2, -1)).mul_(self.scale).softmax(dim=-1)
            return x - self.c(weights @ v + self.table).contiguous().clone().relu_()

    assert differences(block, Renamed(copy.deepcopy(block)).eval(), TOKENS) == []


def set_eps(port):
    port.bn1.eps = 1e-3


def skip_eval(port):
    port.train()


def train_one(port):
    port.blocks[1][0].bn1.train()


def other_stride(port):
    port.conv_stem.stride = (1, 1)


def other_padding(port):
    port.conv_stem.padding = (0, 0)


def other_activation(port):
    port.act2 = nn.Hardswish() if not isinstance(port.act2, nn.Hardswish) else nn.ReLU().eval()


def without_gate(port):
    port.blocks[0][0].se = nn.Identity().eval()


def other_weight(port):
    port.conv_stem.weight.data[0, 0, 0, 0] += 1e-3


def negative_zero(port):
    port.bn1.bias.data[0] = -0.0


def other_statistics(port):
    port.bn1.running_var *= 1.01


def other_classes(port):
    port.classifier = nn.Linear(port.classifier.in_features, 7).eval()


def half_weight(port):
    port.conv_stem.weight.data = port.conv_stem.weight.data.half()


def no_bias(port):
    port.classifier.bias = None


FAULTS = {
    set_eps: "batch_norm eps 0.001 where the reference has 1e-05, at bn1",
    skip_eval: "training mode where the reference is in evaluation mode, at the top level",
    train_one: "training mode where the reference is in evaluation mode, at blocks.1.0.bn1",
    other_stride: "convolution stride [1, 1] where the reference has [2, 2], at conv_stem",
    other_padding: "convolution padding [0, 0] where the reference has [1, 1], at conv_stem",
    other_activation: "relu where the reference has hardswish, at act2",
    without_gate: "results agree up to relu at blocks.0.0.bn1.act, the first different result is "
    "between mean at blocks.0.0.se and ",
    other_weight: "conv_stem.weight differs from the reference's in 1 of 432 values, by up to 0.00",
    negative_zero: "bn1.bias differs from the reference's in 1 of 16 values, by up to 0",
    other_statistics: "bn1.running_var differs from the reference's in 16 of 16 values, by up to",
    other_classes: "Linear out_features 7 where the reference has 10, at classifier",
    half_weight: "conv_stem.weight is float16 (16, 3, 3, 3) where the reference has float32",
    no_bias: "the first different result is addmm at classifier",
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.__name__)
def test_each_fault_is_told_first_and_once(network, image, fault):
    port = copy.deepcopy(network)
    fault(port)
    found = differences(network, port, image)
    assert FAULTS[fault] in found[0]
    assert len(found) == len(set(found))
    if fault in (set_eps, skip_eval, train_one, other_activation, other_weight):
        assert len(found) == 1
    assert differences(network, copy.deepcopy(network), image) == []  # nothing leaked


def test_a_setting_that_this_input_does_not_show(image):
    reference = nn.AvgPool2d(2, ceil_mode=False), nn.AvgPool2d(2, ceil_mode=True)
    (found,) = differences(*reference, image)
    assert found == "avg_pool2d ceil_mode True where the reference has False, at the top level"
    pools = nn.AdaptiveAvgPool2d(32), nn.AdaptiveAvgPool2d((32, 32))
    assert differences(*pools, image) == []
    scale = nn.Upsample(scale_factor=1.0, mode="bicubic"), nn.Upsample(scale_factor=1.0)
    assert "Upsample mode nearest where the reference has bicubic, at the top level" in differences(
        *scale, image
    )


def test_a_setting_that_no_operator_shows(image):
    class Scaled(nn.Module):
        __constants__ = ("factor", "name")

        def __init__(self, factor, name):
            super().__init__()
            self.factor, self.name = factor, name

        def forward(self, x):
            return x * self.factor if len(x) > 1 else x + 1

    assert differences(Scaled(2.0, "a"), Scaled(2.0, "b"), image) == []
    assert differences(Scaled(2.0, "a"), Scaled(3.0, "a"), image) == [
        "Scaled factor 3.0 where the reference has 2.0, at the top level"
    ]


def change(method):
    """Return a `Block` class with another method."""
    return type("Port", (Block,), {method.__name__: method})


@change
def parts(self, x):
    q, k, v = self.qkv(self.norm(x)).chunk(3, dim=-1)
    return k, q, v


SwappedHeads = parts


@change
def forward(self, x):
    q, k, v = self.parts(x)
    weights = (q @ k.transpose(-2, -1) * self.scale).softmax(-1)
    return self.proj(weights @ v + self.table).relu() - x


SwappedOperands = forward


@change
def forward(self, x):
    q, k, v = self.parts(x)
    weights = (q @ k.transpose(-2, -1) * self.scale).softmax(-1)
    return v - self.proj(weights @ v + self.table).relu()


OtherSkip = forward


@pytest.mark.parametrize(
    ("port", "sentence"),
    [
        (SwappedHeads, "transpose self from split[0] where the reference has split[1]"),
        (SwappedOperands, "sub self from relu where the reference has an input or a constant"),
        (OtherSkip, "sub self from split[2] where the reference has an input or a constant"),
    ],
)
def test_same_operators_on_other_operands(block, port, sentence):
    wrong = port().eval()
    wrong.load_state_dict(block.state_dict())
    found = differences(block, wrong, TOKENS)
    assert any(f.startswith(sentence) for f in found), found


def test_constants_that_are_in_no_state_dict(block):
    port = copy.deepcopy(block)
    port.scale += 0.1
    port.table = port.table.flip(0)
    assert differences(block, port, TOKENS) == [
        "mul other with other values than the reference's, at the top level",
        "add other with other values than the reference's, at the top level",
    ]


def test_swapped_weights_of_renamed_layers(image):
    a = nn.Sequential(nn.Conv2d(3, 3, 1, bias=False), nn.Conv2d(3, 3, 1, bias=False))

    class Net(nn.Module):
        def __init__(self, first, second):
            super().__init__()
            self.first, self.second = first, second

        def forward(self, x):
            return self.second(self.first(x))

    assert differences(a, Net(*copy.deepcopy(a)), image) == []
    found = differences(a, Net(*reversed(copy.deepcopy(a))), image)
    assert found == [
        "convolution weight with other values than the reference's, at first",
        "convolution weight with other values than the reference's, at second",
    ]


def test_a_port_that_does_not_run(network, image):
    port = copy.deepcopy(network)
    port.conv_head = nn.Identity().eval()
    *_, sentence = differences(network, port, image)
    assert sentence.startswith("the ported network does not run: MobileNetV3 on an input of shape")
    assert "mat1 and mat2" in sentence


def test_networks_are_left_alone(network, image):
    port = copy.deepcopy(network).train()
    before = copy.deepcopy(port.state_dict())
    differences(network, port, image)
    assert port.training and not network.training
    assert all(torch.equal(v, port.state_dict()[k]) for k, v in before.items())


# The same program, written in another way


class Written(nn.Module):
    """A function as a network."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def pool(x, *args, **options):
    return torch.ops.aten.max_pool2d_with_indices(x, *args, **options)[0]


def filled(shape, value):
    """Return memory that was allocated first and filled later, in part."""
    memory = torch.empty(shape)
    memory[:1] = value
    memory[1:].fill_(value)
    return memory


SAME = {
    "negative dims": (lambda x: x.sum((2, 3)).softmax(1), lambda x: x.sum((-1, -2)).softmax(-1)),
    "new dim": (lambda x: x.unsqueeze(4).relu(), lambda x: x.unsqueeze(-1).relu()),
    "size left open": (lambda x: x.view(1, 3, 1024).relu(), lambda x: x.view(1, 3, -1).relu()),
    "stride of the kernel": (lambda x: pool(x, [2, 2]), lambda x: pool(x, [2, 2], [2, 2])),
    "one number for two": (lambda x: pool(x, [2, 2], [2]), lambda x: pool(x, [2], [2, 2])),
    "reshape to the same": (lambda x: x.relu(), lambda x: x.reshape(x.shape).relu().view_as(x)),
    "expand to the same": (lambda x: x.relu(), lambda x: x.expand(-1, 3, -1, -1).relu()),
    "slice of everything": (lambda x: x.relu(), lambda x: x[:, :, 0:].relu()[..., :32]),
    "end of a slice": (lambda x: x[:, :, 4:].relu(), lambda x: x[:, :, -28:32].relu()),
    "type that it has": (lambda x: x.relu(), lambda x: x.to(torch.float32).relu().float()),
    "profiler": (lambda x: x.relu(), lambda x: in_a_range(x).relu()),
    "buffer for the result": (lambda x: x.exp(), lambda x: torch.exp(x, out=x.new_empty(x.shape))),
    "allocated first": (lambda x: x + filled(32, 0.5), lambda x: x + filled(32, 0.5)),
    "number of float32": (lambda x: x * 0.1, lambda x: x * 0.10000000149011612),
}


def in_a_range(x):
    with torch.autograd.profiler.record_function("range"):
        return x.contiguous()


@pytest.mark.parametrize("name", SAME)
def test_one_program_written_in_two_ways(image, name):
    a, b = SAME[name]
    found = compare(Written(a), Written(b), image)
    assert found == Program(True, "same program"), found


MOVED = {  # the shape stays
    "flip": lambda x: x.flip(-1),
    "transpose": lambda x: x.mT,
    "shift": lambda x: nn.functional.pad(x, (1, -1)),
    "first of all": lambda x: x[:, :1].expand(-1, 3, -1, -1),
    "rounded": lambda x: x.to(torch.int32).to(torch.float32),
}


@pytest.mark.parametrize("name", MOVED)
def test_an_operator_that_moves_values_is_a_difference(image, name):
    port = Written(lambda x: MOVED[name](x.exp()).relu())
    assert compare(Written(lambda x: x.exp().relu()), port, image).same is False


def test_a_constant_is_rounded_differently(image):
    table = torch.linspace(0.1, 5, 32).double().exp()
    tables = [t.float() for t in (table, table * (1 + 2e-7), table * (1 + 1e-5))]
    a, b, wrong = (Written(lambda x, t=t: x * t) for t in tables)
    assert compare(a, b, image) == Program(True, "same program")
    assert differences(a, wrong, image) == [
        "mul other with other values than the reference's, at the top level"
    ]


class Scaled(nn.Module):
    """Multiplies by a weight, or by the same numbers in no state dict."""

    def __init__(self, table, kept):
        super().__init__()
        self.table = nn.Parameter(table) if kept else table

    def forward(self, x):
        return x * self.table


@pytest.mark.parametrize("kept", [True, False])
def test_a_weight_has_its_bits_also_where_the_other_side_has_a_constant(image, kept):
    table = torch.linspace(0.1, 5, 32).exp()
    near = table * (1 + 2e-7)
    for found, same in ((table, True), (near, False)):
        findings = compare(Scaled(table, kept), Scaled(found, not kept), image).differences
        assert any("with other values" in f for f in findings) is not same


def test_flags_that_nothing_reads(network, image):
    """A container has a training flag; torch.fx makes such containers."""
    port = copy.deepcopy(network)
    port.blocks.train()
    for module in port.blocks.modules():
        module.training = isinstance(module, nn.Sequential)
    assert compare(network, port, image) == Program(True, "same program")
    port.blocks[1][0].bn1.train()
    assert compare(network, port, image).same is False


def test_batch_and_layout_change_no_program(network):
    images = torch.randn(2, 3, 32, 32)
    port = copy.deepcopy(network).to(memory_format=torch.channels_last)
    assert compare(network, port, images).same


@pytest.mark.parametrize("pool", [nn.MaxPool2d(2), nn.AvgPool2d(2)])
def test_a_pool_without_a_stride_has_its_kernels(pool):
    port = copy.deepcopy(pool)
    port.stride = None
    assert compare(pool.eval(), port.eval(), torch.randn(1, 3, 8, 8)).same
    port.kernel_size = 4
    assert "kernel_size" in differences(pool, port, torch.randn(1, 3, 8, 8))[0]


def test_a_tensor_of_the_reference_may_be_a_number_of_the_port(block):
    port = copy.deepcopy(block)
    del port.scale
    port.scale = 0.5
    assert compare(block, port, TOKENS).same is True
    port.scale = 0.4
    assert compare(block, port, TOKENS).same is False


def test_a_cast_shows_also_where_it_changes_no_value(block):
    class Cast(Block):
        def forward(self, x):
            return super().forward(x.half().float())

    port = Cast().eval()
    port.load_state_dict(block.state_dict())
    found = compare(block, port, TOKENS.half().float())
    assert found.same is False and "gives float16" in found.differences[0]


def test_a_program_keeps_no_computed_tensor(network, image):
    """The memory of a comparison does not hold the activations of a network."""
    step = find_steps(network, image)[-1]
    operands = [v for v in step.arguments.values() if isinstance(v, steps.Operand)]
    assert all((v.value is None) == (v.source is not None) for v in operands)
    assert len({v.source is None for v in operands}) == 2, "a weight and an activation"


def test_results_of_a_program_are_free_while_it_runs(monkeypatch):
    made, alive = [], []

    def look(call, own=steps._hands_on):
        if call.name != "t":  # a view of a weight
            made.append(StorageWeakRef(call.result.untyped_storage()))
        alive.append(sum(not storage.expired() for storage in made))
        return own(call)

    monkeypatch.setattr(steps, "_hands_on", look)
    layers = [layer for _ in range(20) for layer in (nn.Linear(64, 64, bias=False), nn.Tanh())]
    assert len(find_steps(nn.Sequential(*layers), torch.ones(1, 64))) >= 40
    assert len(made) == 40 and max(alive) < 5


def test_freed_memory_is_forgotten_while_a_program_runs(monkeypatch):
    """What would remain of it keeps the allocator from using large pieces of memory again."""
    watched = []

    def look(finder, own=steps._Finder._forget):
        own(finder)
        watched.append(len(finder._storages))
        assert finder._made.keys() | finder._written.keys() <= finder._storages.keys()

    monkeypatch.setattr(steps._Finder, "_forget", look)
    layers = [layer for _ in range(20) for layer in (nn.Conv1d(8, 8, 1), nn.ReLU(inplace=True))]
    found = find_steps(nn.Sequential(*layers), torch.ones(1, 8, 64))
    assert len(watched) >= len(found) == 40 and max(watched) < 5


class Reused(nn.Module):
    """Its second addition gets the memory of the first one, which is free by then."""

    def __init__(self, crossed=False):
        super().__init__()
        self.crossed = crossed

    def forward(self, x):
        y = (x + 1).sum(1)
        z = (x + 2).sum(1)
        a, b = (z, y) if self.crossed else (y, z)
        return a / b


def test_new_memory_at_the_place_of_freed_memory_is_another_tensor():
    x = torch.randn(1, 1000)
    sums = [step.arguments["self"].source for step in find_steps(Reused(), x) if step.name == "sum"]
    assert sums == [(0, 0), (2, 0)]
    assert compare(Reused(), Reused(), x).same
    assert compare(Reused(), Reused(crossed=True), x).same is False


class InPlace(nn.Module):
    """Writes to a tensor that was read, viewed and made before; `late` reads a view after it."""

    def __init__(self, late):
        super().__init__()
        self.late = late

    def forward(self, x):
        y = x * 2
        view = y.view(2, -1)[0]
        early = view + 1
        y.add_(3)
        return early, (view if self.late else early) * 4


def test_an_operand_that_was_written_to_comes_from_the_operator_that_wrote():
    x = torch.randn(1, 8)
    for late in (False, True):
        *_, add, write, last = find_steps(InPlace(late), x)
        assert (add.name, write.name.strip("_"), last.name) == ("add", "add", "mul")
        read = last.arguments["self"].source
        found = find_steps(InPlace(late), x)
        assert found[read[0]].name.strip("_") == "add"
        assert (read[0] == len(found) - 2) == late


def test_a_constant_keeps_its_value_after_a_write_to_it():
    class Counting(nn.Module):
        def __init__(self, start):
            super().__init__()
            self.register_buffer("count", torch.tensor([float(start)]))

        def forward(self, x):
            y = x + self.count
            self.count.mul_(0)
            return y

    step = find_steps(Counting(3), torch.ones(1, 2))[0]
    assert [v.value.tolist() for v in step.arguments.values() if getattr(v, "name", None)] == [[3]]
