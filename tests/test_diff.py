"""Two folders of results: what moved beyond its tolerance, and what was different around it."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from project import ROOT
from typer.testing import CliRunner

from npu_parity import evidence
from npu_parity.__main__ import app
from npu_parity.audit import derive
from npu_parity.audit.diff import diff
from npu_parity.errors import ParityError

RUN = "resnet34/npu/predicted"
MEASURED = "resnet34/cpu/measured"


@pytest.fixture
def sides(tmp_path):
    """Two equal folders of results of one system."""
    left_out = shutil.ignore_patterns("*.safetensors", "inputs.npy", "*.onnx")
    for name in ("old", "new"):
        shutil.copytree(ROOT / "results/resnet34", tmp_path / name / "resnet34", ignore=left_out)
    return tmp_path / "old", tmp_path / "new"


def edit(file: Path, change):
    data = json.loads(file.read_text())
    change(data)
    file.write_text(json.dumps(data))


def run(*arguments):
    done = CliRunner().invoke(app, ["diff", *map(str, arguments)])
    return done.exit_code, done.output


def test_equal_folders(sides):
    assert run(*sides) == (0, "Nothing moved.\n")


def test_only_timings_moved(sides):
    def slower(data):
        one = data["batch_sizes"]["1"]
        one["samples"] = [2 * x for x in one["samples"]]
        one |= derive.timings(one["samples"], 1)

    edit(sides[1] / MEASURED / "latency.json", slower)
    code, output = run(*sides)
    assert code == 0 and output.endswith("Only timings moved.\n")
    assert re.search(rf"{MEASURED}/latency.json: batch 1: mean .* \(\+100 %\) ms, beyond", output)


def test_the_last_digits_of_another_cpu_are_no_move(sides):
    file = sides[1] / RUN / "metrics.json"
    file.write_text(json.dumps(derive.shifted(json.loads(file.read_text()), 0.5)))
    assert diff(*sides).only_timings


def test_other_weights(sides):
    """Another seed: other outputs, other figures, and the seed among the conditions."""
    outputs = np.load(sides[1] / RUN / "outputs.npy") + np.float32(0.01)
    reference = np.load(sides[1] / MEASURED / "outputs.npy")
    np.save(sides[1] / RUN / "outputs.npy", outputs)
    digest = evidence.sha256(sides[1] / RUN / "outputs.npy")
    figures = derive.compared(reference, outputs, "classification")
    edit(sides[1] / RUN / "run.json", lambda data: data["sha256"].update(outputs=digest))
    edit(sides[1] / RUN / "metrics.json", lambda data: data.update(figures))
    edit(sides[1] / "resnet34/weights.json", lambda d: d.update(seed=7, source="seed:7"))
    found = diff(*sides)
    assert not found.only_timings and not found.timings
    assert "seed 42 → 7 (resnet34/weights.json)" in found.conditions
    assert any(line.startswith("source 'seed:42' → 'seed:7'") for line in found.conditions)
    assert f"{RUN}/outputs.npy: other bytes" in found.numbers
    assert any(f"{RUN}/metrics.json: max_abs_error 0." in line for line in found.numbers)
    assert any("more of single inputs and heads" in line for line in found.numbers)
    code, output = run(*sides)
    assert code == 1 and output.endswith("Not only timings moved.\n")


def test_versions_and_machines_are_conditions(sides):
    for folder in (MEASURED, RUN):
        edit(sides[1] / folder / "run.json", lambda d: d["versions"].update(torch="0.0.0"))
        edit(sides[1] / folder / "run.json", lambda d: d["executed_on"].update(name="Kunpeng"))
    before = json.loads((sides[0] / MEASURED / "run.json").read_text())
    torch, name = before["versions"]["torch"], before["executed_on"]["name"]
    found = diff(*sides)
    assert found.only_timings
    places = f"({MEASURED}/run.json and 1 more)"
    assert f"versions.torch {torch!r} → '0.0.0' {places}" in found.conditions
    assert f"executed_on.name {name!r} → 'Kunpeng' {places}" in found.conditions


def test_a_verdict(sides):
    edit(sides[1] / RUN / "metrics.json", lambda d: d.update(verdict="FAIL", failed_question=3))
    edit(
        sides[1] / RUN / "metrics.json",
        lambda d: d["criteria"]["bird_species"].update({"pass": False}),
    )
    found = diff(*sides)
    assert found.verdicts == [
        f"{RUN}: verdict PREDICTED → FAIL",
        f"{RUN}: failed_question None → 3",
        f"{RUN}: criterion of bird_species pass → FAIL",
    ]
    assert run(*sides)[0] == 1


def test_an_operator(sides):
    file = sides[1] / MEASURED / "operators.csv"
    table = pd.read_csv(file)
    table["max_error_of_bound"] *= 2
    table.to_csv(file, index=False)
    (line,) = diff(*sides).numbers
    assert line.startswith(f"{MEASURED}/operators.csv: largest error / bound ")
    assert line.endswith("(+100 %)")


def test_runs_of_one_side_only(sides):
    shutil.rmtree(sides[0] / "resnet34/onnxruntime")
    found = diff(*sides)
    assert (
        found.missing[0].startswith("resnet34/onnxruntime/") and str(sides[1]) in found.missing[0]
    )
    assert run(*sides)[0] == 1


def test_no_results(tmp_path):
    with pytest.raises(ParityError, match="found no results here"):
        diff(tmp_path, tmp_path)
