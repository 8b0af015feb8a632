"""The causes of a run's failures, found in what Snakemake says of them."""

import signal
import subprocess

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
        (None, EXIT.format(1), "it failed without a word"),
        ("", EXIT.format(137), "weights was ended by SIGKILL; perhaps the machine has too little"),
        ("", EXIT.format(139), "weights was ended by SIGSEGV"),
        ("", "died with <Signals.SIGTERM: 15>", "weights was ended by SIGTERM"),
    ],
)
def test_a_cause_is_one_line(tmp_path, monkeypatch, content, end, said):
    monkeypatch.chdir(tmp_path)
    if content is not None:
        (tmp_path / "a.log").write_text(content)
    (line,) = causes(SAID.format(program="weights", log="a.log", end=end))
    assert line.startswith(f"a.log: {said}")


def test_every_job_has_its_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = [f"{i} b.log" for i in range(9)]
    for name in names:
        (tmp_path / name).write_text(f"error: {name}\n")
    text = "".join(
        SAID.format(program="inputs", log=f"'{name}'", end=EXIT.format(1)) for name in names
    )
    assert list(causes(text)) == [f"{name}: error: {name}" for name in names]
    assert list(causes("all went well")) == []


def test_the_words_are_pythons_own():
    """What Snakemake quotes is Python's text of a CalledProcessError."""
    for status, words in ((137, EXIT.format(137)), (-signal.SIGTERM, "died with <Signals.SIGTERM")):
        assert words in str(subprocess.CalledProcessError(status, "x"))
