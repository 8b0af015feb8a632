"""Actions before the first job of a run and after the last."""

from snakemake.logging import logger

from npu_parity import warm
from npu_parity.errors import ParityError
from npu_parity.evidence import lock
from npu_parity.report.failures import Errors

try:
    lock.require_folders(
        f"{room}/{folder}"
        for room in ("results", "logs")
        for system in SYSTEMS
        for folder in ["tables", system, *(f"{system}/{run}" for run in RUNS)]
    )
    OWNER = lock.release_dead() if workflow.is_main_process else None
except ParityError as error:
    sys.exit(f"error: {error}")


def forget_hubs():
    """Remove the answers of the hubs, so the next run checks the hubs again."""
    if os.path.exists(HUB_ANSWERS):
        os.remove(HUB_ANSWERS)


def evaluate_when_a_job_ends():
    """Remove the limit of jobs per second, which only a cluster needs.

    With it, each job that ends starts a timer, and each timer starts the next one. After a hundred
    jobs, Snakemake would look for ready jobs a hundred times a second, and latencies would suffer.
    """
    if workflow.local_exec:
        workflow.scheduler.job_rate_limiter = None


# Jobs of a run. With fewer, the imports of the server take longer than those of the jobs.
FEWEST = 6


def warm_up():
    """Let jobs start with all imports done, where that is possible.

    Drivers of accelerators do not survive a fork. On a cluster and in conda environments, jobs have
    another Python.
    """
    if (
        workflow.local_exec
        and not workflow.deployment_settings.deployment_method
        and not any(accelerators(Named(device=d, run=r)) for d, r in PLANNED)
        and len([*workflow.dag.needrun_jobs()]) >= FEWEST
    ):
        warm.start()


def finish():
    """Insert the tables into the README, if there is one, and print the summary.

    A run of some targets may leave a summary that was changed, or is of an older version.
    """
    try:
        evidence.read_bytes("results/summary.json")
    except ParityError:
        return
    if readmes := [
        name for name in ("README.md", "README.zh.md") if os.path.exists(name)
    ]:
        shell("python {path:q} {readmes:q}", path=script("readme"))
    shell("python {path:q} results/summary.json", path=script("show"))


onstart:
    forget_hubs()
    evaluate_when_a_job_ends()
    logger.addHandler(Errors())
    warm_up()


onsuccess:
    forget_hubs()
    finish()


onerror:
    forget_hubs()
