"""Was the machine quiet? What other processes did while this one took its samples.

Every figure compares two readings of the operating system's counters, one before the samples and
one after. A figure is None if the system does not offer it (macOS, some containers), or if the time
was too short to measure it. Then the other figures decide.
"""

import contextlib
import os
import resource
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from npu_parity.backends import machine

# The kernel counts the time of /proc/stat in ticks of 10 ms for each CPU. In one CPU second, the
# error of a few ticks stays well below the limits.
SHORTEST = 1.0

# Fewer samples have no meaningful quartiles or halves.
FEWEST = 8


@dataclass(frozen=True)
class Limit:
    """The largest value of a figure on a quiet machine.

    Attributes:
        figure: a key of `conditions`.
        most: the value above which the machine was busy.
        text: says what happened, with the figure.
        reason: why the limit has this value.
    """

    figure: str
    most: float
    text: str
    reason: str


LIMITS = (
    Limit(
        "others",
        0.1,
        "other processes used {:.0%} of the CPUs",
        "The system's own services use 1 or 2 % of two CPUs. One busy process uses 50 % of them.",
    ),
    Limit(
        "steal",
        0.05,
        "other virtual machines used {:.0%} of the CPUs",
        "A host with free CPUs takes below 1 %.",
    ),
    Limit(
        "waited",
        0.05,
        "this process waited for a CPU {:.0%} of the time",
        "On a quiet machine, a thread waits for microseconds. Beside a busy process, it waits for "
        "half of the time. The limit also finds one busy process on a machine with many CPUs.",
    ),
    Limit(
        "pressure",
        0.25,
        "some process waited for a CPU {:.0%} of the time",
        "The system's services wait for a short time even on a quiet machine. On a machine with "
        "many CPUs, they need not disturb this process, so the limit is higher.",
    ),
    Limit(
        "slowed",
        0.2,
        "the clock of the CPUs fell by {:.0%}",
        "The clock of a busy CPU changes by a few percent. Heat or a limit of power takes more.",
    ),
    Limit(
        "spread",
        0.5,
        "the middle half of the samples spreads over {:.0%} of the median",
        "On a quiet machine, the six systems of this project have 3 to 15 %.",
    ),
    Limit(
        "drift",
        0.25,
        "the samples drifted by {:.0%} between the first and the second half",
        "On a quiet machine, the six systems of this project have at most 10 %.",
    ),
)

# The load average also counts the minute before the samples: the earlier jobs of the same run. It
# decides only on systems that do not say who used the CPUs.
LOAD = Limit(
    "load_per_cpu",
    2.0,
    "{:.1f} processes wanted each CPU in the last minute",
    "Jobs of the same run keep each CPU busy once.",
)


@dataclass(frozen=True)
class Reading:
    """The counters at one moment. Times are in seconds and only grow.

    Attributes:
        clock: the time.
        cpus: the number of CPUs that this process may use.
        own: the CPU time of this process and its threads.
        preemptions: how often this process lost a CPU against its will.
        used: the CPU time of all processes on these CPUs.
        stolen: the time that the host gave to other virtual machines.
        waited: the time that the threads of this process waited for a CPU.
        pressure: the time in which at least one process waited for a CPU.
        runnable: the number of running or waiting threads of other processes at this moment.
        load: the average number of running or waiting threads in the last minute.
        mhz: the clock of the fastest of these CPUs.
    """

    clock: float
    cpus: int
    own: float
    preemptions: int
    used: float | None = None
    stolen: float | None = None
    waited: float | None = None
    pressure: float | None = None
    runnable: int | None = None
    load: float | None = None
    mhz: float | None = None


def usage() -> tuple[float, int]:
    """Return the CPU seconds and the involuntary context switches of this process."""
    found = resource.getrusage(resource.RUSAGE_SELF)
    return found.ru_utime + found.ru_stime, found.ru_nivcsw


