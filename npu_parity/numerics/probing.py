"""What a device does to float32 operands, found out by multiplying with the identity."""

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
    """Find out what a device does to float32 operands, by multiplying with the identity.

    A 1x1 convolution and a matrix product return their input as the device rounded it.

    Args:
        convolve: called with float32 input (16, 64, 8, 8) and weight (64, 64, 1, 1) on the
            device; default `torch.nn.functional.conv2d`.
        device: anything that torch takes.

    Returns:
        For "conv" and "matmul": "mantissa_bits" that survive, "rounding" (None when all 23 do,
        or when none of `ROUNDINGS` explains the results) and "format" (None when unknown).
    """
    convolve = convolve or torch.nn.functional.conv2d
    identity = torch.eye(64, device=device)

    # 16 x 64 x 64 values: libraries keep few channels, one image or few elements on float32
    # paths (PyTorch hands a 1x1 convolution to oneDNN from a batch of 16, or on two threads).
    def conv(values: Tensor) -> Tensor:
        x = values.view(1, 1, 8, 8).expand(16, 64, 8, 8).contiguous()
        return convolve(x.to(device), identity[:, :, None, None])[0, 0].flatten().cpu()

    def matmul(values: Tensor) -> Tensor:
        x = values.repeat(16)[:, None].expand(1024, 64).contiguous()
        return (x.to(device) @ identity)[:64, 0].cpu()

    return {"conv": _identify(conv), "matmul": _identify(matmul)}


def _identify(send: Callable[[Tensor], Tensor]) -> dict[str, int | str | None]:
    """Tell format and rounding from what comes back for 64 values."""

    def through(values: Tensor) -> Tensor:
        return send(torch.nn.functional.pad(values, (0, 64 - len(values)), value=1.0))[
            : len(values)
        ]

    powers = 1 + 2.0 ** -torch.arange(1.0, 24.0)
    bits = int((through(powers) == powers).cumprod(0).sum())

    rounding = None
    if bits < 23:
        # Two ties, one to either side of an even neighbour, and a value to either side of a tie.
        unit = 2.0**-bits
        ties = 1 + unit * torch.tensor([0.25, 0.5, 0.75, 1.5])
        ties = torch.cat([ties, -ties])
        found = through(ties)
        rounding = next((r for r in ROUNDINGS if found.equal(round_mantissa(ties, bits, r))), None)

    # float16 ends at 65504 and at 2^-24; every other format has float32's exponents.
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
