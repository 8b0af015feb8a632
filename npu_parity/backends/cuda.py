"""An NVIDIA GPU, through CUDA and cuDNN."""

from typing import Any

from npu_parity.backends.base import Accelerator
from npu_parity.numerics.formats import Numerics


class Cuda(Accelerator):
    """An NVIDIA GPU. Tensor cores since Ampere may round float32 operands to TF32."""

    name = "cuda"
    formats = ("fp32", "tf32")
    preset = "nvidia_ampere"
    hint = "install a CUDA build of torch and NVIDIA's driver"
    node = "/dev/nvidia[0-9]*"
    visible = "CUDA_VISIBLE_DEVICES"

    def switches(self, numerics: Numerics) -> dict[str, Any]:
        """Return whether products may round their operands to TF32, and repeatable algorithms.

        torch 2.9 has a precision for each kind of product; older versions have flags.
        """
        backends = self.load().backends
        kinds = {"cudnn.conv": numerics.conv, "cuda.matmul": numerics.matmul}
        if hasattr(backends.cudnn, "conv"):
            names = {"fp32": "ieee", "tf32": "tf32"}
            found: dict[str, Any] = {f"{k}.fp32_precision": names[v] for k, v in kinds.items()}
        else:
            found = {
                f"{kind.removesuffix('.conv')}.allow_tf32": value == "tf32"
                for kind, value in kinds.items()
            }
        found |= {"cudnn.deterministic": True, "cudnn.benchmark": False}
        return {f"backends.{path}": value for path, value in found.items()}

    def describe(self) -> dict[str, Any]:
        """Return the GPU's name and the versions of CUDA and cuDNN."""
        torch = self.load()
        versions = {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
        return super().describe() | versions
