"""Outputs that another tool computed, as a device of the workflow."""

import json
import subprocess
import sys

import numpy as np
import pytest
from project import AS_MAKE, ROOT, finished, told

from npu_parity.verdict import judge
from npu_parity.verdict.arrays import read_arrays

pytestmark = pytest.mark.slow
REFERENCE = "results/net/cpu/measured/outputs.npy"
MEASURED = "results/net/om/measured"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return finished(tmp_path_factory)


def with_dumps(base, place, change=lambda outputs: outputs * np.float32(1 + 1e-7), **settings):
    """A project with the device `om`, whose outputs are the reference's after a change."""
    project = base.copy(place)
    (project.folder / "om").mkdir()
    dump(project, change)
    device = {"backend": "dumps", "dumps": "om/{system}.npy", **settings}
    project.configure(lambda config: config["devices"].update(om=device))
    return project


def dump(project, change):
    np.save(project.folder / "om/net.npy", change(np.load(project.folder / REFERENCE)))


def test_dumps_get_the_verdict_that_judge_gives(base, tmp_path):
    project = with_dumps(base, tmp_path)
    project.succeed(*AS_MAKE, "all", "verify")
    found = project.json(f"{MEASURED}/metrics.json")
    case = read_arrays(
        project.folder / REFERENCE,
        project.folder / "om/net.npy",
        project.folder / "results/net/cpu/exact/outputs.npy",
    )
    expected = judge.judge(case)
    assert found["verdict"] == expected.verdict.word == "PASS"
    assert found["evidence"] == "weak"
    assert found["relative_l2_error_max"] == expected.metrics["relative_l2_error_max"] > 0
    assert [q["passed"] for q in found["questions"]][:2] == [None, None]
    # Nobody timed it, and no table says so.
    assert not (project.folder / MEASURED / "latency.json").exists()
    rows = project.json("results/summary.json")["rows"]
    (row,) = (row for row in rows if (row["device"], row["run"]) == ("om", "measured"))
    assert row["latency"] is None and row["files"][-1].endswith("operators.csv")
    assert project.plan("all") == set()
    # Another file: only what reads it runs again.
    dump(project, lambda outputs: outputs[:, ::-1])
    planned = project.plan("all")
    assert "outputs net om measured" in planned
    assert not any(job.startswith(("latency", "operators", "weights")) for job in planned)
    project.succeed(*AS_MAKE, "all")
    assert project.json(f"{MEASURED}/metrics.json")["verdict"] == "FAIL"


def test_a_dump_needs_no_network(base, tmp_path):
    project = with_dumps(base, tmp_path)
    (project.folder / "tiny.py").write_text("raise SystemExit('the network was loaded')")
    paths = {"weights-folder": "results/net", "inputs": "results/net/inputs.npy"}
    paths |= {"output": f"{MEASURED}/outputs.npy", "dumped": "om/net.npy"}
    device = json.dumps({"backend": "dumps"})
    options = [f"--{name}={value}" for name, value in paths.items()] + [f"--device={device}"]
    subprocess.run(
        [sys.executable, ROOT / "scripts/outputs.py", *options], cwd=project.folder, check=True
    )
    assert project.json(f"{MEASURED}/run.json")["backend"] == "dumps"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda outputs: outputs[:1], "om/net.npy: found 1 rows, expected 2: one for each input"),
        (lambda outputs: outputs.argmax(1), "om/net.npy: found an array of int64, expected"),
    ],
)
def test_a_dump_that_does_not_fit_is_one_line(base, tmp_path, change, said):
    project = with_dumps(base, tmp_path, change)
    output = project.run(f"{MEASURED}/outputs.npy").stdout
    assert said in " ".join(output.split())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"dumps": "none/{system}.npy"}, "devices.om.dumps: 'none/net.npy': there is no such file"),
        ({"backend": "cpu"}, "devices.om: the backend dumps needs the key 'dumps'"),
        ({"dumps": 3}, "devices.om.dumps: found 3, expected the files of a device"),
    ],
)
def test_a_wrong_setting_is_one_line(base, tmp_path, settings, said):
    project = with_dumps(base, tmp_path, **settings)
    assert said in told(project.run("--dry-run").stdout)
