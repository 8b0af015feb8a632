"""Does npu-parity raise a false alarm on any architecture? ``python benchmarks/zoo.py``.

The smallest network of every timm module and every torchvision family, with seeded weights, is
checked against itself: as a copy, in channels last with batches of two, and on simulated devices
with HF32, TF32, float16 and bfloat16 products. Every verdict must be PASS. Each network runs in its
own process, so a crash or an endless loop costs one row. Writes ``zoo.csv`` and ``docs/zoo.md``.
"""

import argparse
import copy
import csv
import json
import resource
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from npu_parity.errors import ParityError

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


def check(name: str) -> list[dict[str, Any]]:
    """Return one row for each kind of check."""
    from npu_parity.check import Original
    from npu_parity.numerics.emulation import emulate
    from npu_parity.numerics.formats import Numerics

    torch.set_num_threads(1)
    try:
        model = build(name)
        inputs = example(model)
    except ParityError as error:
        return [{"network": name, "kind": "build", "outcome": "one line", "detail": str(error)}]
    rows = []
    start = time.perf_counter()
    with torch.no_grad():
        model(inputs)
    start = time.perf_counter()
    with torch.no_grad():
        model(inputs)
    one_pass = time.perf_counter() - start
    plain = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for kind in ("copy", "channels last", *FORMATS):
        port, batch, options = copy.deepcopy(model), 1, {}
        if kind == "channels last":
            port, batch = port.to(memory_format=torch.channels_last), 2
        if kind in FORMATS:
            numerics = Numerics(conv=kind, matmul=kind)
            options = {
                "numerics": numerics,
                "kernels": lambda numerics=numerics: emulate(numerics),
            }
        start = time.perf_counter()
        try:
            report = Original(model, inputs, task=task(name), **options).check(port, batch=batch)
        except ParityError as error:
            outcome, detail, missing = "one line", str(error), ""
        except Exception as error:
            outcome, detail, missing = "crash", repr(error), ""
        else:
            outcome, detail = report.verdict.word, str(report.verdict)
            missing = " ".join(
                sorted(
                    {
                        r.operator
                        for r in report.operators or ()
                        if r.passed is None and "no bound" in r.note
                    }
                )
            )
        row = {
            "network": name,
            "kind": kind,
            "outcome": outcome,
            "detail": " ".join(detail.split())[:300],
            "passes": round((time.perf_counter() - start) / one_pass, 1),
            "memory": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / plain, 2),
            "without_bound": missing,
        }
        rows.append(row)
        print(json.dumps(row), flush=True)
    return rows


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
    return rows


def document(rows: pd.DataFrame) -> str:
    """Return the page: totals, what did not pass, and operators without a bound."""
    counts = rows.groupby(["kind", "outcome"]).size().unstack(fill_value=0)
    rest = rows[rows.outcome != "PASS"][["network", "kind", "outcome", "detail"]]
    missing = rows.without_bound.dropna().str.split().explode().value_counts()
    cost = rows.groupby("kind").passes.median().dropna()
    return (
        "\n\n".join(
            [
                "# The zoo: a port that is right, for every architecture",
                "Made by `make zoo-check` from [`zoo.csv`](../benchmarks/zoo.csv). Do not edit it.",
                f"{rows.network.nunique()} networks: the smallest of every timm module and of "
                "every torchvision family, with seeded weights, compared with themselves.",
                counts.to_markdown(),
                "Median cost of a check, in plain passes over both inputs: "
                + ", ".join(f"{kind} {value:.0f}" for kind, value in cost.items())
                + ".",
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
    arguments = parser.parse_args()
    if arguments.one:
        warnings.simplefilter("ignore")
        for row in check(arguments.one):
            if row["kind"] == "build":
                print(json.dumps(row))
        return
    done: list[dict[str, Any]] = []
    for name in arguments.names or networks():
        done += run(name)
        print(name, [row["outcome"] for row in done if row["network"] == name], flush=True)
    frame = pd.DataFrame(done, columns=COLUMNS)
    frame.to_csv(RESULTS, index=False, quoting=csv.QUOTE_MINIMAL)
    DOCS.write_text(document(frame), encoding="utf-8")


if __name__ == "__main__":
    main()
