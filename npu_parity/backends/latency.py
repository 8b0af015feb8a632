"""Measure the latency of a forward pass on a device. All samples are stored.

Other processes make a pass slower, up to 40 times. So every batch size is measured again while the
machine is busy (`npu_parity.backends.quiet`), and the quietest attempt counts. The time for this is
bounded. Only a busy machine can reach the bound. Then there are fewer samples than asked for.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from npu_parity.backends.device import Device
from npu_parity.backends.outputs import inference, run_once
from npu_parity.backends.precision import applied
from npu_parity.backends.quiet import Machine, Reading, conditions, noise

# More attempts rarely help: a machine that is busy for so long stays busy.
ATTEMPTS = 3

# A batch size may take this many times its duration on a quiet machine. A run must end within three
# times its quiet duration, and the pass that goes on when the time ends needs the rest.
PATIENCE = 2.5

# A batch size always has this many seconds. Shorter delays disturb nobody.
PATIENT_SECONDS = 1.0

# Samples of each stage of a pass.
STAGED = 5

# Even the CPU time of a pass grows by this many times the share of the CPUs that others use,
# because they use the same cores and caches. Two busy processes on two CPUs, which is a share of
# one half, made it grow by 40 %.
CROWDED = 1.0


@dataclass(frozen=True)
class Attempt:
    """Samples in ms, and what happened on the machine during them.

    Attributes:
        samples: the durations of passes in ms.
        conditions: see `quiet.conditions`.
        noise: the largest condition as a multiple of its limit.
        why: the text for this condition.
    """

    samples: list[float]
    conditions: dict[str, float | None]
    noise: float
    why: str

    @property
    def busy(self) -> bool:
        """Whether the machine was not quiet."""
        return self.noise > 1


def time_forward(
    model: nn.Module,
    sample: np.ndarray,
    device: Device,
    batch_sizes: list[int],
    warmup: int,
    samples: int,
    batch_samples: int,
    machine: Machine | None = None,
) -> dict[str, dict[str, Any]]:
    """Return the timings by batch size in milliseconds, and the throughput in images per second.

    Each sample is one forward pass. The data is already on the device. The clock starts after a
    synchronisation and stops after another. ``first_call`` is the first pass with a batch size,
    which prepares kernels. ``stages`` are apart from the samples, see `stages`. See `measure` for
    the other figures.

    Args:
        model: a network in evaluation mode.
        sample: float32 (1, 3, H, W), repeated to fill a batch.
        warmup: passes that do not count, for each batch size. The first call is one of them.
        samples: counted passes with batch size 1.
        batch_samples: counted passes with every larger batch size.
        machine: the counters of the machine; those of this machine if None.

    Raises:
        ParityError: the device is not available.

    """
    timings = {}
    machine = machine or Machine()
    image_seconds = None
    backend = device.implementation
    with (
        inference(model),
        device.configured() as target,
        applied(backend.compiled(model, sample).to(target), device.precision, target) as model,
    ):
        for size in batch_sizes:
            host = torch.from_numpy(np.repeat(sample, size, axis=0))
            batch = host.to(target)
            run = functools.partial(model, batch)
            checked = functools.partial(run_once, model, batch)
            first_call = backend.elapsed(checked)
            if image_seconds is None:
                both = [backend.quiet_seconds(checked) for _ in range(2)]
                image_seconds = min(both) / size
            one_pass = functools.partial(backend.elapsed, run)
            count = samples if size == 1 else batch_samples
            found = measure(one_pass, warmup - 1, count, size * image_seconds, machine)
            timings[str(size)] = summarise(found.pop("samples"), size) | found
            timings[str(size)] |= {
                "first_call": first_call,
                "stages": stages(model, host, device, target),
            }
    return timings


def stages(
    model: nn.Module, host: torch.Tensor, device: Device, target: torch.device
) -> dict[str, list[float | None]] | None:
    """Return the ms of each stage of a pass, `STAGED` samples each; None if the host computes.

    ``to_device`` copies the inputs, ``compute`` is the forward pass, ``on_device`` the same by the
    clock of the device (None without one), and ``to_host`` copies the outputs.

    Args:
        host: a batch of inputs on the host.
    """
    if target.type == "cpu":
        return None
    backend = device.implementation
    found: dict[str, list[float | None]] = {
        name: [] for name in ("to_device", "compute", "on_device", "to_host")
    }
    for _ in range(STAGED):
        found["to_device"].append(backend.elapsed(lambda: host.to(target)))
        batch = host.to(target)
        run = functools.partial(model, batch)
        found["compute"].append(backend.elapsed(run))
        found["on_device"].append(backend.device_time(run))
        outputs = run_once(model, batch)
        found["to_host"].append(backend.elapsed(outputs.cpu))
    return found


def measure(
    one_pass: Callable[[], float], warmup: int, count: int, pass_seconds: float, machine: Machine
) -> dict[str, Any]:
    """Return the samples of the quietest attempt, and whether the machine was busy during it.

    Args:
        one_pass: executes a forward pass and returns its duration in ms.
        warmup: passes that do not count.
        count: the number of samples.
        pass_seconds: about how long a pass takes on a quiet machine.
        machine: the counters of the machine.

    Returns:
        ``samples`` in ms, ``asked`` (count), ``attempts``, ``conditions`` (see `quiet.conditions`),
        ``busy``, and ``why`` it is busy (empty if it is not).
    """
    start = machine.clock()
    warm = attempt(one_pass, warmup, start + allowed(warmup * pass_seconds), machine)
    crowd = max(warm.conditions[key] or 0.0 for key in ("others", "waited"))
    fastest = min(warm.samples, default=math.inf) / 1000
    quiet = min(fastest, pass_seconds / (1 + CROWDED * crowd))
    end = start + allowed((warmup + count) * quiet)
    attempts = [attempt(one_pass, count, end, machine)]
    while attempts[-1].busy and len(attempts) < ATTEMPTS and machine.clock() + count * quiet < end:
        attempts.append(attempt(one_pass, count, end, machine))
    most = max(len(found.samples) for found in attempts)
    best = min((a for a in attempts if len(a.samples) == most), key=lambda a: a.noise)
    return {
        "samples": best.samples,
        "asked": count,
        "attempts": len(attempts),
        "conditions": best.conditions,
        "busy": best.busy,
        "why": _reason(best, count),
    }


def allowed(quiet: float) -> float:
    """Return the seconds allowed for something that takes `quiet` seconds on a quiet machine."""
    return max(PATIENT_SECONDS, PATIENCE * quiet)


def attempt(one_pass: Callable[[], float], count: int, end: float, machine: Machine) -> Attempt:
    """Return `count` samples, or fewer if the time ends on a busy machine.

    Args:
        one_pass: executes a forward pass and returns its duration in ms.
        count: the number of samples.
        end: the time of the machine's clock after which a busy machine gets no more passes.
        machine: the counters of the machine.
    """
    before = machine.read()
    samples: list[float] = []
    while len(samples) < count:
        samples.append(one_pass())
        if machine.clock() >= end and (found := _watched(samples, before, machine)).busy:
            return found
    return _watched(samples, before, machine)


def _watched(samples: list[float], before: Reading, machine: Machine) -> Attempt:
    """Return an attempt that ends now."""
    found = conditions(before, machine.read(), samples)
    return Attempt(samples, found, *noise(found))


def _reason(found: Attempt, asked: int) -> str:
    """Return why the machine was busy during an attempt; an empty text if it was quiet."""
    if not found.busy:
        return ""
    taken = len(found.samples)
    return found.why + (f"; time for {taken} of {asked} samples" if taken < asked else "")


def summarise(samples: list[float], batch_size: int) -> dict[str, Any]:
    """Return mean, sample standard deviation, percentiles and throughput of timings in ms.

    The throughput is in images per second at the mean. The standard deviation of one sample is
    None.
    """
    values = np.asarray(samples)
    p50, p95, p99 = (float(p) for p in np.percentile(values, [50, 95, 99]))
    return {
        "mean": float(values.mean()),
        "std": float(values.std(ddof=1)) if len(values) > 1 else None,
        "p50": p50,
        "p95": p95,
        "p99": p99,
        "throughput": 1000 * batch_size / float(values.mean()),
        "samples": samples,
    }
