"""The NPU path, driven through a stand-in for torch_npu (tests/standin_npu): no NPU is involved.

Whatever uses the stand-in runs in a process of its own, which has it on PYTHONPATH.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch.utils import backend_registration

from npu_parity import evidence
from npu_parity.backends.device import Device
from npu_parity.backends.latency import STAGED
from npu_parity.backends.outputs import measure, predict
from npu_parity.numerics.formats import Numerics
from npu_parity.sources import architectures, checkpoints

ROOT = Path(__file__).resolve().parents[1]
STANDIN = ROOT / "tests" / "standin_npu"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
        reason="this torch cannot have a device that is written in Python",
    ),
]

ROUNDING = 1e-6  # relative L2: what float32 itself may lose in networks this small

NETWORK = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU())
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.pools = nn.ModuleList([nn.MaxPool2d(2), nn.AvgPool2d(2)])
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(784, 16), nn.LayerNorm(16), nn.GELU())
        self.digits = nn.ModuleList([nn.Linear(16, 10), nn.Linear(16, 4)])

    def forward(self, x):
        x = self.depthwise(self.stem(x))
        x = self.head(torch.cat([pool(x) for pool in self.pools], dim=1))
        first, second = (digit(x) for digit in self.digits)
        return [first, second.softmax(dim=1)]


def net():
    return Net()
"""

SYSTEMS = {  # architecture, and height and width of its inputs
    "tiny": ("tiny.py:net", 30),
    "resnet18": ("torchvision:resnet18", 64),
    "depthwise": ("timm:test_efficientnet", 96),
    "normed": ("timm:test_convnext", 96),
    "attention": ("timm:test_vit", 160),
}
HF32, FP32 = {"conv": "hf32"}, {"conv": "fp32"}
PRODUCTS = {"conv": "fp32", "matmul": "hf32"}
FP16 = {"conv": "fp16", "matmul": "fp16"}

# scripts/outputs.py again and again in one process: importing torch and timm takes seconds.
OUTPUTS = """
import json, os, runpy, sys
from pathlib import Path

from npu_parity import cli

main = runpy.run_path(sys.argv[1])["main"]
for call in json.load(sys.stdin):
    os.environ["STANDIN_NPU_FAULT"] = call.pop("fault")
    paths = {key: Path(call.pop(key)) for key in ("weights_folder", "inputs", "output")}
    device = cli.device(json.dumps(call.pop("device")))
    main(**paths, device=device, **call)
"""


def python(*arguments, standin=True, stdin=None, **environment):
    """Run Python on `arguments`, with or without the stand-in."""
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    if standin:
        env["PYTHONPATH"] = f"{ROOT}{os.pathsep}{STANDIN}"
        env["TORCH_DEVICE_BACKEND_AUTOLOAD"] = "1"
    env |= environment
    arguments = [str(a) for a in arguments]
    return subprocess.run(
        [sys.executable, *arguments], env=env, input=stdin, capture_output=True, text=True
    )


def told(done):
    """The one line that a failed process says."""
    assert done.returncode == 1, done.stderr
    assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith("error: "), done.stderr
    return done.stderr


def distance(found, expected):
    """The relative L2 error."""
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


