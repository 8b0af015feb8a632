"""The hash of a job's code follows whatever Python would read for it, and nothing else."""

import importlib.metadata
import os
import subprocess
import sys

import pytest
from project import ROOT

from npu_parity.evidence import code

FILES = {
    "scripts/work.py": "from npu_parity import near\nimport numpy\n",
    "npu_parity/__init__.py": "",
    "npu_parity/near.py": "def late():\n    import npu_parity.far\n    import timm.data\n",
    "npu_parity/far.py": "from npu_parity.room.relative import x\n",
    "npu_parity/room/__init__.py": "",
    "npu_parity/room/relative.py": """
import typing
from . import sibling
from ..above import y
from .inner.deep import x
if typing.TYPE_CHECKING:
    from npu_parity import unrelated
REGISTRY = {"one": "npu_parity.room.one:One", "two": "npu_parity.room.two:Two"}
TABLE = "data/table.txt"
TEMPLATES = "templates"
""",
    "npu_parity/room/sibling.py": "",
    "npu_parity/room/inner/__init__.py": "",
    "npu_parity/room/inner/deep.py": "x = 1\n",
    "npu_parity/room/one.py": "from npu_parity.room import common\n",
    "npu_parity/room/two.py": "",
    "npu_parity/room/common.py": "",
    "npu_parity/room/templates/card.md": "a card",
    "npu_parity/above.py": "y = 1\n",
    "npu_parity/data/table.txt": "a table",
    "npu_parity/data/other.txt": "another",
    "npu_parity/unrelated.py": "import pandas\n",
}
UNRELATED = ("npu_parity/unrelated.py", "npu_parity/data/other.txt")


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project of one script and the files that it reaches."""
    for name, content in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    monkeypatch.setattr(code, "PACKAGE", tmp_path / "npu_parity")
    return tmp_path


def digest(project, entries=None):
    return code.digest(project / "scripts/work.py", entries)


def change(file):
    """Change a file, and its time: code is read again where the time differs."""
    file.write_text(file.read_text() + "\n")
    os.utime(file, ns=(1, file.stat().st_mtime_ns + 1))


@pytest.mark.parametrize("file", sorted(set(FILES) - set(UNRELATED)))
def test_every_file_that_is_reached_counts(project, file):
    before = digest(project)
    change(project / file)
    assert digest(project) != before


@pytest.mark.parametrize("file", UNRELATED)
def test_other_files_do_not_count(project, file):
    before = digest(project)
    change(project / file)
    (project / "npu_parity/new.py").write_text("")
    assert digest(project) == before


def test_only_the_registered_classes_that_a_job_uses_count(project):
    one = {"npu_parity.room.one:One"}
    before, without = digest(project, one), digest(project, set())
    change(project / "npu_parity/room/two.py")
    assert (digest(project, one), digest(project, set())) == (before, without)
    change(project / "npu_parity/room/common.py")
    assert digest(project, one) != before and digest(project, set()) == without


def test_file_times_do_not_count(project):
    before = digest(project)
    for file in project.rglob("*.*"):
        os.utime(file, (1, 1))
    assert digest(project) == before


@pytest.mark.parametrize(
    ("distribution", "counts"),
    [("numpy", True), ("timm", True), ("pandas", False), ("scipy", False)],
)
def test_imported_distributions_count_by_version(project, monkeypatch, distribution, counts):
    before, version = digest(project), importlib.metadata.Distribution.version.fget
    changed = property(lambda one: "99" if one.metadata["Name"] == distribution else version(one))
    with monkeypatch.context() as patched:
        patched.setattr(importlib.metadata.Distribution, "version", changed)
        code._releases.cache_clear()
        assert (digest(project) != before) == counts
    code._releases.cache_clear()
    assert digest(project) == before


def test_packages_belong_to_the_distributions_that_python_names():
    expected = importlib.metadata.packages_distributions()
    found = {
        package: {one.metadata["Name"] for one in distributions}
        for package, distributions in code._distributions().items()
    }
    assert found == {package: set(names) for package, names in expected.items()}


def test_it_is_the_same_wherever_the_project_and_the_caller_are(
    project, tmp_path_factory, monkeypatch
):
    before = digest(project)
    for folder in (project, project / "scripts", tmp_path_factory.mktemp("elsewhere")):
        monkeypatch.chdir(folder)
        assert code.digest(os.path.relpath(project / "scripts/work.py")) == before
    moved = tmp_path_factory.mktemp("0") / "moved"
    project.rename(moved)
    monkeypatch.setattr(code, "PACKAGE", moved / "npu_parity")
    assert digest(moved) == before


SCRIPTS = sorted((ROOT / "scripts").glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_every_script_has_a_digest_that_tells_own_modules_from_others(script):
    files, packages = code.closure(script)
    assert code.digest(script) == code.digest(script)
    assert script in files and ROOT / "npu_parity/__init__.py" in files
    assert not packages & {"npu_parity", *sys.stdlib_module_names}


def test_every_data_file_of_the_package_is_followed():
    """Lists of class names and texts of cards are the user's choice: rules read them as inputs."""
    reached = set().union(*(code.closure(script)[0] for script in SCRIPTS))
    reached |= code.closure(ROOT / "npu_parity/config.py")[0]
    data = {
        p for p in (ROOT / "npu_parity").rglob("*") if p.is_file() and "__pycache__" not in str(p)
    }
    left = {p.name for p in data - reached if p.suffix != ".py" and p.parent.name != "about"}
    assert left <= {"imagenet_1k.txt", "inat2021_birds.txt"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "imported"),
    [
        ("outputs", "npu_parity.backends.outputs"),
        ("latency", "npu_parity.backends.latency"),
        ("operators", "npu_parity.check"),
    ],
)
def test_what_python_imports_is_followed(script, imported):
    """Compared with Python itself: whatever a job's imports load is in the closure."""
    followed, _ = code.closure(ROOT / "scripts" / f"{script}.py")
    run = (
        "import importlib, runpy, sys\n"
        "runpy.run_path(sys.argv[1]); importlib.import_module(sys.argv[2])\n"
        "from npu_parity.backends.device import Device\n"
        "Device('cpu').implementation.describe()\n"
        "print(*(m.__file__ for n, m in sys.modules.items() if n.startswith('npu_parity')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", run, ROOT / "scripts" / f"{script}.py", imported],
        capture_output=True,
        text=True,
        check=True,
    )
    assert set(done.stdout.split()) <= {str(path) for path in followed}
