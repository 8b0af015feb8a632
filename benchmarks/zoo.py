"""Does npu-parity raise a false alarm on any architecture? ``python benchmarks/zoo.py``.

The smallest network of every timm module and every torchvision family, with seeded weights, is
checked against itself: as a copy, in channels last with batches of two, and on simulated devices
with HF32, TF32, float16 and bfloat16 products. Every verdict must be PASS. Each network runs in its
own process, so a crash or an endless loop costs one row. Writes ``zoo.csv`` and ``docs/zoo.md``.
"""

import argparse
import copy
import csv
import functools
import json
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from npu_parity import evidence
from npu_parity.check import Original, Report, check_port
from npu_parity.errors import ParityError
from npu_parity.numerics.emulation import emulate
from npu_parity.numerics.formats import Numerics
from npu_parity.verdict.operators import without_bound

HERE = Path(__file__).resolve().parent
RESULTS, DOCS = HERE / "zoo.csv", HERE.parent / "docs" / "zoo.md"
COLUMNS = ("network", "kind", "outcome", "detail", "passes", "memory", "without_bound")
FORMATS = ("hf32", "tf32", "fp16", "bf16")
SIDES = (64, 96, 128, 160, 224, 256, 288, 336)  # pixels; the first that a network accepts
CLIPS = ((8, 64, 64), (16, 112, 112), (16, 224, 224))  # frames, height, width of a video
SECONDS = 600  # for one network
# Parts of the names in torchvision.
DETECTORS = ("rcnn", "retinanet", "ssd", "fcos")
MAPS = ("deeplabv3", "lraspp", "fcn_")


def networks() -> list[str]:
    """Return the smallest network of each timm module and each torchvision family."""
    import timm
    import torchvision

    found = []
    for module in timm.list_modules():
        sizes = {}
        for name in timm.list_models(module=module):
            with torch.device("meta"):
                try:
                    model = timm.create_model(name)
                except Exception:  # some need weights or a package
                    continue
            sizes[name] = sum(p.numel() for p in model.parameters())
        if sizes:
            found.append("timm:" + min(sizes, key=lambda name: sizes[name]))
    families: dict[str, tuple[int, str]] = {}
    for name in torchvision.models.list_models():
        builder = torchvision.models.get_model_builder(name)
        with torch.device("meta"):
            try:
                model = builder(weights=None, **_arguments(name))
            except Exception:
                continue
        size = sum(p.numel() for p in model.parameters()), name
        families[builder.__module__] = min(families.get(builder.__module__, size), size)
    return found + [f"torchvision:{name}" for _, name in sorted(families.values())]


def _arguments(name: str) -> dict[str, Any]:
    """Return arguments that keep a network of torchvision small and without weights."""
    detector = _is(name, DETECTORS)
    found: dict[str, Any] = {"weights_backbone": None} if detector or _is(name, MAPS) else {}
    if detector and "ssd" not in name:  # an SSD has one size
        found |= {"min_size": SIDES[0], "max_size": SIDES[1]}
    return found


def _is(name: str, parts: tuple[str, ...]) -> bool:
    return any(part in name for part in parts)


def task(name: str) -> str:
    """Return the kind of a network's outputs."""
    if _is(name, DETECTORS):
        return "features"
    return "segmentation" if _is(name, MAPS) else "classification"


def build(name: str) -> nn.Module:
    """Return a network with seeded weights."""
    kind, _, rest = name.partition(":")
    torch.manual_seed(0)
    if kind == "timm":
        import timm

        return timm.create_model(rest).eval()
    import torchvision

    return torchvision.models.get_model(rest, weights=None, **_arguments(rest)).eval()


