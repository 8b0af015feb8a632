"""The workflow in a folder of its own, to be run by Snakemake on networks of a few layers."""

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path

import door
import numpy as np
import yaml
from hub_server import NOWHERE, hub_env
from PIL import Image

from npu_parity.backends.device import BACKENDS, Device

ROOT = Path(__file__).resolve().parents[1]
PARTS = (
    "Snakefile",
    "models",
    "rules",
    "scripts",
    "npu_parity",
    "profiles",
    "envs",
)
ABSENT = next(backend for backend in BACKENDS if Device(backend).missing())

NETWORK = """
from torch import nn


def net():
    layers = []
    for channels, more in ((3, 8), (8, 16)):
        layers += [nn.Conv2d(channels, more, 3, 2), nn.BatchNorm2d(more), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))
"""


def system(**settings):
    return {
        "architecture": "tiny.py:net",
        "weights": ["seed:1"],
        "inputs": ["random:1"],
        "preprocessing": {"resize": 40, "crop": 32},
        "calibrate": False,
        **settings,
    }


CONFIG = {
    "reference": "cpu",
    "devices": {
        "cpu": {"backend": "cpu"},
        "npu": {"backend": "npu", "numerics": {"conv": "hf32"}, "measure": "never"},
        "absent": {"backend": ABSENT},
    },
    "latency": {"batch_sizes": [1, 2], "warmup": 1, "samples": 3, "batch_samples": 2},
    "models": {
        "noise": system(inputs=["random:2", "synthetic:1"], calibrate=True),
        "photo": system(weights=["seed:2"], inputs=["photo.png", "album"], labels="labels.txt"),
    },
}

# One system, for tests that run everything more than once.
SMALL = CONFIG | {
    "models": {"net": system(inputs=["photo.png", "random:1"], labels="labels.txt", calibrate=True)}
}
AS_MAKE = ("--logger", "rich", "--cores", "4")  # the options of the Makefile
# Results that hold timings: latency.json, and what is made from it.
TIMED = re.compile(
    r"(.*/latency\.json|.*/card(\.zh)?\.md|results/(summary\.json|report\.html)"
    r"|results/tables/(?!overview)\w+\.md)"
)


@dataclass
class Project:
    """A copy of the workflow and, beside it, a folder in which it is run."""

    place: Path
    env: dict = field(default_factory=dict)

    @property
    def repository(self):
        return self.place / "repository"

    @property
    def folder(self):
        return self.place / "work"

    @classmethod
    def make(cls, place, config):
        project = cls(place)
        copy_parts(project.repository)
        (project.folder / "album").mkdir(parents=True)
        draw(project.folder / "photo.png", 0)
        draw(project.folder / "album" / "one.png", 1)
        (project.folder / "labels.txt").write_text("\n".join("abcdefghij"))
        (project.folder / "tiny.py").write_text(NETWORK)
        project.configure(lambda empty: empty.update(deepcopy(config)))
        return project

    def copy(self, place):
        return Project(shutil.copytree(self.place, place, dirs_exist_ok=True), self.env)

    def empty(self):
        """Remove all that runs have left, so that the next one starts from nothing."""
        for folder in ("results", "logs", ".snakemake"):
            shutil.rmtree(self.folder / folder)
        return self

    def configure(self, change):
        file = self.folder / "config.yaml"
        config = yaml.safe_load(file.read_text()) if file.exists() else {}
        change(config)
        file.write_text(yaml.safe_dump(config, sort_keys=False))

    def command(self, *arguments):
        snakefile = self.repository / "Snakefile"
        program = [sys.executable, "-m", "snakemake", "--snakefile", snakefile]
        # The copy's own package, not the one that is installed.
        env = os.environ | hub_env(NOWHERE, self.place) | {"PYTHONPATH": str(self.repository)}
        return {
            "args": [*program, "--directory", self.folder, *arguments],
            "cwd": self.folder,
            "env": env | self.env,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.STDOUT,
            "text": True,
        }

    def run(self, *arguments, cores=2):
        more = () if "--cores" in arguments else ("--cores", str(cores))
        command = self.command(*more, *arguments)
        # Only a new Python runs a sitecustomize.
        return subprocess.run(**command) if "PYTHONPATH" in self.env else door.run(command)

    def succeed(self, *arguments):
        done = self.run(*arguments)
        assert done.returncode == 0, done.stdout
        return done.stdout

    def plan(self, *arguments):
        """What would be run: a rule and its wildcards, such as ``weights noise``."""
        plan = self.succeed("--dry-run", *arguments)
        assert re.search(r"^(Job stats:|Nothing to be done.*)$", plan, re.MULTILINE), plan
        jobs = set()
        for rule, about in re.findall(
            r"^(?:local)?rule (\w+):\n((?: {4}.*\n)*)", plan, re.MULTILINE
        ):
            wildcards = re.search(r"^ {4}wildcards: .*", about, re.MULTILINE)
            values = re.findall(r"=([^,]+)", wildcards[0]) if wildcards else []
            jobs.add(" ".join([rule, *values]))
        return jobs - {"all"}

    def files(self, pattern="results/**/*"):
        found = [p for p in self.folder.glob(pattern) if p.is_file()]
        return {str(p.relative_to(self.folder)): p for p in found}

    def json(self, file):
        return json.loads((self.folder / file).read_text())

    def comparable(self):
        """All results that must have the same bytes in every run; manifests without timings."""
        found = {name: p.read_bytes() for name, p in self.files().items()}
        for name in [name for name in found if TIMED.fullmatch(name)]:
            found[name] = "timings"
        for name in [name for name in found if name.endswith("manifest.json")]:
            entries = json.loads(found[name])["files"]
            for file, entry in entries.items():
                if TIMED.fullmatch(f"{Path(name).parent}/{file}"):
                    entry["sha256"] = "of timings"
                entry["read"] = {f: s for f, s in entry["read"].items() if not TIMED.fullmatch(f)}
            found[name] = entries
        return found

    def state(self, pattern):
        found = self.files(pattern)
        assert found
        return {name: (p.stat().st_mtime_ns, p.read_bytes()) for name, p in found.items()}


def finished(tmp_path_factory):
    """The project of one system, run as `make` runs it; tests that change anything copy it.

    All processes of pytest share it. The file `output` is what the run printed.
    """
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    place = shared / "finished"
    with (shared / "finished.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (place / "output").exists():
            return Project(place)
        project = Project.make(place, SMALL)
        done = project.run(*AS_MAKE, "all")
        assert done.returncode == 0, done.stdout
        (place / "output").write_text(done.stdout)
        return project


def copy_parts(place, parts=PARTS):
    """Copy files and folders of this checkout into a folder."""
    place.mkdir(parents=True, exist_ok=True)
    for part in parts:
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy2
        copy(ROOT / part, place / part)


def draw(path, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def told(output):
    """The one line that tells what is wrong, in what Snakemake printed."""
    assert "Traceback" not in output, output
    lines = [line for line in output.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, output
    return lines[0]
