"""Save the outputs of a system on a device: ``python infer.py SYSTEM cpu|npu|onnxruntime``.

There is no NPU, so ``npu`` is the CPU with the rounding of an NPU. A host with one would move the
network to it.
"""

import sys

import numpy as np
import torch
from shared import emulate_hf32, folder, load, read_config, read_inputs
from torch import nn


def export(model: nn.Module, example: np.ndarray, file: str) -> None:
    """Write the network as an ONNX file for any batch size."""
    two = torch.from_numpy(np.repeat(example, 2, axis=0))
    shapes = ({0: torch.export.Dim("batch")},)
    program = torch.onnx.export(
        model, (two,), dynamo=True, dynamic_shapes=shapes, output_names=["output"], verbose=False
    )
    program.save(file)


def main(system: str, device: str) -> None:
    """Run all inputs, one by one."""
    settings = read_config()["models"][system]
    model, inputs = load(system, settings), read_inputs(settings)
    place = folder(system, device)
    if device == "npu":
        emulate_hf32(model)
    outputs = []
    if device == "onnxruntime":
        import onnxruntime

        export(model, inputs[:1], str(place / "network.onnx"))
        session = onnxruntime.InferenceSession(str(place / "network.onnx"))
        name = session.get_inputs()[0].name
        outputs = [session.run(None, {name: x[None]})[0] for x in inputs]
    else:
        with torch.no_grad():
            outputs = [model(torch.from_numpy(x[None])).numpy() for x in inputs]
    np.save(place / "outputs.npy", np.concatenate(outputs))


if __name__ == "__main__":
    main(*sys.argv[1:])
