"""The workflow with weights from both hubs, through their own clients: online, then offline."""

import inspect
import json
import shutil
from copy import deepcopy

import pytest
from hub_repositories import serve, wrong
from hub_server import NOWHERE, HubServer, hub_env
from project import CONFIG, ROOT, Project, system, told
from safetensors.torch import save

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


def test_the_weights_of_every_system_arrive_from_its_hubs(server, tmp_path):
    """`make hubs` runs the main job on them. EfficientNet-Lite0 is above, resnet34 has no hub."""
    project = Project.make(tmp_path, CONFIG)
    project.env = server.env()
    pairs = serve(server, OWN)
    assert len(pairs) == 7  # svhn is on ModelScope only
    models = {name: deepcopy(pair.settings) for name, pair in pairs.items()}
    project.configure(lambda config: config.update(models=models))
    computed = "convnextv2_atto_modelscope"
    project.succeed(
        *(f"results/{name}/weights.safetensors" for name in pairs),
        f"results/{computed}/cpu/measured/outputs.npy",
    )
    for name, pair in pairs.items():
        assert not wrong(project.folder / "results" / name, pair), name
    run = project.json(f"results/{computed}/cpu/measured/run.json")
    assert run["shape"] == [1, 320]
    assert run["sha256"]["weights"] == project.json(f"results/{computed}/weights.json")["sha256"]
    chosen = project.json(f"results/{computed}/inputs.json")["preprocessing_from"]
    assert chosen["mean"] == "timm convnextv2_atto.fcmae_ft_in1k"