def write_system(folder, name):
    """Weights and inputs of a system, as the workflow leaves them."""
    architecture, size = SYSTEMS[name]
    architecture = architecture.replace("tiny.py", str(folder / "tiny.py"))
    place = folder / name
    place.mkdir()
    torch.manual_seed(1)
    model = architectures.build(architecture)
    save_file(model.state_dict(), place / "weights.safetensors")
    digest = evidence.sha256(place / "weights.safetensors")
    sidecar = {"architecture": architecture, "arguments": {}, "sha256": digest}
    evidence.write_json(place / "weights.json", sidecar)
    inputs = np.random.default_rng(1).standard_normal((2, 3, size, size), np.float32)
    digest = evidence.write_array(place / "inputs.npy", inputs)
    evidence.write_json(place / "inputs.json", {"sha256": digest})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the system that needs neither timm nor torchvision."""
    folder = tmp_path_factory.mktemp("npu")
    (folder / "tiny.py").write_text(NETWORK)
    write_system(folder, "tiny")
    return folder


RUNS = {
    **{name: (name, HF32, "") for name in SYSTEMS},
    "resnet18 fp32": ("resnet18", FP32, ""),
    "attention products": ("attention", PRODUCTS, ""),
    "tiny dead_channel": ("tiny", HF32, "dead_channel"),
    "tiny nan": ("tiny", HF32, "nan"),
    "tiny fp16": ("tiny", FP16, "fp16"),
    "tiny fp32": ("tiny", FP32, ""),
    "tiny products": ("tiny", PRODUCTS, ""),  # last: its flags are the opposite of the defaults
}


@pytest.fixture(scope="module")
def measured(folder):
    """Run scripts/outputs.py on the stand-in, for each of `RUNS`; return what the device noted."""
    for system in set(SYSTEMS) - {"tiny"}:
        write_system(folder, system)
    calls = [
        {
            "weights_folder": str(folder / system),
            "inputs": str(folder / system / "inputs.npy"),
            "output": str(folder / name / "measured" / "outputs.npy"),
            "device": {"backend": "npu", "numerics": numerics},
            "fault": fault,
        }
        for name, (system, numerics, fault) in RUNS.items()
    ]
    script, trace = ROOT / "scripts" / "outputs.py", folder / "trace.json"
    stdin = json.dumps(calls)
    done = python("-c", OUTPUTS, script, stdin=stdin, STANDIN_NPU_TRACE=str(trace))
    assert done.returncode == 0, done.stderr
    return json.loads(trace.read_text())


def outputs(folder, name):
    return np.load(folder / name / "measured" / "outputs.npy")


def reference(folder, name, numerics):
    """What this process, which has no stand-in, computes or predicts."""
    model = checkpoints.load(folder / name)
    inputs = np.load(folder / name / "inputs.npy")
    if numerics is None:
        return measure(model, inputs, Device("cpu"))
    return predict(model, inputs, Device("npu", Numerics(**numerics)))


# The stand-in itself

STANDIN_FACTS = """
import json, torch, torch_npu
from npu_parity.numerics import probing, rounding
from torch_npu.tensor import _hf32


def refusal(do):
    try:
        do()
    except Exception as error:
        return f"{type(error).__name__}: {error}"


x = torch.randn(2, 3, 8, 8)
on_npu, conv = x.to("npu"), torch.nn.Conv2d(3, 4, 3)
mixed = [refusal(lambda: on_npu + x), refusal(lambda: conv(on_npu))]
conv.to("npu")
y = conv(on_npu)
facts = {
    "mixed": [*mixed, refusal(lambda: conv(x))],
    "devices": [str(t.device) for t in (on_npu, y, conv.weight, y.sum(), torch.eye(2).npu())],
    "numpy": refusal(on_npu.numpy),
    "copied": bool((on_npu.cpu() == x).all()),
    "own_memory": not bool((on_npu.zero_().cpu() == x).any()),
    "name": torch.npu.get_device_name(0),
    "count": [torch.npu.is_available(), torch.npu.device_count(), torch.npu.current_device()],
}

bits = torch.randint(-(2**31), 2**31, (100_000,)).to(torch.int32)
bits[:64] = 0x3F800000 + 0x800 * torch.arange(64)  # every other one is a tie
values = bits.view(torch.float32)
values = values[values.abs() >= 2.0**-126]  # what becomes of subnormals is not documented
facts["rounding"] = bool((_hf32(values) == rounding.round_to(values, "hf32")).all())
facts["rounded"] = float((_hf32(values) != values).float().mean())

facts["probes"] = []
for torch.npu.conv.allow_hf32, torch.npu.matmul.allow_hf32 in ((True, False), (False, True)):
    found = probing.probe(device="npu")
    facts["probes"].append([found[kind]["format"] for kind in ("conv", "matmul")])
