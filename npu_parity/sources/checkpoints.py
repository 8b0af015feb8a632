"""Read checkpoints safely, whatever their suffix. Nothing in a file is executed."""

import pickle
import re
import warnings
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from npu_parity import evidence
from npu_parity.backends import network
from npu_parity.errors import ParityError, first_line, shorten
from npu_parity.sources import architectures, containers
from npu_parity.sources.fitting import State, fit
from npu_parity.sources.states import Checkpoint, find


class _Inert:
    """Stands for an object beside the tensors. It accepts everything and does nothing."""

    def __new__(cls, *_: Any, **__: Any) -> Any:
        return object.__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass


class _InertMapping(_Inert):
    def __new__(cls, *_: Any, **__: Any) -> Any:
        return OrderedDict()


class _InertList(_Inert):
    def __new__(cls, *_: Any, **__: Any) -> Any:
        return []


# Classes that training programs store beside the tensors. Their own code never runs: torch's
# unpickler makes these stand-ins in their place, and nothing reads the stand-ins. Any other class
# is refused by name.
_STAND_INS: dict[str, type[_Inert]] = {
    **dict.fromkeys(
        (
            *(f"numpy.{core}.multiarray.scalar" for core in ("core", "_core")),
            *(f"numpy.{core}.multiarray._reconstruct" for core in ("core", "_core")),
            *("numpy.dtype", "numpy.ndarray", "numpy.float64", "numpy.float32", "numpy.int64"),
            *("argparse.Namespace", "types.SimpleNamespace", "uuid.UUID", "typing.Any"),
            *(
                f"{module}.{system}Path"
                for module in ("pathlib", "pathlib._local")
                for system in ("", "Posix", "Windows", "PurePosix", "PureWindows", "Pure")
            ),
            *(f"datetime.{name}" for name in ("datetime", "date", "timedelta", "timezone")),
            *(f"builtins.{name}" for name in ("list", "dict", "int", "float", "str", "bool")),
            "torch.torch_version.TorchVersion",
            "omegaconf.dictconfig.DictConfig",
            "omegaconf.listconfig.ListConfig",
            "omegaconf.base.ContainerMetadata",
            "omegaconf.base.Metadata",
            "omegaconf.nodes.AnyNode",
            "mmengine.logging.history_buffer.HistoryBuffer",
            "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
        ),
        _Inert,
    ),
    **dict.fromkeys(
        (
            "collections.defaultdict",
            "easydict.EasyDict",
            "addict.addict.Dict",
            "yacs.config.CfgNode",
            "fvcore.common.config.CfgNode",
            "mmcv.utils.config.ConfigDict",
            "pytorch_lightning.utilities.parsing.AttributeDict",
            "lightning_fabric.utilities.data.AttributeDict",
            "lightning.fabric.utilities.data.AttributeDict",
        ),
        _InertMapping,
    ),
    "collections.deque": _InertList,
}


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
        # The network's own dictionary has the versions of its modules, which some ask for.
        state = model.state_dict()
        state.update(fit(read_file(file), model, str(file)))
        model.load_state_dict(state)
    return model


def read(path: Path) -> Checkpoint:
    """Return the content of a file: safetensors, from ``torch.save``, or an index of shards.

    The first bytes say what the file is. Tensors of other devices are read to the CPU.

    Raises:
        ParityError: the file is of another kind, is damaged or has no named tensors. The message
            says what the file is. A class of a pickle that is refused is named.
    """
    container = containers.identify(path)
    try:
        checkpoint = _READERS[container](path)
    except ParityError:
        raise
    except Exception as error:  # both libraries raise many kinds of errors for a damaged file
        raise containers.unreadable(path, _reason(error)) from None
    if not checkpoint.states:
        raise ParityError(
            f"weights {shorten(str(path), 150)}: found no mapping of names to tensors, "
            "expected named tensors: save model.state_dict()"
        )
    return checkpoint


def read_file(path: Path) -> State:
    """Return the tensors of a file that has one state dict; see `read`."""
    states = read(path).states
    if len(states) > 1:
        raise ParityError(f"weights {path}: has {len(states)} states, expected one")
    return next(iter(states.values()))


def _safetensors(path: Path) -> Checkpoint:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        # `safetensors.torch.save_model` stores a shared tensor once, and its other names here.
        metadata = file.metadata() or {}
    aliases = {k: v for k, v in metadata.items() if k not in tensors and v in tensors}
    return Checkpoint(containers.SAFETENSORS, {"": tensors} if tensors else {}, aliases)


def _pickled(container: str, mapped: bool) -> Callable[[Path], Checkpoint]:
    def reader(path: Path) -> Checkpoint:
        allowed: list[Any] = [(stand_in, name) for name, stand_in in _STAND_INS.items()]
        with torch.serialization.safe_globals(allowed), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the file's pickle protocol
            # A mapped file is read where it is needed, so optimizer states cost no memory. With
            # this suffix torch would ignore the content.
            lazy = mapped and path.suffix != ".safetensors"
            with path.open("rb") as file:
                data = torch.load(
                    path if lazy else file, map_location="cpu", weights_only=True, mmap=lazy
                )
        return Checkpoint(container, find(data))

    return reader


def _index(path: Path) -> Checkpoint:
    found: State = {}
    shards = []
    aliases: dict[str, str] = {}
    for name, tensors in containers.shards(path).items():
        shard = path.parent / name
        content = read(shard)
        state = content.states.get("")
        if state is None or state.keys() != {*tensors} or content.container == containers.INDEX:
            there = len(state or ())
            raise ParityError(
                f"weights {shorten(str(shard), 120)}: the shard has {there} tensors, other than "
                f"the {len(tensors)} that {path.name} states for it: fetch both again"
            )
        found |= state
        aliases |= content.aliases
        shards.append({"file": name, "sha256": evidence.sha256(shard)})
    return Checkpoint(containers.INDEX, {"": found}, aliases, shards)


_READERS: dict[str, Callable[[Path], Checkpoint]] = {
    containers.SAFETENSORS: _safetensors,
    containers.ZIPPED: _pickled(containers.ZIPPED, mapped=True),
    containers.LEGACY: _pickled(containers.LEGACY, mapped=False),
    containers.INDEX: _index,
}


def _reason(error: Exception) -> str:
    """Return what is wrong with a file, without torch's advice to trust it."""
    text = str(error)
    if not isinstance(error, pickle.UnpicklingError):
        return f"it is damaged ({shorten(first_line(error), 80)}): {containers.FETCH}"
    if refused := re.search(r"GLOBAL ([\w.<>]+)", text):
        return (
            f"its pickle contains more than tensors: an object of {shorten(refused[1], 80)}, whose "
            f"code could run: {containers.SAVE}"
        )
    if re.search(r"Unsupported operand (149|14[0-8])", text):
        return f"its pickle has a protocol above 2: {containers.SAVE}"
    return f"it is damaged, or its pickle contains more than tensors: {containers.FETCH}"
