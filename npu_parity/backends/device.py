"""A device: a backend, its numerics, and the precision in which networks run there."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from npu_parity.evidence.registry import Registry
from npu_parity.numerics.formats import PRECISIONS, Numerics, expect

if TYPE_CHECKING:
    import torch

    from npu_parity.backends.base import Backend

# The only list of backends. A new backend needs a module with a class, and a line here.
BACKENDS = Registry(
    "backend",
    {
        "cpu": "npu_parity.backends.cpu:Cpu",
        "npu": "npu_parity.backends.npu:Npu",
        "cuda": "npu_parity.backends.cuda:Cuda",
        "xpu": "npu_parity.backends.xpu:Xpu",
        "mps": "npu_parity.backends.mps:Mps",
        "onnxruntime": "npu_parity.backends.onnxruntime:OnnxRuntime",
        "onnxruntime_cann": "npu_parity.backends.onnxruntime:OnnxRuntimeCann",
        "onnxruntime_cuda": "npu_parity.backends.onnxruntime:OnnxRuntimeCuda",
        "dumps": "npu_parity.backends.dumps:Dumps",
    },
)


@dataclass(frozen=True)
class Device:
    """A target: the backend that executes, its numerics, and the precision of networks.

    Attributes:
        backend: a name in `BACKENDS`.
        numerics: how the device rounds the float32 operands of convolutions and matrix products.
        precision: how a network runs there, a key of `PRECISIONS`: in float32, in 16 bits, or with
            autocast.

    Raises:
        ParityError: an unknown precision.

    >>> Device("npu", Numerics(conv="hf32")).numerics.conv
    'hf32'
    """

    backend: str
    numerics: Numerics = field(default_factory=Numerics)
    precision: str = "fp32"

    def __post_init__(self) -> None:
        expect("precision", self.precision, tuple(PRECISIONS))

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> "Device":
        """Build from a device of the configuration. Only ``backend`` is required.

        Raises:
            ParityError: an unknown format, rounding or precision.
        """
        numerics = Numerics.from_dict(settings.get("numerics", {}))
        return cls(settings["backend"], numerics, settings.get("precision", "fp32"))

    @property
    def implementation(self) -> "Backend":
        """The backend's object; ParityError if the name is unknown."""
        found: Backend = BACKENDS[self.backend]()
        return found

    @property
    def rounds(self) -> bool:
        """Whether it rounds below float32, so that there is an error to predict."""
        return not self.numerics.is_exact or self.precision != "fp32"

    def missing(self) -> str | None:
        """Return why this machine cannot measure the device; None if it seems able to.

        The method asks only the operating system, so planning a run does not import torch.
        """
        backend = self.implementation
        return backend.missing(self.numerics) or backend.lacking(PRECISIONS[self.precision])

    def check(self) -> None:
        """Raise ParityError if the installed software cannot use it; see `Backend.check`."""
        self.implementation.check()

    def configured(self) -> "AbstractContextManager[torch.device]":
        """Yield the torch device with the switches of its numerics; see `Backend.configured`."""
        return self.implementation.configured(self.numerics)

    def take_accelerator(self) -> None:
        """Take a free card for this process, before torch uses the device."""
        self.implementation.take_accelerator()

    def use_threads(self, wanted: int) -> int:
        """Set the number of CPU threads to `wanted` or fewer; return the number."""
        return self.implementation.use_threads(wanted, self.numerics)
