"""Do the fast tests pass with every torch that is supported? ``make versions`` installs and looks.

Each version gets an environment in ``.versions/``: the packages of the lock, but its own torch and
torchvision from PyPI (4 GB each on x86_64). ``versions.csv`` has one row for each version that ever
ran, and docs/versions-totals.md shows it.
``python benchmarks/versions.py 2.9.0`` runs one version.
"""

import datetime
import os
import platform
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "versions.csv"
PAGE = ROOT / "docs" / "versions-totals.md"
FOLDER = ROOT / ".versions"
OLDEST, NEWEST = "2.8.0", "newest"
VERSIONS = (OLDEST, "2.9.0", "2.10.0", NEWEST)  # the two in the middle belong to torch_npu
TESTS = ("-m", "not slow and not abuse", "-n", "auto", "--dist", "loadfile")
COUNTED = ("-o", "junit_family=legacy")  # of its kinds, the one that pytest's own properties fit
FOUND = """
from importlib.metadata import version
print(version("torch"), version("torchvision"))
"""


def install(version: str) -> Path:
    """Return the folder of programs of an environment with a version of torch."""
    place = FOLDER / version
    export = ["uv", "export", "--quiet", "--locked", "--no-hashes", "--no-emit-project"]
    others = subprocess.check_output(
        [*export, "--prune", "torch", "--prune", "torchvision"], cwd=ROOT
    )
    pin = "torch" if version == NEWEST else f"torch=={version}"
    install = ["uv", "pip", "install", "--quiet", "--python", place, "--requirements", "-"]
    subprocess.run(
        ["uv", "venv", "--quiet", "--clear", "--python", sys.executable, place], check=True
    )
    subprocess.run(
        [*install, "--editable", ROOT, pin, "torchvision"], cwd=ROOT, input=others, check=True
    )
    return place / "bin"


def run(version: str) -> dict[str, str | int]:
    """Return the row of a version of torch: what its tests say, and with which software."""
    programs = install(version)
    report = FOLDER / f"{version}.xml"
    report.unlink(missing_ok=True)
    environment = os.environ | {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
    commit = subprocess.check_output(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, text=True
    )
    subprocess.run(
        [programs / "python", "-m", "pytest", *TESTS, *COUNTED, f"--junitxml={report}"],
        cwd=ROOT,
        env=environment,
    )
    counts = {key: int(value) for key, value in _suite(report).items() if value.isdigit()}
    failed = counts["failures"] + counts["errors"]
    found = subprocess.check_output([programs / "python", "-c", FOUND], text=True).split()
    return {
        "torch": found[0],
        "torchvision": found[1],
        "Python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "passed": counts["tests"] - failed - counts["skipped"],
        "failed": failed,
        "skipped": counts["skipped"],
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": commit.strip(),
    }


def _suite(report: Path) -> dict[str, str]:
    suite = ET.parse(report).find("testsuite")
    assert suite is not None
    return suite.attrib


def page(rows: pd.DataFrame) -> str:
    """Return the table of all versions that ran, in Markdown."""
    return str(rows.to_markdown(index=False, disable_numparse=True)) + "\n"


def main(versions: list[str]) -> None:
    """Run some versions, or all of them, and write what was found."""
    FOLDER.mkdir(exist_ok=True)
    failed = False
    for version in versions or VERSIONS:
        new = pd.DataFrame([run(version)])
        old = pd.read_csv(RESULTS, dtype=str) if RESULTS.exists() else new[:0]
        rows = pd.concat([old[~old["torch"].isin(new["torch"])], new.astype(str)])
        rows = rows.sort_values("torch", key=lambda column: column.map(_order))
        rows.to_csv(RESULTS, index=False)
        PAGE.write_text(page(rows), encoding="utf-8")
        failed |= bool(new["failed"].any())
    sys.exit(failed)


def _order(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in version.split("."))


if __name__ == "__main__":
    main(sys.argv[1:])
