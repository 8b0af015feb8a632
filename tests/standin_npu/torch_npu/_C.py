"""What the real package's C module has under these names."""

from torch_npu import npu


def _npu_getOption(name):
    return npu.options.get(name)
