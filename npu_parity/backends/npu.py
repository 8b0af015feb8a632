"""Huawei's Ascend NPU, through torch_npu."""

import contextlib
import os
from typing import Any

from npu_parity.backends import environment
from npu_parity.backends.base import Accelerator
from npu_parity.numerics.formats import Numerics


class Npu(Accelerator):
    """An Ascend NPU. Its Cube unit may round float32 operands to HF32 (before 910B: float16)."""

    name = "npu"
    formats = ("fp32", "hf32", "fp16")
    preset = "ascend910b"
    hint = f"source CANN's set_env.sh, or install the npu extra again: {environment.INSTALL}"
    node = "/dev/davinci[0-9]*"

    def missing(self, numerics: Numerics) -> str | None:
        """Return why this machine cannot measure: no such file, or no torch_npu."""
        if reason := super().missing(numerics):
            return reason
        if environment.installed():
            return None
        return f"this Python has no torch_npu; run: {environment.INSTALL}"

    def check(self) -> None:
        """Raise ParityError if torch_npu is not installed, or cannot be imported."""
        environment.check(npu=True)

    def load(self) -> Any:
        """Return torch with torch_npu. Torch imports torch_npu automatically by default."""
        self.check()
        torch = super().load()
        if not hasattr(torch, "npu"):
            with self.importing():
                import torch_npu  # noqa: F401
        return torch

    def switches(self, numerics: Numerics) -> dict[str, Any]:
        """Return whether convolutions and matrix products may round their operands to HF32."""
        return {
            "npu.conv.allow_hf32": numerics.conv == "hf32",
            "npu.matmul.allow_hf32": numerics.matmul == "hf32",
        }

    def prepare(self) -> None:
        """Use precompiled operators, because compiling them for each shape takes minutes."""
        self._module().set_compile_mode(jit_compile=False)

    def describe(self) -> dict[str, Any]:
        """Return the chip's name and the version of CANN."""
        found = super().describe()
        soc = os.environ.get("ASCEND_SOC_VERSION", found["name"])
        return found | {"cann": self._cann_version(), "soc": soc}

    def _cann_version(self) -> str | None:
        """Return CANN's version; None if unknown."""
        with contextlib.suppress(ImportError):
            from torch_npu.utils import get_cann_version

            return get_cann_version() or None
        return getattr(self.load().version, "cann", None)
