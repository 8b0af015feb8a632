"""An Intel GPU, through torch's XPU backend."""

from typing import Any

from npu_parity.backends.base import Accelerator
from npu_parity.numerics.formats import Numerics


class Xpu(Accelerator):
    """An Intel GPU with torch's default settings, which do not round float32 operands."""

    name = "xpu"
    hint = "install an XPU build of torch and Intel's driver"
    node = "/dev/dri/renderD*"
    visible = "ZE_AFFINITY_MASK"

    def switches(self, numerics: Numerics) -> dict[str, Any]:
        """Return the flag with which oneDNN may round to TF32. It is recorded, not changed."""
        flag = "backends.mkldnn.allow_tf32"
        return {flag: None} if hasattr(self.load().backends.mkldnn, "allow_tf32") else {}
