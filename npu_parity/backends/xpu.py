"""An Intel GPU, through torch's XPU backend."""

from npu_parity.backends.base import Accelerator


class Xpu(Accelerator):
    """An Intel GPU, as torch sets it up: float32 operands are not rounded."""

    name = "xpu"
    hint = "install an XPU build of torch and Intel's driver"
    node = "/dev/dri/renderD*"
