"""Read two arrays of outputs, or compare them: ``large.py reading|features|classification A B``.

Prints the seconds, and the memory in MiB that it took beyond what its imports take. Each call is a
process of its own: memory that a process has used before is much quicker to fill.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np

from npu_parity.verdict.metrics import compare


def peak() -> float:
    """Return the most memory that this process had at once, in MiB; mapped files count."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def main(what: str, *files: str) -> None:
    """Do it, and print a line of JSON."""
    before, start = peak(), time.perf_counter()
    if what == "reading":
        found: object = [np.load(file) for file in files]
    else:
        reference, device = (np.load(file, mmap_mode="r") for file in files)
        found = compare(reference, device, what)
    seconds = time.perf_counter() - start
    assert found
    print(json.dumps({"seconds": seconds, "mib": peak() - before}))


if __name__ == "__main__":
    main(*sys.argv[1:])
