"""Measure how a device rounds float32 operands, by multiplying them with the identity."""

from collections.abc import Callable

import torch
from torch import Tensor

from npu_parity.numerics.formats import FORMATS, ROUNDINGS
from npu_parity.numerics.rounding import round_mantissa


@torch.no_grad()
def probe(
    convolve: Callable[[Tensor, Tensor], Tensor] | None = None,
    device: str | torch.device = "cpu",
) -> dict[str, dict[str, int | str | None]]:
    """Measure how a device rounds float32 operands, by multiplying them with the identity.

    A 1x1 convolution and a matrix product with the identity return the rounded input.

    Args:
        convolve: a function of float32 input (16, 64, 8, 8) and weight (64, 64, 1, 1) on the
            device; default `torch.nn.functional.conv2d`.
        device: any device name or object that torch accepts.

    Returns:
        For "conv" and "matmul": the number of "mantissa_bits" that the device keeps, its "rounding"
        (None if it keeps all 23 bits or if no entry of `ROUNDINGS` fits) and its "format" (None if
        unknown).

    >>> probe()["matmul"]["mantissa_bits"]
    23
    """
    convolve = convolve or torch.nn.functional.conv2d
    identity = torch.eye(64, device=device)

    # Libraries compute small tensors in float32: few channels, one image or few elements. PyTorch
    # uses oneDNN for a 1x1 convolution only from a batch of 16, or with two threads.
    def conv(values: Tensor) -> Tensor:
        x = values.view(1, 1, 8, 8).expand(16, 64, 8, 8).contiguous()
        return convolve(x.to(device), identity[:, :, None, None])[0, 0].flatten().cpu()

    def matmul(values: Tensor) -> Tensor:
        x = values.repeat(16)[:, None].expand(1024, 64).contiguous()
        return (x.to(device) @ identity)[:64, 0].cpu()

    return {"conv": _identify(conv), "matmul": _identify(matmul)}


def _identify(send: Callable[[Tensor], Tensor]) -> dict[str, int | str | None]:
    """Identify format and rounding from the results for 64 values."""

    def through(values: Tensor) -> Tensor:
        return send(torch.nn.functional.pad(values, (0, 64 - len(values)), value=1.0))[
            : len(values)
        ]

    powers = 1 + 2.0 ** -torch.arange(1.0, 24.0)
    bits = int((through(powers) == powers).cumprod(0).sum())

    rounding = None
    if bits < 23:
        # Two ties, one above and one below an even neighbour, and a value on each side of a tie.
        unit = 2.0**-bits
        ties = 1 + unit * torch.tensor([0.25, 0.5, 0.75, 1.5])
        ties = torch.cat([ties, -ties])
        found = through(ties)
        rounding = next((r for r in ROUNDINGS if found.equal(round_mantissa(ties, bits, r))), None)

    # float16 ranges from 2^-24 to 65504. All other formats have the exponents of float32.
    extremes = torch.tensor([2.0**17, 2.0**-30])
    exponent_bits = 5 if (through(extremes) != extremes).all() else 8
    name = next(
        (
            f.name
            for f in FORMATS.values()
            if (f.mantissa_bits, f.exponent_bits) == (bits, exponent_bits)
        ),
        None,
    )
    return {"mantissa_bits": bits, "rounding": rounding, "format": name}
