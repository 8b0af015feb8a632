"""Why jobs of a run failed, one line each."""

import atexit
import logging
import os
import re
import resource
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from npu_parity.errors import shorten

# What Snakemake says of a job that failed: its program, its log and its exit status.
COMMAND = re.compile(
    r"scripts/(?P<program>\w+)\.py (?:(?!\n\n).)*? 2> (?P<log>'[^']+'|\S+)' "
    r"(?:returned non-zero exit status (?P<status>\d+)|died with <Signals\.(?P<name>\w+))",
    re.DOTALL,
)
LAST_WORDS = "At least one job did not complete successfully"
LONGEST = 290  # characters of a line
# The limit of memory of a container, cgroup version 2 and 1.
LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


class Errors(logging.Handler):
    """Keeps each error that Snakemake logs, also if its log file cannot be written.

    The causes are the last lines on the screen. Snakemake calls ``onerror`` only if a job failed,
    not if Snakemake itself stops. Therefore the causes are printed when the process ends.
    """

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.texts: list[str] = []
        atexit.register(self.print)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep an error. What Snakemake says about a job in other words is left out."""
        if getattr(record, "event", None) == "error":
            self.texts.append(record.getMessage())

    def print(self) -> None:
        """Print a line for each cause, after the last line of every other logger."""
        atexit.unregister(logging.shutdown)
        logging.shutdown()
        for line in (line for text in self.texts for line in causes(text)):
            print(line, file=sys.stderr)


def causes(text: str) -> Iterator[str]:
    """Yield a line for each cause: the last line of a job's log, or how the job was killed.

    Args:
        text: an error of Snakemake.
    """
    jobs = list(COMMAND.finditer(text))
    for found in jobs:
        log = found["log"].strip("'")
        said = _said(Path(log)) or _killed(found) or "it failed without a word"
        yield shorten(f"{log}: {said}", LONGEST)
    if not jobs and text.strip() and LAST_WORDS not in text:
        yield shorten(f"error: Snakemake stopped: {_reason(text)}", LONGEST)


def _said(log: Path) -> str:
    """Return the line of a log that says why, or its last line."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError as error:
        return f"this log cannot be read ({error.strerror}): is its folder still there?"
    lines = [line for line in lines if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    return (errors or lines or [""])[-1]


def _reason(text: str) -> str:
    """Return what an error of Snakemake says, without its type and place."""
    lines = [line for line in text.split("\n") if line.strip()]
    if any(line.startswith("Traceback") for line in lines):
        return lines[-1]
    return " ".join(lines[1:] if len(lines) > 1 and lines[0].endswith(":") else lines)


def _killed(found: re.Match[str]) -> str:
    status = int(found["status"] or 0)
    name = found["name"] or (signal.Signals(status - 128).name if status > 128 else "")
    return f"{found['program']} was ended by {name}; {_memory()}" if name else ""


def _memory() -> str:
    """Return how much memory the jobs of this process had in use at their peak.

    The system counts the peak of every child that has ended. A job that was killed for its memory
    is the largest of them.
    """
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit
    return f"the largest job had {_gib(peak)} of {_gib(_available())} of memory in use"


def _available() -> int:
    """Return the bytes of memory of this machine or of this container."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for limit in LIMITS:
        try:
            found.append(int(Path(limit).read_text()))
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return min(found)


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"
