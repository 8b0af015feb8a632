"""Code for all other files: the configuration, its runs, and the common parts of rules.

A job runs again if the content of its parameters, inputs or code changes. Snakemake does not follow
the programs in `shell:`. Therefore each rule has the hash of its program's code as a parameter.
"""

import json
import os
import sys
from functools import cache

from snakemake.utils import update_config

from npu_parity import config as configuration
from npu_parity.backends.device import BACKENDS
from npu_parity.errors import ParityError
from npu_parity.evidence.code import digest
from npu_parity.sources import images

# `python` in a rule is the Python that runs Snakemake. It imports the package beside the Snakefile.
os.environ |= {
    "PATH": os.pathsep.join([os.path.dirname(sys.executable), *os.get_exec_path()]),
    "PYTHONPATH": os.pathsep.join(
        [str(workflow.basedir), *filter(None, [os.getenv("PYTHONPATH")])]
    ),
}

try:
    document = configuration.read("config.yaml")
    # What --config and --configfile say comes on top of the file.
    given, config = config, document.data
    if given:
        update_config(config, given)
    configuration.complete(config, document)
    configuration.check_files(config, document)
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
    """Return the relative path of scripts/NAME.py, the same for any folder of the project."""
    return os.path.relpath(f"{workflow.basedir}/scripts/{name}.py")


@cache
def digest_of(name: str, *backends: str) -> str:
    """Return the hash of all code that scripts/NAME.py uses with these backends."""
    return digest(script(name), {BACKENDS.entries[backend] for backend in backends})


def code(name: str):
    """Return a function of the wildcards: the hash of scripts/NAME.py and all code that it uses."""

    def value(wildcards):
        device = wildcards.get("device")
        named = ["cpu", config["devices"][device]["backend"]] if device else []
        return digest_of(name, *sorted(set(named)))

    return value


def setting(key: str):
    """Return a function of the wildcards: a setting of the system, with mappings as JSON."""

    def value(wildcards):
        found = config["models"][wildcards.system].get(key, {})
        return json.dumps(found) if isinstance(found, dict) else found

    return value


def of_system(find):
    """Return a function of the wildcards: the result of `find` on the settings of the system."""
    return lambda wildcards: find(config["models"][wildcards.system])


def network(wildcards) -> dict:
    """Return the input files of a program that runs the network, including the user's own files."""
    folder = f"results/{wildcards.system}"
    return {
        "weights": f"{folder}/weights.safetensors",
        "provenance": f"{folder}/weights.json",
        "inputs": f"{folder}/inputs.npy",
        "names": f"{folder}/inputs.json",
        "own": configuration.network_files(config["models"][wildcards.system]),
    }


def on_device(wildcards) -> list[str]:
    """Return the options of a program that runs the network: weights, inputs and the device."""
    folder, device = f"results/{wildcards.system}", config["devices"][wildcards.device]
    target = {key: device[key] for key in ("backend", "numerics")}
    options = {"weights-folder": folder, "inputs": f"{folder}/inputs.npy"}
    options["device"] = json.dumps(target)
    return [f"--{name}={value}" for name, value in options.items()]


def ported(wildcards) -> list[str]:
    """Return the option with the port's own architecture, for measured runs of devices."""
    system, run = config["models"][wildcards.system], wildcards.get("run", "measured")
    own = run == "measured" and wildcards.device != config["reference"]
    return [f"--ported={system['ported']}"] if own and "ported" in system else []
