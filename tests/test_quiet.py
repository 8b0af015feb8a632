"""A busy machine is noticed from the counters of the operating system, where they exist."""

import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from machines import Counters
from torch import nn

from npu_parity.backends.cpu import Cpu
from npu_parity.backends.device import Device
from npu_parity.backends.latency import ATTEMPTS, PATIENCE, measure, time_forward
from npu_parity.backends.quiet import LIMITS, LOAD, Machine, conditions, noise


@pytest.fixture
def counters(tmp_path):
    return Counters(tmp_path)


def after(counters, samples=(), **spent):
    """The conditions of ten seconds."""
    before = counters.machine.read()
    counters.spend(10.0, **spent)
    return conditions(before, counters.machine.read(), list(samples))


# The counters


def test_reading(counters):
    counters.running = 6
    found = counters.machine.read()
    assert (found.clock, found.cpus, found.own, found.preemptions) == (1000.0, 2, 7.0, 10)
    assert (found.used, found.stolen, found.waited) == (500.0, 3.0, 1.0)
    assert (found.pressure, found.load, found.mhz) == (20.0, 1.5, 2400.0)
    assert found.runnable == 5  # one of the six is a thread of this process


def test_shares(counters):
    found = after(counters, own=0.5, others=0.3, steal=0.1, waited=0.2)
    assert found["seconds"] == 10
    for key, share in {"own": 0.5, "others": 0.3, "steal": 0.1, "waited": 0.2}.items():
        assert found[key] == pytest.approx(share)
    assert found["pressure"] == pytest.approx(0.4)
    assert found["load_per_cpu"] == 0.75 and found["slowed"] == 0


def test_this_process_alone_is_quiet(counters):
    assert noise(after(counters, [5.0] * 20)) == (0.0, "")


@pytest.mark.parametrize(
    ("spent", "why"),
    [
        ({"own": 0.5, "others": 0.48}, "other processes used 48 % of the CPUs"),
        ({"steal": 0.2}, "other virtual machines used 20 % of the CPUs"),
        ({"waited": 0.07}, "this process waited for a CPU 7 % of the time"),
        ({"own": 0.4, "others": 0.6, "waited": 0.5}, "other processes used 60 % of the CPUs"),
    ],
)
def test_other_processes_are_noticed(counters, spent, why):
    multiple, found = noise(after(counters, **spent))
    assert found == why and multiple > 1


def test_pressure_alone_is_noticed(counters):
    before = counters.machine.read()
    counters.spend(10.0)
    counters.pressure += 5
    found = conditions(before, counters.machine.read(), [])
    assert noise(found) == (2.0, "some process waited for a CPU 50 % of the time")


def test_a_slower_clock_is_noticed(counters):
    before = counters.machine.read()
    counters.spend(10.0)
    counters.mhz = 1200
    found = conditions(before, counters.machine.read(), [])
    assert noise(found) == (2.5, "the clock of the CPUs fell by 50 %")


@pytest.mark.parametrize(
    ("samples", "why"),
    [
        ([10.0, 30.0] * 10, "the middle half of the samples spreads over 100 % of the median"),
        ([10.0] * 10 + [14.0] * 10, "the samples drifted by 33 % between the first and"),
        ([10.0] * 19 + [300.0], ""),  # one outlier
        ([10.0, 30.0, 90.0], ""),  # too few to tell
    ],
)
def test_uneven_samples_are_noticed(counters, samples, why):
    assert noise(after(counters, samples))[1].startswith(why) and bool(
        noise(after(counters, samples))[1]
    ) == bool(why)


def test_a_short_time_is_not_judged_by_ticks(counters):
    """Two ticks of 10 ms would be a third of the CPUs in 30 ms. Waiting is exact, and is judged."""
    before = counters.machine.read()
    counters.spend(0.03, others=0.33, waited=0.2)
    found = conditions(before, counters.machine.read(), [])
    assert found["others"] is None and found["steal"] is None
    assert noise(found)[1] == "this process waited for a CPU 20 % of the time"


# Where files are missing


