"""Measure the ratio of the times of a forward pass with and without emulated numerics.

``python benchmarks/emulation.py [--threads 1] [--samples 15] [--batch 1]``

Plain and emulated passes alternate, so other load on the machine affects both. The program prints
only the ratio, because the times depend on the machine. The project promises a ratio of at most 2.
"""

import statistics
import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from npu_parity import cli, config
from npu_parity.numerics.emulation import Emulation
from npu_parity.numerics.formats import PRESETS, Numerics
from npu_parity.sources import architectures
from npu_parity.sources.preprocessing import Preprocessing

CONFIG = Path(__file__).resolve().parents[1] / "config.yaml"
REDUCED = {name: numerics for name, numerics in PRESETS.items() if not numerics.is_exact}


def seconds(model: torch.nn.Module, x: torch.Tensor) -> float:
    """Return the time of one forward pass."""
    start = time.perf_counter()
    model(x)
    return time.perf_counter() - start


def ratios(about: dict[str, Any], numerics: Numerics, samples: int, batch: int = 1) -> list[float]:
    """Return the ratios of pairs of passes, for a system of the configuration."""
    torch.manual_seed(0)
    model = architectures.build(about["architecture"], about["arguments"]).eval()
    shape = Preprocessing(*map(about.get, ("architecture", "preprocessing", "weights"))).shape
    x = torch.rand(batch, *shape)
    found, emulated = [], Emulation(numerics)
    with torch.inference_mode():
        for _ in range(samples + 2):
            plain = seconds(model, x)
            with emulated:  # the same emulation for many inputs
                found.append(seconds(model, x) / plain)
    return found[2:]  # caches are warm


def main(
    threads: Annotated[int, typer.Option(help="threads of torch")] = 1,
    samples: Annotated[int, typer.Option(help="pairs of passes for system and numerics")] = 15,
    batch: Annotated[int, typer.Option(help="images in one pass")] = 1,
) -> None:
    """Print the median, smallest and largest ratio for every system and numerics."""
    torch.set_num_threads(threads)
    print(f"torch {torch.__version__}, {threads} threads, batch {batch}, {samples} pairs")
    for system, about in config.load(CONFIG)["models"].items():
        for name, numerics in REDUCED.items():
            found = ratios(about, numerics, samples, batch)
            median = statistics.median(found)
            print(f"{system:20} {name:14} {median:.2f} ({min(found):.2f} to {max(found):.2f})")


if __name__ == "__main__":
    cli.run(main)
