"""`snakemake verify` on ports that are right, and on ports with a fault planted on purpose.

The NPU is the stand-in of tests/standin_npu, whose kernels can be told to fail.
"""

import os
import re

import pandas as pd
import pytest
from project import NETWORK, ROOT, Project, system, told
from torch.utils import backend_registration

from npu_parity import evidence
from npu_parity.audit.verify import MADE_AGAIN
from npu_parity.verdict.envelope import ENVELOPE

STANDIN = ROOT / "tests" / "standin_npu"
# The second batch norm's eps is another one; everything else is the same.
FAULTY = NETWORK.replace("8, 16", "8, 16, 1e-3").replace(
    "nn.BatchNorm2d(more)", "nn.BatchNorm2d(more, *eps)"
).replace("for channels, more in", "for channels, more, *eps in")  # fmt: skip
# The condition for jobs that start with all imports done.
COLD = "        and not any(accelerators(Named(device=d, run=r)) for d, r in PLANNED)\n"
NAMED = "batch_norm eps 0.001 where the reference has 1e-05, at 4"

CONFIG = {
    "reference": "cpu",
    "devices": {
        "cpu": {"backend": "cpu"},
        "npu": {"backend": "npu", "numerics": {"conv": "hf32"}, "measure": "always"},
    },
    "latency": {"batch_sizes": [1], "warmup": 1, "samples": 3, "batch_samples": 2},
    "models": {"net": system(inputs=["random:3", "synthetic:1"], calibrate=True)},
}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
        reason="this torch cannot have a device that is written in Python",
    ),
]


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """A port that is right, verified."""
    project = Project.make(tmp_path_factory.mktemp("clean"), CONFIG)
    path = os.pathsep.join([str(project.repository), str(STANDIN)])
    project.env = {"PYTHONPATH": path, "TORCH_DEVICE_BACKEND_AUTOLOAD": "1"}
    # Drivers of accelerators do not survive a fork. The stand-in does, so imports happen once.
    rules = project.repository / "rules/run.smk"
    text = rules.read_text()
    assert text.count(COLD) == 1
    rules.write_text(text.replace(COLD, ""))
    (project.folder / "faulty.py").write_text(FAULTY)
    project.done = project.run("verify")
    return project


@pytest.fixture(scope="module")
def wrong_program(clean, tmp_path_factory):
    """The same, where the port's network is another one."""
    project = clean.copy(tmp_path_factory.mktemp("program"))
    project.configure(lambda c: c["models"]["net"].update(ported="faulty.py:net"))
    project.done = project.run("verify", "results/tables/net.md", "results/net/divergence.svg")
    return project


@pytest.fixture(scope="module", params=["dead_channel", "nan"])
def wrong_kernel(clean, tmp_path_factory, request):
    """The same, where the device's convolution is faulty."""
    project = clean.copy(tmp_path_factory.mktemp(request.param))
    project.env = clean.env | {"STANDIN_NPU_FAULT": request.param}
    for file in project.files("results/net/npu/measured/*").values():
        file.unlink()
    project.done = project.run("verify", "results/summary.json", "results/tables/net.md")
    return project


def judged(project):
    return project.json("results/net/npu/measured/metrics.json")


def test_port_that_is_right(clean):
    assert clean.done.returncode == 0, clean.done.stdout
    lines = [x for x in clean.done.stdout.splitlines() if x.startswith("results/net/")]
    assert lines == [
        "results/net/npu/measured: PASS (weak evidence)",
        "results/net/npu/predicted: PREDICTED (weak evidence)",
    ]
    found = clean.json("results/net/npu/measured/metrics.json")
    assert found["verdict"] == "PASS" and found["numerics_found"] == "hf32"
    assert found["explained"] > 0.99
    assert not [line for line in clean.done.stdout.splitlines() if line.startswith("error: ")]


def test_wrong_program_is_told_in_one_line(wrong_program):
    assert wrong_program.done.returncode != 0
    line = told(wrong_program.done.stdout)
    assert line.startswith(
        f"error: results/net/npu/measured: FAIL (question 1, same program: {NAMED}"
    )


def test_wrong_program_is_shown_where_it_parts(wrong_program):
    steps = pd.read_csv(
        wrong_program.folder / "results/net/npu/measured/divergence.csv", dtype={"module": str}
    )
    before = steps[steps["module"].isin(["0", "1", "2", "3"])]
    errors = ["measured_relative_l2_error", "predicted_relative_l2_error"]
    assert (before[errors[0]] <= 1.01 * before[errors[1]]).all()
    (at,) = steps.index[steps["module"] == "4"]
    assert steps[errors[0]][at] > ENVELOPE * steps[errors[1]][at]
    assert (steps["max_error_of_bound"].dropna() <= 1).all()  # no kernel is to blame

    table = (wrong_program.folder / "results/tables/net.md").read_text()
    assert NAMED in table and "![Error through the network: net](../net/divergence.svg)" in table
    bold = re.findall(r"\|\s+(\d+)\s+\|\s+\*\*(\w+)\*\*\s+\|\s+(\d+)", table)
    assert bold == [(str(at), "native_batch_norm", "4")]
    picture = (wrong_program.folder / "results/net/divergence.svg").read_text()
    assert "npu measured" in picture and "native_batch_norm" in picture


def test_wrong_kernel_is_told_in_one_line(wrong_kernel):
    assert wrong_kernel.done.returncode != 0
    line = told(wrong_kernel.done.stdout)
    assert line.startswith("error: results/net/npu/measured: FAIL (question 2, same kernels: ")
    assert "operator 0 aten.convolution.default at 0" in line
    assert [a["passed"] for a in judged(wrong_kernel)["questions"]] == [True, False, False, False]


def test_wrong_kernel_is_in_every_table(wrong_kernel):
    (row,) = (
        row
        for row in wrong_kernel.json("results/summary.json")["rows"]
        if (row["device"], row["run"]) == ("npu", "measured")
    )
    assert row["failed_question"] == 2 and row["operators"]["failed"] > 0
    largest = row["operators"]["max_error_of_bound"]
    assert largest is None or largest > 1
    for table in ("summary", "net"):
        text = (wrong_kernel.folder / f"results/tables/{table}.md").read_text()
        assert f"npu measured: {row['verdict_line']}" in text


def test_verdict_is_asked_for_again(clean):
    """It is not taken from a former run: what was measured may be gone."""
    again = clean.plan("verify")
    assert again == {"verify"}


def test_right_again_is_passed_again(wrong_program):
    wrong_program.configure(lambda c: c["models"]["net"].pop("ported"))
    wrong_program.succeed("verify")
    assert judged(wrong_program)["verdict"] == "PASS"
    assert evidence.read_json(wrong_program.folder / "results/net/npu/measured/program.json")


def test_what_git_does_not_keep_may_be_missing():
    """A fresh clone of the project has no such file."""
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    prefix = "results/**/"
    assert {x.removeprefix(prefix) for x in ignored if x.startswith(prefix)} == set(MADE_AGAIN)
