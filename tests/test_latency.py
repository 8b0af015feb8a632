"""Every sample is kept, and what is said of them follows from them."""

import statistics
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from machines import Quiet
from torch import nn

from npu_parity.backends import latency
from npu_parity.backends.cpu import Cpu
from npu_parity.backends.device import Device
from npu_parity.backends.latency import summarise, time_forward
from npu_parity.errors import ParityError

CPU = Device("cpu")
SAMPLE = np.random.default_rng(0).normal(size=(1, 3, 4, 4)).astype(np.float32)


class Watched(nn.Module):
    """Keeps what it is fed, and takes `seconds`."""

    def __init__(self, seconds=0.0):
        super().__init__()
        self.seconds, self.fed, self.gradients = seconds, [], set()
        self.eval()

    def forward(self, x):
        time.sleep(self.seconds)
        self.fed.append(x)
        self.gradients.add(torch.is_grad_enabled())
        return x


def timed(model=None, sizes=(1, 4, 16), warmup=2, samples=7, batch_samples=3, device=CPU):
    counts = list(sizes), warmup, samples, batch_samples
    return time_forward(model or Watched(), SAMPLE, device, *counts, machine=Quiet())


def test_structure():
    found = timed()
    assert list(found) == ["1", "4", "16"]
    keys = ["mean", "std", "p50", "p95", "p99", "throughput", "samples"]
    keys += ["asked", "attempts", "conditions", "busy", "why", "first_call", "stages"]
    assert all(list(one) == keys for one in found.values())
    assert all(one["first_call"] > 0 for one in found.values())
    assert all(one["stages"] is None for one in found.values())  # nothing is copied on a CPU
    assert [len(one["samples"]) for one in found.values()] == [7, 3, 3]
    assert all(sample > 0 for one in found.values() for sample in one["samples"])


def test_every_batch_size_is_warmed_up_and_fed_the_sample():
    model = Watched()
    timed(model)
    estimate = [1] * 2  # how long a pass takes on a quiet machine
    first, fourth, sixteenth = ([size] for size in (1, 4, 16))  # the first call of each size
    fed = first + estimate + [1] * (1 + 7) + fourth + [4] * (1 + 3) + sixteenth + [16] * (1 + 3)
    assert [len(x) for x in model.fed] == fed
    assert all(np.array_equal(row, SAMPLE[0]) for x in model.fed for row in x.numpy())
    assert model.gradients == {False}


class Elsewhere(Cpu):
    """A device that is no host, as far as torch knows. Its clock counts passes."""

    def target(self):
        return torch.device("meta")

    def device_time(self, run):
        run()
        return 2.5

    def synchronize(self):
        """Do nothing: a meta device computes nothing."""


def test_stages_are_apart(monkeypatch):
    def run_once(model, batch):
        assert model(batch).device.type == "meta"
        return torch.ones(1, 3)  # nothing can be copied from a meta device

    monkeypatch.setattr(latency, "run_once", run_once)
    model, device = Watched(seconds=0.002), SimpleNamespace(implementation=Elsewhere())
    found = latency.stages(model, torch.from_numpy(SAMPLE), device, torch.device("meta"))
    assert set(found) == {"to_device", "compute", "on_device", "to_host"}
    assert {len(samples) for samples in found.values()} == {latency.STAGED}
    assert found["on_device"] == [2.5] * latency.STAGED and min(found["compute"]) >= 1.9
    assert len(model.fed) == 3 * latency.STAGED  # by two clocks, and for the outputs


def test_counts_are_as_asked():
    model = Watched()
    found = timed(model, sizes=(8, 1), warmup=1, samples=1, batch_samples=5)
    assert list(found) == ["8", "1"] and len(model.fed) == 2 + (1 + 5) + (1 + 1)
    assert [len(one["samples"]) for one in found.values()] == [5, 1]


def test_samples_are_milliseconds_of_one_pass():
    """Sleep never takes less than it is told."""
    found = timed(Watched(seconds=0.01), sizes=(1, 4), samples=4)
    assert all(sample >= 9.9 for one in found.values() for sample in one["samples"])
    assert found["1"]["throughput"] <= 1000 / 9.9 and found["4"]["throughput"] <= 4000 / 9.9


@pytest.mark.parametrize("count", [2, 3, 10, 101])
def test_statistics_follow_from_the_samples(count):
    samples = np.random.default_rng(count).gamma(2.0, 5.0, count).tolist()
    found = summarise(samples, batch_size=8)
    assert found["samples"] == samples
    assert found["mean"] == pytest.approx(statistics.fmean(samples), rel=1e-12)
    assert found["std"] == pytest.approx(statistics.stdev(samples), rel=1e-12)
    assert found["p50"] == pytest.approx(statistics.median(samples), rel=1e-12)
    for name, share in (("p95", 0.95), ("p99", 0.99)):
        assert found[name] == pytest.approx(np.quantile(samples, share), rel=1e-12)
    assert found["throughput"] * found["mean"] == pytest.approx(8000, rel=1e-12)
    assert min(samples) <= found["p50"] <= found["p95"] <= found["p99"] <= max(samples)


def test_one_sample_has_no_standard_deviation():
    found = summarise([4.0], batch_size=2)
    assert found == {
        **dict.fromkeys(("mean", "p50", "p95", "p99"), 4.0),
        "std": None,
        "throughput": 500.0,
        "samples": [4.0],
    }


def test_figures_are_plain_numbers():
    found = summarise([1.0, 2.0], 1)
    assert {type(value) for key, value in found.items() if key != "samples"} == {float}


def test_training_mode_is_refused():
    with pytest.raises(ParityError, match="Watched is in training mode"):
        timed(Watched().train())


def test_absent_device():
    if hasattr(torch, "npu"):
        pytest.skip("this machine has torch_npu")
    model = Watched()
    with pytest.raises(ParityError, match="device npu: "):
        timed(model, device=Device("npu"))
    assert not model.fed
