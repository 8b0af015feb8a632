"""Why jobs of a run failed, one line each."""

import re
import signal
from collections.abc import Iterator
from pathlib import Path

# What Snakemake says of a job that failed: its program, its log and its exit status.
COMMAND = re.compile(
    r"scripts/(?P<program>\w+)\.py (?:(?!\n\n).)*? 2> (?P<log>'[^']+'|\S+)' "
    r"(?:returned non-zero exit status (?P<status>\d+)|died with <Signals\.(?P<name>\w+))",
    re.DOTALL,
)


def causes(text: str) -> Iterator[str]:
    """Yield a line for each job that failed: the last line of its log, or how it was killed.

    Args:
        text: what Snakemake wrote into its own log.
    """
    for found in COMMAND.finditer(text):
        log = found["log"].strip("'")
        yield f"{log}: {_said(Path(log)) or _killed(found) or 'it failed without a word'}"


def _said(log: Path) -> str:
    """Return the line of a log that says why, or its last line."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        return ""
    lines = [line for line in lines if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    return (errors or lines or [""])[-1]


def _killed(found: re.Match[str]) -> str:
    status = int(found["status"] or 0)
    name = found["name"] or (signal.Signals(status - 128).name if status > 128 else "")
    hint = "; perhaps the machine has too little memory" if name == "SIGKILL" else ""
    return f"{found['program']} was ended by {name}{hint}" if name else ""
