"""A network as an ONNX file, and its execution by ONNX Runtime.

The file has the weights and one output for each head. It has no traces of the machine, so the same
network gives the same file.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from npu_parity import evidence
from npu_parity.backends import batches, heads, network
from npu_parity.backends.batches import Inputs
from npu_parity.errors import ParityError, first_line, shorten

SINGLE = "output"  # the name of the output of a network that returns one tensor


class _Heads(nn.Module):
    """Returns the heads of a network side by side, as a tuple."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(tensor for _, tensor in heads.compared(self.model, *inputs))


def export(model: nn.Module, inputs: Inputs, file: Path) -> str:
    """Write a network as an ONNX file for any batch size; return the SHA-256 of the file.

    Args:
        model: a network in evaluation mode on the CPU.
        inputs: arrays with one row for each input; the first row is the example.

    Raises:
        ParityError: torch cannot export the network.
    """
    # With an example of one input, the exporter would write that number into the file.
    example = batches.tensors(batches.rows(inputs, [0, 0]))
    with network.guarded(network.named(model)), torch.no_grad():
        names = [name or SINGLE for name, _ in heads.compared(model, *example)]
    batch = torch.export.Dim("batch")
    try:
        with network.guarded(network.named(model)), torch.no_grad():
            program = torch.onnx.export(
                _Heads(model).eval(),
                example,
                dynamo=True,
                dynamic_shapes={"inputs": tuple({0: batch} for _ in example)},
                output_names=names,
                verbose=False,
            )
    except ParityError as error:
        raise ParityError(
            shorten(f"{network.named(model)}: torch.onnx.export cannot export it ({error})", 290)
        ) from error
    assert program is not None, "the exporter with dynamo returns a program"
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass

    ClearMetadataAndDocStringPass()(program.model)  # the lines of code, and their folders
    content = program.model_proto.SerializeToString()

    def save(partial: Path) -> None:
        partial.write_bytes(content)

    return evidence.write(file, save)


class Session(nn.Module):
    """An ONNX file that ONNX Runtime executes on the CPU's memory, as a network.

    It returns a tensor, or a dictionary of heads.

    Args:
        file: the ONNX file.
        providers: of ONNX Runtime, the preferred one first.

    Raises:
        ParityError: ONNX Runtime does not accept the file.
    """

    def __init__(self, file: Path, providers: Sequence[str] = ("CPUExecutionProvider",)):
        super().__init__()
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3  # errors
        try:
            self._session = onnxruntime.InferenceSession(str(file), options, providers=providers)
        except Exception as error:  # its errors have no common class
            raise ParityError(f"{file}: ONNX Runtime cannot use it: {first_line(error)}") from None
        self._inputs = [value.name for value in self._session.get_inputs()]
        self._outputs = [value.name for value in self._session.get_outputs()]
        self.eval()

    def forward(self, *inputs: Tensor) -> Any:
        """Return what the file computes; CPU tensors."""
        arrays = (np.ascontiguousarray(tensor.numpy(force=True)) for tensor in inputs)
        found = self._session.run(None, dict(zip(self._inputs, arrays, strict=True)))
        results = dict(zip(self._outputs, map(torch.from_numpy, found), strict=True))
        return results[SINGLE] if list(results) == [SINGLE] else results


def load(file: Path, providers: Sequence[str]) -> Session:
    """Return an exported network; its sidecar has the hash.

    Raises:
        ParityError: the file is missing or was changed, or ONNX Runtime does not accept it.
    """
    evidence.verify(file, evidence.read_json(file.with_suffix(".json"))["sha256"])
    return Session(file, providers)


def session(model: nn.Module, inputs: Inputs, providers: Sequence[str]) -> Session:
    """Return a network as ONNX Runtime executes it; an exported one stays as it is."""
    if isinstance(model, Session):
        return model
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "network.onnx"
        export(model, inputs, file)
        return Session(file, providers)
