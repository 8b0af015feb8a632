"""ONNX Runtime: a second, independent implementation of every operator, on any machine."""

import importlib.util
from typing import TYPE_CHECKING, Any, ClassVar

from npu_parity.backends import machine
from npu_parity.backends.base import Backend
from npu_parity.backends.cpu import Cpu
from npu_parity.numerics.formats import Numerics

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from npu_parity.backends.batches import Inputs


class OnnxRuntime(Cpu):
    """ONNX Runtime on the CPU. It executes an exported file, so its operators are not visible.

    Attributes:
        provider: the name of ONNX Runtime for what executes.
        package: the distribution with this provider.
    """

    name = "onnxruntime"
    formats = ("fp32",)
    hint = "install onnxruntime"
    questions = frozenset({3, 4})
    exports = True
    provider: ClassVar[str] = "CPUExecutionProvider"
    package: ClassVar[str] = "onnxruntime"

    def missing(self, numerics: Numerics) -> str | None:
        """Return why ONNX Runtime cannot execute here; None if it can."""
        needed = ("onnxruntime", "onnxscript")  # torch exports with the second
        if lacking := [name for name in needed if importlib.util.find_spec(name) is None]:
            return f"{' and '.join(lacking)} not installed"
        if not numerics.is_exact:
            return f"{self.name} computes in float32"
        import onnxruntime

        if self.provider not in onnxruntime.get_available_providers():
            return f"this onnxruntime has no {self.provider}: install {self.package}"
        return None

    def lacking(self, form: str) -> str | None:
        """Return that files have the network's own precision; None for float32."""
        return None if form == "fp32" else f"{self.name} executes networks in float32 only"

    def describe(self) -> dict[str, Any]:
        """Return the processor's name, the provider and the version of ONNX Runtime."""
        import onnxruntime  # several distributions have this module, also for the CPU's provider

        version = onnxruntime.__version__
        return {"name": machine.cpu_name(), "provider": self.provider, "onnxruntime": version}

    def switches(self, numerics: Numerics) -> dict[str, Any]:
        """Return nothing: the switches of torch do not change ONNX Runtime."""
        return {}

    def _module(self) -> Any:
        """Return torch's module of the CPU, which has the inputs and the outputs."""
        return self.load().cpu

    def quiet_seconds(self, run: Any) -> float:
        """Return the duration of `run` in seconds. The threads are not those of torch."""
        return Backend.quiet_seconds(self, run)

    def compiled(self, model: "nn.Module", inputs: "Inputs") -> "nn.Module":
        """Return the network as a session of ONNX Runtime."""
        from npu_parity.backends import onnx

        return onnx.session(model, inputs, self.providers)

    def opened(self, file: "Path") -> "nn.Module":
        """Return an exported network as a session of ONNX Runtime."""
        from npu_parity.backends import onnx

        return onnx.load(file, self.providers)

    @property
    def providers(self) -> list[str]:
        """The provider, and the CPU for operators that it does not have."""
        return list(dict.fromkeys([self.provider, OnnxRuntime.provider]))


class OnnxRuntimeCann(OnnxRuntime):
    """ONNX Runtime on an Ascend NPU."""

    name = "onnxruntime_cann"
    provider = "CANNExecutionProvider"
    package = "onnxruntime-cann"


class OnnxRuntimeCuda(OnnxRuntime):
    """ONNX Runtime on a CUDA GPU."""

    name = "onnxruntime_cuda"
    provider = "CUDAExecutionProvider"
    package = "onnxruntime-gpu"
