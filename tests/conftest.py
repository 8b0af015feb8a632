"""What every test file has."""

import os
from collections import Counter
from pathlib import Path

import pytest
import torch
from tabulate import tabulate

# For examples in docstrings pytest imports every file; this one would become torch's "npu".
collect_ignore = ["standin_npu"]


@pytest.fixture(autouse=True, scope="module")
def few_threads():
    """One thread: the tensors of tests are small. OMP_NUM_THREADS asks for more."""
    before = torch.get_num_threads()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    yield
    torch.set_num_threads(before)


# `make abuse` counts the cases of hostile input by their kind, the argument of the marker "abuse".
# A test is one case, or as many as it records under "cases".


def pytest_collection_modifyitems(items):
    for item in items:
        for marker in item.iter_markers("abuse"):
            item.user_properties.append(("abuse", *marker.args))


def pytest_terminal_summary(terminalreporter):
    file = os.environ.get("ABUSE")
    if not file:
        return
    cases, right = Counter(), Counter()
    for outcome in ("passed", "failed", "error"):
        for report in terminalreporter.stats.get(outcome, ()):
            about = dict(report.user_properties)
            if "abuse" in about:
                number = about.get("cases", 1)
                cases[about["abuse"]] += number
                right[about["abuse"]] += number * (outcome == "passed")
    rows = [[kind, f"{cases[kind]:,}", f"{right[kind]:,}"] for kind in sorted(cases)]
    header = ("Hostile input", "Cases", "Right outcome")
    table = tabulate(rows, header, "github", colalign=("left", "right", "right"))
    Path(file).write_text(table + "\n", encoding="utf-8")
