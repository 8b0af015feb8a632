"""The module that becomes `torch.npu`: flags, names, waiting, and a trace of what was done."""

import atexit
import itertools
import json
import os
import time
from pathlib import Path

FAULTS = ("dead_channel", "nan", "fp16", "no_cann", "no_memory")

_seconds = float(os.environ.get("STANDIN_NPU_MS", 0)) / 1000
_ready = 0.0  # when the device will have finished what was launched
_events = []  # launch, synchronize, upload, download; and each setting of a flag


class _Flags:
    """HF32 on or off, set and read as the real `torch.npu.conv` and `torch.npu.matmul`."""

    def __init__(self, name, allow_hf32):
        self.__dict__.update(name=name, allow_hf32=allow_hf32)

    def __setattr__(self, name, value):
        if name != "allow_hf32" or not isinstance(value, bool):
            raise AttributeError(f"torch.npu.{self.name} has no {name} = {value!r}")
        self.__dict__[name] = value
        _events.append(f"{self.name} hf32 {'on' if value else 'off'}")


conv = _Flags("conv", True)
matmul = _Flags("matmul", False)


def fault():
    """Return the fault that the environment asks for now, or None."""
    found = os.environ.get("STANDIN_NPU_FAULT") or None
    if found not in (None, *FAULTS):
        raise ValueError(f"STANDIN_NPU_FAULT: found {found}, expected one of {', '.join(FAULTS)}")
    return found


def is_available():
    return True


def is_initialized():
    return True


def device_count():
    return 1


def current_device():
    return 0


def set_device(device):
    if device not in (0, "npu", "npu:0"):
        raise RuntimeError(f"Invalid device ID: {device}")


def get_device_name(device=None):
    return "Ascend910B stand-in"


def set_compile_mode(jit_compile=False):
    _events.append(f"jit_compile {'on' if jit_compile else 'off'}")


def synchronize(device=None):
    _events.append("synchronize")
    wait()


def manual_seed_all(seed):
    """Nothing here draws random numbers of its own."""


def _is_in_bad_fork():
    return False


def launched():
    """Note that an operator was launched; it keeps the device busy from now on."""
    global _ready
    _events.append("launch")
    _ready = max(_ready, time.perf_counter()) + _seconds


def copied(source, destination):
    """Note a copy; one between host and device waits for what was launched before it."""
    if fault() == "no_memory" and destination == "npu":  # the words are torch_npu's own
        raise RuntimeError(
            "NPU out of memory. Tried to allocate 20.00 MiB (NPU 0; 60.97 GiB total)"
        )
    if source == destination:
        launched()
    else:
        _events.append("upload" if destination == "npu" else "download")
        wait()


def wait():
    time.sleep(max(0.0, _ready - time.perf_counter()))


@atexit.register
def _write_trace():
    path = os.environ.get("STANDIN_NPU_TRACE")
    if path and _events:
        trace = [[event, len(list(run))] for event, run in itertools.groupby(_events)]
        state = {"conv": conv.allow_hf32, "matmul": matmul.allow_hf32, "trace": trace}
        Path(path).write_text(json.dumps(state))