FILES = ["proc/stat", "proc/loadavg", "proc/pressure", "proc/self", "sys"]
FIGURES = {
    "proc/stat": {"others", "steal"},
    "proc/loadavg": {"runnable"},
    "proc/pressure": {"pressure"},
    "proc/self": {"waited"},
    "sys": {"mhz", "slowed"},
}


@pytest.mark.parametrize("missing", FILES)
def test_one_missing_file_costs_its_own_figures(counters, missing, monkeypatch):
    monkeypatch.setattr(counters, "files", lambda files=counters.files: _without(files(), missing))
    found = after(counters, [5.0] * 20, own=0.4, others=0.6, waited=0.5)
    assert {key for key, value in found.items() if value is None} == FIGURES[missing]
    assert noise(found)[0] > 1


def _without(files, missing):
    return {path: text for path, text in files.items() if not path.startswith(missing)}


def test_without_any_file_the_samples_and_the_load_decide(counters, monkeypatch):
    monkeypatch.setattr(counters, "write", lambda: None)
    monkeypatch.setattr("os.getloadavg", lambda: (5.0, 0.0, 0.0))
    found = after(counters, [5.0] * 20)
    assert found["others"] is found["waited"] is found["pressure"] is None
    assert noise(found) == (1.25, "2.5 processes wanted each CPU in the last minute")
    monkeypatch.setattr("os.getloadavg", lambda: (2.0, 0.0, 0.0))
    assert noise(after(counters, [5.0] * 20))[1] == ""
    assert "drifted" in noise(after(counters, [5.0] * 10 + [7.0] * 10))[1]
    monkeypatch.delattr("os.getloadavg")
    assert after(counters)["load_per_cpu"] is None


def test_the_load_does_not_decide_where_more_is_known(counters):
    counters.load = 50.0
    assert noise(after(counters, [5.0] * 20))[1] == ""


@pytest.mark.parametrize("missing", FILES)
def test_an_empty_file_is_like_a_missing_one(counters, missing, monkeypatch):
    monkeypatch.setattr(counters, "files", lambda files=counters.files: _emptied(files(), missing))
    found = after(counters, [5.0] * 20)
    assert {key for key, value in found.items() if value is None} == FIGURES[missing]


def _emptied(files, missing):
    return {path: "" if path.startswith(missing) else text for path, text in files.items()}


def test_a_thread_that_ended_takes_its_waiting_time_along(counters):
    before = counters.machine.read()
    counters.spend(10.0)
    counters.waited = 0.0
    assert conditions(before, counters.machine.read(), [])["waited"] == 0


def test_limits_have_reasons_and_are_figures(counters):
    found = after(counters)
    assert all(limit.reason and limit.figure in found for limit in (*LIMITS, LOAD))


# Attempts and their time


class Work:
    """Passes on a faked machine: each takes the next of some seconds, then the last one again."""

    def __init__(self, counters, *passes):
        self.counters, self.passes, self.done = counters, list(passes), 0

    def __call__(self):
        seconds, others = self.passes[min(self.done, len(self.passes) - 1)]
        self.done += 1
        self.counters.spend(seconds, own=1 - others, others=others, waited=others)
        return 1000 * seconds


def test_a_quiet_machine_is_measured_once(counters):
    work = Work(counters, (0.1, 0.0))
    found = measure(work, 3, 20, 0.1, counters.machine)
    assert found["samples"] == pytest.approx([100.0] * 20) and work.done == 23
    assert (found["asked"], found["attempts"], found["busy"], found["why"]) == (20, 1, False, "")


def test_a_burst_is_measured_again(counters):
    """The second attempt is quiet, and its samples are kept."""
    work = Work(counters, *[(0.1, 0.0)] * 3, *[(0.12, 0.3)] * 20, (0.1, 0.0))
    found = measure(work, 3, 20, 0.1, counters.machine)
    assert (found["attempts"], found["busy"], found["why"]) == (2, False, "")
    assert found["samples"] == pytest.approx([100.0] * 20) and work.done == 43


def test_the_quietest_attempt_is_kept(counters):
    loads = [0.3] * 20 + [0.15] * 20 + [0.4] * 20
    work = Work(counters, *[(0.01, 0.0)] * 3, *[(0.01, share) for share in loads])
    found = measure(work, 3, 20, 0.01, counters.machine)
    assert found["attempts"] == ATTEMPTS == 3 and found["busy"]
    assert found["conditions"]["waited"] == pytest.approx(0.15)
    assert found["why"] == "this process waited for a CPU 15 % of the time"


