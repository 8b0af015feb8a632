"""A run is killed at any moment. The same command completes it, with the same bytes."""

import os
import random
import re
import signal
import subprocess
import time

import pytest
from abuse import many
from project import AS_MAKE, finished

from npu_parity.audit.verify import damaged

pytestmark = [pytest.mark.slow, pytest.mark.abuse("kills")]

# Few kills hit a run up to its metrics, many kills hit a whole run.
TARGETS = many(["results/net/npu/predicted/metrics.json"], [])
COMMAND = (*AS_MAKE, *TARGETS)
LATEST = many(15, 45)  # seconds after the start

# Python runs this before each program. It kills at the moment when a file gets its name: before
# that, or after that, when the manifest does not know the file yet.
PLANTED = """
import os, pathlib, signal

moment, victim, name = os.environ["KILLED"].split(":")
replace = pathlib.Path.replace


def kill(path, target):
    if moment == "after":
        replace(path, target)
    if pathlib.Path(target).name != name:
        return target if moment == "after" else replace(path, target)
    if victim == "run":
        os.killpg(0, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


pathlib.Path.replace = kill
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return finished(tmp_path_factory)


@pytest.fixture
def project(base, tmp_path):
    return base.copy(tmp_path).empty()


def start(project):
    """A run in a group of processes of its own; what it prints is in the file `output`."""
    with (project.place / "output").open("w") as output:
        how = project.command(*COMMAND) | {"stdout": output}
        return subprocess.Popen(**how, start_new_session=True)


def plant(project, how):
    (project.place / "sitecustomize.py").write_text(PLANTED)
    path = os.pathsep.join([str(project.place), str(project.repository)])
    project.env = {"PYTHONPATH": path, "KILLED": how}


def at_work(group):
    """Whether a program of the workflow is running."""
    found = subprocess.run(["ps", "-o", "args=", "-s", str(group)], capture_output=True, text=True)
    return "scripts/" in found.stdout


def wait_for(group):
    """Wait until the jobs that outlived Snakemake have ended."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    raise AssertionError("a job goes on for ever")


def completed(project, base):
    """The same command completes the run: nothing is wrong, and every byte is as in `base`."""
    done = project.run(*COMMAND)
    assert done.returncode == 0 and "Traceback" not in done.stdout, done.stdout
    assert list(damaged(project.folder / "results")) == []
    found, expected = project.comparable(), base.comparable()
    if TARGETS:
        assert TARGETS[0] in found
        found = {name: content for name, content in found.items() if "manifest" not in name}
        expected = {name: expected[name] for name in found}
    assert found == expected
    return done.stdout


def test_a_run_is_killed_at_any_moment(base, project, record_property):
    """Half of the kills hit all processes, half hit Snakemake alone, and its jobs go on."""
    chosen, wanted = random.Random(6), many(2, 30)
    groups, hit = [], 0
    while len(groups) < wanted:
        moment = time.monotonic() + chosen.uniform(0, LATEST)
        alone = chosen.random() < 0.5
        with start(project) as running:
            while time.monotonic() < moment and running.poll() is None:
                time.sleep(0.01)
            if running.poll() is None:
                hit += at_work(running.pid)
                groups.append(running.pid)
                os.kill(running.pid, signal.SIGKILL) if alone else os.killpg(
                    running.pid, signal.SIGKILL
                )
        if groups[-1:] != [running.pid]:  # it was complete before; the next starts from nothing
            completed(project, base)
            project.empty()
    completed(project, base)
    for group in groups:
        wait_for(group)
    completed(project, base)
    assert hit >= wanted // 3
    record_property("cases", wanted)


KILLS = [
    f"{moment}:{victim}:{name}"
    for name in ("outputs.npy", "run.json", "weights.safetensors", "manifest.json")
    for moment in ("after", "before")
    for victim in ("job", "run")
]


@pytest.mark.parametrize("how", many(KILLS[:1], KILLS))
def test_a_job_is_killed_while_it_writes(base, project, how, record_property):
    plant(project, how)
    with start(project) as running:
        assert running.wait() != 0
    output = (project.place / "output").read_text()
    if "job" in how:
        line = output.splitlines()[-1]
        said = r"logs/net/\S+\.log: \w+ was ended by SIGKILL; the largest job had "
        assert re.match(said + r"\d\.\d+ GiB of [\d.]+ GiB of memory in use$", line), output
    project.env = {}
    completed(project, base)
    record_property("cases", 1)
