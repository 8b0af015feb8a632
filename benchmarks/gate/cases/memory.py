"""Clean variations of memory: where weights and results lie, and how they came there."""

import copy
import functools
import io

import safetensors.torch
import torch
from catalogue import changed, modules
from torch import nn

memory = functools.partial(changed, "clean", "weights")


@memory("weights copied")
def _(net):
    for weight in net.parameters():
        weight.data = weight.data.clone(memory_format=torch.contiguous_format)


@memory("pickled")
def _(net):
    buffer = io.BytesIO()
    torch.save(net, buffer)
    return torch.load(io.BytesIO(buffer.getvalue()), weights_only=False)


@memory("weights through safetensors")
def _(net):
    data = safetensors.torch.save({n: t.contiguous() for n, t in net.state_dict().items()})
    for weight in net.parameters():
        nn.init.zeros_(weight)
    net.load_state_dict(safetensors.torch.load(data))


@memory("weights through float64")
def _(net):
    return copy.deepcopy(net).double().float()


@memory("weights in shared memory")
def _(net):
    net.share_memory()


@memory("weights as views of one tensor")
def _(net):
    own = [*net.parameters()]
    memory = torch.cat([p.data.flatten() for p in own])
    for weight, part in zip(own, memory.split([p.numel() for p in own]), strict=True):
        weight.data = part.view(weight.shape)


@memory("allocated first, filled later")
def _(net):
    state = copy.deepcopy(net.state_dict())
    own = {n: b.clone() for n, b in net.named_buffers() if n not in state}
    net.to_empty(device="cpu")
    net.load_state_dict(state)
    for name, value in own.items():  # buffers that no file stores
        net.get_buffer(name).copy_(value)


@memory("loaded by assignment")
def _(net):
    state = copy.deepcopy(net.state_dict())
    net.load_state_dict(state, assign=True)


@memory("parameters as plain tensors")
def _(net):
    for module in modules(net, nn.Module):
        for name, weight in [*module.named_parameters(recurse=False)]:
            delattr(module, name)
            module.register_buffer(name, weight.detach())


@memory("parameters that are results")
def _(net):
    for module in modules(net, nn.Module):
        for name, weight in [*module.named_parameters(recurse=False)]:
            delattr(module, name)
            with torch.enable_grad():
                setattr(module, name, weight * 1.0)


@memory("padded rows in memory")
def _(net):
    for weight in net.parameters():
        if weight.ndim > 1:
            wide = torch.zeros(*weight.shape[:-1], weight.shape[-1] + 3)
            wide[..., : weight.shape[-1]] = weight
            weight.data = wide[..., : weight.shape[-1]]


@memory("parametrised by the identity")
def _(net):
    for layer in modules(net, nn.Linear):
        nn.utils.parametrize.register_parametrization(layer, "weight", nn.Identity())
