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
# Fast tests that must notice the mistake.
CHOSEN = {
    "question 1 is empty": ["tests/test_function.py"],
    "every other program is the same function": ["tests/test_function.py"],
    "worst case of a product times 1000": ["tests/test_bounds.py", "-k", "product_bound"],
    "sums of a product times 1000": ["tests/test_kernels.py", "-k", "sums"],
    "envelope of 400": ["tests/test_envelope.py", "tests/test_verdict.py"],
}


def counted(mistake, chosen):
    """Return how many tests passed and failed."""
    options = ("-q", "-m", "not slow", "-p", "no:cacheprovider", "-p", "sabotage")
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "--sabotage", mistake, *chosen],
        cwd=TESTS.parent,
        env=os.environ | {"PYTHONPATH": f"{TESTS}{os.pathsep}{TESTS.parent}"},
        capture_output=True,
        text=True,
    )
    last = run.stdout.strip().splitlines()[-1]
    passed, failed = (re.search(rf"(\d+) {word}", last) for word in ("passed", "failed"))
    assert (passed or failed) and "error" not in last, run.stdout + run.stderr
    return tuple(int(found[1]) if found else 0 for found in (passed, failed))


@pytest.mark.parametrize("mistake", CHOSEN)
def test_a_large_mistake_fails_many_tests(mistake):
    passed, failed = counted("nothing", CHOSEN[mistake])
    assert failed == 0
    found = counted(mistake, CHOSEN[mistake])
    assert found[1] >= 10 and sum(found) == passed


def test_every_mistake_is_tried():
    assert {"nothing", *CHOSEN} == set(sabotage.MISTAKES)
