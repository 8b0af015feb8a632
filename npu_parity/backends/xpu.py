"""An Intel GPU, through torch's XPU backend."""

from npu_parity.backends.base import Accelerator


class Xpu(Accelerator):
    """An Intel GPU with torch's default settings, which do not round float32 operands."""

    name = "xpu"
    hint = "install an XPU build of torch and Intel's driver"
    node = "/dev/dri/renderD*"
