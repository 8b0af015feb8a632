"""Read checkpoints safely and fit them to a network. Every tensor must fit."""

import pickle
from pathlib import Path

import torch
from torch import nn

from npu_parity import evidence
from npu_parity.backends import network
from npu_parity.errors import ParityError, first_line, shorten
from npu_parity.sources import architectures

State = dict[str, torch.Tensor]

COUNTER = "num_batches_tracked"  # not used in inference; older checkpoints do not have it


def load(folder: str | Path, architecture: str | None = None) -> nn.Module:
    """Return the network of `folder` with its weights, in evaluation mode on the CPU.

    `folder` contains ``weights.safetensors`` and its sidecar ``weights.json`` with the hash.
    `architecture` replaces the architecture of the sidecar. A port may have its own.

    Raises:
        ParityError: a file is missing, damaged, or does not fit the architecture.

    """
    file = Path(folder) / "weights.safetensors"
    sidecar = evidence.read_json(file.with_suffix(".json"))
    if not file.is_file():
        raise ParityError(f"{file} is missing: run `snakemake --cores 4 {file}`")
    evidence.verify(file, sidecar["sha256"])
    architecture = architecture or sidecar["architecture"]
    with network.guarded(f"architecture {architecture}"):
        model = architectures.build(architecture, sidecar["arguments"])
        model.load_state_dict(fit(read_file(file), model, str(file)))
    return model


def read_file(path: Path) -> State:
    """Return the tensors of a ``.safetensors`` file or of a checkpoint from ``torch.save``.

    The function loads a checkpoint with ``weights_only=True``. The state dict may be nested under
    ``state_dict`` or ``model``.
    """
    if problem := evidence.problem(path):
        raise ParityError(f"weights {shorten(str(path), 150)}: {problem}")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # both libraries raise many kinds of errors for a damaged file
        reason = shorten(first_line(error), 100)
        if isinstance(error, pickle.UnpicklingError):  # torch's text suggests to trust the file
            reason = "damaged, or its pickle contains more than tensors"
        raise ParityError(
            f"weights {path}: cannot be read ({reason}); expected a complete .safetensors file or "
            "PyTorch checkpoint: fetch it again"
        ) from None
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(torch.is_tensor(v) for v in state.values()):
        raise ParityError(f"weights {path}: found {type(state).__name__}, expected named tensors")
    return dict(state)


def fit(state: State, model: nn.Module, origin: str, in_order: bool = False) -> State:
    """Return `state` with the tensor names of `model`. Floating-point tensors become float32.

    `state` must have all tensors of `model` in the same shapes, and no others. Only the call
    counters of batch norms may be missing. With `in_order`, the names may differ if number, order
    and shapes are the same. All values must be finite, except where the network's own initial value
    is the same infinity, like in the mask of an attention.

    Raises:
        ParityError: a tensor does not fit; the message names the first one.

    """
    with network.guarded(network.named(model)):
        expected = model.state_dict()
    for name, value in expected.items():
        if not torch.is_tensor(value):  # a module's own `get_extra_state`
            raise ParityError(
                f"weights {origin}: {network.named(model)} has a state {name!r} of type "
                f"{type(value).__name__}, expected tensors only"
            )
    if in_order and state.keys() != expected.keys() and len(state) == len(expected):
        state = dict(zip(expected, state.values(), strict=True))
    state = {**{k: v for k, v in expected.items() if k.endswith(COUNTER)}, **state}
    for problem, names in (
        ("lacks", [name for name in expected if name not in state]),
        ("has an unexpected", [name for name in state if name not in expected]),
    ):
        if names:
            more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            raise ParityError(
                f"weights {origin}: {problem} tensor {names[0]!r}{more}; "
                f"expected the {len(expected)} tensors of {type(model).__name__}"
            )
    for name, tensor in state.items():
        if tensor.shape != expected[name].shape:
            raise ParityError(
                f"weights {origin}: tensor {name!r} has shape {tuple(tensor.shape)}, "
                f"expected {tuple(expected[name].shape)}"
            )
        if expected[name].is_floating_point() and not tensor.is_floating_point():
            raise ParityError(
                f"weights {origin}: tensor {name!r} is {tensor.dtype}, expected floating point"
            )
    fitted = {name: state[name].to(expected[name].dtype).contiguous() for name in expected}
    for name, tensor in fitted.items():
        wrong = ~torch.isfinite(tensor) & (tensor != expected[name])
        if wrong.any():
            raise ParityError(
                f"weights {origin}: tensor {name!r} has {int(wrong.sum())} of {tensor.numel()} "
                f"values that are not finite, such as {tensor[wrong][0]}: fetch or train it again"
            )
    return fitted
