"""The module that becomes `torch.npu`: settings, names, waiting, and a trace of what was done.

tests/test_contract.py says what the real module does; a test compares both.
"""

import atexit
import enum
import itertools
import json
import os
import time
import weakref
from pathlib import Path
from types import SimpleNamespace

FAULTS = {
    "dead_channel": "the first channel of each convolution is zero",
    "nan": "the first value of each convolution is NaN",
    "fp16": "products round their operands to float16, whatever the settings say",
    "hf32": "products round their operands to HF32, whatever the settings say",
    "cpu": "the CPU computes all, silently",
    "early": "a copy to the host does not wait: it has zeros for what was not synchronised",
    "deaf": "the settings keep their values",
    "no_memory": "nothing can be allocated",
    "full": "memory ends in mid-run",
    "lost": "the device is lost in mid-run",
    "no_cann": "the import fails",
}
MID_RUN = 40  # operators before a fault in mid-run

_seconds = float(os.environ.get("STANDIN_NPU_MS", 0)) / 1000
_ready = 0.0  # when the device will have finished what was launched
_events = []  # launch, synchronize, upload, download; and each setting of a flag
_launched = 0  # operators since a fault in mid-run was asked for
_waiting = False  # whether something was launched since the last synchronisation
_memory = {"now": 0, "peak": 0}

# Options by name, as bytes; b"" was never set.
options = dict.fromkeys(
    ("ALLOW_CONV_HF32", "ALLOW_MATMUL_HF32", "CUBE_MATH_TYPE", "ACL_PRECISION_MODE", "jitCompile"),
    b"",
)


def fault():
    """Return the fault that the environment asks for now, or None."""
    found = os.environ.get("STANDIN_NPU_FAULT") or None
    if found not in (None, *FAULTS):
        raise ValueError(f"STANDIN_NPU_FAULT: found {found}, expected one of {', '.join(FAULTS)}")
    return found


# Settings


class CubeMathType(enum.IntEnum):
    KEEP_DTYPE = 0
    ALLOW_FP32_DOWN_PRECISION = 1
    USE_FP16 = 2
    USE_HF32 = 3
    FORCE_GRP_ACC_FOR_FP32 = 4


class _Flags:
    """HF32 on or off. What does not exist reads None, and setting it does nothing."""

    def __init__(self, name, default):
        self.__dict__.update(_name=name, _option=f"ALLOW_{name.upper()}_HF32", _default=default)

    def __getattr__(self, name):
        if name == "allow_hf32":
            return (options[self._option] or self._default) == b"enable"
        if (self._name, name) == ("matmul", "cube_math_type") and options["CUBE_MATH_TYPE"]:
            return CubeMathType(int(options["CUBE_MATH_TYPE"]))
        return None

    def __setattr__(self, name, value):
        if name == "allow_hf32":
            if not isinstance(value, bool):
                raise TypeError(_error(f"allow_hf32 must be a bool, but got {_kind(value)}", 2))
            set_option({self._option: "enable" if value else "disable"})
            _events.append(f"{self._name} hf32 {'on' if value else 'off'}")
        elif (self._name, name) == ("matmul", "cube_math_type"):
            if not isinstance(value, CubeMathType):
                raise TypeError(
                    "value should be one of Enum CubeMathType when setting cube_math_type, but got "
                    f"{type(value)}"
                )
            set_option({"CUBE_MATH_TYPE": value.value})


conv = _Flags("conv", b"enable")
matmul = _Flags("matmul", b"disable")


def set_option(values):
    if not isinstance(values, dict):
        raise TypeError(_error("npu option must be a dict.", 1))
    modes = ["allow_fp32_to_fp16", "must_keep_origin_dtype"]
    for name, value in values.items():
        if name == "ACL_PRECISION_MODE" and value not in modes:
            raise ValueError(_error(f"value of {name} should be in {modes} but got {value}", 1))
        if fault() != "deaf":
            options[name] = str(value).encode()


def set_compile_mode(jit_compile=False):
    if _events:
        synchronize()
    set_option({"jitCompile": "enable" if jit_compile else "disable"})
    _events.append(f"jit_compile {'on' if jit_compile else 'off'}")


