"""A stand-in for torch_npu: a device "npu" whose memory and arithmetic are the CPU's.

With this folder's parent on PYTHONPATH `import torch` loads it by itself, as it does the real
package. The environment sets what it does:

STANDIN_NPU_FAULT  one of `npu.FAULTS`
STANDIN_NPU_MS     milliseconds that each operator keeps the device busy; whoever waits feels them
STANDIN_NPU_TRACE  a file: what a process did on the device, written when it ends
"""

import os

if os.environ.get("STANDIN_NPU_FAULT") == "no_cann":  # the words of torch_npu 2.14.0
    raise ImportError("libhccl.so: cannot open shared object file: No such file or directory")

from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from torch_npu import _C, npu  # noqa: F401

__version__ = "2.14.0+standin"

_setup_privateuseone_for_python_backend("npu", backend_module=npu)

from torch_npu import tensor  # noqa: E402, F401  (a device must have its name first)


def _autoload():
    """Do nothing: the import did it all."""
