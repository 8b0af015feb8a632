"""Outdated: results that this configuration and this code would make in another way."""

from pathlib import Path

from npu_parity.cli import CODE
from npu_parity.evidence.outdated import outdated, summary


class Named(dict):
    """Wildcards of a result that is there already."""

    __getattr__ = dict.__getitem__


def expected(name: str, wildcards: dict):
    """Return the code and the options that a program would have today; see `outdated`."""
    known = {"system": SYSTEMS, "device": config["devices"]}
    if name not in PROGRAMS or any(
        value not in known.get(key, [value]) for key, value in wildcards.items()
    ):
        return None
    options = PROGRAMS[name](Named(wildcards))
    return next(o.removeprefix(CODE) for o in options if o.startswith(CODE)), [
        option for option in options if not option.startswith(CODE)
    ]


# Snakemake's own memory may be gone, or be of another machine. The manifests say what made a result.
OUTDATED = {}
if workflow.is_main_process:  # on a cluster, each job has a Snakemake of its own
    OUTDATED |= outdated(Path("results"), expected, Path(".snakemake/hashes.json"))
    for line in summary(OUTDATED):
        print(line, file=sys.stderr)


class Workflow(type(workflow)):
    """Snakemake's own workflow, which makes outdated results again if a target needs them.

    --forcerun would make them targets as well. Snakemake has no other interface for this.
    """

    @property
    def _dag(self):
        return self.__dict__["_dag"]

    @_dag.setter
    def _dag(self, dag):
        dag.forcefiles.update(map(str, OUTDATED))
        self.__dict__["_dag"] = dag


workflow.__class__ = Workflow
