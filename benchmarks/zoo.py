"""Does npu-parity raise a false alarm on any architecture? ``python benchmarks/zoo.py``.

The smallest network of every timm module and every torchvision family, with seeded weights, is
checked against itself: as a copy, in channels last with batches of two, and on simulated devices
with HF32, TF32, float16 and bfloat16 products. Every verdict must be PASS. Each network runs in its
own process, so a crash or an endless loop costs one row. Writes ``zoo.csv`` after each network, and
``docs/zoo.md``. A further run checks the networks of ``zoo.csv`` that this code has not checked.
"""

import argparse
import copy
import csv
import functools
import multiprocessing
import os
import resource
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from npu_parity import check as checking
from npu_parity import evidence
from npu_parity.check import Original, check_port
from npu_parity.errors import ParityError
from npu_parity.evidence import code as hashes
from npu_parity.numerics.emulation import emulate
from npu_parity.numerics.formats import Numerics
from npu_parity.verdict.checked import Report
from npu_parity.verdict.executed import CHANNELS_LAST
from npu_parity.verdict.operators import without_bound

HERE = Path(__file__).resolve().parent
RESULTS, DOCS = HERE / "zoo.csv", HERE.parent / "docs" / "zoo.md"
COLUMNS = (  # of zoo.csv; a network that was not checked has only a name
    *("network", "kind", "size", "outcome", "detail", "passes", "memory", "without_bound", "code"),
)
FORMATS = ("hf32", "tf32", "fp16", "bf16")
SIDES = (64, 96, 128, 160, 224, 256, 288, 336)  # pixels; the first that a network accepts
CLIPS = ((8, 64, 64), (16, 112, 112), (16, 224, 224))  # frames, height, width of a video
PASSES, MEMORY = 20, 2  # what a check should cost
# In the reason of a verdict. No right port can pass there: with random weights, some networks
# compute values that float16 does not have.
BEYOND = "the largest number of the format"
SECONDS = 1800  # for one network
# Parts of the names in torchvision.
DETECTORS = ("rcnn", "retinanet", "ssd", "fcos")
MAPS = ("deeplabv3", "lraspp", "fcn_")


def networks() -> Iterator[str]:
    """Yield the smallest network of each torchvision family and each timm module."""
    import timm
    import torchvision

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
    for _, name in sorted(families.values()):
        yield f"torchvision:{name}"
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
            yield "timm:" + min(sizes, key=lambda name: sizes[name])


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


def as_used(name: str, model: nn.Module) -> torch.Tensor | None:
    """Return two images of the size that a classifier was made for; None for other networks."""
    shape = getattr(model, "pretrained_cfg", {}).get("input_size")
    kind, _, rest = name.partition(":")
    if kind == "torchvision":
        import torchvision

        weights = torchvision.models.get_model_weights(rest).DEFAULT
        side = getattr(weights.transforms, "keywords", {}).get("crop_size")
        shape = (3, side, side) if isinstance(side, int) else None
    return shape and torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))


def channels_last(model: nn.Module) -> nn.Module:
    """Return a copy whose weights, of images and of videos, have the channels last in memory."""
    model = copy.deepcopy(model)
    for weight in model.parameters():
        if form := CHANNELS_LAST.get(weight.ndim):
            weight.data = weight.data.contiguous(memory_format=form)
    return model


