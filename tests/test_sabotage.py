"""A large mistake in the verdict fails many tests, and its absence none (`tests/sabotage.py`)."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import sabotage

pytestmark = pytest.mark.slow

TESTS = Path(__file__).resolve().parent
# Fast tests of question 1, of products and of question 3.
FILES = {
    "question 1 is empty": ["test_program.py", "test_function.py"],
    "bounds of a product times 1000": ["test_kernels.py", "test_bounds.py"],
    "worst case of a product times 1000": ["test_bounds.py"],
    "sums of a product times 1000": ["test_kernels.py"],
    "envelope of 400": ["test_envelope.py", "test_verdict.py", "test_precision.py"],
}
CLEAN = sorted({file for files in FILES.values() for file in files})


def counted(mistake, files):
    """Return how many tests passed and failed."""
    options = ("-q", "-m", "not slow", "-p", "no:cacheprovider", "-p", "sabotage")
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "--sabotage", mistake, *files],
        cwd=TESTS,
        env=os.environ | {"PYTHONPATH": f"{TESTS}{os.pathsep}{TESTS.parent}"},
        capture_output=True,
        text=True,
    )
    last = run.stdout.strip().splitlines()[-1]
    passed, failed = (re.search(rf"(\d+) {word}", last) for word in ("passed", "failed"))
    assert passed and "error" not in last, run.stdout + run.stderr
    return int(passed[1]), int(failed[1]) if failed else 0


@pytest.mark.parametrize("mistake", FILES)
def test_a_large_mistake_fails_many_tests(mistake):
    _, failed = counted(mistake, FILES[mistake])
    assert failed >= 10


def test_the_same_tests_pass_without_a_mistake():
    passed, failed = counted("nothing", CLEAN)
    assert failed == 0 and passed > 500


def test_every_mistake_is_tried():
    assert {"nothing", *FILES} == set(sabotage.MISTAKES)
