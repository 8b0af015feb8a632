"""The workflow on a real Slurm (tests/slurm.py), by profiles/slurm: `make slurm`."""

import os
import subprocess
import sys

import pytest
import slurm
from hub_server import NOWHERE, hub_env
from project import CONFIG, ROOT, Project, copy_parts, told

from npu_parity import config

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(slurm.missing() is not None, reason=slurm.missing() or ""),
]

STANDIN = ROOT / "tests" / "standin_npu"
# One NPU, and a Slurm whose jobs are over in seconds.
AS_CLUSTER = ("--profile", "profiles/npu", "--workflow-profile", "profiles/slurm")
QUICK = ("--slurm-init-seconds-before-status-checks", "1", "--seconds-between-status-checks", "1")
OPTIONS = (*QUICK, "--slurm-status-command", "squeue", "--slurm-no-account", "--cores", "2")
# profiles/npu measures these two.
DEVICES = {name: CONFIG["devices"][name] for name in ("cpu", "npu")}
NPU = ("npu", "npu_fp32")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with slurm.Slurm(tmp_path_factory.mktemp("slurm")) as cluster:
        yield cluster


def make(place, cluster):
    project = Project.make(place, CONFIG | {"devices": DEVICES})
    path = os.pathsep.join([str(STANDIN), str(project.repository)])
    project.env = {"PYTHONPATH": path, "TORCH_DEVICE_BACKEND_AUTOLOAD": "1", **cluster.env}
    return project


def profiles(project):
    names = iter(AS_CLUSTER)
    return [part for option in names for part in (option, str(project.repository / next(names)))]


@pytest.fixture(scope="module")
def project(cluster, tmp_path_factory):
    project = make(tmp_path_factory.mktemp("on_cluster"), cluster)
    project.succeed(*profiles(project), *OPTIONS, "all", "verify")
    return project


def test_a_run_on_slurm_has_the_bytes_of_a_local_one(project, cluster, tmp_path):
    local = make(tmp_path, cluster)
    local.succeed("--workflow-profile", str(local.repository / "profiles/npu"), "all", "verify")
    assert project.comparable() == local.comparable()


def test_jobs_ask_slurm_for_what_they_need(project, cluster):
    jobs = {}
    for job in cluster.jobs():
        assert job["JobState"] == "COMPLETED" and job["TimeLimit"] == "01:00:00"
        assert "mem=8000M" in job["ReqTRES"]
        jobs[job["Comment"]] = job
    on_npu = [c for c, job in jobs.items() if "npu:1" in job.get("TresPerNode", "")]
    measured = ("outputs", "operators", "numerics", "divergence", "latency")
    assert len(on_npu) >= len(NPU) * len(CONFIG["models"]) * len(measured) - 1, sorted(jobs)
    assert all("npu" in comment or "probe" in comment for comment in on_npu)
    assert not any("predicted" in comment for comment in on_npu)
    alone = {c for c, job in jobs.items() if job["OverSubscribe"] == "NO"}
    assert alone == {c for c in jobs if "latency" in c}
    short = ("metrics", "table", "card", "summary", "page", "figure")
    assert not [c for c in jobs if any(c.startswith(f"rule_{name}") for name in short)]


def test_a_run_with_nothing_to_do_submits_nothing(project, cluster):
    before = len(cluster.jobs())
    assert "Nothing to be done" in project.succeed(*profiles(project), *OPTIONS, "all")
    assert len(cluster.jobs()) == before


def test_a_job_that_fails_says_why_in_one_line(project, cluster, tmp_path):
    broken = project.copy(tmp_path)
    broken.configure(lambda settings: settings["models"]["noise"].update(weights=["file:none.pth"]))
    done = broken.run(*profiles(broken), *OPTIONS, "results/noise/weights.safetensors")
    assert done.returncode == 1 and "none.pth" in told(done.stdout)


def test_every_system_of_the_project_has_the_same_outputs(cluster, tmp_path):
    """The default configuration: the outputs of all systems on all devices, through sbatch."""
    settings = config.load(ROOT / "config.yaml")
    runs = [f"{device}/{run}" for device, run in config.runs(settings)[0]]
    targets = [f"results/{s}/{run}/outputs.npy" for s in settings["models"] for run in runs]
    outputs = {}
    for name, options in {
        "slurm": ("--workflow-profile", ROOT / "profiles/slurm", *OPTIONS),
        "local": ("--cores", "2"),
    }.items():
        folder = tmp_path / name
        copy_parts(folder, ["config.yaml", "models"])
        command = [sys.executable, "-m", "snakemake", "--snakefile", ROOT / "Snakefile"]
        env = os.environ | hub_env(NOWHERE, tmp_path) | cluster.env
        done = subprocess.run(
            [*command, "--directory", folder, *options, *targets],
            env=env,
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        outputs[name] = {target: (folder / target).read_bytes() for target in targets}
    assert outputs["slurm"] == outputs["local"]