def example(model: nn.Module) -> torch.Tensor:
    """Return two inputs of the smallest size that the network accepts: images, or a video."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 3, side, side) for side in SIDES] + [(2, 3, *clip) for clip in CLIPS]
    for shape in shapes:
        x = torch.randn(shape, generator=generator)
        with torch.no_grad():
            try:
                model(x)
                return x
            except Exception:
                continue
    raise ParityError("accepts no image of these sizes")


def as_used(model: nn.Module) -> torch.Tensor | None:
    """Return two images of the size that a network of timm was made for; None for others."""
    shape = getattr(model, "pretrained_cfg", {}).get("input_size")
    return shape and torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))


def check(name: str) -> Iterator[dict[str, Any]]:
    """Yield one row for each kind of check."""
    torch.set_num_threads(1)
    try:
        model = build(name)
        small = example(model)
    except ParityError as error:
        yield {"network": name, "kind": "build", "outcome": "one line", "detail": str(error)}
        return
    inputs = as_used(model)
    # First, because the largest memory of a process only grows.
    yield from _measured(name, model, small if inputs is None else inputs)
    original = Original(model, small, task=task(name))
    last = copy.deepcopy(model).to(memory_format=torch.channels_last)
    yield _row(name, "channels last", lambda: original.check(last, batch=2))
    for form in FORMATS:
        numerics = Numerics(conv=form, matmul=form)
        kernels = functools.partial(emulate, numerics)
        simulated = Original(model, small, numerics=numerics, kernels=kernels, task=task(name))
        yield _row(name, form, lambda o=simulated: o.check(copy.deepcopy(model)))


def _measured(name: str, model: nn.Module, inputs: torch.Tensor) -> Iterator[dict[str, Any]]:
    """Yield the row of a copy, with its cost: CPU time in plain passes, and the largest memory."""
    passes = []
    with torch.no_grad():
        for _ in range(4):
            start = time.process_time()
            model(inputs)
            passes.append(time.process_time() - start)
    plain = _peak()
    start = time.process_time()
    row = _row(
        name, "copy", lambda: check_port(model, copy.deepcopy(model), inputs, task=task(name))
    )
    cost = (time.process_time() - start) / min(passes)
    yield row | {"passes": round(cost, 1), "memory": round(_peak() / plain, 2)}


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _row(name: str, kind: str, run: Callable[[], Report]) -> dict[str, Any]:
    row = {"network": name, "kind": kind}
    try:
        report = run()
    except ParityError as error:
        return row | {"outcome": "one line", "detail": str(error)}
    except Exception as error:
        return row | {"outcome": "crash", "detail": repr(error)[:300]}
    return row | {
        "outcome": report.verdict.word,
        "detail": str(report.verdict)[:300],
        "without_bound": " ".join(without_bound(report.operators or ())),
    }


def run(name: str) -> list[dict[str, Any]]:
    """Check a network in a process of its own."""
    command = [sys.executable, __file__, "--one", name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
        text, status = done.stdout, f"exit status {done.returncode}"
    except subprocess.TimeoutExpired as error:
        text, status = (error.stdout or b"").decode(), f"more than {SECONDS} s"
    rows = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    if len(rows) < 2 + len(FORMATS) and not any(row["kind"] == "build" for row in rows):
        rows.append({"network": name, "kind": "", "outcome": "crash", "detail": status})
    print(name, [row["outcome"] for row in rows], flush=True)
    return rows


def document(rows: pd.DataFrame) -> str:
    """Return the page: totals, what did not pass, and operators without a bound."""
    counts = rows.groupby(["kind", "outcome"]).size().unstack(fill_value=0)
    rest = rows[rows.outcome != "PASS"][["network", "kind", "outcome", "detail"]]
    missing = rows.without_bound.dropna().str.split().explode().value_counts()
    costs = rows[["passes", "memory"]].describe(percentiles=[0.5, 0.9]).loc[["50%", "90%", "max"]]
    return (
        "\n\n".join(
            [
                "# The zoo: a port that is right, for every architecture",
                "Made by `make zoo-check` from [`zoo.csv`](../benchmarks/zoo.csv). Do not edit it.",
                f"{rows.network.nunique()} networks: the smallest of every timm module and of "
                "every torchvision family, with seeded weights, compared with themselves.",
                counts.to_markdown(),
                "## Cost",
                "The check of a copy at the size that the network was made for: CPU time in plain "
                "passes over both inputs, and the largest memory of the process in that of plain "
                "passes.",
                costs.to_markdown(floatfmt=".1f"),
                "## Not PASS",
                rest.to_markdown(index=False) if len(rest) else "None.",
                "## Operators without a bound, by the number of checks",
                missing.to_markdown() if len(missing) else "None.",
            ]
        )
        + "\n"
    )


def main() -> None:
    """Check all networks, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="networks; default: all")
    parser.add_argument("--one", help="check one network in this process")
    parser.add_argument("--jobs", type=int, default=2, help="networks at the same time")
    arguments = parser.parse_args()
    if arguments.one:
        warnings.simplefilter("ignore")
        for row in check(arguments.one):
            print(json.dumps(row), flush=True)
        return
    with ThreadPoolExecutor(arguments.jobs) as pool:
        done: list[dict[str, Any]] = []
        for rows in pool.map(run, arguments.names or networks()):
            done += rows
            frame = pd.DataFrame(done, columns=COLUMNS)
            frame.to_csv(RESULTS, index=False, quoting=csv.QUOTE_MINIMAL)
    evidence.write_text(DOCS, document(frame))


if __name__ == "__main__":
    main()