print(json.dumps(facts))
"""


def test_standin_keeps_sides_apart_and_rounds():
    done = python("-c", STANDIN_FACTS)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    for words in facts["mixed"]:
        assert words.startswith("RuntimeError: Expected all tensors to be on the same device")
        assert "npu:0 and cpu" in words
    assert facts["devices"] == ["npu:0"] * 5
    assert facts["numpy"].startswith("TypeError: can't convert npu:0 device type tensor to numpy")
    assert facts["copied"] and facts["own_memory"]
    assert facts["name"] == "Ascend910B stand-in" and facts["count"] == [True, 1, 0]
    assert facts["rounding"] and facts["rounded"] > 0.9
    assert facts["probes"] == [["hf32", "fp32"], ["fp32", "hf32"]]


# Outputs


@pytest.mark.parametrize("name", [n for n, run in RUNS.items() if run[1] in (HF32, PRODUCTS)])
def test_measured_agrees_with_predicted_and_differs_from_the_cpu(folder, measured, name):
    system, numerics, fault = RUNS[name]
    found, expected = outputs(folder, name), reference(folder, system, numerics)
    assert found.shape == expected.shape and found.dtype == np.float32
    if fault:
        assert not distance(found, expected) < 0.1  # NaN, too
    else:
        assert distance(found, expected) < ROUNDING
        assert distance(found, reference(folder, system, None)) > 10 * ROUNDING


@pytest.mark.parametrize("system", ["tiny", "resnet18"])
def test_float32_agrees_with_the_cpu(folder, measured, system):
    found = outputs(folder, f"{system} fp32")
    assert distance(found, reference(folder, system, None)) < ROUNDING


def test_faults_show(folder, measured):
    assert np.isnan(outputs(folder, "tiny nan")).any()
    assert np.isfinite(outputs(folder, "tiny dead_channel")).all()
    halves = outputs(folder, "tiny fp16")  # as a device whose numerics cannot be chosen
    assert distance(halves, reference(folder, "tiny", FP16)) < ROUNDING
    assert distance(halves, reference(folder, "tiny", HF32)) > 10 * ROUNDING


def test_flags_are_set_and_put_back(measured):
    assert (measured["conv"], measured["matmul"]) == (True, False)
    trace = [event for event, count in measured["trace"] for _ in range(count)]
    conv = [event for event in trace if event.startswith("conv")]
    set_by_runs = ["on" if run[1]["conv"] == "hf32" else "off" for run in RUNS.values()]
    twice = [value for value in set_by_runs for _ in range(2)]  # for the run, and for its record
    assert conv[::2] == [f"conv hf32 {value}" for value in twice]
    assert conv[1::2] == ["conv hf32 on"] * len(twice)
    compiled = [event for event in trace if event.startswith("jit_compile")]
    assert set(compiled) == {"jit_compile off"}


def test_record_says_where_it_ran(folder, measured):
    place = folder / "tiny" / "measured"
    record = json.loads((place / "run.json").read_text())
    assert (record["run"], record["backend"]) == ("measured", "npu")
    assert record["numerics"]["conv"] == "hf32"
    assert record["executed_on"] == {
        "backend": "npu",
        "name": "Ascend910B stand-in",
        "cann": "stand-in for CANN",
        "soc": "Ascend910B stand-in",
        "total_memory": 64 * 2**30,
    }
    assert record["switches"] == {
        "torch.npu.conv.allow_hf32": True,
        "torch.npu.matmul.allow_hf32": False,
        "torch.npu.matmul.cube_math_type": None,
        "torch.npu.option.ACL_PRECISION_MODE": None,
        "torch.npu.option.jitCompile": "disable",
    }
    assert record["versions"]["torch-npu"] == "2.14.0+standin"
    assert record["sha256"]["outputs"] == evidence.sha256(place / "outputs.npy")


# A device that misbehaves

CHECKS = """
import copy, json, os, sys
import numpy as np
from npu_parity.check import check_port
from npu_parity.errors import ParityError
from npu_parity.sources import checkpoints

model = checkpoints.load(sys.argv[1])
inputs = np.load(f"{sys.argv[1]}/inputs.npy")
found = {}
for name, (fault, numerics) in json.load(sys.stdin).items():
    os.environ["STANDIN_NPU_FAULT"] = fault
    try:
        found[name] = str(check_port(model, copy.deepcopy(model), inputs, "npu", numerics))
    except ParityError as error:
        found[name] = f"error: {error}"
