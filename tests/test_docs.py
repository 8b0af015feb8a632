"""Documentation that is made from the code says what the code says: `make docs` was run."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import npu_parity
from npu_parity.verdict import metrics, questions, statistic, stored, thresholds
from npu_parity.verdict.bounds import arithmetic, rules

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]


def run(*arguments, stdin=None):
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, input=stdin, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_thresholds(tmp_path):
    file = tmp_path / "thresholds.md"
    run("docs/make.py", "thresholds", "--output", file)
    text = file.read_text(encoding="utf-8")
    assert text == (ROOT / "docs/thresholds.md").read_text(encoding="utf-8")
    found = thresholds.of(arithmetic, metrics, questions, statistic, stored)
    assert {"questions.ENVELOPE", "arithmetic.U", "statistic.RMS_Z"} <= found.keys()
    assert all(f"`{name}`" in text and value.reason in text for name, value in found.items())
    assert all(what and operators for what, operators in rules.described().items())
    assert "`convolution`" in text and "`native_layer_norm`" in text


def test_api(tmp_path):
    run("docs/make.py", "api", "--output", tmp_path / "api.md")
    text = (tmp_path / "api.md").read_text(encoding="utf-8")
    assert text == (ROOT / "docs/api.md").read_text(encoding="utf-8")
    for name in npu_parity.__all__:
        section = re.search(rf"^## {name}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
        assert section, name
        assert (
            ">>> " in section[1]
            or re.search(rf"^>>> .*{name}\(", text, re.MULTILINE)
            or (name == "PRESETS")
        ), name


def test_a_threshold_is_a_number():
    assert questions.ENVELOPE * 2 == 8 and f"{questions.ENVELOPE:g}" == "4"
    assert not isinstance(questions.ENVELOPE * 2, thresholds.Threshold)


def test_no_threshold_is_written_down_twice():
    """Documentation that is written by hand links to the thresholds, and repeats none."""
    values = {f"{value:g}" for value in thresholds.of(questions).values()}
    for file in (ROOT / "README.md", ROOT / "CHANGELOG.md"):
        spliced = False
        for line in file.read_text(encoding="utf-8").splitlines():
            spliced = (spliced or line.startswith("<!-- from")) and line != "<!-- end -->"
            assert spliced or not any(f" {v} times" in line for v in values), line


def test_graph_of_the_rules(tmp_path):
    graph = run("-m", "snakemake", "--cores", "1", "--rulegraph", "mermaid-js", "all")
    run("docs/make.py", "rulegraph", "--output", tmp_path / "graph.md", stdin=graph)
    expected = (ROOT / "docs/rulegraph.md").read_text(encoding="utf-8")
    assert (tmp_path / "graph.md").read_text(encoding="utf-8") == expected