def check(name: str) -> Iterator[dict[str, Any]]:
    """Yield one row for each kind of check."""
    torch.set_num_threads(1)
    try:
        model = build(name)
        small = example(model)
    except ParityError as error:
        yield {"network": name, "kind": "build", "outcome": "one line", "detail": str(error)}
        return
    inputs = as_used(name, model)
    # First, because the largest memory of a process only grows.
    yield from _measured(name, model, small if inputs is None else inputs)
    last = channels_last(model)
    yield _row(
        name,
        "channels last",
        small,
        lambda: Original(model, small, task=task(name)).check(last, batch=2),
    )
    for form in FORMATS:
        numerics = Numerics(conv=form, matmul=form)
        about = {
            "numerics": numerics,
            "kernels": functools.partial(emulate, numerics),
            "task": task(name),
        }
        yield _row(
            name,
            form,
            small,
            lambda a=about: check_port(model, copy.deepcopy(model), small, **a),
        )


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
        name,
        "copy",
        inputs,
        lambda: check_port(model, copy.deepcopy(model), inputs, task=task(name)),
    )
    cost = (time.process_time() - start) / min(passes)
    yield row | {"passes": round(cost, 1), "memory": round(_peak() / plain, 2)}


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _row(name: str, kind: str, inputs: torch.Tensor, run: Callable[[], Report]) -> dict[str, Any]:
    row = {"network": name, "kind": kind, "size": "x".join(map(str, inputs.shape[1:]))}
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
    """Check a network in a process of its own, and return its rows."""
    rows, status = _apart(lambda: check(name))
    if len(rows) < 2 + len(FORMATS) and not any(row["kind"] == "build" for row in rows):
        rows.append({"network": name, "kind": "process", "outcome": "crash", "detail": status})
    print(name, [row["outcome"] for row in rows], flush=True)
    return rows


def _apart(work: Callable[[], Iterable[Any]], seconds: float = SECONDS) -> tuple[list[Any], str]:
    """Return what a function yields in a copy of this process, and how the copy ended."""
    context = multiprocessing.get_context("fork")  # it has imported torch already
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_send, args=(work, sender))
    child.start()
    sender.close()
    found: list[Any] = []
    end = time.monotonic() + seconds
    while receiver.poll(max(0.0, end - time.monotonic())):
        try:
            found.append(receiver.recv())
        except EOFError:
            child.join()
            return found, f"exit status {child.exitcode}"
    child.kill()
    child.join()
    return found, f"more than {seconds:g} s"


def _send(work: Callable[[], Iterable[Any]], sender: Connection) -> None:
    warnings.simplefilter("ignore")
    with open(os.devnull, "w") as nothing:
        os.dup2(nothing.fileno(), 2)
    for item in work():
        sender.send(item)


