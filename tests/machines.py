"""Machines whose counters and clock a test sets."""

import os
from dataclasses import dataclass, field, replace
from pathlib import Path

from npu_parity.backends.quiet import Machine, Reading

TICKS = os.sysconf("SC_CLK_TCK")


class Quiet(Machine):
    """This machine, but its counters stand still."""

    def read(self) -> Reading:
        still = Reading(clock=0.0, cpus=2, own=0.0, preemptions=0)
        return replace(still, clock=self.clock())


@dataclass
class Counters:
    """The counters of a machine with CPUs 0 and 2. All are in seconds, but `mhz` and `running`."""

    folder: Path
    now: float = 1000.0
    own: float = 7.0
    used: float = 500.0
    stolen: float = 3.0
    waited: float = 1.0
    pressure: float = 20.0
    preemptions: int = 10
    running: int = 1  # threads of all processes
    load: float = 1.5
    mhz: float = 2400.0
    machine: Machine = field(init=False)

    def __post_init__(self):
        self.machine = Faked(self)

    def spend(self, seconds, own=1.0, others=0.0, steal=0.0, waited=0.0):
        """Let time pass. All figures are shares of the two CPUs' time."""
        self.now += seconds
        self.own += 2 * seconds * own
        self.used += 2 * seconds * (own + others)
        self.stolen += 2 * seconds * steal
        self.waited += 2 * seconds * waited
        self.pressure += seconds * min(1.0, 2 * waited)

    def files(self):
        """The files of the kernel, by their path. The third CPU is not for this process."""
        tick = round(self.used * TICKS / 2)
        rows = [f"cpu{n} {tick} 0 0 99 9 0 0 {round(self.stolen * TICKS / 2)} 0 0" for n in (0, 2)]
        return {
            "proc/stat": "\n".join(
                ["cpu 1 2 3 4 5 6 7 8", rows[0], "cpu1 9 9 9 9 9 9 9 9", rows[1]]
            )
            + "\nintr 1\n",
            "proc/loadavg": f"{self.load:.2f} 1.00 1.00 {self.running}/100 4711\n",
            "proc/pressure/cpu": f"some avg10=1.00 avg60=1.00 avg300=1.00 "
            f"total={round(self.pressure * 1e6)}\nfull avg10=0.00 total=5\n",
            "proc/self/task/4/schedstat": f"123 {round(self.waited * 1e9)} 5\n",
            "proc/self/task/4/stat": "4 (a b) c) R 1 1\n",
            "proc/self/task/5/schedstat": "123 0 5\n",
            "proc/self/task/5/stat": "5 (python) S 1 1\n",
            "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "800000\n",
            "sys/devices/system/cpu/cpu2/cpufreq/scaling_cur_freq": f"{round(self.mhz * 1000)}\n",
        }

    def write(self):
        for path, text in self.files().items():
            (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / path).write_text(text)


class Faked(Machine):
    """A machine that reads its counters from files of a test's folder."""

    def __init__(self, counters: Counters) -> None:
        self.counters = counters
        super().__init__(
            root=counters.folder,
            clock=lambda: counters.now,
            usage=lambda: (counters.own, counters.preemptions),
            cpus=[2, 0],
        )

    def read(self) -> Reading:
        self.counters.write()
        return super().read()
