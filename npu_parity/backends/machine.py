"""The machine of this process: its processor and the number of usable CPUs."""

import contextlib
import os
import platform
from pathlib import Path


def cpus() -> int:
    """Return the number of CPUs that this process may use."""
    return len(usable())


def threads() -> int:
    """Return how many threads this process is to use: OMP_NUM_THREADS, or one for each CPU."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return min(int(asked), cpus()) if asked.isdecimal() and int(asked) else cpus()


def usable() -> set[int]:
    """Return the numbers of the CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def cpu_flags() -> set[str]:
    """Return the features of the processor; an empty set if /proc is missing."""
    return set((_cpuinfo("flags") or _cpuinfo("Features")).split())  # on x86, on Arm


def cpu_name() -> str:
    """Return the processor's name."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _cpuinfo(key: str) -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(key):
                return line.partition(":")[2].strip()
    return ""