def document(rows: pd.DataFrame) -> str:
    """Return the page: totals, cost, what did not pass, and operators without a bound."""
    left = sorted(set(rows[rows.outcome.isna()].network))
    rows = rows[rows.outcome.notna()]
    older = rows[rows.code != hashes.digest(checking.__file__)].network.nunique()
    rows = rows.astype({"passes": float, "memory": float})
    rows.loc[rows.detail.astype(str).str.contains(BEYOND), "outcome"] = "beyond float16"
    counts = rows.groupby(["kind", "outcome"]).size().unstack(fill_value=0)
    rest = rows[rows.outcome != "PASS"][["network", "kind", "outcome", "detail"]]
    missing = rows.without_bound.dropna().astype(str).str.split().explode().value_counts()
    costs = rows[["passes", "memory"]].describe(percentiles=[0.5, 0.9]).loc[["50%", "90%", "max"]]
    costs.index = pd.Index(["median", "90 % of the networks", "largest"])
    measured = rows[rows.passes.notna()]
    worst = measured.nlargest(10, "passes")[["network", "passes", "memory"]]
    alarms = int((rows.outcome == "FAIL").sum())
    parts = [
        "# The zoo: a port that is right, for every architecture",
        "Made by `make zoo-check` from [`zoo.csv`](../benchmarks/zoo.csv). Do not edit it.",
        f"{rows.network.nunique()} of {len(left) + rows.network.nunique()} networks, which are the "
        "smallest of every torchvision family and of every timm module, with seeded weights. Each "
        "is compared with itself: as a copy, in channels "
        "last with batches of two, and on devices with HF32, TF32, float16 and bfloat16 products, "
        "which this CPU emulates. Nothing was executed on an accelerator. Every port is right, so "
        "every verdict must be PASS. The only exception: with random weights, some networks "
        "compute values beyond 65504, the largest number of float16. No device can pass with "
        "float16 there, and the verdict names the operator. With random weights the evidence is "
        "weak.",
        f"**{len(rows)} checks: {(rows.outcome == 'PASS').sum()} PASS, {alarms} false alarms, "
        f"{(rows.outcome == 'crash').sum()} crashes, {(rows.outcome == 'one line').sum()} refused "
        f"with one line, {(rows.outcome == 'beyond float16').sum()} with values beyond float16.**",
        counts.to_markdown(),
        "## Cost",
        "The check of a copy, with two inputs, on one thread. Classifiers of images get the size "
        "that they were made for. Detectors, segmenters and networks of videos get the smallest "
        "size that they accept. So do the other five checks of every network. `zoo.csv` has every "
        "size. *Passes*: the CPU time of `check_port`, divided by that of one plain pass over "
        "both inputs (the fastest of four). *Memory*: the largest memory of the process, divided "
        "by that of the plain passes.",
        costs.to_markdown(floatfmt=".1f"),
        f"The aim is a median of {PASSES} passes and at most {MEMORY} times the memory. The median "
        f"is {measured.passes.median():.1f} passes, and the largest memory is "
        f"{measured.memory.max():.1f} times that of plain passes.",
        f"{(measured.memory > MEMORY).sum()} networks need more memory than the aim. The port, a "
        "second network, is part of it.",
        "The most expensive ones:",
        worst.to_markdown(index=False, floatfmt=".1f"),
        "Beside its arithmetic, the check of an operator takes about a millisecond in Python, in "
        "all its runs. A plain pass of a small network takes a few milliseconds in all. The check "
        "of an R-CNN also runs its second stage on fixed boxes. With random weights, a plain pass "
        "finds almost no boxes.",
        "## Not PASS",
        rest.to_markdown(index=False) if len(rest) else "None.",
        "## Operators without a bound, by the number of checks",
        "Only operators for which no rule is known, or whose rule fails where the result differs "
        "from the reference's.",
        missing.to_markdown() if len(missing) else "None.",
        "## Left out",
        f"Not checked yet by this version: {', '.join(left)}. The totals and costs above are of "
        "the others only, which are no random sample."
        if left
        else "Nothing.",
        f"{older} of the networks were checked by an earlier version of the code. `make zoo-check` "
        "checks them again."
        if older
        else "All networks were checked by the same version of the code.",
        "## To repeat it",
        "`make zoo-check` checks the networks of `zoo.csv` that this code has not checked. Delete "
        "`zoo.csv` to list and check all of them. `python benchmarks/zoo.py timm:resnet10t` checks "
        "one network again.",
    ]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Check the networks that are named, or all that this code has not checked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="networks; default: those that are left")
    parser.add_argument("--page", action="store_true", help="write only the page, from zoo.csv")
    arguments = parser.parse_args()
    if arguments.page:
        evidence.write_text(DOCS, document(pd.read_csv(RESULTS)))
        return
    torch.set_num_threads(1)
    import timm  # noqa: F401 (each process would import them again)
    import torchvision  # noqa: F401

    frame = pd.DataFrame(columns=COLUMNS)
    if RESULTS.exists():
        frame = pd.read_csv(RESULTS)
    else:
        found, _ = _apart(networks, seconds=24 * 3600)
        frame["network"] = found
    code = hashes.digest(checking.__file__)
    left = list(dict.fromkeys(frame[frame.code != code].network))
    for name in arguments.names or left:
        rows = pd.DataFrame(run(name), columns=COLUMNS).assign(code=code)
        places = frame.index[frame.network == name]
        place = places[0] if len(places) else len(frame)
        others = frame.drop(places)
        frame = pd.concat([others[others.index < place], rows, others[others.index > place]])
        frame = frame.reset_index(drop=True)
        evidence.write_text(RESULTS, frame.to_csv(index=False, quoting=csv.QUOTE_MINIMAL))
        evidence.write_text(DOCS, document(frame))


if __name__ == "__main__":
    main()
