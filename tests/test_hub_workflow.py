"""The workflow with weights from both hubs, through their own clients: online, then offline."""

import inspect
import json
import shutil
from copy import deepcopy

import pytest
import torch
from hub_server import NOWHERE, HubServer, hub_env
from project import CONFIG, ROOT, Project, system, told
from safetensors.torch import load_file, save

from npu_parity import config, obtain
from npu_parity.sources import architectures, hubs
from npu_parity.sources.seeds import draw
from npu_parity.sources.weights import Wanted

pytestmark = pytest.mark.slow

HUBS = ("modelscope", "huggingface")
OWN = config.load(ROOT / "config.yaml")["models"]
LITE0 = "timm/tf_efficientnet_lite0.in1k"
# The systems that the whole job runs on, each from one of the hubs.
SMALL = {
    "net": ("tiny.py:net", "modelscope:owner/net"),
    "test_resnet": ("timm:test_resnet", "huggingface:timm/test_resnet.r160_in1k"),
}
PROCESSOR = {"do_resize": True, "size": 9, "resample": 3, "image_mean": [0.1] * 3} | {
    "image_std": [0.3] * 3
}
# For each system of the project: the network whose weights a hub has, the file and its repository.
PUBLISHED = {
    "bird_species": ("torchvision:resnet50", "model.safetensors", "timm/resnet50.tv2_in1k"),
    "efficientnet_b0": (
        "timm:efficientnet_b0",
        "model.safetensors",
        "timm/efficientnet_b0.ra_in1k",
    ),
    "convnextv2_atto": (
        "timm:convnextv2_atto",
        "model.safetensors",
        "timm/convnextv2_atto.fcmae_ft_in1k",
    ),
    "svhn": ("models/svhn.py:svhn", "model-122000.pth", "Genius-Society/svhn"),
}


def drawn(architecture):
    """Random weights with all their own values, as if they had been trained."""
    state = draw(1, lambda: architectures.build(architecture)).state_dict()
    return {name: tensor.contiguous() for name, tensor in state.items()}


def package():
    settings = OWN["efficientnet_lite0"]
    asked = Wanted(settings["architecture"], {}, settings["weights"], tensors="in_order")
    return obtain(asked)[0]


@pytest.fixture(scope="module")
def server():
    with HubServer() as server:
        server.add(LITE0, "model.safetensors", save(package()))
        yield server


@pytest.fixture(scope="module")
def project(server, tmp_path_factory):
    """The project of two small systems after the main job."""
    project = Project.make(tmp_path_factory.mktemp("hubs"), CONFIG)
    models = {}
    for name, (architecture, source) in SMALL.items():
        models[name] = system(architecture=architecture, weights=[source, "seed:1"])
        file, _, function = architecture.rpartition(":")
        own = file.endswith(".py")
        weights = drawn(f"{project.folder / file}:{function}" if own else architecture)
        server.add(source.partition(":")[2], "model.safetensors", save(weights))
    del models["test_resnet"]["preprocessing"]  # that of the weights
    server.add("owner/net", "preprocessor_config.json", json.dumps(PROCESSOR).encode(), lfs=False)
    project.configure(lambda config: config.update(models=models))
    project.env = server.env()
    project.succeed("all", "verify")
    return project


def test_the_main_job_runs_on_weights_of_a_hub(project):
    for name, (_, source) in SMALL.items():
        about = project.json(f"results/{name}/weights.json")
        assert (about["source"], about["pretrained"], about["cache"]) == (source, True, None)
        assert project.json(f"results/{name}/npu/predicted/metrics.json")
    chosen = project.json("results/test_resnet/inputs.json")["preprocessing_from"]
    assert chosen["mean"] == "timm test_resnet.r160_in1k"
    of_hub = project.json("results/net/inputs.json")
    origin = "modelscope:owner/net/preprocessor_config.json"
    assert (
        of_hub["preprocessing_from"]["mean"] == origin and of_hub["preprocessing"]["std"][0] == 0.3
    )
    assert of_hub["preprocessing_from"]["crop"] == "configuration"
    assert origin in (project.folder / "weights.lock.yaml").read_text()
    rows = project.json("results/summary.json")["rows"]
    assert {row["system"] for row in rows} == {*SMALL}
    assert "| trained" in (project.folder / "results/tables/overview.md").read_text()


def stays(project):
    """All but weights.json, which names the cache, and the manifests, which have its hash."""
    return {
        name: content
        for name, content in project.comparable().items()
        if not name.endswith(("weights.json", "manifest.json"))
    }


def test_the_same_run_offline_has_the_same_bytes(project, server, tmp_path):
    """`HF_HUB_OFFLINE=1`, and nobody listens at the address of either hub."""
    again = project.copy(tmp_path).empty()
    again.env = hub_env(NOWHERE, server.folder) | {"HF_HUB_OFFLINE": "1"}
    before = len(server.requests)
    again.succeed("all")
    assert len(server.requests) == before
    reasons = {"net": "connection refused", "test_resnet": "offline mode is set"}
    for name, reason in reasons.items():
        about = again.json(f"results/{name}/weights.json")
        assert about["pretrained"] is True
        assert "of the expected sha256, because" in about["cache"] and reason in about["cache"]
    assert stays(again) == stays(project)


