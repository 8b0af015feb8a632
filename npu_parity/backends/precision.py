"""The precision in which a network runs on a device: float32, 16 bits, or autocast.

In 16 bits, the network is cast once (`.half()`, `.bfloat16()`) and its inputs are cast at its door.
Autocast leaves the network as it is, and torch casts the operands of its own list of operators.
"""

import contextlib
import copy
from collections.abc import Iterator
from itertools import chain
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_map

from npu_parity.numerics.formats import PRECISIONS
from npu_parity.numerics.rounding import NARROW
from npu_parity.numerics.storage import Storage, is_narrow, stored


def own(model: nn.Module) -> torch.dtype | None:
    """Return the dtype of a network that already has 16-bit weights; None if it has none."""
    tensors = chain(model.parameters(), model.buffers())
    return next((tensor.dtype for tensor in tensors if is_narrow(tensor)), None)


def narrow(model: nn.Module, precision: str) -> bool:
    """Return whether a port is itself the network in 16 bits that the precision asks for."""
    return precision in NARROW and own(model) is not None


def cast(model: nn.Module, precision: str) -> nn.Module:
    """Return a network in 16 bits that takes float32 inputs.

    Args:
        model: it is not changed. A network with 16-bit weights keeps its dtype.
        precision: fp16 or bf16.
    """
    dtype = own(model) or NARROW[precision]
    model = copy.deepcopy(model).to(dtype)

    def narrowed(value: Any) -> Any:
        real = torch.is_tensor(value) and value.is_floating_point()
        return value.to(dtype) if real else value

    if isinstance(model, torch.jit.ScriptModule):  # it has no hooks
        model = nn.Sequential(model).train(model.training)
    model.register_forward_pre_hook(lambda _, inputs: tree_map(narrowed, inputs))
    return model


@contextlib.contextmanager
def applied(model: nn.Module, precision: str, target: torch.device) -> Iterator[nn.Module]:
    """Yield the network to run in a precision, and cast operands inside if it is autocast.

    Args:
        model: a network on the torch device `target`; it is not changed.
        precision: a key of `PRECISIONS`.
    """
    if precision in NARROW:
        yield cast(model, precision)
    elif precision == "fp32":
        yield model
    else:
        with torch.autocast(target.type, NARROW[PRECISIONS[precision]]):
            yield model


@contextlib.contextmanager
def storage(precision: str) -> Iterator[Storage | None]:
    """Emulate the storage of a precision inside; yield None if it is float32."""
    if precision == "fp32":
        yield None
        return
    with stored() as emulation:
        yield emulation


def overflow(emulation: Storage | None, model: nn.Module) -> str | None:
    """Return where a run inside `storage` first overflowed: the format, the operator, the layer.

    Args:
        emulation: what `storage` yielded.
        model: the network that ran.
    """
    if emulation is None or emulation.overflow is None:
        return None
    paths = (path for path, module in model.named_modules() if module is emulation.module)
    return f"{emulation.overflow} at {next(paths, '') or 'the top level'}"
