"""Huawei's Ascend NPU, through torch_npu."""

import contextlib
import enum
import os
from typing import Any

from npu_parity.backends import environment
from npu_parity.backends.base import Accelerator
from npu_parity.numerics.formats import Numerics

# A path of `Npu.switches` with this prefix is an option of CANN, not an attribute of torch.npu.
OPTION = "npu.option."
# The values of torch.npu.matmul.cube_math_type, by the format of the operands.
CUBE_MATH_TYPES = {"fp32": "KEEP_DTYPE", "hf32": "USE_HF32", "fp16": "USE_FP16"}
# Whether float32 operands become float16.
PRECISION_MODES = {False: "must_keep_origin_dtype", True: "allow_fp32_to_fp16"}


class Npu(Accelerator):
    """An Ascend NPU. Its Cube unit may round float32 operands to HF32 (before 910B: float16)."""

    name = "npu"
    formats = ("fp32", "hf32", "fp16")
    preset = "ascend910b"
    hint = f"source CANN's set_env.sh, or install the npu extra again: {environment.INSTALL}"
    node = "/dev/davinci[0-9]*"
    visible = "ASCEND_RT_VISIBLE_DEVICES"

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
        """Return the settings that say whether the Cube unit may round float32 operands.

        `ACL_PRECISION_MODE` and `cube_math_type` overrule the flags for HF32. They are corrected
        where somebody has set them, and left alone where nobody has: they cannot be unset.
        ``jitCompile`` selects precompiled operators, because compiling them for each shape takes
        minutes.
        """
        fp16 = "fp16" in numerics.formats
        overruling = {
            "npu.matmul.cube_math_type": CUBE_MATH_TYPES[numerics.matmul],
            "npu.option.ACL_PRECISION_MODE": PRECISION_MODES[fp16],
        }
        return {
            "npu.conv.allow_hf32": numerics.conv == "hf32",
            "npu.matmul.allow_hf32": numerics.matmul == "hf32",
            "npu.option.jitCompile": "disable",
            **{path: v if self.read(path) else None for path, v in overruling.items()},
        }

    def read(self, path: str) -> Any:
        """Return a setting of torch_npu: a bool, a name, or None if it was never set."""
        option = path.removeprefix(OPTION)
        if option == path:
            found = super().read(path)
            return found.name if isinstance(found, enum.Enum) else found
        import torch_npu

        # torch_npu has no public function that reads an option.
        return (torch_npu._C._npu_getOption(option) or b"").decode() or None

    def write(self, path: str, value: Any) -> None:
        """Change a setting of torch_npu; see `read`."""
        option = path.removeprefix(OPTION)
        if option == "jitCompile":
            self._module().set_compile_mode(jit_compile=value == "enable")
        elif option != path:
            self._module().set_option({option: value})
        elif path.endswith("cube_math_type"):
            super().write(path, self._module().CubeMathType[value])
        else:
            super().write(path, value)

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
