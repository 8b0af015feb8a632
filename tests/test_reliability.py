"""docs/reliability.md: its counts are of the right size. The tests that pages name exist."""

import re

import pytest
from abuse import ROW
from project import ROOT

PAGE = (ROOT / "docs/reliability.md").read_text(encoding="utf-8")
COUNTS = {
    kind: (int(cases.replace(",", "")), int(right.replace(",", "")))
    for kind, cases, right in ROW.findall(PAGE)
}


WEIGHTS = (ROOT / "docs/weights.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", re.findall(r"`(test_\w+\.py::test_\w+)`", PAGE + WEIGHTS))
def test_each_line_of_the_security_section_has_its_test(name):
    file, test = name.split("::")
    assert re.search(rf"^def {test}\(", (ROOT / "tests" / file).read_text(), re.MULTILINE)


@pytest.mark.parametrize(
    ("kind", "least"),
    [
        ("mutated configurations", 1000),
        ("kills", 30),
        ("corrupted results", 100),
        ("hostile networks", 47),
        ("damaged images", 1000),
        ("damaged weight files", 500),
        ("odd paths", 50),
    ],
)
def test_every_case_had_the_right_outcome(kind, least):
    cases, right = COUNTS[kind]
    assert cases == right >= least