def operands(kind):
    """Return the format to which products of a kind, conv or matmul, round float32 operands."""
    found = fault()
    if found == "cpu":
        return "fp32"
    if found in ("fp16", "hf32"):
        return found
    half = options["ACL_PRECISION_MODE"] == b"allow_fp32_to_fp16"
    if globals()[kind].allow_hf32:
        return "hf32"  # this chip prefers it if it has the choice
    return "fp16" if half else "fp32"


def _error(text, number):
    """Return an error's text with the line that torch_npu adds."""
    now = time.strftime("%Y-%m-%d-%H:%M:%S")
    process = f"PID:{os.getpid()}, Device:-1, RankID:-1"
    return f"{text}\n[ERROR] {now} ({process}) ERR{number:05} PTA"


def _kind(value):
    return type(value).__name__


# The device


def is_available():
    return True


def is_initialized():
    return True


def device_count():
    return 1


def current_device():
    return 0


def set_device(device):
    _checked(device)


def get_device_name(device):
    _checked(device)
    return "Ascend910B stand-in"


def get_device_properties(device):
    _checked(device)
    return SimpleNamespace(name="Ascend910B stand-in", total_memory=64 * 2**30)


def _checked(device):
    if device not in (0, "npu", "npu:0"):
        raise AssertionError(_error("Invalid device id", 3))


def manual_seed_all(seed):
    """Nothing here draws random numbers of its own."""


def _is_in_bad_fork():
    return False


# Memory


def allocated(tensor, size):
    """Note that a tensor with memory of its own was made; it ends with the tensor."""
    _memory["now"] += size
    _memory["peak"] = max(_memory.values())
    weakref.finalize(tensor, _freed, size).atexit = False


def _freed(size):
    _memory["now"] -= size


def max_memory_allocated(device=None):
    return _memory["peak"]


def reset_peak_memory_stats(device=None):
    _memory["peak"] = _memory["now"]


# Time


class Event:
    def __init__(self, enable_timing=False):
        self.time = None

    def record(self, stream=None):
        self.time = max(_ready, time.perf_counter())

    def synchronize(self):
        time.sleep(max(0.0, self.time - time.perf_counter()))

    def elapsed_time(self, end):
        return 1000 * (end.time - self.time)


def synchronize(device=None):
    global _waiting
    _events.append("synchronize")
    wait()
    _waiting = False


def launched():
    """Note that an operator was launched; it keeps the device busy from now on."""
    global _ready, _launched, _waiting
    _events.append("launch")
    _ready, _waiting = max(_ready, time.perf_counter()) + _seconds, True
    _launched = _launched + 1 if fault() in ("full", "lost") else 0
    if fault() == "full" and _launched > MID_RUN:
        _no_memory()


def copied(source, destination):
    """Note a copy between memories; one from or to the host waits for what was launched before.

    Return whether the memory has what was computed.
    """
    if fault() == "no_memory" and destination == "npu":
        _no_memory()
    if source == destination:
        launched()
        return True
    _events.append("upload" if destination == "npu" else "download")
    if fault() == "early":
        return destination == "npu" or not _waiting
    wait()
    return True


def _no_memory():
    raise RuntimeError(
        "NPU out of memory. Tried to allocate 20.00 MiB (NPU 0; 60.97 GiB total capacity; 60.90 "
        "GiB already allocated; 60.90 GiB current active; 1.20 MiB free; 60.95 GiB reserved in "
        "total by PyTorch) If reserved memory is >> allocated memory try setting "
        "max_split_size_mb to avoid fragmentation."
    )


def wait():
    """Wait for the device. A lost device is noticed here, because launches do not wait."""
    if fault() == "lost" and _launched > MID_RUN:
        raise RuntimeError(
            _error(
                "synchronize:build/CMakeFiles/torch_npu.dir/compiler_depend.ts:361 NPU function "
                "error: c10_npu::acl::AclrtSynchronizeStreamWithTimeout(stream()), error code is "
                "507015",
                100,
            )
        )
    time.sleep(max(0.0, _ready - time.perf_counter()))


@atexit.register
def _write_trace():
    path = os.environ.get("STANDIN_NPU_TRACE")
    if path and _events:
        trace = [[event, len(list(run))] for event, run in itertools.groupby(_events)]
        state = {"conv": conv.allow_hf32, "matmul": matmul.allow_hf32, "trace": trace}
        Path(path).write_text(json.dumps(state))
