"""Common: the configuration, and the runs that it asks for."""

import gc
import os
import sys

from snakemake.utils import update_config

from npu_parity import config as configuration
from npu_parity.errors import ParityError, shorten

gc.freeze()  # what was imported stays, so Python need not look for cycles in it

# `python` in a rule is the Python that runs Snakemake. It imports the package beside the Snakefile.
os.environ |= {
    "PATH": os.pathsep.join([os.path.dirname(sys.executable), *os.get_exec_path()]),
    "PYTHONPATH": os.pathsep.join(
        [str(workflow.basedir), *filter(None, [os.getenv("PYTHONPATH")])]
    ),
}

try:
    if misread := [c for c in f"{{}}{os.pathsep}" if c in str(workflow.basedir)]:
        raise ParityError(
            f"{shorten(repr(str(workflow.basedir)), 150)}: found {misread[0]!r} in the path of this "
            "project; Snakemake or Python would misread it: rename the folder"
        )
    document = configuration.read("config.yaml")
    # What --config and --configfile say comes on top of the file.
    given, config = config, document.data
    if given and isinstance(config, dict):
        update_config(config, given)
        document.override(given)
    configuration.complete(config, document)
    configuration.check_files(config, document)
except ParityError as error:
    sys.exit(f"error: {error}")

SYSTEMS = list(config["models"])
PLANNED, LEFT_OUT = configuration.runs(config)
RUNS = [f"{device}/{run}" for device, run in PLANNED]
REFERENCE, *COMPARED = RUNS
MEASURED = [f"{device}/{run}" for device, run in PLANNED if run == "measured"]
TIMED = [f"{device}/{run}" for device, run in configuration.timed(config, PLANNED)]

# Files that can be made again byte for byte. Without keep_large, Snakemake removes each one after the
# last job that needs it.
LARGE = SYSTEMS if config["keep_large"] else []
large = str if config["keep_large"] else temp

# A torch_npu that cannot be imported would abort every job. With conda, jobs use another Python. The
# nodes of a cluster have drivers that this machine may not have.
ON_CLUSTER = workflow.resource_settings.nodes is not None
try:
    if not ON_CLUSTER and not workflow.deployment_settings.deployment_method:
        configuration.check_software(config, PLANNED)
except ParityError as error:
    sys.exit(f"error: {error}")


wildcard_constraints:
    system="|".join(SYSTEMS),
    device="|".join(config["devices"]),
    run="measured|predicted|exact|hosted",
