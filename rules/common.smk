"""What every rule needs: the configuration, the runs it asks for, and hashes of the code.

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
from npu_parity.architectures import own_file
from npu_parity.errors import ParityError

SCRIPTS = f"{workflow.basedir}/scripts"

# `python` in a rule is the one that runs Snakemake, also where no environment is activated.
os.environ["PATH"] = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])

try:
    validate(config, "../config.schema.yaml")
    configuration.check(config, "config.yaml")
except WorkflowError as error:
    sys.exit(f"error: config.yaml: {configuration.explain(error.__context__)}")
except ParityError as error:
    sys.exit(f"error: {error}")

SYSTEMS = list(config["models"])
PLANNED, LEFT_OUT = configuration.runs(config)
RUNS = [f"{device}/{run}" for device, run in PLANNED]
REFERENCE, *COMPARED = RUNS
MEASURED = [path for path in RUNS if path.endswith("/measured")]


wildcard_constraints:
    system="|".join(SYSTEMS),
    device="|".join(config["devices"]),
    run="measured|predicted",


@cache
def code(script: str) -> str:
    """Return a hash of all that scripts/SCRIPT.py computes with."""
    return evidence.code_digest(f"{SCRIPTS}/{script}.py")


def of_system(key: str):
    """Return a function of the wildcards: the system's setting, a mapping as JSON."""

    def value(wildcards):
        setting = config["models"][wildcards.system].get(key, {})
        return json.dumps(setting) if isinstance(setting, dict) else setting

    return value


def of_device(key: str):
    """Return a function of the wildcards: the device's setting, a mapping as JSON."""

    def value(wildcards):
        setting = config["devices"][wildcards.device][key]
        return json.dumps(setting) if isinstance(setting, dict) else setting

    return value


def own_architecture(wildcards):
    """Return the user's file that builds the network, if it is one."""
    file = own_file(config["models"][wildcards.system]["architecture"])
    return [str(file)] if file else []
