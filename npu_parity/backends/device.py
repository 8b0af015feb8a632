"""A device: a backend and its numerics, as the configuration names them."""

from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from npu_parity.evidence.registry import Registry
from npu_parity.numerics.formats import Numerics

if TYPE_CHECKING:
    import torch

    from npu_parity.backends.base import Backend

# The one list of backends: a new one is a module with a class, and a line here.
BACKENDS = Registry(
    "backend",
    {
        "cpu": "npu_parity.backends.cpu:Cpu",
        "npu": "npu_parity.backends.npu:Npu",
        "cuda": "npu_parity.backends.cuda:Cuda",
        "xpu": "npu_parity.backends.xpu:Xpu",
        "mps": "npu_parity.backends.mps:Mps",
    },
)


@dataclass(frozen=True)
class Device:
    """A named target: the backend that computes, and its numerics.

    Attributes:
        backend: a name of `BACKENDS`.
        numerics: what the device does to the float32 operands of convolutions and matrix products.

    >>> Device("npu", Numerics(conv="hf32")).numerics.conv
    'hf32'
    """

    backend: str
    numerics: Numerics = field(default_factory=Numerics)

    @property
    def implementation(self) -> "Backend":
        """The backend's object; ParityError where there is no backend of that name."""
        found: Backend = BACKENDS[self.backend]()
        return found

    def missing(self) -> str | None:
        """Return why this machine cannot measure the device; None where it seems able to.

        Looks at the operating system only, so that planning a run does not import torch.
        """
        return self.implementation.missing(self.numerics)

    def configured(self) -> "AbstractContextManager[torch.device]":
        """Yield the torch device with its switches set as the numerics say; see `Backend`."""
        return self.implementation.configured(self.numerics)

    def use_threads(self, wanted: int) -> int:
        """Let torch use at most `wanted` threads of the CPU; return how many it uses."""
        return self.implementation.use_threads(wanted, self.numerics)
