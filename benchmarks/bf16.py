"""Compare real bf16 kernels with the bound of products with bf16 operands, on every system.

``python benchmarks/bf16.py`` after ``make`` prints the largest error as a share of the bound.

Torch executes every convolution and matrix product of a network in bfloat16. On a CPU with
AVX512-BF16 or AMX, its oneDNN kernels multiply bf16 operands in hardware and add in float32. They
also round the bias and the result to bf16, so the check allows these two additional roundings.
"""

from pathlib import Path
from typing import Annotated

import torch
import typer
from torch.utils._pytree import tree_map_only

from npu_parity import cli, config, evidence
from npu_parity.numerics.formats import FORMATS, Numerics
from npu_parity.sources import checkpoints
from npu_parity.verdict.bounds import exact_and_bound
from npu_parity.verdict.bounds.products import PRODUCTS
from npu_parity.verdict.recording import Call, record

ROOT = Path(__file__).resolve().parents[1]
BF16 = Numerics(conv="bf16", matmul="bf16")


@torch.no_grad()
def share(call: Call) -> float:
    """Return the largest error of a bfloat16 product as a share of the bound and two roundings."""
    (expected,) = exact_and_bound(call, BF16)
    narrow = tree_map_only(torch.Tensor, torch.Tensor.bfloat16, (call.args, call.kwargs))
    found = call.func(*narrow[0], **narrow[1])
    size = expected.exact.abs() + expected.bound
    added = PRODUCTS[call.name][2]
    if added and call.arguments[added] is not None:
        bias = call.arguments[added].abs()
        size = size + (bias.view(-1, *[1] * (size.ndim - 2)) if added == "bias" else bias)
    allowed = expected.bound + FORMATS["bf16"].unit_roundoff * size
    return float(((found.double() - expected.exact).abs() / allowed).max())


def main(
    results: Annotated[Path, typer.Option(help="results of a run")] = ROOT / "results",
) -> None:
    """Print the number of products and the largest share for every system of config.yaml."""
    print(f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}")
    for system in config.load(ROOT / "config.yaml")["models"]:
        model = checkpoints.load(results / system)
        x = torch.from_numpy(evidence.read_inputs(results / system / "inputs.npy")[:1])
        shares = [share(call) for call in record(model, x) if call.name in PRODUCTS]
        print(f"{system:20} {len(shares):3} products, largest error {max(shares):.3f} of the bound")


if __name__ == "__main__":
    cli.run(main)