@pytest.mark.parametrize("slower", [2, 10, 40, 400])
def test_time_is_bounded_however_slow_the_passes(counters, slower):
    quiet, started = 0.03, counters.now
    work = Work(counters, (quiet * slower, 0.6))
    found = measure(work, 3, 100, 1.5 * quiet, counters.machine)  # others made it too high
    took, one = counters.now - started, quiet * slower
    assert took <= PATIENCE * 103 * quiet + 2 * one
    taken = len(found["samples"])
    told = f"; time for {taken} of 100 samples" if slower > 2 else ""
    assert found["busy"] and found["why"] == f"other processes used 60 % of the CPUs{told}"
    assert taken == 100 if slower == 2 else 1 <= taken < 100


def test_a_quiet_machine_always_gets_all_samples(counters):
    """Even if the estimate is a hundred times too short."""
    work = Work(counters, (1.0, 0.0))
    found = measure(work, 3, 20, 0.01, counters.machine)
    assert len(found["samples"]) == 20 and work.done == 23 and not found["busy"]


def test_a_short_measurement_is_never_cut(counters):
    """A second is always allowed."""
    work = Work(counters, (0.01, 0.6))
    found = measure(work, 3, 10, 0.0001, counters.machine)
    assert len(found["samples"]) == 10 and found["busy"] and found["attempts"] == ATTEMPTS


def test_cpu_estimates_with_one_thread():
    before, seen = torch.get_num_threads(), []
    try:
        torch.set_num_threads(2)
        assert Cpu().quiet_seconds(lambda: seen.append(torch.get_num_threads())) >= 0
        assert seen == [1] and torch.get_num_threads() == 2
        with pytest.raises(RuntimeError):
            Cpu().quiet_seconds(lambda: torch.zeros(2) @ torch.zeros(3))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


# The real machine


def network():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3 if i == 0 else 32, 32, 3, padding=1) for i in range(20)]
    return nn.Sequential(*layers).eval()


def timed(count=40):
    """The timings of a network that takes about 10 ms, and how long they took."""
    threads = torch.get_num_threads()
    torch.set_num_threads(min(2, len(Machine().cpus)))
    started = time.perf_counter()
    try:
        image = torch.rand(1, 3, 64, 64).numpy()
        found = time_forward(network(), image, Device("cpu"), [1], 3, count, 10)["1"]
    finally:
        torch.set_num_threads(threads)
    return found, time.perf_counter() - started


def at_rest(during=lambda: time.sleep(1.0)):
    """Whether nobody else uses this machine while this process does something."""
    machine = Machine()
    before = machine.read()
    during()
    return noise(conditions(before, machine.read(), []))[0] <= 0.5


@pytest.fixture
def busy():
    """One process for each CPU that computes without end."""
    loop = [sys.executable, "-c", "while True: pass"]
    loops = [subprocess.Popen(loop) for _ in Machine().cpus]
    yield
    for process in loops:
        process.kill()
        process.wait()


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="this system has no /proc/stat")
@pytest.mark.slow
def test_a_machine_kept_busy_is_marked(busy):
    found, _ = timed()
    assert found["busy"] and found["why"] and 1 <= found["attempts"] <= ATTEMPTS
    assert 1 <= len(found["samples"]) <= found["asked"] == 40


@pytest.mark.slow
def test_a_machine_at_rest_is_not_marked():
    if not at_rest():
        pytest.skip("other processes use this machine now")
    measured = []
    if not at_rest(lambda: measured.append(timed())):
        pytest.skip("other processes began to use this machine")
    ((found, _),) = measured
    assert (found["busy"], found["why"], len(found["samples"])) == (False, "", 40)


def test_readings_of_this_machine_grow():
    machine = Machine()
    readings = [machine.read() for _ in range(3)]
    for first, second in pairwise(readings):
        assert second.clock > first.clock and second.own >= first.own
        assert second.preemptions >= first.preemptions
