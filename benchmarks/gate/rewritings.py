"""Right ports that are written differently: functions from a network to another that is the same.

Each takes a network in evaluation mode and one input (1, 3, H, W). It changes nothing, and raises
`NotApplicable` if the network has nothing to rewrite.
"""

import copy
import math
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from timm.utils.model import reparameterize_model
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.overrides import TorchFunctionMode


class NotApplicable(Exception):
    """The network has nothing to rewrite."""


Rewriting = Callable[[nn.Module, Tensor], nn.Module]
REWRITINGS: dict[str, Rewriting] = {}


def rewriting(name: str) -> Callable[[Rewriting], Rewriting]:
    """Register a function under its name."""

    def register(function: Rewriting) -> Rewriting:
        REWRITINGS[name] = function
        return function

    return register


# --- Layers merged


@rewriting("batch norm folded")
def folded(net: nn.Module, x: Tensor) -> nn.Module:
    """Fold each batch norm into the convolution before it."""
    port = copy.deepcopy(net)
    made: dict[int, tuple[str, Tensor]] = {}  # a result -> the convolution
    pairs: list[tuple[str, str]] = []

    def note(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Tensor, ...], result: Tensor) -> None:
            if isinstance(module, nn.Conv2d):
                made[id(result)] = path, result
            elif id(args[0]) in made:
                pairs.append((made[id(args[0])][0], path))

        return hook

    for path, module in port.named_modules():
        if isinstance(module, nn.Conv2d | _BatchNorm):
            module.register_forward_hook(note(path))
    with torch.no_grad():
        port(x.clone())
    port = copy.deepcopy(net)
    for conv, norm in pairs:
        old = port.get_submodule(norm)
        port.set_submodule(conv, fuse_conv_bn_eval(port.get_submodule(conv), old))
        rest = [getattr(old, name) for name in ("drop", "act") if hasattr(old, name)]  # timm's
        port.set_submodule(norm, nn.Sequential(*rest).eval())
    if not pairs:
        raise NotApplicable("no batch norm after a convolution")
    return port


@rewriting("blocks reparameterised")
def merged(net: nn.Module, x: Tensor) -> nn.Module:
    """Merge the branches of RepVGG's and MobileOne's blocks into one convolution."""
    port = reparameterize_model(net)
    if len([*port.modules()]) == len([*net.modules()]):
        raise NotApplicable("no block with branches")
    return port.eval()


def pairs_of_layers(net: nn.Module) -> list[tuple[list[nn.Module], nn.Module]]:
    """Return the layers with one tensor of hidden channels between them: those before and after."""
    found = []
    for module in net.modules():
        before, norm, after = (getattr(module, n, None) for n in ("conv1", "bn1", "conv2"))
        if isinstance(before, nn.Conv2d) and isinstance(after, nn.Conv2d) and after.groups == 1:
            found.append(([before, norm], after))
        first, second = getattr(module, "fc1", None), getattr(module, "fc2", None)
        if isinstance(first, nn.Linear) and isinstance(second, nn.Linear):
            found.append(([first], second))
    if not found:
        raise NotApplicable("no two layers in a row")
    return found


@rewriting("hidden channels in another order")
def reordered(net: nn.Module, x: Tensor) -> nn.Module:
    """Exchange the channels between two layers, in both."""
    port = copy.deepcopy(net)
    for before, after in pairs_of_layers(port):
        for layer in before:
            for tensor in [*layer.parameters(), *layer.buffers()]:
                tensor.data = tensor.flip(0) if tensor.ndim else tensor
        after.weight.data = after.weight.flip(1)
    return port


@rewriting("hidden channels scaled")
def equalised(net: nn.Module, x: Tensor) -> nn.Module:
    """Double the channels before a ReLU, and halve the weights after it."""
    port = copy.deepcopy(net)
    scaled = [p for p in pairs_of_layers(port) if isinstance(getattr(p[0][-1], "act", 0), nn.ReLU)]
    if not scaled:
        raise NotApplicable("no ReLU between two layers")
    for (_, norm), after in scaled:
        norm.weight.data *= 2
        norm.bias.data *= 2
        after.weight.data /= 2
    return port