print(json.dumps(found))
"""

# Each misbehaviour: the fault, the numerics that are asked for, and how the product names it.
MISBEHAVIOURS = {
    "none": ("", HF32, r"PASS \(strong.*nearest numerics: hf32"),
    "none, HF32 off": ("", FP32, r"PASS \(strong.*nearest numerics: fp32"),
    "wrong kernel": (
        "dead_channel",
        HF32,
        r"FAIL \(question 2, same kernels: operator 0 aten.convolution.default at stem.0: .*found 0"
        r" at .*goes wrong first at operator 0 aten.convolution.default, stem.0",
    ),
    "NaN": (
        "nan",
        HF32,
        r"FAIL \(question 2.* at stem.0: .*found nan.*3\..*input 0: nan in column",
    ),
    "results before synchronisation": ("early", HF32, r"FAIL .*3\. same answer\? no: input 0: "),
    "coarser numerics than the flags say": (
        "fp16",
        HF32,
        r"FAIL \(question 2.* at stem.0: .*follows from operands in hf32.*3\. same answer\? no",
    ),
    "HF32 that cannot be switched off": (
        "hf32",
        FP32,
        r"FAIL \(question 2.* at stem.0: .*3\. same answer\? no.*nearest numerics: hf32",
    ),
    "HF32 in products that do not allow it": (
        "hf32",
        HF32,
        r"FAIL \(question 2.*aten.addmm.default at head.1: .*from operands in fp32",
    ),
    "flags that do nothing": (
        "deaf",
        FP32,
        r"error: device npu: torch.npu.conv.allow_hf32 was set to False, but it reads True; ",
    ),
    "silent fallback to the CPU": (
        "cpu",
        HF32,
        r"PASS \(weak.*4\. enough evidence\? no: the outputs are the reference's, bit for bit: "
        r"perhaps the device was not used.*nearest numerics: fp32",
    ),
    "out of memory": ("no_memory", HF32, r"error: device npu failed: NPU out of memory\. Tried to"),
    "out of memory in mid-run": (
        "full",
        HF32,
        r"error: Net on input \d of shape \(1, 3, 30, 30\): RuntimeError: NPU out of memory\.",
    ),
    "device lost in mid-run": (
        "lost",
        HF32,
        r"error: device npu failed: synchronize:.*NPU function error: .*, error code is 507015$",
    ),
    "a device that recovers": ("", HF32, r"PASS \(strong.*nearest numerics: hf32"),
}


@pytest.fixture(scope="module")
def checked(folder):
    """What `check_port` says about each of `MISBEHAVIOURS`."""
    asked = {name: case[:2] for name, case in MISBEHAVIOURS.items()}
    done = python("-c", CHECKS, folder / "tiny", stdin=json.dumps(asked))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", MISBEHAVIOURS)
def test_misbehaviour_is_named(checked, name):
    *_, named = MISBEHAVIOURS[name]
    assert re.match(named, checked[name], re.DOTALL), checked[name]
    if named.startswith("error"):
        assert len(checked[name].splitlines()) == 1


def test_every_fault_of_the_standin_is_asked_for():
    """A fault without a case here would show nothing. `no_cann` has tests of its own below."""
    done = python("-c", "import torch, torch_npu; print(*torch_npu.npu.FAULTS)")
    assert done.returncode == 0, done.stderr
    asked = {fault for fault, *_ in MISBEHAVIOURS.values()} - {""}
    assert set(done.stdout.split()) == asked | {"no_cann"}


# Nothing to run on


def command(folder, device, output):
    """A command line of scripts/outputs.py."""
    files = "--weights-folder", folder / "tiny", "--inputs", folder / "tiny" / "inputs.npy"
    output = folder / output / "outputs.npy"
    return ROOT / "scripts" / "outputs.py", *files, "--device", device, "--output", output


@pytest.mark.skipif(hasattr(torch, "npu"), reason="this machine has torch_npu")
def test_no_torch_npu(folder):
    line = told(python(*command(folder, "npu", "refused"), standin=False))
    assert "device npu: torch_npu is not installed; run: make EXTRA=npu" in line


@pytest.mark.parametrize("backend", ["npu", "cpu"])
def test_torch_npu_without_cann(folder, backend):
    line = told(python(*command(folder, backend, "refused"), STANDIN_NPU_FAULT="no_cann"))
    assert "libhccl.so" in line
    assert "set_env.sh, or set TORCH_DEVICE_BACKEND_AUTOLOAD=0" in line
    assert not (folder / "refused").exists()


def test_torch_npu_without_cann_not_loaded(folder):
    environment = {"STANDIN_NPU_FAULT": "no_cann", "TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}
    line = told(python(*command(folder, "npu", "refused"), **environment))
    assert "libhccl.so" in line and "set_env.sh" in line
    done = python(*command(folder, "cpu", "on_cpu"), **environment)
    assert done.returncode == 0, done.stderr
    assert "torch-npu" in json.loads((folder / "on_cpu" / "run.json").read_text())["versions"]


def test_npu_that_fails(folder):
    line = told(python(*command(folder, "npu", "refused"), STANDIN_NPU_FAULT="no_memory"))
    assert "device npu failed: NPU out of memory." in line
    assert not (folder / "refused").exists()


@pytest.mark.parametrize("found", ["tf32", "bf16"])
def test_numerics_that_no_npu_has(folder, found):
    device = json.dumps({"backend": "npu", "numerics": {"conv": found}})
    line = told(python(*command(folder, device, "refused")))
    assert f"found numerics {found} for conv, expected one of fp32, hf32, fp16" in line


TOO_EARLY = """
import runpy, sys

