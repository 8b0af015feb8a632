"""The benchmark of mutants: what it changes, counts and refuses, and the page that it made."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "benchmarks" / "mutants.py"
CODE = """
def double(x: int | None) -> int:
    return x + x if x else 0


def triple(x):
    return 3 * x
"""
TESTS = "from package import double\n\n\ndef test():\n    assert [double(1), double(3)] == [2, 6]\n"


@pytest.fixture(scope="module")
def mutants():
    spec = importlib.util.spec_from_file_location("mutants", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def project(tmp_path):
    """A function that is tested, and one that is not."""
    for folder in ("benchmarks", "docs"):
        (tmp_path / folder).mkdir()
    shutil.copy(SCRIPT, tmp_path / "benchmarks")
    (tmp_path / "package.py").write_text(CODE)
    (tmp_path / "test_package.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = slow\n")
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    return tmp_path


def run(project, survivors):
    plan = {"tests": {"package.py": ["test_package.py"]}, "survivors": survivors}
    (project / "benchmarks/mutants.yaml").write_text(yaml.safe_dump(plan))
    command = [sys.executable, "benchmarks/mutants.py"]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, env=os.environ)
    results = json.loads((project / "benchmarks/mutants.json").read_text())
    return done, results["modules"]["package.py"]["mutants"]


def test_mutants_of_what_is_tested_are_killed_and_others_judged(project):
    done, found = run(project, [])
    alive = [m for m in found if m["outcome"] == "survived"]
    assert done.returncode == 1 and "expected a judgement in mutants.yaml" in done.stderr
    assert any("x + x" in m["before"] and m["outcome"] == "killed" for m in found)
    assert [m["before"] for m in alive if "3" in m["before"]] == ["return 3 * x"] * 2
    assert not (project / "docs/mutants.md").exists()
    judged = [
        {"module": "package.py", "before": m["before"], "after": m["after"]}
        | {"judgement": "equivalent", "why": "nobody calls it"}
        for m in alive
    ]
    done, again = run(project, judged)
    assert done.returncode == 0, done.stderr
    assert again == found
    assert "nobody calls it" in (project / "docs/mutants.md").read_text()


def test_tests_must_pass_without_a_mutation(project):
    (project / "test_package.py").write_text("def test():\n    assert False\n")
    plan = {"tests": {"package.py": ["test_package.py"]}, "survivors": []}
    (project / "benchmarks/mutants.yaml").write_text(yaml.safe_dump(plan))
    command = [sys.executable, "benchmarks/mutants.py"]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True)
    assert done.returncode == 1 and "fail without a mutation" in done.stderr


def test_a_sample_is_the_same_twice_and_leaves_type_hints_alone(mutants):
    places, found = mutants.sample("package.py", CODE)
    assert (places, found) == mutants.sample("package.py", CODE)
    assert len(found) == mutants.LEAST <= places
    moved = mutants.sample("package.py", "# moved\n" + CODE)[1]
    assert [m["after"] for m in moved] == [m["after"] for m in found]
    assert all("x: int | None) -> int" in m["source"] for m in found)


def test_every_module_of_the_verdict_has_mutants(mutants):
    plan = yaml.safe_load(mutants.PLAN.read_text(encoding="utf-8"))
    rooms = (ROOT / "npu_parity" / room for room in ("verdict", "numerics"))
    files = {str(p.relative_to(ROOT)) for room in rooms for p in room.rglob("[!_]*.py")}
    assert files == {*plan["tests"], *plan["left_out"]}
    named = {test.partition("::")[0] for tests in plan["tests"].values() for test in tests}
    assert all((ROOT / file).is_file() for file in named)


def test_the_page_says_what_was_measured_and_judged(mutants):
    results = json.loads(mutants.RESULTS.read_text(encoding="utf-8"))
    plan = yaml.safe_load(mutants.PLAN.read_text(encoding="utf-8"))
    assert mutants.page(results, plan) == mutants.PAGE.read_text(encoding="utf-8")
    assert results["modules"].keys() == plan["tests"].keys()
    for module in results["modules"].values():
        assert len(module["mutants"]) >= mutants.LEAST
    with pytest.raises(SystemExit, match="expected a judgement"):
        mutants.page(results, plan | {"survivors": plan["survivors"][1:]})
