"""State and randomness, of the reference or of the port, and memory that is used again."""

import copy
import functools
from collections.abc import Callable

import torch
from catalogue import Around, Port, System, case, changed, exchange, middle, modules
from torch import Tensor, nn
from torch.nn import functional as F


class Counting(nn.Module):
    """A network whose outputs depend on the number of calls."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net, self.calls = net, 0
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Return outputs that grow by a thousandth with each call."""
        self.calls += 1
        return self.net(x) * (1 + self.calls / 1000)


class RunningMean(nn.Module):
    """A network that subtracts a mean of all inputs so far."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net
        self.register_buffer("mean", torch.zeros(()))
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs."""
        self.mean.lerp_(x.mean().to(self.mean.dtype), 0.1)
        return self.net(x - self.mean)


def noisy(net: nn.Module, x: Tensor) -> Tensor:
    """Add noise of a thousandth of the outputs."""
    y = net(x)
    return y + 1e-3 * y.std() * torch.randn_like(y)


def dropped(net: nn.Module, x: Tensor) -> Tensor:
    """Apply dropout, which a function does also in evaluation mode."""
    return F.dropout(net(x), 0.1)


UNREST: dict[str, Callable[[nn.Module], nn.Module]] = {
    "counts its calls": Counting,
    "updates a running mean": RunningMean,
    "adds noise": lambda net: Around(net, noisy),
    "calls dropout as a function": lambda net: Around(net, dropped),
}


def unrest(name: str, change: Callable[[nn.Module], nn.Module]) -> None:
    """Register a port with state or randomness, and a wrong port of such a reference."""
    changed("fault", "state", f"port {name}")(change)

    @case("fault", "state", f"reference {name}")
    def _(system: System) -> Port:
        wrong = Around(system.model, lambda net, x: net(x).roll(1, 1))
        return Port(copy.deepcopy(change(wrong)), reference=change(copy.deepcopy(system.model)))


for name, change in UNREST.items():
    unrest(name, change)


@changed("fault", "state", "dropout as a function before the last layer")
def _(net):
    last = middle(modules(net, nn.Linear)[-1:], "no linear layer")
    exchange(net, lambda m: m is last, lambda m: Around(m, lambda m, x: m(F.dropout(x, 0.1))))


class Remembering(nn.Module):
    """A network that keeps its first answer."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net, self.answer = net, None
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Return the first answer, for each input."""
        if self.answer is None:
            self.answer = self.net(x)[:1]
        return self.answer.to(x.dtype).expand(len(x), -1).clone()


changed("fault", "state", "the first input's answer kept")(Remembering)


class OneBuffer(nn.Module):
    """A network with one buffer of outputs.

    Args:
        net: the network.
        rows: whether the buffer has room for one row only. Then each row replaces the row before.
    """

    def __init__(self, net: nn.Module, rows: bool):
        super().__init__()
        self.net, self.rows, self.buffer = net, rows, None
        self.eval()

    def _write(self, y: Tensor) -> Tensor:
        if self.buffer is None or self.buffer.shape != y.shape or self.buffer.dtype != y.dtype:
            self.buffer = torch.empty_like(y)
        return self.buffer.copy_(y)

    def forward(self, x: Tensor) -> Tensor:
        """Return the buffer."""
        if not self.rows:
            return self._write(self.net(x))
        return torch.cat([self._write(self.net(row[None])) for row in x])


@case("fault", "state", "one buffer for all rows of a batch")
def _(system):
    return Port(OneBuffer(copy.deepcopy(system.model), rows=True), batch=3)


changed("clean", "state", "outputs always in the same memory")(
    functools.partial(OneBuffer, rows=False)
)


def normalised(net: nn.Module, x: Tensor, times: int) -> Tensor:
    """Normalise with the statistics of the images, in place."""
    for _ in range(times):
        x.sub_(0.45).div_(0.225)
    return net(x.mul_(0.225).add_(0.45))


changed("clean", "state", "input normalised in place, and back")(
    lambda net: Around(net, functools.partial(normalised, times=1))
)
changed("fault", "state", "input normalised in place twice")(
    lambda net: Around(net, functools.partial(normalised, times=2))
)