for file in sys.argv[1:]:
    runpy.run_path(file, run_name="imported")
    if "torch" in sys.modules:
        sys.exit(f"{file} imports torch outside main: cli.run cannot tell why it fails")
"""


def test_command_lines_import_torch_where_its_failure_is_told():
    files = [*ROOT.glob("scripts/*.py"), ROOT / "npu_parity" / "__main__.py"]
    done = python("-c", TOO_EARLY, *files, standin=False)
    assert done.returncode == 0, done.stderr


# The workflow

CONFIG = {
    "reference": "cpu",
    "devices": {
        "cpu": {"backend": "cpu"},
        "npu": {"backend": "npu", "numerics": HF32, "measure": "never"},
    },
    "latency": {"batch_sizes": [1, 2], "warmup": 2, "samples": 5, "batch_samples": 3},
    "models": {
        "tiny": {
            "architecture": "tiny.py:net",
            "weights": ["seed:1"],
            "calibrate": False,
            "inputs": ["random:2"],
            "preprocessing": {"resize": 32, "crop": 30},
        }
    },
}


@pytest.fixture(scope="module")
def snakemake(tmp_path_factory):
    """Run the workflow in a folder of its own, on the stand-in."""
    folder = tmp_path_factory.mktemp("workflow")
    (folder / "tiny.py").write_text(NETWORK)
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG))

    def snakemake(profile, *arguments, **environment):
        place = "--snakefile", ROOT / "Snakefile", "--directory", folder
        how = "--workflow-profile", ROOT / "profiles" / profile, "--cores", 2
        done = python("-m", "snakemake", *place, *how, *arguments, **environment)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    snakemake.folder = folder
    return snakemake


def planned(output):
    """Where the planned jobs compute: device/run, and the devices that are timed."""
    outputs = set(re.findall(r"output: results/tiny/(\w+/\w+)/outputs\.npy", output))
    return outputs, set(re.findall(r"output: results/tiny/(\w+)/measured/latency\.json", output))


def test_profile_adds_what_is_measured_on_the_npu(snakemake):
    outputs, timed = planned(snakemake("default", "--dry-run"))
    assert {"cpu/measured", "npu/predicted"} <= outputs and timed == {"cpu"}
    more, more_timed = planned(snakemake("npu", "--dry-run"))
    added = {"npu/measured", "npu_fp32/measured"}
    assert more - outputs == added and outputs <= more
    assert more_timed == {"cpu", "npu", "npu_fp32"}
    half, _ = planned(snakemake("npu_half", "--dry-run"))
    narrow = {f"npu_{name}/{run}" for name in ("fp16", "bf16") for run in ("predicted", "measured")}
    assert half - more == narrow and more <= half


def test_workflow_times_the_npu(snakemake):
    target, trace = "results/tiny/npu/measured/latency.json", snakemake.folder / "trace.json"
    snakemake("npu", target, STANDIN_NPU_TRACE=str(trace), STANDIN_NPU_MS="1")

    runs = json.loads(trace.read_text())["trace"]
    timed = []  # from an idle device to an idle device
    for (before, _), (event, launches), (after, _) in zip(runs, runs[1:], runs[2:], strict=False):
        if (before, event, after) == ("synchronize", "launch", "synchronize"):
            timed.append(launches)
    checks = timed[:3]  # the first call, and two passes that estimate the time
    steady = min(timed)
    # A pass by the clock of the device is followed by one that gives outputs to copy.
    assert steady > 10 and set(timed) == {steady, checks[0], steady + checks[0]}
    assert len(set(checks)) == 1

    found = json.loads((snakemake.folder / target).read_text())
    # A first call, which is a warm pass too, and one more for each batch size. A busy machine is
    # measured again.
    attempts = [found["batch_sizes"][size]["attempts"] for size in ("1", "2")]
    most = 2 + (2 + 5 * attempts[0] + 2 * STAGED) + (2 + 3 * attempts[1] + 2 * STAGED)
    assert 2 + (2 + 5 + 2 * STAGED) + (2 + 3 + 2 * STAGED) <= len(timed) <= most
    assert (found["unit"], found["backend"]) == ("ms", "npu")
    # The profile leaves what it does not name.
    assert found["numerics"] == Numerics(**HF32).to_dict()
    assert found["executed_on"]["name"] == "Ascend910B stand-in"
    assert found["executed_on"]["cann"] == "stand-in for CANN"
    assert found["peak_memory_bytes"] > 0
    weights = snakemake.folder / "results" / "tiny" / "weights.safetensors"
    assert found["weights_sha256"] == evidence.sha256(weights)
    for size, count in (("1", 5), ("2", 3)):
        timing = found["batch_sizes"][size]
        assert len(timing["samples"]) == count
        assert min(timing["samples"]) >= steady  # each launch keeps the device busy for 1 ms
        stages = timing["stages"]
        assert {len(samples) for samples in stages.values()} == {STAGED}
        assert min(stages["compute"]) >= steady and min(stages["on_device"]) >= steady
        assert timing["first_call"] >= steady
        assert min(map(min, (stages["to_device"], stages["to_host"]))) >= 0
        assert timing["throughput"] == pytest.approx(1000 * int(size) / timing["mean"])


def test_workflow_with_hf32_on_and_off(snakemake):
    """One command measures both settings beside their predictions, after a probe of each."""
    done = snakemake("npu", "all", "verify")
    place = snakemake.folder / "results"
    for device, found in (("npu", "hf32"), ("npu_fp32", "fp32")):
        metrics = json.loads((place / f"tiny/{device}/measured/metrics.json").read_text())
        assert metrics["verdict"] == "PASS" and metrics["numerics_found"] == found
        probe = json.loads((place / f"probes/{device}.json").read_text())
        assert probe["probe"]["conv"]["format"] == found
        assert probe["switches"]["torch.npu.conv.allow_hf32"] == (found == "hf32")
        first = done.index(f"results/probes/{device}.json")
        assert first < done.index(f"output: results/tiny/{device}/measured/outputs.npy")
    explained = json.loads((place / "tiny/npu/measured/metrics.json").read_text())["explained"]
    assert explained > 0.9
    table = (place / "tables/summary.md").read_text().partition("What each setting costs")[2]
    rows = re.findall(r"^\| tiny +\| (\w+) +\| (conv \w+)", table, re.MULTILINE)
    assert rows == [("npu", "conv hf32"), ("npu_fp32", "conv fp32")]
