"""Tensors whose device is npu, their data out of reach in a CPU tensor, and operators on them.

Convolutions and matrix products round their operands as the flags say. Nothing of npu_parity is
used: its predictions are held against what is computed here.
"""

from functools import cache, partial

import torch
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten

from torch_npu import npu

aten = torch.ops.aten

CONVOLUTIONS = (aten.convolution, aten._convolution, aten.convolution_overrideable)
PRODUCTS = (aten.mm, aten.bmm, aten.mv, aten.dot)
ADDED_PRODUCTS = (aten.addmm, aten.baddbmm, aten.addmv)  # something comes before the operands
COPIES = (aten._to_copy, aten.copy_, aten._copy_from)  # the latter two: (to, from), (from, to)


class NPUTensor(torch.Tensor):
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, host):
        tensor = torch.Tensor._make_wrapper_subclass(
            cls,
            host.shape,
            strides=host.stride(),
            storage_offset=host.storage_offset(),
            storage_size=2**40,  # an upper bound: the host tensor may grow
            dtype=host.dtype,
            device="npu:0",
        )
        tensor.host = host
        if not host._is_view():
            npu.allocated(tensor, host.untyped_storage().nbytes())
        return tensor

    def numpy(self, *, force=False):
        if force:
            return self.cpu().numpy()
        raise TypeError(
            "can't convert npu:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor "
            "to host memory first."
        )

    def untyped_storage(self):  # whoever compares addresses learns what shares memory
        return self.host.untyped_storage()

    def __repr__(self):
        return f"{self.cpu()!r}"[:-1] + ", device='npu:0')"

    def __format__(self, form):
        return format(self.cpu(), form)

    def tolist(self):
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return execute(func, *args, **(kwargs or {}))


def execute(func, *args, **kwargs):
    """Run an operator on the CPU tensors behind its arguments, and wrap what it returns."""
    packet = func.overloadpacket
    flat, form = tree_flatten((args, kwargs))
    tensors = [x for x in flat if isinstance(x, torch.Tensor)]
    on_npu = {id(x.host): x for x in tensors if isinstance(x, NPUTensor)}
    target = torch.device(kwargs.get("device") or "npu")

    if packet in COPIES:  # the only operators that may see both sides
        source, *destination = tensors[::-1] if packet is aten.copy_ else tensors
        destination = destination[0].device if destination else target
        complete = npu.copied(source.device.type, destination.type)
        target = destination
    else:
        _on_one_device(tensors)
        if _is_composite(func):  # conv2d, linear ... arrive whole in inference mode
            return func.decompose(*args, **kwargs)
        npu.launched()

    args, kwargs = tree_unflatten([x.host if isinstance(x, NPUTensor) else x for x in flat], form)
    if "device" in kwargs:
        kwargs["device"] = "cpu" if target.type == "npu" else target
    if packet is aten._copy_from:
        func, args = aten.copy_.default, (args[1], args[0])
    result = func(*_rounded(packet, args), **kwargs)
    if packet in COPIES and not complete:
        result = torch.zeros_like(result) if packet is aten._to_copy else result.zero_()
    if packet in CONVOLUTIONS:
        _break(result)

    def wrap(host):
        tensor = on_npu[id(host)] if id(host) in on_npu else NPUTensor(host)
        layout = host.shape, host.stride(), host.storage_offset()
        if (tensor.shape, tensor.stride(), tensor.storage_offset()) != layout:
            with torch._C._DisableTorchDispatch(), torch.no_grad():  # changed in place
                aten.as_strided_(tensor, *layout)
        return tensor

    return tree_map_only(torch.Tensor, wrap, result) if target.type == "npu" else result


@cache
def _is_composite(func):
    return torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd")


def _on_one_device(tensors):
    for tensor in tensors:
        if not isinstance(tensor, NPUTensor) and tensor.dim():
            raise RuntimeError(
                "Expected all tensors to be on the same device, but found at least two devices, "
                f"npu:0 and {tensor.device}!"
            )


def _rounded(packet, args):
    first = 1 if packet in ADDED_PRODUCTS else 0
    if packet in CONVOLUTIONS:
        form = npu.operands("conv")
    elif packet in PRODUCTS + ADDED_PRODUCTS:
        form = npu.operands("matmul")
    else:
        return args
    pair = args[first : first + 2]
    if pair[0].dtype == torch.float32:
        pair = [FORMS[form](x) for x in pair]
    return *args[:first], *pair, *args[first + 2 :]


def _hf32(x):
    """Keep 12 significant bits, 11 of them stored: nearest, ties to even, by way of float64."""
    mantissa, exponent = torch.frexp(x.double())
    return torch.ldexp(torch.round(mantissa * 2**12), exponent - 12).float()


FORMS = {"fp32": lambda x: x, "hf32": _hf32, "fp16": lambda x: x.half().float()}


def _break(result):
    """Spoil the result of a convolution, where a fault says so."""
    if npu.fault() == "dead_channel":
        result[:, 0] = 0
    elif npu.fault() == "nan":
        result[(0,) * result.dim()] = torch.nan


# A module that changes its dtype gets new parameters, because the data of a parameter is in `host`.
torch.__future__.set_overwrite_module_params_on_conversion(True)

# What torch calls on the backend itself, past the tensors' own dispatch: making and filling them.
_every, _own = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")
_every.fallback(execute, "PrivateUse1")
_own.impl("_copy_from", partial(execute, aten._copy_from.default), "PrivateUse1")
