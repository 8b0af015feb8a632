"""Measure the smallest fault of a product that each test of question 2 sees, and false alarms.

``python benchmarks/detection.py`` writes docs/detection.md and docs/detection.svg (ten minutes).

1. Faults of many sizes are put into matrix products with 9 to 9216 terms. The device promises HF32.
2. Every operator of many networks runs without a fault, under five numerics, with random and with
   constant inputs and weights. Each alarm is false.
3. The time of each test is compared with a pass of the network. Tests alternate with passes, so
   other load on the machine affects both. These ratios are printed only.
"""

import contextlib
import itertools
import math
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import timm
import torch
import typer
from matplotlib.figure import Figure
from torch import Tensor, nn

from npu_parity import cli, evidence
from npu_parity.backends.device import Device
from npu_parity.numerics.emulation import emulate
from npu_parity.numerics.formats import FORMATS, Numerics
from npu_parity.numerics.rounding import round_mantissa, round_to
from npu_parity.report.figures import COLOURS, save
from npu_parity.report.tables import markdown
from npu_parity.verdict import statistic
from npu_parity.verdict.bounds import Expected, exact_and_bound
from npu_parity.verdict.bounds.products import PRODUCTS, Product
from npu_parity.verdict.bounds.rules import Operator
from npu_parity.verdict.kernels import check_operators, execute
from npu_parity.verdict.recording import Call, record, tensors
from npu_parity.verdict.stored import coarse

DOCS = Path(__file__).resolve().parents[1] / "docs"
HF32 = Numerics(conv="hf32", matmul="hf32")
TERMS = (9, 27, 64, 144, 576, 2304, 9216)
SIDE = 64  # rows and columns of the result
TILE = 8
CHUNK = 16  # terms of a partial sum
SEEN = 0.95

Kernel = Callable[[Tensor, Tensor], Tensor]


# --- Faults


def operands(bits: int, rounding: str) -> Kernel:
    """Return a kernel that rounds its operands to so many mantissa bits."""
    return lambda x, w: round_mantissa(x, bits, rounding) @ round_mantissa(w, bits, rounding)


def partial_sums(bits: int) -> Kernel:
    """Return a kernel that keeps the sum in so many mantissa bits after every 16 terms."""

    def kernel(x: Tensor, w: Tensor) -> Tensor:
        total = torch.zeros(x.shape[0], w.shape[1])
        parts = zip(
            round_to(x, "hf32").split(CHUNK, 1), round_to(w, "hf32").split(CHUNK), strict=True
        )
        for a, b in parts:
            total = round_mantissa(total + a @ b, bits)
        return total

    return kernel


def stored(bits: int) -> Kernel:
    """Return a kernel that stores its results in so many mantissa bits."""
    return lambda x, w: round_mantissa(correct(x, w), bits)


def tile(error: float) -> Kernel:
    """Return a kernel that scales one tile of its results by 1 + error."""

    def kernel(x: Tensor, w: Tensor) -> Tensor:
        y = correct(x, w)
        y[TILE : 2 * TILE, TILE : 2 * TILE] *= 1 + error
        return y

    return kernel


def correct(x: Tensor, w: Tensor) -> Tensor:
    """Return the product of HF32 operands, added in float32."""
    return round_to(x, "hf32") @ round_to(w, "hf32")


# By name: the unit of the size, and the kernels from the largest fault to the smallest.
FAULTS: dict[str, tuple[str, dict[float, Kernel]]] = {
    "operands in fewer bits": ("bits", {b: operands(b, "nearest_even") for b in range(3, 11)}),
    "operands toward zero": ("bits", {b: operands(b, "toward_zero") for b in range(3, 17)}),
    "sum in fewer bits every 16 terms": ("bits", {b: partial_sums(b) for b in range(5, 23)}),
    "results stored in fewer bits": ("bits", {b: stored(b) for b in range(5, 23)}),
    "error in one tile": (
        "relative error",
        {float(f"{10 ** (-k / 4):.2g}"): tile(10 ** (-k / 4)) for k in range(0, 29)},
    ),
}
TESTS = ("worst case", "predicted operands", "statistic", "mantissa bits", "all")


