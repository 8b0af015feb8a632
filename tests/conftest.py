"""What every test file has."""

import os
from collections import Counter
from pathlib import Path

import pytest
import torch
from abuse import ROW
from project import ROOT
from tabulate import tabulate

# For examples in docstrings pytest imports every file. The first of these would become torch's
# "npu", and the second one needs Chromium.
collect_ignore = ["standin_npu", "browser.py"]

# `make` installs uv there if the machine has none.
os.environ["PATH"] += f"{os.pathsep}{ROOT / '.uv/bin'}"


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
    if "ABUSE" not in os.environ:
        return
    file = Path(os.environ["ABUSE"])
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    rows = {kind: (cases, right) for kind, cases, right in ROW.findall(text)}
    cases, right = Counter(), Counter()
    for outcome in ("passed", "failed", "error"):
        for report in terminalreporter.stats.get(outcome, ()):
            about = dict(getattr(report, "user_properties", ()))  # none if it is no test
            if "abuse" in about:
                number = about.get("cases", 1)
                cases[about["abuse"]] += number
                right[about["abuse"]] += number * (outcome == "passed")
    # Kinds that did not run this time keep their counts.
    rows |= {kind: (f"{cases[kind]:,}", f"{right[kind]:,}") for kind in cases}
    header = ("Hostile input", "Cases", "Right outcome")
    listed = [(kind, *rows[kind]) for kind in sorted(rows)]
    align = ("left", "right", "right")
    table = tabulate(listed, header, "github", colalign=align, disable_numparse=True)
    file.write_text(table + "\n", encoding="utf-8")
