"""Shared by the other files: the configuration, the runs it asks for, and hashes of the code.

A job runs again when its parameters, inputs or code change by content. Programs that `shell:`
calls are no trigger of Snakemake's own, hence `code=code("...")` among the parameters.
"""

import json
import os
import sys
from functools import cache

from snakemake.exceptions import WorkflowError
from snakemake.utils import validate

from npu_parity import config as configuration
from npu_parity import evidence, inputs as input_sources
from npu_parity.errors import ParityError

# `python` in a rule is the one that runs Snakemake, and imports the package beside this file.
os.environ |= {
    "PATH": os.pathsep.join([os.path.dirname(sys.executable), *os.get_exec_path()]),
    "PYTHONPATH": os.pathsep.join(
        [str(workflow.basedir), *filter(None, [os.getenv("PYTHONPATH")])]
    ),
}

try:
    validate(config, "../config.schema.yaml")
    configuration.check(config, "config.yaml")
    configuration.check_files(config, "config.yaml")
except WorkflowError as error:
    sys.exit(f"error: config.yaml: {configuration.explain(error.__context__)}")
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
def code(name: str) -> str:
    """Return a hash of all that scripts/NAME.py computes with."""
    return evidence.code_digest(script(name))


def setting(wildcard: str, key: str):
    """Return a function of the wildcards: a system's or device's setting, mappings as JSON."""
    section = config[{"system": "models", "device": "devices"}[wildcard]]

    def value(wildcards):
        found = section[wildcards[wildcard]].get(key, {})
        return json.dumps(found) if isinstance(found, dict) else found

    return value


def of_system(find):
    """Return a function of the wildcards: what `find` finds in the system's settings."""
    return lambda wildcards: find(config["models"][wildcards.system])


def ported(wildcards) -> list[str]:
    """Return the option that names a port's own architecture, for measured runs of devices."""
    system, run = config["models"][wildcards.system], wildcards.get("run", "measured")
    own = run == "measured" and wildcards.device != config["reference"]
    return ["--ported", system["ported"]] if own and "ported" in system else []