def test_a_hubs_lite0_computes_what_the_packages_does(server, tmp_path):
    project = Project.make(tmp_path, CONFIG)
    project.env = server.env()
    own = OWN["efficientnet_lite0"]
    kept = {key: own[key] for key in ("architecture", "inputs")}
    models = {"package": {**kept, "weights": own["weights"], "tensors": "in_order"}}
    models |= {hub: {**kept, "weights": [f"{hub}:{LITE0}", "seed:1"]} for hub in HUBS}
    project.configure(lambda config: config.update(models=models))
    project.succeed(*(f"results/{name}/cpu/measured/outputs.npy" for name in models))
    outputs = {}
    for name in models:
        about = project.json(f"results/{name}/weights.json")
        assert (about["source"].partition(":")[0], about["pretrained"]) == (name, True)
        outputs[name] = (project.folder / f"results/{name}/cpu/measured/outputs.npy").read_bytes()
    assert outputs["modelscope"] == outputs["huggingface"] == outputs["package"]
    assert project.json("results/package/cpu/measured/run.json")["shape"] == [3, 1000]


@pytest.fixture
def small(server, tmp_path):
    """A project of three small systems with weights of both hubs, in which nothing was run."""
    sources = [*(f"{hub}:owner/small" for hub in HUBS), "seed:1"]
    models = {name: system(weights=sources) for name in ("one", "two", "three")}
    project = Project.make(tmp_path, {**CONFIG, "models": models})
    project.env = server.env()
    project.targets = [f"results/{name}/weights.json" for name in models]
    state = drawn(f"{project.folder}/tiny.py:net")
    server.add("owner/small", "model.safetensors", save(state))
    yield project
    server.fail(None)


def test_hubs_that_never_answer_cost_one_probe_each(small, server):
    """So `make` loses less than ten seconds, however many systems name hubs."""
    server.fail("hang")
    before = len(server.requests)
    small.succeed(*small.targets)
    assert [request.path for request in server.requests[before:]] == ["/", "/"]
    for target in small.targets:
        about = small.json(target)
        assert about["source"] == "seed:1"
        assert [t["source"].partition(":")[0] for t in about["tried"]] == [*HUBS]
    deadline = inspect.signature(hubs.reachable).parameters["timeout"].default
    assert deadline * len(HUBS) < 10  # seconds


def test_a_byte_that_changed_on_a_hub_is_refused_with_both_hashes(small, server):
    target = small.targets[0]
    small.succeed(target)
    shutil.rmtree(small.folder / "results")
    _, tree = server.tree("owner/small", None)
    old = tree["model.safetensors"].sha256
    content = server.blobs[old]
    server.add("owner/small", "model.safetensors", content[:-1] + bytes([content[-1] ^ 1]))
    done = small.run(target)
    line = told(done.stdout)
    assert done.returncode != 0 and not small.files("results/one/*")
    assert old in line and server.tree("owner/small", None)[1]["model.safetensors"].sha256 in line
    assert "npu-parity accept 'modelscope:owner/small'" in line


def test_every_system_runs_on_the_weights_of_its_hubs(server, tmp_path):
    """Weights arrive from each hub, and outputs from one of them. One system runs to its card.

    EfficientNet-Lite0 is above; resnet34 has no weights on a hub, svhn has some on ModelScope only.
    """
    project = Project.make(tmp_path, CONFIG)
    project.env = server.env()
    served, models = {}, {}
    for name, (architecture, file, repo) in PUBLISHED.items():
        served[name] = drawn(architecture)
        if file.endswith(".pth"):
            torch.save(served[name], tmp_path / file)
            server.add(repo, "model-9000.pth", b"an earlier checkpoint")
            server.add(repo, file, (tmp_path / file).read_bytes())
        else:
            server.add(repo, file, save(served[name]))
        for source in OWN[name]["weights"]:
            hub = source.partition(":")[0]
            if hub in HUBS:
                assert repo in source
                models[f"{name}_{hub}"] = {
                    **OWN[name],
                    "weights": [source],
                    "inputs": OWN[name]["inputs"][-1:],
                }
    assert len(models) == 7
    project.configure(lambda config: config.update(models=deepcopy(models)))
    computed = {next(m for m in models if m.startswith(name)): name for name in PUBLISHED}
    project.succeed(
        *(f"results/{name}/weights.safetensors" for name in models),
        *(f"results/{name}/cpu/measured/outputs.npy" for name in computed),
        "results/convnextv2_atto_modelscope/card.md",
    )
    for name, own in computed.items():
        run = project.json(f"results/{name}/cpu/measured/run.json")
        whole = json.loads((ROOT / f"results/{own}/cpu/measured/run.json").read_text())
        assert run["shape"][1] == whole["shape"][1]
        about = project.json(f"results/{name}/weights.json")
        assert run["sha256"]["weights"] == about["sha256"] and about["cache"] is None
        tag = PUBLISHED[own][2].removeprefix("timm/")
        origins = project.json(f"results/{name}/inputs.json")["preprocessing_from"].values()
        assert (f"timm {tag}" in origins) == PUBLISHED[own][2].startswith("timm/")
    card = (project.folder / "results/convnextv2_atto_modelscope/card.md").read_text()
    assert "modelscope:timm/convnextv2_atto.fcmae_ft_in1k" in card and "npu predicted" in card
    for name, settings in models.items():
        state = served[name.rpartition("_")[0]]
        about = project.json(f"results/{name}/weights.json")
        assert (about["source"], about["pretrained"]) == (settings["weights"][0], True)
        found = load_file(project.folder / f"results/{name}/weights.safetensors")
        fetched = found.keys() - {*about["seeded_tensors"]}
        assert len(fetched) >= len(state) - 2  # without the classifier
        assert all(torch.equal(found[key], state[key]) for key in fetched), name
