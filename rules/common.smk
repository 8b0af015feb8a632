"""Shared by the other files: the configuration, the runs it asks for, and what rules have in common.

A job runs again when its parameters, inputs or code change by content. Snakemake does not follow
the programs that `shell:` calls. Hence the hash of a program's code is one of its parameters.
"""

import json
import os
import sys
from functools import cache

from npu_parity import config as configuration
from npu_parity.backends.device import BACKENDS
from npu_parity.errors import ParityError
from npu_parity.evidence.code import digest
from npu_parity.sources import images

# `python` in a rule is the one that runs Snakemake, and imports the package beside the Snakefile.
os.environ |= {
    "PATH": os.pathsep.join([os.path.dirname(sys.executable), *os.get_exec_path()]),
    "PYTHONPATH": os.pathsep.join(
        [str(workflow.basedir), *filter(None, [os.getenv("PYTHONPATH")])]
    ),
}

try:
    configuration.complete(config, "config.yaml")
    configuration.check_files(config, "config.yaml")
except ParityError as error:
    sys.exit(f"error: {error}")

SYSTEMS = list(config["models"])
PLANNED, LEFT_OUT = configuration.runs(config)
RUNS = [f"{device}/{run}" for device, run in PLANNED]
REFERENCE, *COMPARED = RUNS
MEASURED = [f"{device}/{run}" for device, run in PLANNED if run == "measured"]


wildcard_constraints:
    system="|".join(SYSTEMS),
    device="|".join(config["devices"]),
    run="measured|predicted|exact",


def script(name: str) -> str:
    """Return where scripts/NAME.py lies, the same wherever the project lies."""
    return os.path.relpath(f"{workflow.basedir}/scripts/{name}.py")


@cache
def digest_of(name: str, *backends: str) -> str:
    """Return the hash of all that scripts/NAME.py computes with, on these backends."""
    return digest(script(name), {BACKENDS.entries[backend] for backend in backends})


def code(name: str):
    """Return a function of the wildcards: the hash of scripts/NAME.py and all that it uses."""

    def value(wildcards):
        device = wildcards.get("device")
        named = ["cpu", config["devices"][device]["backend"]] if device else []
        return digest_of(name, *sorted(set(named)))

    return value


def setting(key: str):
    """Return a function of the wildcards: a setting of the system, a mapping as JSON."""

    def value(wildcards):
        found = config["models"][wildcards.system].get(key, {})
        return json.dumps(found) if isinstance(found, dict) else found

    return value


def of_system(find):
    """Return a function of the wildcards: what `find` finds in the settings of the system."""
    return lambda wildcards: find(config["models"][wildcards.system])


def network(wildcards) -> dict:
    """Return what a program that runs the network reads: weights, inputs, the user's own files."""
    folder = f"results/{wildcards.system}"
    return {
        "weights": f"{folder}/weights.safetensors",
        "provenance": f"{folder}/weights.json",
        "inputs": f"{folder}/inputs.npy",
        "names": f"{folder}/inputs.json",
        "own": configuration.network_files(config["models"][wildcards.system]),
    }


def on_device(wildcards) -> list[str]:
    """Return the options of such a program: weights, inputs and the device."""
    folder, device = f"results/{wildcards.system}", config["devices"][wildcards.device]
    target = {key: device[key] for key in ("backend", "numerics")}
    options = {"weights-folder": folder, "inputs": f"{folder}/inputs.npy"}
    options["device"] = json.dumps(target)
    return [f"--{name}={value}" for name, value in options.items()]


def ported(wildcards) -> list[str]:
    """Return the option that names a port's own architecture, for measured runs of devices."""
    system, run = config["models"][wildcards.system], wildcards.get("run", "measured")
    own = run == "measured" and wildcards.device != config["reference"]
    return [f"--ported={system['ported']}"] if own and "ported" in system else []