def product(x: Tensor, w: Tensor) -> Product:
    """Return the product of two matrices for a device that promises HF32."""

    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x @ w

    operator = Operator(record(Net().eval(), x)[0], torch.float64, HF32)
    return Product(operator, operator.run())


def seen(of: Product, accepted: list[Tensor | None], found: Tensor) -> dict[str, bool]:
    """Return which tests see that a result is wrong."""
    worst = bool((Expected(of.exact, of.part().bound).share(found) > 1).any())
    errors = [statistic.compare(of, found, lost) for lost in accepted]
    beyond = [error.of_sums.value > 1 for error in errors]
    unlikely = [error.of_limits > 1 for error in errors]
    best = min(range(len(errors)), key=lambda i: errors[i].rms_z)
    bits = coarse(found, of, accepted[best]) is not None
    both = all(b or u for b, u in zip(beyond, unlikely, strict=True))
    results = (worst, all(beyond), all(unlikely), bits, worst or both or bits)
    return dict(zip(TESTS, results, strict=True))


def limits(trials: int) -> pd.DataFrame:
    """Return the number of trials in which each test saw each fault."""
    counts: Counter[tuple[int, str, float, str]] = Counter()
    for n, trial in itertools.product(TERMS, range(trials)):
        generator = torch.Generator().manual_seed(trial)
        x = torch.randn(SIDE, n, generator=generator).relu()
        w = torch.randn(n, SIDE, generator=generator)
        of = product(x, w)
        accepted = [lost for _, lost in of.predicted()]
        assert not any(seen(of, accepted, correct(x, w)).values()), (n, trial)
        for fault, (_, kernels) in FAULTS.items():
            for size, kernel in kernels.items():
                for test, caught in seen(of, accepted, kernel(x, w)).items():
                    counts[n, fault, size, test] += caught
    rows = [(*key, count / trials) for key, count in counts.items()]
    return pd.DataFrame(rows, columns=["terms", "fault", "size", "test", "share"])


def smallest(shares: pd.DataFrame) -> pd.DataFrame:
    """Return the smallest fault that a test sees in 95 % of trials, with all larger ones."""
    rows = []
    for (fault, n, test), group in shares.groupby(["fault", "terms", "test"], sort=False):
        order = {size: i for i, size in enumerate(FAULTS[fault][1])}
        ordered = group.sort_values("size", key=lambda sizes: sizes.map(order))
        caught = (ordered["share"] >= SEEN).cumprod().sum()
        size = ordered["size"].iloc[caught - 1] if caught else math.nan
        rows.append((fault, n, test, size))
    return pd.DataFrame(rows, columns=["fault", "terms", "test", "size"])


# --- Networks without a fault

_NAMES = """
    resnet10t resnet18 resnext26ts skresnet18 regnetx_002 regnety_002 mobilenetv2_035
    mobilenetv3_small_050 efficientnet_lite0 efficientnet_b0 mixnet_s ghostnet_050 mnasnet_small
    fbnetc_100 spnasnet_100 lcnet_035 tinynet_e rexnet_100 semnasnet_075 hardcorenas_a repvgg_a0
    repghostnet_050 dla46_c edgenext_xx_small mobilevit_xxs mobilevitv2_050 convnext_atto
    convnextv2_atto test_efficientnet test_byobnet test_convnext2 test_nfnet test_vit test_vit2
    vit_tiny_patch16_224 deit_tiny_patch16_224 poolformer_s12 resmlp_12_224 mixer_s32_224
    fastvit_t8 mobileone_s0 selecsls42b cspresnet50
"""
NETWORKS = _NAMES.split()
INPUTS = ("random", "few levels", "constant", "constant weights")
PIXELS = 64


def network(name: str, kind: str) -> tuple[nn.Module, Tensor]:
    """Return a network with random weights and statistics that fit its input, and the input."""
    torch.manual_seed(0)
    try:
        model = timm.create_model(name, img_size=PIXELS)
    except TypeError:  # any size is right
        model = timm.create_model(name)
    x = torch.randn(2, 3, PIXELS, PIXELS)
    with torch.no_grad():
        for parameter in model.parameters():
            if kind == "constant weights" and parameter.ndim > 1:
                parameter.fill_(1 / parameter[0].numel())
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.momentum = None
        model.train()(x)
    if kind == "few levels":
        x = (x * 4).round() / 4
    elif kind == "constant":
        x = torch.full_like(x, 0.3)
    return model.eval(), x[:1]