# --- Made by tools of torch


@rewriting("traced")
def traced(net: nn.Module, x: Tensor) -> nn.Module:
    """Record the operators with ``torch.jit.trace``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated
        return torch.jit.trace(copy.deepcopy(net), x)


@rewriting("scripted")
def scripted(net: nn.Module, x: Tensor) -> nn.Module:
    """Compile the code with ``torch.jit.script``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated
        return torch.jit.script(copy.deepcopy(net))


@rewriting("exported")
def exported(net: nn.Module, x: Tensor) -> nn.Module:
    """Export the program with ``torch.export``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.export.export(copy.deepcopy(net), (x,)).module()


@rewriting("traced symbolically")
def symbolic(net: nn.Module, x: Tensor) -> nn.Module:
    """Write the code again with ``torch.fx``."""
    try:
        return torch.fx.symbolic_trace(copy.deepcopy(net))
    except torch.fx.proxy.TraceError as error:
        raise NotApplicable(f"torch.fx: {error}") from error


@rewriting("data parallel")
def parallel(net: nn.Module, x: Tensor) -> nn.Module:
    """Wrap the network in ``DataParallel``."""
    return nn.DataParallel(copy.deepcopy(net)).eval()


@rewriting("compiled")
def compiled(net: nn.Module, x: Tensor) -> nn.Module:
    """Compile the network with ``torch.compile``, without code generation."""
    return torch.compile(copy.deepcopy(net), backend="eager")


class Functional(nn.Module):
    """A network as a function of its tensors."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.weights = nn.ParameterList(p.detach() for p in net.parameters())
        self.names = [name for name, _ in net.named_parameters()]
        self.rest = dict(net.named_buffers())
        self.code = [net]  # a list hides its modules
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Call the network with the weights of this module."""
        state = dict(zip(self.names, self.weights, strict=True)) | self.rest
        return torch.func.functional_call(self.code[0], state, (x,))


@rewriting("functional")
def functional(net: nn.Module, x: Tensor) -> nn.Module:
    """Call the network as a function; nothing has the name of the reference's modules."""
    return Functional(copy.deepcopy(net))


# --- Layouts


@rewriting("channels last")
def channels_last(net: nn.Module, x: Tensor) -> nn.Module:
    """Store the weights with channels last."""
    return copy.deepcopy(net).to(memory_format=torch.channels_last)


class Before(nn.Module):
    """A network after a change of its input that changes no value."""

    def __init__(self, net: nn.Module, change: Callable[[Tensor], Tensor]):
        super().__init__()
        self.net, self.change = net, change
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Return the network's outputs."""
        return self.net(self.change(x))


@rewriting("channels last, images too")
def channels_last_images(net: nn.Module, x: Tensor) -> nn.Module:
    """Store weights and images with channels last."""
    port = channels_last(net, x)
    return Before(port, lambda x: x.contiguous(memory_format=torch.channels_last))


@rewriting("storage permuted")
def permuted_storage(net: nn.Module, x: Tensor) -> nn.Module:
    """Store each weight with its first two dimensions exchanged."""
    port = copy.deepcopy(net)
    for weight in port.parameters():
        if weight.ndim > 1:
            weight.data = weight.data.transpose(0, 1).contiguous().transpose(0, 1)
    return port


@rewriting("input scaled in place")
def in_place(net: nn.Module, x: Tensor) -> nn.Module:
    """Scale the input by two and back, in its own memory."""
    return Before(copy.deepcopy(net), lambda x: x.mul_(2.0).div_(2.0))


@rewriting("input in a buffer")
def buffered(net: nn.Module, x: Tensor) -> nn.Module:
    """Copy the input to memory that is allocated first and filled later."""
    return Before(copy.deepcopy(net), lambda x: torch.empty_like(x).copy_(x))


# --- Layers written out