class Machine:
    """The counters of this machine."""

    def __init__(
        self,
        root: Path = Path("/"),
        clock: Callable[[], float] = time.perf_counter,
        usage: Callable[[], tuple[float, int]] = usage,
        cpus: Iterable[int] | None = None,
    ) -> None:
        """Remember the CPUs that this process may use.

        Args:
            root: the folder with ``proc`` and ``sys``.
            clock: returns seconds.
            usage: returns the CPU seconds and the involuntary context switches of this process.
            cpus: numbers of the CPUs; those of the operating system if None.
        """
        self.root, self.clock, self.usage = root, clock, usage
        self.cpus = sorted(machine.usable() if cpus is None else cpus)

    def read(self) -> Reading:
        """Return the counters as they are now."""
        own, preemptions = self.usage()
        used, stolen = self._cpu_times()
        waited, running = self._threads()
        load, runnable = self._load()
        return Reading(
            clock=self.clock(),
            cpus=len(self.cpus),
            own=own,
            preemptions=preemptions,
            used=used,
            stolen=stolen,
            waited=waited,
            pressure=self._pressure(),
            runnable=None if runnable is None else max(0, runnable - running),
            load=load,
            mhz=self._mhz(),
        )

    def _text(self, path: str | Path) -> str:
        """Return a file's text; an empty text if this system has no such file."""
        with contextlib.suppress(OSError, UnicodeDecodeError):
            return (self.root / path).read_text()
        return ""

    def _cpu_times(self) -> tuple[float | None, float | None]:
        """Return the used and the stolen seconds of the usable CPUs, from ``/proc/stat``."""
        wanted = {f"cpu{number}" for number in self.cpus}
        lines = (line.split() for line in self._text("proc/stat").splitlines())
        rows = [[int(x) for x in line[1:9]] for line in lines if line and line[0] in wanted]
        if len(rows) != len(wanted) or any(len(row) < 8 for row in rows):
            return None, None
        ticks = os.sysconf("SC_CLK_TCK")
        # user, nice, system, idle, iowait, irq, softirq, steal
        used = sum(sum(row[:3]) + row[5] + row[6] for row in rows)
        return used / ticks, sum(row[7] for row in rows) / ticks

    def _threads(self) -> tuple[float | None, int]:
        """Return the seconds that the threads waited for a CPU, and the number that run now.

        The second number of ``schedstat`` is the waiting time in nanoseconds.
        """
        waited, running = [], 0
        for folder in (self.root / "proc/self/task").glob("*"):
            numbers = self._text(folder / "schedstat").split()
            waited += [int(numbers[1]) / 1e9] if len(numbers) > 1 else []
            # The name of a thread is in brackets and may contain spaces. The state follows it.
            running += self._text(folder / "stat").rpartition(")")[2].split()[:1] == ["R"]
        return (sum(waited) if waited else None), running

    def _load(self) -> tuple[float | None, int | None]:
        """Return the load average of a minute, and the number of runnable threads."""
        found = self._text("proc/loadavg").split()
        if len(found) > 3:
            return float(found[0]), int(found[3].partition("/")[0])
        with contextlib.suppress(OSError, AttributeError):  # macOS
            return os.getloadavg()[0], None
        return None, None

    def _pressure(self) -> float | None:
        """Return the total of the line ``some`` of ``/proc/pressure/cpu``."""
        for line in self._text("proc/pressure/cpu").splitlines():
            if line.startswith("some ") and "total=" in line:
                return int(line.rpartition("total=")[2]) / 1e6
        return None

    def _mhz(self) -> float | None:
        """Return the clock of the fastest usable CPU. An idle CPU may be slower."""
        file = "sys/devices/system/cpu/cpu{}/cpufreq/scaling_cur_freq"
        found = [self._text(file.format(number)).strip() for number in self.cpus]
        return max((int(khz) / 1000 for khz in found if khz.isdigit()), default=None)


def conditions(
    before: Reading, after: Reading, samples: Sequence[float]
) -> dict[str, float | None]:
    """Return what happened on the machine between two readings.

    Shares are from 0 to 1. ``own``, ``others``, ``steal`` and ``waited`` are shares of the usable
    CPUs' time. ``pressure`` is a share of the time.

    Args:
        before: the reading before the first sample.
        after: the reading after the last sample.
        samples: the samples in ms.
    """
    seconds = after.clock - before.clock
    capacity = seconds * after.cpus
    own = _share(before.own, after.own, capacity)
    used = _share(before.used, after.used, capacity, SHORTEST)
    return {
        "seconds": seconds,
        "own": own,
        "others": None if used is None or own is None else max(0.0, used - own),
        "steal": _share(before.stolen, after.stolen, capacity, SHORTEST),
        "waited": _share(before.waited, after.waited, capacity),
        "pressure": _share(before.pressure, after.pressure, seconds),
        "preemptions_per_s": _share(before.preemptions, after.preemptions, seconds),
        "runnable": after.runnable,
        "load_per_cpu": None if after.load is None else after.load / after.cpus,
        "mhz": after.mhz,
        "slowed": 1 - after.mhz / before.mhz if after.mhz and before.mhz else None,
        "spread": _spread(samples),
        "drift": _drift(samples),
    }


def noise(found: dict[str, float | None]) -> tuple[float, str]:
    """Return the largest figure as a multiple of its limit, and why the machine was busy.

    The machine was busy if the multiple is above 1. Otherwise the text is empty. The first limit
    that is exceeded gives the reason, because the limits go from causes to effects.

    >>> noise({"others": 0.4, "waited": 0.1})
    (4.0, 'other processes used 40 % of the CPUs')
    >>> noise({"others": 0.025, "waited": 0.0})
    (0.25, '')
    """
    blind = found.get("others") is None and found.get("waited") is None
    figures = [
        (value, limit)
        for limit in (*LIMITS, *[LOAD] * blind)
        if (value := found.get(limit.figure)) is not None
    ]
    multiple = max((value / limit.most for value, limit in figures), default=0.0)
    reasons = (limit.text.format(value) for value, limit in figures if value > limit.most)
    return multiple, next(reasons, "").replace("%", " %")


def _share(
    before: float | None, after: float | None, of: float, shortest: float = 0.0
) -> float | None:
    """Return the difference of two counters as a share; None if `of` is too short.

    A counter may fall when a thread ends or a CPU goes offline. Then the share is 0.
    """
    if before is None or after is None or of <= 0 or of < shortest:
        return None
    return max(0.0, (after - before) / of)


def _spread(samples: Sequence[float]) -> float | None:
    """Return the distance of the quartiles as a share of the median. It ignores outliers."""
    if len(samples) < FEWEST:
        return None
    low, middle, high = (float(x) for x in np.percentile(samples, [25, 50, 75]))
    return (high - low) / middle


def _drift(samples: Sequence[float]) -> float | None:
    """Return the difference between the medians of both halves as a share of the median."""
    if len(samples) < FEWEST:
        return None
    half = len(samples) // 2
    first, second = float(np.median(samples[:half])), float(np.median(samples[half:]))
    return abs(second - first) / float(np.median(samples))
