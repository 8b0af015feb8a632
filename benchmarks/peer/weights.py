"""Save the weights of a system, from a package or a seed: ``python weights.py SYSTEM``."""

import sys
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from shared import PHOTOGRAPHS, build, folder, packaged, photograph, read_config, transform
from torch import nn


def from_package(source: str, settings: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Return the tensors of a checkpoint under the names of the network."""
    state = torch.load(packaged(source), map_location="cpu", weights_only=True)
    model = build(settings)
    if settings.get("tensors") == "in_order":
        state = dict(zip(model.state_dict(), state.values(), strict=True))
    model.load_state_dict(state)
    return model.state_dict()


def from_seed(seed: int, settings: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Return random tensors, with statistics of batch norms that fit photographs."""
    torch.manual_seed(seed)
    model = build(settings)
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if settings.get("calibrate", True) and norms:
        to_tensor = transform(settings)
        names = (name.partition(".")[0] for name in PHOTOGRAPHS)
        images = np.stack([to_tensor(photograph(name)).numpy() for name in names])
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum, norm.training = 1.0, True
        with torch.no_grad():
            model(torch.from_numpy(images))
    return model.state_dict()


def main(system: str) -> None:
    """Take the first source."""
    settings = read_config()["models"][system]
    kind, _, rest = settings["weights"][0].partition(":")
    if kind == "package":
        state = from_package(rest, settings)
    elif kind == "seed":
        state = from_seed(int(rest), settings)
    else:
        sys.exit(f"{system}: weights {kind}:{rest}: only package: and seed: need no network")
    save_file(state, folder(system) / "weights.safetensors")


if __name__ == "__main__":
    main(sys.argv[1])