class Written(nn.Module):
    """A network in which functions are replaced.

    Args:
        net: the network.
        functions: the replacement for each function.
    """

    def __init__(self, net: nn.Module, functions: dict[Any, Callable[..., Tensor]]):
        super().__init__()
        self.net, self.functions = net, functions
        self.used: set[Any] = set()
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Return the network's outputs."""
        with _Replacing(self.functions, self.used):
            return self.net(x)


class _Replacing(TorchFunctionMode):
    def __init__(self, functions: dict[Any, Callable[..., Tensor]], used: set[Any]):
        super().__init__()
        self.functions, self.used = functions, used

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict | None = None
    ) -> Any:
        if func in self.functions:
            result = self.functions[func](*args, **kwargs or {})  # the mode is off inside
            if result is not NotImplemented:
                self.used.add(func)
                return result
        return func(*args, **kwargs or {})


def written(name: str, *replaced: Any) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    """Register a function that computes what the functions `replaced` compute."""

    def register(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        @rewriting(name)
        def rewrite(net: nn.Module, x: Tensor) -> nn.Module:
            port = Written(copy.deepcopy(net), dict.fromkeys(replaced, function))
            with torch.no_grad():
                port(x.clone())
            if not port.used:
                raise NotApplicable(f"no {replaced[0].__name__}")
            return port

        return function

    return register


@written("GELU written out", F.gelu)
def gelu(x: Tensor, approximate: str = "none") -> Tensor:
    """Compute GELU from erf."""
    return NotImplemented if approximate != "none" else 0.5 * x * (1 + (x / math.sqrt(2)).erf())


@written("SiLU written out", F.silu)
def silu(x: Tensor, inplace: bool = False) -> Tensor:
    """Compute SiLU from exp."""
    return x / (1 + (-x).exp())


@written("hard swish written out", F.hardswish)
def hardswish(x: Tensor, inplace: bool = False) -> Tensor:
    """Compute hard swish from a clamp."""
    return x * (x + 3).clamp(0, 6) / 6


@written("ReLU as a maximum", F.relu, torch.relu, torch.relu_)
def relu(x: Tensor, inplace: bool = False) -> Tensor:
    """Compute ReLU from a maximum."""
    return torch.maximum(x, x.new_zeros(()))


@written("softmax written out", F.softmax, torch.softmax, Tensor.softmax)
def softmax(x: Tensor, dim: int = -1, *rest: Any, **options: Any) -> Tensor:
    """Compute softmax from exp."""
    shifted = (x - x.amax(dim, keepdim=True)).exp()
    return shifted / shifted.sum(dim, keepdim=True)


@written("layer norm written out", F.layer_norm)
def layer_norm(
    x: Tensor, shape: list[int], weight: Tensor, bias: Tensor, eps: float = 1e-5
) -> Tensor:
    """Compute layer norm from mean and variance."""
    dims = list(range(-len(shape), 0))
    middle = x - x.mean(dims, keepdim=True)
    return middle / (middle.square().mean(dims, keepdim=True) + eps).sqrt() * weight + bias


@written("batch norm as scale and shift", F.batch_norm)
def batch_norm(
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    weight: Tensor,
    bias: Tensor,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Multiply by one number and add another, for each channel."""
    scale = weight * (variance + eps).rsqrt()
    return x * scale[:, None, None] + (bias - mean * scale)[:, None, None]


@written("attention written out", F.scaled_dot_product_attention)
def attention(q: Tensor, k: Tensor, v: Tensor, *rest: Any, **options: Any) -> Tensor:
    """Scale the product instead of the operands."""
    return ((q @ k.mT) * q.shape[-1] ** -0.5).softmax(-1) @ v


@written("linear layer as a product", F.linear)
def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Multiply, then add the bias."""
    product = x @ weight.mT
    return product if bias is None else product + bias


class Convolution(NamedTuple):
    """The arguments of ``F.conv2d``; steps are (rows, columns)."""

    x: Tensor
    weight: Tensor
    bias: Tensor | None
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int


def convolution(name: str) -> Callable[[Callable[[Convolution], Tensor]], Callable[..., Tensor]]:
    """Register a function that computes what a convolution computes."""

    def register(function: Callable[[Convolution], Tensor]) -> Callable[..., Tensor]:
        @written(name, F.conv2d, torch.conv2d)
        def convolve(
            x: Tensor,
            weight: Tensor,
            bias: Tensor | None = None,
            stride: Any = 1,
            padding: Any = 0,
            dilation: Any = 1,
            groups: int = 1,
        ) -> Tensor:
            if isinstance(padding, str):
                return NotImplemented
            steps = (v if isinstance(v, tuple) else (v, v) for v in (stride, padding, dilation))
            return function(Convolution(x, weight, bias, *steps, groups))

        return convolve

    return register


@convolution("1x1 convolution as a linear layer")
def pointwise(conv: Convolution) -> Tensor:
    """Put the channels last and multiply."""
    x, weight, bias, stride, _, _, groups = conv
    if weight.shape[2:] != (1, 1) or groups > 1 or stride != (1, 1):
        return NotImplemented
    return F.linear(x.permute(0, 2, 3, 1), weight[:, :, 0, 0], bias).permute(0, 3, 1, 2)


@convolution("padding apart")
def padded(conv: Convolution) -> Tensor:
    """Pad with zeros, then convolve without padding."""
    rows, columns = conv.padding
    if rows == columns == 0:
        return NotImplemented
    x = F.pad(conv.x, (columns, columns, rows, rows))
    return F.conv2d(*conv._replace(x=x, padding=(0, 0)))


@convolution("stride apart")
def sliced(conv: Convolution) -> Tensor:
    """Convolve everywhere, then take every second row and column."""
    rows, columns = conv.stride
    found = F.conv2d(*conv._replace(stride=(1, 1)))
    if rows == columns == 1 or found.shape[2:] == (1, 1):
        return NotImplemented
    return found[..., ::rows, ::columns].contiguous()


@convolution("convolution of patches")
def patches(conv: Convolution) -> Tensor:
    """Move the pixels of each patch into channels, then multiply them."""
    x, weight, bias, stride, padding, _, groups = conv
    side = weight.shape[-1]
    if side == 1 or stride != (side, side) or padding != (0, 0) or groups > 1:
        return NotImplemented
    return F.conv2d(F.pixel_unshuffle(x, side), weight.reshape(len(weight), -1, 1, 1), bias)


@convolution("convolution in three dimensions")
def deep(conv: Convolution) -> Tensor:
    """Convolve a video of one frame."""
    x, weight, bias, stride, padding, dilation, groups = conv
    steps = (1, *stride), (0, *padding), (1, *dilation)
    return F.conv3d(x[:, :, None], weight[:, :, None], bias, *steps, groups)[:, :, 0]


@convolution("convolution as a product")
def unfolded(conv: Convolution) -> Tensor:
    """Write the patches side by side and multiply."""
    x, weight, bias, stride, padding, dilation, groups = conv
    if groups > 1:
        return NotImplemented
    size = weight.shape[2:]
    patches = F.unfold(x, size, dilation, padding, stride)
    product = weight.flatten(1) @ patches
    if bias is not None:
        product = product + bias[:, None]
    shape = [
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(x.shape[2:], size, stride, padding, dilation, strict=True)
    ]
    return product.unflatten(2, shape)


@written("pool as a mean", F.adaptive_avg_pool2d)
def pool(x: Tensor, size: Any) -> Tensor:
    """Take the mean over height and width."""
    return x.mean((-1, -2), keepdim=True) if size in (1, (1, 1)) else NotImplemented


@written("sums in another order", Tensor.add, torch.add, Tensor.add_)
def added(a: Tensor, b: Any, **options: Any) -> Tensor:
    """Exchange the operands of a sum."""
    return b + a if isinstance(b, Tensor) and not options else NotImplemented


@written("products into a buffer", F.linear)
def into_buffer(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Write each product to memory that was allocated before."""
    result = x.new_empty(*x.shape[:-1], len(weight))
    torch.matmul(x, weight.mT, out=result)
    return result if bias is None else result.add_(bias)
