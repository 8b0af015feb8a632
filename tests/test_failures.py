"""The causes of a run's failures, found in what Snakemake says of them."""

import re
import signal
import subprocess
import sys

import pytest

from npu_parity.report.failures import causes

SAID = """
RuleException:
CalledProcessError in file "/x/rules/weights.smk", line 41:
Command 'set -euo pipefail;  python ../scripts/{program}.py --output=results/a/x.json \
'--arguments={{}}' -- seed:1 2> {log}' {end}.
[Wed Nov 25 15:02:25 2026]
Error in rule weights:
    message: None

"""
EXIT = "returned non-zero exit status {}"


@pytest.mark.parametrize(
    ("content", "end", "said"),
    [
        ("noise\nerror: a.pth is damaged\n", EXIT.format(1), "error: a.pth is damaged"),
        ("Traceback:\nValueError: x\n", EXIT.format(1), "ValueError: x"),
        ("", EXIT.format(1), "it failed without a word"),
        (None, EXIT.format(1), "this log cannot be read (No such file or directory)"),
        ("error: " + 400 * "x", EXIT.format(1), "error: xxx"),
        ("", EXIT.format(137), "weights was ended by SIGKILL; the largest job had "),
        ("", EXIT.format(139), "weights was ended by SIGSEGV"),
        ("", "died with <Signals.SIGTERM: 15>", "weights was ended by SIGTERM"),
    ],
)
def test_a_cause_is_one_line(tmp_path, monkeypatch, content, end, said):
    monkeypatch.chdir(tmp_path)
    if content is not None:
        (tmp_path / "a.log").write_text(content)
    (line,) = causes(SAID.format(program="weights", log="a.log", end=end))
    assert line.startswith(f"a.log: {said}") and len(line) < 300


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("WorkflowError:\nError recording metadata ([Errno 28]).", "Error recording metadata"),
        (
            "WorkflowError in rule outputs in file x, line 9:\nOSError: Missing files",
            "OSError: Missing",
        ),
        ("Traceback (most recent call last):\n\n  File x\n\nOSError: full\n", "OSError: full"),
        ("one line", "one line"),
    ],
)
def test_snakemake_itself_stopped(text, said):
    (line,) = causes(text)
    assert line.startswith(f"error: Snakemake stopped: {said}")
    assert list(causes("WorkflowError:\nAt least one job did not complete successfully.")) == []


def test_how_much_memory_a_killed_job_had_in_use():
    subprocess.run([sys.executable, "-c", "b'x' * 2**28"], check=True)
    (line,) = causes(SAID.format(program="weights", log="/dev/null", end=EXIT.format(137)))
    found = re.search(r"the largest job had ([\d.]+) GiB of ([\d.]+) GiB of memory in use", line)
    assert 0.2 < float(found[1]) < float(found[2])


PRINTED = """
import logging
from npu_parity.report.failures import Errors


class Closes(logging.StreamHandler):
    def close(self):
        print("a logger that prints something when it is closed", flush=True)
        super().close()


logger = logging.getLogger("snakemake")
for handler in (Closes(), Errors()):
    logger.addHandler(handler)
for event, text in (("job_error", "x"), ("error", "full"), ("error", "{last}")):
    logger.error(text, extra={{"event": event}})
"""


def test_causes_are_the_last_lines():
    text = PRINTED.format(last="At least one job did not complete successfully.")
    done = subprocess.run(
        [sys.executable, "-c", text], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert done.stdout.splitlines()[-2:] == [
        "a logger that prints something when it is closed",
        "error: Snakemake stopped: full",
    ]


def test_every_job_has_its_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = [f"{i} b.log" for i in range(9)]
    for name in names:
        (tmp_path / name).write_text(f"error: {name}\n")
    text = "".join(
        SAID.format(program="inputs", log=f"'{name}'", end=EXIT.format(1)) for name in names
    )
    assert list(causes(text)) == [f"{name}: error: {name}" for name in names]
    assert list(causes("")) == []


def test_the_words_are_pythons_own():
    """What Snakemake quotes is Python's text of a CalledProcessError."""
    for status, words in ((137, EXIT.format(137)), (-signal.SIGTERM, "died with <Signals.SIGTERM")):
        assert words in str(subprocess.CalledProcessError(status, "x"))