def clean(number: int) -> Iterator[dict[str, Any]]:
    """Yield the results of a network's operators with sound kernels, under all numerics."""
    for i, form in enumerate(FORMATS):
        name, kind = NETWORKS[number], INPUTS[(number + i) % len(INPUTS)]
        numerics = Numerics(conv=form, matmul=form)

        def run(call: Call, target: torch.device, numerics: Numerics = numerics) -> Any:
            with emulate(numerics):
                return execute(call, target)

        calls = record(*network(name, kind))
        for result in check_operators(calls, Device("cpu"), run, numerics):
            if result.passed is not None:
                yield {"network": name, "operands": kind, "numerics": form, **result.row()}


def wilson(count: int, total: int, z: float = 1.96) -> tuple[float, float]:
    """Return the 95 % interval of a share (Wilson, JASA 22, 1927)."""
    share, square = count / total, z**2 / total
    middle = (share + square / 2) / (1 + square)
    half = z / (1 + square) * math.sqrt(share * (1 - share) / total + square / total / 4)
    return max(0.0, middle - half), min(1.0, middle + half)


# --- Costs


def costs(name: str, numerics: Numerics, samples: int = 5) -> dict[str, float]:
    """Return the time of each part of question 2 as a multiple of a plain pass, for 224 pixels."""
    torch.manual_seed(0)
    model, x = timm.create_model(name).eval(), torch.randn(1, 3, 224, 224)
    calls = record(model, x)
    times = defaultdict(list)
    for _ in range(samples):
        with timed(times["plain"]), torch.no_grad():
            model(x)
        for call in calls:
            with timed(times["run twice"]):
                for _ in range(2):
                    found = tensors(execute(call, torch.device("cpu")))
            if call.name not in PRODUCTS:
                with timed(times["other operators"]):
                    for expected, value in zip(
                        exact_and_bound(call, numerics) or (), found, strict=False
                    ):
                        if expected:
                            share(expected, value)
                continue
            with timed(times["worst case"]):
                operator = Operator(call, torch.float64, numerics)
                of = Product(operator, operator.run())
                share(Expected(of.exact, of.part().bound), found[0])
            with timed(times["rounded operands"]):
                _, lost = next(of.predicted())
            with timed(times["predicted operands and statistic"]):
                statistic.compare(of, found[0], lost)
            with timed(times["mantissa bits"]):
                coarse(found[0], of, lost)
    totals = {part: sum(of) / samples for part, of in times.items()}
    plain = totals.pop("plain")
    return {part: total / plain for part, total in totals.items()}


def share(expected: Expected, found: Tensor) -> float:
    """Return the largest error as a share of its bound."""
    return max(float(part.share(value).max()) for _, part, value in expected.parts(found))


@contextlib.contextmanager
def timed(times: list[float]) -> Iterator[None]:
    """Append the CPU time of the code inside, in seconds."""
    start = time.process_time()
    yield
    times.append(time.process_time() - start)


# --- Results

TITLE = """# What question 2 detects

Made by `python benchmarks/detection.py`. Do not edit it.

A convolution or matrix product must pass three tests, and it must not use fewer mantissa bits than
the predicted result ([verdict.md](verdict.md)). This page says how small a fault each test sees.
"""
LIMITS = """## Smallest fault that is seen in 95 % of trials

The device promises HF32: operands with 11 mantissa bits, ties to even, sums in float32. The
operands are normal numbers, the first ones after a ReLU. The result has {side} × {side} elements.
The number of trials is {trials}. "—" means that no size of this fault is seen.

For faults in bits, a number is the most bits with which the fault is seen. The faults are:

- operands in fewer bits, ties to even (10 is TF32);
- operands rounded toward zero (11 is HF32; with more bits the operands are better than promised,
  but no known format explains the results);
- the sum rounded to fewer bits after every {chunk} terms (10 is float16);
- results rounded to fewer bits;
- one tile of {tile} × {tile} elements multiplied by 1 + the given error.

![detection limits](detection.svg)
"""
CLEAN = """## False alarms

Sound kernels computed every operator of {networks} architectures with random weights, under
float32, HF32, TF32, float16 and bfloat16, with random and constant inputs and weights. An operator
without a bound does not count.

{total} operators were checked, {products} of them convolutions and matrix products. There were
{alarms} false alarms, so the share of false alarms is at most {high:.2g} (Wilson interval, 95 %).
The largest values of the products, and the limits:
"""


