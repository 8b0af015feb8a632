"""Measure the latency of a forward pass on a device. All samples are stored."""

import functools
from typing import Any

import numpy as np
import torch
from torch import nn

from npu_parity.backends.device import Device
from npu_parity.backends.outputs import inference


def time_forward(
    model: nn.Module,
    sample: np.ndarray,
    device: Device,
    batch_sizes: list[int],
    warmup: int,
    samples: int,
    batch_samples: int,
) -> dict[str, dict[str, Any]]:
    """Return the timings by batch size in milliseconds, and the throughput in images per second.

    Each sample is one forward pass. The data is already on the device. The clock starts after a
    synchronisation and stops after another.

    Args:
        model: a network in evaluation mode.
        sample: float32 (1, 3, H, W), repeated to fill a batch.
        warmup: passes that do not count, for each batch size.
        samples: counted passes with batch size 1.
        batch_samples: counted passes with every larger batch size.

    Raises:
        ParityError: the device is not available.

    """
    timings = {}
    with device.configured() as target, inference(model):
        model = model.to(target)
        for size in batch_sizes:
            batch = torch.from_numpy(np.repeat(sample, size, axis=0)).to(target)
            for _ in range(warmup):
                model(batch)
            count = samples if size == 1 else batch_samples
            run = functools.partial(model, batch)
            elapsed = [device.implementation.elapsed(run) for _ in range(count)]
            timings[str(size)] = summarise(elapsed, size)
    return timings


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
