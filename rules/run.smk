"""Actions before the first job of a run and after the last."""

import atexit
from pathlib import Path

from npu_parity.evidence import lock
from npu_parity.report.failures import causes

OWNER = lock.release_dead()


def forget_hubs():
    """Remove the answers of the hubs, so the next run checks the hubs again."""
    if os.path.exists(HUB_ANSWERS):
        os.remove(HUB_ANSWERS)


def finish():
    """Insert the tables into the README, if there is one, and print the summary."""
    if os.path.exists("README.md"):
        shell("python {path:q} README.md", path=script("readme"))
    if os.path.exists("results/summary.json"):
        shell("python {path:q} results/summary.json", path=script("show"))


onstart:
    forget_hubs()


onsuccess:
    forget_hubs()
    finish()


onerror:
    forget_hubs()
    # After all that Snakemake prints: the causes are the last that is read.
    text = "".join(Path(file).read_text(errors="replace") for file in log)
    atexit.register(lambda: print(*causes(text), sep="\n", file=sys.stderr))