def write(shares: pd.DataFrame, runs: pd.DataFrame, trials: int) -> None:
    """Write docs/detection.md and docs/detection.svg."""
    least = smallest(shares)
    parts = [TITLE, LIMITS.format(side=SIDE, chunk=CHUNK, tile=TILE, trials=trials)]
    for fault, group in least.groupby("fault", sort=False):
        table = group.pivot_table("size", "terms", "test", sort=False, dropna=False)[[*TESTS]]
        texts = table.map(lambda size: "—" if math.isnan(size) else f"{size:g}")
        parts += [f"### {fault.capitalize()}\n", markdown(texts.reset_index(names="terms")), ""]
    products = runs[runs["max_error_of_predicted"].notna()]
    alarms = int((runs["result"] == "FAIL").sum())
    about = {
        "networks": runs["network"].nunique(),
        "total": len(runs),
        "products": len(products),
        "alarms": alarms,
        "high": wilson(alarms, len(runs))[1],
    }
    limits = {
        "max_error_of_bound": 1.0,
        "max_error_of_predicted": 1.0,
        "rms_z": statistic.RMS_Z,
        "max_z": statistic.LARGEST_Z,
    }
    rows = [{"operands": "limit", **{c: f"{limit:g}" for c, limit in limits.items()}}]
    for kind, group in products.groupby("operands"):
        rows.append({"operands": kind, **{c: f"{group[c].max():.2g}" for c in limits}})
    parts += [CLEAN.format(**about), markdown(pd.DataFrame(rows)), ""]
    evidence.write_text(DOCS / "detection.md", "\n".join(parts))
    save(figure(least), DOCS / "detection.svg")


def figure(least: pd.DataFrame) -> Figure:
    """Draw the smallest fault that each test sees over the number of terms."""
    drawn = Figure(figsize=(11, 6.5), layout="constrained")
    axes = drawn.subplots(2, 3).flat
    for fault, group in least.groupby("fault", sort=False):
        ax, unit = next(axes), FAULTS[fault][0]
        for i, (test, line) in enumerate(group.groupby("test", sort=False)):
            style = {"color": "black", "linestyle": ":"} if test == "all" else {"color": COLOURS[i]}
            ax.plot(line["terms"], line["size"], marker="o", label=test, **style)
        ax.set(xscale="log", title=fault, xlabel="terms of the sum", ylabel=unit)
        if unit != "bits":
            ax.set(yscale="log")
            ax.invert_yaxis()
    last = next(axes)
    last.axis("off")
    last.legend(*ax.get_legend_handles_labels(), loc="center", title="higher is a smaller fault")
    return drawn


def main(
    trials: Annotated[int, typer.Option(help="trials for each fault and number of terms")] = 20,
) -> None:
    """Write the limits and the false alarms, and print the costs as multiples of a plain pass."""
    torch.set_num_threads(1)
    for name, form in itertools.product(("resnet18", "efficientnet_b0"), ("fp32", "hf32")):
        parts = costs(name, Numerics(conv=form, matmul=form))
        listed = ", ".join(f"{part} {ratio:.1f}" for part, ratio in parts.items())
        print(f"{name}, {form}: {listed}", flush=True)
    rows = []
    for number, name in enumerate(NETWORKS):
        rows += clean(number)
        print(f"{name}: {len(rows)} operators", flush=True)
    runs = pd.DataFrame(rows)
    failed = runs[runs["result"] == "FAIL"]
    print(failed.to_string() if len(failed) else "no false alarm")
    write(limits(trials), runs, trials)


if __name__ == "__main__":
    cli.run(main)
