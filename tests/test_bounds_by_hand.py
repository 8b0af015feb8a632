"""The bounds have the size that their rules document: a smaller one is wrong, a wider one blind."""

import math

import pytest
import torch
import torch.nn.functional as F
import torchvision
from test_bounds import only, recorded

from npu_parity.numerics.formats import Numerics
from npu_parity.verdict.bounds import exact_and_bound, rules
from npu_parity.verdict.bounds.running import Rounded

U = 2.0**-24
FUNCTION, ROOT = 40 * U, 6 * U
ERF = 1.5e-7 + FUNCTION


def numbers(*shape, seed=0):
    """Return numbers of both signs, none of them small."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(shape, generator=generator) * 1.7 + 0.3
    return torch.where(torch.rand(shape, generator=generator) < 0.5, x, -x)


X, Y, Z = (numbers(4, 6, seed=seed) for seed in range(3))
IMAGE = numbers(2, 3, 4, 4)
sigmoid = torch.sigmoid


def sigmoids(x, factor):
    y = factor * sigmoid(x)
    condition = (2 * U * abs(x) + FUNCTION) * sigmoid(-x)
    return abs(y) * (condition + ROOT + 3 * U) + 2 * U * abs(factor)


def gelu(x):
    t = x / math.sqrt(2)
    error = ERF + 2 * U * abs(t) * 2 / math.sqrt(math.pi) * torch.exp(-t * t)
    return abs(x) / 2 * (error + 3 * U * (1 + abs(torch.erf(t))))


def gelu_tanh(x):
    t = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
    error = FUNCTION * abs(t.tanh()) + 6 * U * abs(t) * (1 - t.tanh() ** 2)
    return abs(x) / 2 * (error + 3 * U * (1 + abs(t.tanh())))


def reflected(x, function, slope):
    size = function(torch.where(x < 0, 1 - x, x)).abs()
    error = FUNCTION * (abs(function(x)) + size + 1)
    return error + torch.where(x < 0, 4 * U * (1 + abs(x)) * slope, 0.0)


def slope(x):
    return math.pi / torch.tan(math.pi * x).abs()


ELEMENTWISE = {
    "add": (lambda x, y: x + y, lambda x, y: 2 * U * abs(x + y)),
    "add scaled": (
        lambda x, y: torch.add(x, y, alpha=-3),
        lambda x, y: 2 * U * abs(x - 3 * y) + 2 * U * abs(3 * y),
    ),
    "add number": (lambda x: x + 0.5, lambda x: 2 * U * abs(x + 0.5) + U * 0.5),
    "add scaled number": (
        lambda x: torch.add(x, 0.5, alpha=3),
        lambda x: 2 * U * abs(x + 1.5) + 2 * U * 1.5 + U * 1.5,
    ),
    "rsub": (
        lambda x, y: torch.rsub(x, y, alpha=2),
        lambda x, y: 2 * U * abs(y - 2 * x) + 2 * U * abs(2 * x),
    ),
    "arange": (
        lambda x: torch.arange(-0.5, 2.5, 0.5),
        lambda x: 4 * U * (abs(torch.arange(-0.5, 2.5, 0.5).double()) + 3),
    ),
    "mul": (lambda x, y: x * y, lambda x, y: 3 * U * abs(x * y)),
    "div": (lambda x, y: x / y, lambda x, y: (ROOT + 2 * U) * abs(x / y)),
    "floor": (
        lambda x, y: torch.div(x, y, rounding_mode="floor"),
        lambda x, y: (ROOT + 2 * U) * abs((x / y).floor()),
    ),
    "floor of integers": (
        lambda x: torch.div(3 * x, x, rounding_mode="floor"),
        lambda x: (ROOT + 2 * U) * abs((3 * x.float()).double() / x).floor() + 1,
    ),
    "remainder": (
        lambda x, y: torch.fmod(x, 3 * y),
        lambda x, y: 4 * U * (abs(x) + abs((3 * y.float()).double())),
    ),
    "remainder of zero": (
        lambda x: torch.remainder(x, x),
        lambda x: 4 * U * 2 * abs(x) + abs(x),
    ),
    "rsqrt": (lambda x: x.abs().rsqrt(), lambda x: ROOT * abs(x) ** -0.5),
    "addcmul": (
        lambda x, y, z: torch.addcmul(x, y, z, value=0.5),
        lambda x, y, z: 2 * U * abs(x + y * z / 2) + (ROOT + 4 * U) * abs(y * z / 2),
    ),
    "addcdiv": (
        lambda x, y, z: torch.addcdiv(x, y, z, value=-2),
        lambda x, y, z: 2 * U * abs(x - 2 * y / z) + (ROOT + 4 * U) * abs(2 * y / z),
    ),
    "lerp": (
        lambda x, y: torch.lerp(x, y, 0.25),
        lambda x, y: 2 * U * abs(x + (y - x) / 4) + 4 * U * (1.25 * abs(x) + abs(y) / 4),
    ),
    "tanh": (torch.tanh, lambda x: FUNCTION * abs(x.tanh())),
    "exp": (torch.exp, lambda x: (FUNCTION + 2 * U * abs(x)) * x.exp()),
    "sin": (torch.sin, lambda x: FUNCTION * abs(x.sin()) + 2 * U),
    "tan": (torch.tan, lambda x: FUNCTION * abs(x.tan()) + 2 * U * (1 + x.tan() ** 2)),
    "sinc": (torch.sinc, lambda x: FUNCTION * abs(x.sinc()) + 4 * U),
    "lgamma": (torch.lgamma, lambda x: reflected(x, torch.lgamma, slope(x))),
    "digamma": (
        torch.digamma,
        lambda x: reflected(x, torch.digamma, math.pi**2 + slope(x) ** 2),
    ),
    "erfinv": (
        lambda x: torch.erfinv(x / 4),
        lambda x: (
            FUNCTION * abs(torch.erfinv(x / 4))
            + 2 * U * math.sqrt(math.pi) * torch.exp(torch.erfinv(x / 4) ** 2)
        ),
    ),
    "erf": (torch.erf, lambda x: ERF + 0 * x),
    "pow": (
        lambda x: x.abs() ** 3.5,
        lambda x: (FUNCTION + 2 * U * 3.5 * abs(abs(x).log())) * abs(x) ** 3.5,
    ),
    "power of a number": (
        lambda x: 3.0**x,
        lambda x: (FUNCTION + 2 * U * abs(x) * math.log(3)) * 3.0**x,
    ),
    "sigmoid": (torch.sigmoid, lambda x: sigmoids(x, torch.ones_like(x))),
    "silu": (F.silu, lambda x: sigmoids(x, x)),
    "glu": (lambda x: F.glu(x, 1), lambda x: sigmoids(x[:, 3:], x[:, :3])),
    "gelu": (F.gelu, gelu),
    "gelu tanh": (lambda x: F.gelu(x, approximate="tanh"), gelu_tanh),
    "hardswish": (F.hardswish, lambda x: (6 * U + ROOT) * abs(x)),
    "hardsigmoid": (F.hardsigmoid, lambda x: 6 * U + ROOT + 0 * x),
    "elu": (
        lambda x: F.elu(x, 0.5),
        lambda x: 3 * U * abs(F.elu(x, 0.5)) + (FUNCTION + 4 * U) * 0.5 * (x < 0),
    ),
    "selu": (
        F.selu,
        lambda x: (
            3 * U * abs(F.selu(x)) + (FUNCTION + 4 * U) * 1.6732632423 * 1.0507009873 * (x < 0)
        ),
    ),
    "softplus": (
        lambda x: F.softplus(x, 2.0),
        lambda x: (FUNCTION + 4 * U) * (F.softplus(x, 2.0) + 0.5),
    ),
    "mish": (F.mish, lambda x: (2 * FUNCTION + 8 * U) * abs(x)),
    "hypot": (torch.hypot, lambda x, y: (2 * U + ROOT) * torch.hypot(x, y)),
    "abs of a complex number": (
        lambda x, y: torch.complex(x, y).abs(),
        lambda x, y: (2 * U + ROOT) * torch.hypot(x, y),
    ),
    "softshrink": (
        lambda x: F.softshrink(x, 0.5),
        lambda x: 2 * U * abs(F.softshrink(x, 0.5)) + U * 0.5,
    ),
    "xlogy": (
        lambda x, y: torch.xlogy(x, y.abs()),
        lambda x, y: (FUNCTION + 3 * U) * abs(torch.xlogy(x, abs(y))),
    ),
}


def agree(bound, documented):
    torch.testing.assert_close(bound, documented.expand_as(bound), rtol=1e-5, atol=1e-30)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_elementwise(name):
    function, documented = ELEMENTWISE[name]
    operands = (X, Y, Z)[: documented.__code__.co_argcount]
    agree(only(function, *operands).bound, documented(*(t.double() for t in operands)))


def moments(x, dims):
    n = math.prod(x.shape[d] for d in dims)
    mean, variance = x.mean(dims, keepdim=True), x.var(dims, keepdim=True, correction=0)
    errors = (n + 1) * U * abs(x).mean(dims, keepdim=True), (n + 4) * U * (variance + mean**2)
    return mean, variance, *errors


def normalized(x, mean, variance, mean_error, variance_error, weight, bias, eps=1e-5):
    scale = (variance + eps) ** -0.5
    largest = (variance - variance_error + eps) ** -0.5
    smallest = (variance + variance_error + eps) ** -0.5
    scale_error = torch.maximum(largest - scale, scale - smallest) + (2 * ROOT + U) * largest
    error = abs(x - mean) * scale_error + mean_error * largest
    error = error + (abs(x) + abs(mean)) * largest * 5 * U
    return error * abs(weight) + 5 * U * abs(bias)


def softmax_parts(x):
    """Return the distance from the maximum, and the relative error of the sum of powers."""
    below = x.amax(1, keepdim=True) - x
    total = 2 * U * (x.softmax(1) * below).sum(1, keepdim=True)
    return below, total + FUNCTION + (x.shape[1] + 2) * U


def log_sum(x):
    below, total = softmax_parts(x)
    of_logarithm = FUNCTION * (-below).exp().sum(1, keepdim=True).log()
    return total + of_logarithm + 2 * U * abs(x.amax(1, keepdim=True))


def norm_of_order(x, p):
    y, n = torch.linalg.vector_norm(x, p, 1), x.shape[1]
    of_sum = n * U + FUNCTION + 2 * U * (p * abs(y.log()) + math.log(n))
    return (of_sum / p + FUNCTION + 2 * U * abs(y.log())) * y


def column(values):
    return values.double()[:, None, None]


WEIGHT, BIAS, VARIANCE = numbers(3, seed=3), numbers(3, seed=4), numbers(3, seed=5).abs()
ROWS = torch.tensor([0, 2, 2, 0, 0])
OTHERS = {
    "sum": (lambda x: x.sum(1), X, lambda x: 7 * U * abs(x).sum(1)),
    "mean": (lambda x: x.mean(0), X, lambda x: 5 * U * abs(x).mean(0)),
    "cumsum": (lambda x: x.cumsum(1), X, lambda x: 7 * U * abs(x).cumsum(1)),
    "avg_pool": (
        lambda x: F.avg_pool2d(x, 2),
        IMAGE,
        lambda x: 6 * U * F.avg_pool2d(abs(x), 2),
    ),
    "avg_pool with a divisor": (
        lambda x: F.avg_pool2d(x, (2, 1), divisor_override=-3),
        IMAGE,
        lambda x: 4 * U * F.avg_pool2d(abs(x), (2, 1)) * 2 / 3,
    ),
    "adaptive_avg_pool": (
        lambda x: F.adaptive_avg_pool2d(x, 2),
        IMAGE,
        lambda x: 11 * U * F.avg_pool2d(abs(x), 2),  # a window has at most 3 × 3 terms
    ),
    "prod": (lambda x: x.prod(1), X, lambda x: 6 * U * abs(x.prod(1))),
    "cumprod": (lambda x: x.cumprod(0), X, lambda x: 4 * U * abs(x.cumprod(0))),
    "norm 1": (lambda x: x.norm(1, 1), X, lambda x: 6 * U * abs(x).sum(1)),
    "norm 2": (lambda x: x.norm(2, 1), X, lambda x: (4 * U + ROOT) * x.norm(2, 1)),
    "norm 3": (lambda x: x.norm(3, 1), X, lambda x: norm_of_order(x, 3)),
    "dist": (
        lambda x: torch.dist(x, torch.from_numpy(Y.numpy()), 2),
        X,
        lambda x: (2 * U + 13 * U + ROOT) * (x - Y).norm(),
    ),
    "scatter_add": (
        lambda x: torch.zeros(4, 6).index_add(0, ROWS, torch.cat([x, x[:1]])),
        X,
        lambda x: torch.stack(
            [
                (3 + 3) * U * abs(x[[0, 3, 0]]).sum(0),
                0 * x[0],
                (2 + 3) * U * abs(x[1:3]).sum(0),
                0 * x[0],
            ]
        ),
    ),
    "embedding_bag": (
        lambda x: F.embedding_bag(torch.tensor([[0, 1], [2, 2]]), x),
        X,
        lambda x: 6 * U * torch.stack([abs(x[:2]).mean(0), abs(x[2])]),
    ),
    "fft": (
        lambda x: torch.fft.fft(torch.complex(x, x)),
        X[:, :4],
        lambda x: 10 * U * 3 * (2 * abs(torch.fft.fft(x * (1 + 1j))) ** 2).sum(1, True).sqrt(),
    ),
    "softmax": (
        lambda x: x.softmax(1),
        X,
        lambda x: (
            x.softmax(1) * (2 * U * softmax_parts(x)[0] + FUNCTION + softmax_parts(x)[1] + ROOT)
        ),
    ),
    "log_softmax": (
        lambda x: x.log_softmax(1),
        X,
        lambda x: log_sum(x) + 2 * U * (abs(x.log_softmax(1)) + abs(x)),
    ),
    "logsumexp": (
        lambda x: x.logsumexp(1),
        X,
        lambda x: log_sum(x)[:, 0] + 2 * U * abs(x.logsumexp(1)),
    ),
    "batch_norm": (
        lambda x: F.batch_norm(x, BIAS, VARIANCE, WEIGHT, BIAS),
        IMAGE,
        lambda x: normalized(
            x, column(BIAS), column(VARIANCE), 0.0, 0.0, column(WEIGHT), column(BIAS)
        ),
    ),
    "layer_norm": (
        lambda x: F.layer_norm(x, (6,)),
        X,
        lambda x: normalized(x, *moments(x, (1,)), torch.ones(()), torch.zeros(())),
    ),
    "group_norm": (
        lambda x: F.group_norm(x, 1, WEIGHT, BIAS),
        IMAGE,
        lambda x: normalized(x, *moments(x, (1, 2, 3)), column(WEIGHT), column(BIAS)),
    ),
    "var": (
        lambda x: x.var(1),
        X,
        lambda x: moments(x, (1,))[3][:, 0] * 6 / 5 + 2 * U * x.var(1),
    ),
    "bilinear": (
        lambda x: F.interpolate(x, (7, 5), mode="bilinear"),
        IMAGE,
        lambda x: (12 + 8 * 20) * U * abs(x).amax((2, 3), True),
    ),
    "bicubic": (
        lambda x: F.interpolate(x, (7, 5), mode="bicubic"),
        IMAGE,
        lambda x: 4 * (12 + 8 * 20) * U * abs(x).amax((2, 3), True),
    ),
    "antialiased": (
        lambda x: F.interpolate(x, (2, 3), mode="bilinear", antialias=True),
        IMAGE,
        lambda x: (12 + 8 * 13 + 9**2) * U * abs(x).amax((2, 3), True),
    ),
    "roi_align": (
        lambda x: torchvision.ops.roi_align(
            x, torch.tensor([[1, 0.3, 0.4, 2.7, 3.2]]), 2, sampling_ratio=3, aligned=True
        ),
        IMAGE,
        lambda x: (9 + 16 + 32 * (8 + 2.7)) * U * abs(x[1:]).amax((2, 3), True),
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_others(name):
    function, x, documented = OTHERS[name]
    agree(only(function, x).bound, documented(x.double()))


def test_fused_rms_norm():
    """Torch on CPUs computes it from other operators, so the rule is called here."""

    class Operator(dict):
        def allow(self, elements):
            assert not elements.any()

    x = X.double()
    exact = F.rms_norm(x, (6,)), (x**2).mean(1, keepdim=True).rsqrt()
    bound = rules.RULES["_fused_rms_norm"](Operator(input=x, normalized_shape=[6]), exact)
    agree(bound, (4 * U + 2 * ROOT + 3 * U) * abs(exact[0]))


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_grids_of_positions(mode):
    grid = torch.tensor([[[[0.21, -0.32], [0.43, 0.14]]]]).expand(2, 1, 2, 2)
    x = numbers(2, 3, 4, 6)
    bound = only(lambda x, g: F.grid_sample(x, g, mode, align_corners=False), x, grid).bound
    total = (6 * (1 + grid[..., 0].abs()) + 4 * (1 + grid[..., 1].abs())).double()
    near = x.double().abs().amax((2, 3), True)
    agree(bound, (4 if mode == "bicubic" else 1) * 16 * U * (1 + total[:, None]) * near)


def test_a_grid_between_two_elements_may_select_either():
    x = numbers(1, 1, 1, 8)
    grid = torch.tensor([[[[-0.25, 0.0], [-0.3, 0.0]]]])  # positions 2.5 and 2.3
    nearest = {"mode": "nearest", "align_corners": False}
    bound = only(lambda x, g: F.grid_sample(x, g, **nearest), x, grid).bound
    agree(bound, torch.stack([2 * x.double().abs().max(), torch.tensor(2.0**-126)]).double())


def test_a_sample_at_the_edge_of_a_region_may_be_left_out():
    """The first region has its only sample at x = -1, the second at x = 1."""
    x = numbers(1, 2, 6, 6)
    regions = torch.tensor([[0, -1.5, 1.0, 0.5, 3.0], [0, 0.5, 1.0, 2.5, 3.0]])
    options = {"sampling_ratio": 1, "aligned": True}
    bound = only(lambda x: torchvision.ops.roi_align(x, regions, 1, **options), x).bound
    near = x.double().abs().amax((2, 3), True)
    agree(bound[:1], ((1 + 16 + 32 * (12 + 2.5)) * U + 2) * near)
    agree(bound[1:], (1 + 16 + 32 * (12 + 2.5)) * U * near)


def sampled_by_grid(x, at):
    grid = ((torch.tensor(at) + 0.5) / 6 - 1).expand(1, 1, 1, 2)  # of 12 elements
    return only(lambda x: F.grid_sample(x, grid, align_corners=False), x)


def sampled_by_region(x, at):
    region = torch.tensor([[0.0, at, at, at + 1, at + 1]])  # its centre, moved by 1/2
    options = {"sampling_ratio": 1, "aligned": True}
    return only(lambda x: torchvision.ops.roi_align(x, region, 1, **options), x)


@pytest.mark.parametrize("sampled", [sampled_by_grid, sampled_by_region])
def test_a_sample_is_free_within_two_elements_of_infinity(sampled):
    x = numbers(1, 1, 12, 12)
    x[..., 6, 6] = math.inf
    free = [sampled(x, at).free is not None for at in range(3, 10)]
    assert free == [False, *[True] * 5, False]


@pytest.mark.parametrize("mode", ["linear", "bilinear", "trilinear"])
def test_nan_in_an_interpolation_voids_no_other_channel(mode):
    dims = ("linear", "bilinear", "trilinear").index(mode) + 1
    x = numbers(1, 2, *[8] * dims)
    x[(0, 0, *[4] * dims)] = math.nan
    expected = only(lambda x: F.interpolate(x, scale_factor=2, mode=mode), x)
    found = expected.exact.float() + 1
    share = expected.share(found)[0]
    assert (share[1] > 1).all()
    assert share[(0, *[8] * dims)] == 0 and share[(0, *[0] * dims)] > 1


def test_distances_by_products_have_the_error_of_their_operands():
    """|x - y|² from |x|² + |y|² - 2 x · y, where a matrix unit may round x and y."""
    x, y = numbers(3, 5), numbers(4, 5, seed=1)
    sizes = (x.double().norm(dim=1)[:, None] + y.double().norm(dim=1)) ** 2
    distance = torch.cdist(x.double(), y.double())
    bf16 = Numerics(matmul="bf16")
    truncated = Numerics(matmul="bf16", rounding="toward_zero")
    for numerics, u in ((Numerics(), U), (bf16, 2.0**-8), (truncated, 2.0**-7)):
        expected = only(torch.cdist, x, y, numerics=numerics)
        error = (2 * u + u * u + 9 * U) * sizes
        squares = distance**2
        by_products = torch.maximum(
            distance - (squares - error).clamp(min=0).sqrt(), (squares + error).sqrt() - distance
        )
        agree(expected.bound, by_products + ROOT * distance)


def test_more_boxes_than_coordinates():
    """Three boxes: two overlap beyond doubt, and one lies apart."""
    boxes = torch.tensor([[0.0, 0, 4, 3], [0, 0, 4, 2.5], [7, 7, 9, 8]])
    scores = torch.tensor([0.9, 0.8, 0.7])
    (call,) = recorded(lambda b: torchvision.ops.nms(b, scores, 0.5), boxes, name="nms")
    (kept,) = exact_and_bound(call, Numerics())
    assert kept.exact.tolist() == [0, 2]


def test_operands_are_flushed_only_if_asked():
    (call,) = recorded(torch.exp, torch.tensor([2.0**-130, 2.0**-126]))
    assert rules.Operator(call)["self"].tolist() == [2.0**-130, 2.0**-126]
    assert rules.Operator(call, flushed=True)["self"].tolist() == [0, 2.0**-126]


def test_every_rule_is_described():
    described = rules.described()
    assert {name for names in described.values() for name in names} == rules.RULES.keys()
    assert "3U |y|." in described and "mul" in described["3U |y|."]


V, W = (torch.tensor(v, dtype=torch.float64) for v in ([0.5, -2.0, 3.0], [1.5, -0.25, 2.0]))
E, D = 1e-3, 1e-4  # the errors of V and W
RUNNING = {  # a formula, its value, the error that its operands cause, its own relative error
    "-": (lambda v, w: -v, -V, E, 0),
    "abs": (lambda v, w: abs(v), abs(V), E, 0),
    "max": (lambda v, w: v.maximum(w), V.maximum(W), E, 0),
    "+": (lambda v, w: v + w, V + W, E + D, 2 * U),
    "+ number": (lambda v, w: v + 0.25, V + 0.25, E + U / 4, 2 * U),
    "- of two": (lambda v, w: v - w, V - W, E + D, 2 * U),
    "*": (lambda v, w: v * w, V * W, abs(V) * D + E * (abs(W) + D), 2 * U),
    "/": (lambda v, w: v / w, V / W, (E + abs(V / W) * D) / (abs(W) - D), ROOT),
    "exp": (
        lambda v, w: v.exp(),
        V.exp(),
        (V + E + 2 * U * abs(V)).exp() - V.exp(),
        FUNCTION,
    ),
    "log": (lambda v, w: abs(v).log(), abs(V).log(), abs(V).log() - (abs(V) - E).log(), FUNCTION),
    "sqrt": (lambda v, w: abs(v).sqrt(), abs(V) ** 0.5, abs(V) ** 0.5 - (abs(V) - E) ** 0.5, ROOT),
}


@pytest.mark.parametrize("name", RUNNING)
def test_running_errors(name):
    formula, value, caused, relative = RUNNING[name]
    found = formula(Rounded(V, E), Rounded(W, D))
    expected = torch.as_tensor(caused, dtype=torch.float64) * (1 + relative) + relative * abs(value)
    torch.testing.assert_close(found.value, value)
    torch.testing.assert_close(found.error, expected.expand(3), rtol=1e-9, atol=0)


@pytest.mark.parametrize(
    ("values", "least", "most"),
    [
        ([0.0, -0.0], math.inf, 0),
        ([], math.inf, 0),
        ([0.0, -3.0, 2.0, 5.0, -7.0], 2, 7),
        ([-1e-45, 1.0, -math.inf], 2.0**-149, math.inf),
    ],
)
def test_smallest_and_largest_magnitude(values, least, most):
    x = torch.tensor(values, dtype=torch.float32)
    assert rules.smallest(x) == least and rules.largest(x) == most
    assert rules.has_subnormal(x) is (least < 2.0**-126)
    assert math.isnan(rules.largest(torch.tensor([1.0, math.nan])))
