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

    def switches(self, numerics: Numerics) -> dict[str, Any]:
        """Return whether convolutions and matrix products may round their operands to TF32."""
        return {
            "backends.cudnn.allow_tf32": numerics.conv == "tf32",
            "backends.cuda.matmul.allow_tf32": numerics.matmul == "tf32",
        }

    def describe(self) -> dict[str, Any]:
        """Return the GPU's name and the versions of CUDA and cuDNN."""
        torch = self.load()
        versions = {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
        return super().describe() | versions
