"""The repositories that config.yaml names, on the stand-in for the hubs, with drawn weights.

with HubServer() as server:
    pairs = serve(server, models)  # "svhn_modelscope": …
    ...                            # the workflow, with Pair.settings of each
    assert not wrong(folder, pairs[name])
"""

import io
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from hub_server import HubServer
from safetensors.torch import load_file, save

from npu_parity import obtain
from npu_parity.sources.origins import Hub
from npu_parity.sources.weights import Wanted, parse


@dataclass(frozen=True)
class Pair:
    """A system, and one of the hubs that have its weights.

    Attributes:
        system: the name in config.yaml.
        settings: those of config.yaml, with this hub as the only source of weights.
        state: the tensors in the hub's file.
        sha256: of that file.
    """

    system: str
    settings: dict
    state: dict[str, torch.Tensor]
    sha256: str

    @property
    def source(self) -> str:
        """The source of weights, as config.yaml writes it."""
        return self.settings["weights"][0]


def serve(server: HubServer, models: dict[str, dict]) -> dict[str, Pair]:
    """Add a repository for each source on a hub; return each system with each of its hubs.

    The weights are drawn for the whole network, also where the system has another classifier. Their
    batch norms are calibrated, as if they had been trained.
    """
    pairs = {}
    for name, settings in models.items():
        hubs = [source for source in map(parse, settings["weights"]) if isinstance(source, Hub)]
        if not hubs:
            continue
        preprocessing = settings.get("preprocessing")
        wanted = Wanted(settings["architecture"], {}, ["seed:1"], preprocessing=preprocessing)
        state = obtain(wanted)[0]
        for source in hubs:
            request = source.request()
            file = request.file or "model.safetensors"
            if "*" in file:
                server.add(request.repo, file.replace("*", "9000"), b"an earlier checkpoint")
                file = file.replace("*", "122000")
            content = pickled(state) if file.endswith(".pth") else save(state)
            commit = server.add(request.repo, file, content)
            sha256 = server.tree(request.repo, commit)[1][file].sha256
            own = settings | {"weights": [source.text]}
            pairs[f"{name}_{source.kind}"] = Pair(name, own, state, sha256)
    return pairs


def pickled(state: dict[str, torch.Tensor]) -> bytes:
    """Return a checkpoint as `torch.save` writes it."""
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


def wrong(folder: Path, pair: Pair) -> list[str]:
    """Return what is wrong with the weights in a system's folder of results."""
    about = json.loads((folder / "weights.json").read_text())
    expected = {"source": pair.source, "pretrained": True, "cache": None, "tried": []}
    expected |= {"file_sha256": pair.sha256}
    found = load_file(folder / "weights.safetensors")
    fetched = found.keys() - {*about["seeded_tensors"]}
    other = [
        key
        for key in sorted(fetched)
        if key not in pair.state or not torch.equal(found[key], pair.state[key])
    ]
    return [
        *(f"{key} is {about[key]}" for key, value in expected.items() if about[key] != value),
        *(["tensors are missing"] if len(fetched) < len(pair.state) - 2 else []),  # the classifier
        *(f"{key} is not the hub's" for key in other),
    ]
