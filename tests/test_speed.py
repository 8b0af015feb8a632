"""The plain scripts compute what the workflow computes, and the table shows the measured ratios."""

import copy
import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from project import ROOT, finished
from safetensors.numpy import load_file

sys.path.append(str(ROOT / "benchmarks"))
import sides
import speed


def side(seconds, timed, **stages):
    return {"seconds": seconds, "timed": timed, "jobs": 40, "stages": stages}


ROUND = {
    "peer": side(110.0, 10.0, weights=20.0, outputs=40.0, latency=30.0),
    "full": side(100.0, 20.0, weights=5.0, float64=4.0, latency=30.0),
    "restricted": side(60.0, 20.0, weights=5.0, latency=30.0),
    "same": {
        "net cpu": {"weights": True, "outputs": True, "relative_l2_error": 0.0},
        "net npu": {"weights": True, "outputs": False, "relative_l2_error": 2e-7},
    },
}
MEASURED = {
    "conditions": {
        "systems": ["net"],
        "against": "",
        "load_of_others": 0.25,
        "cpu": "a CPU",
        "cpus": 2,
        "versions": {"torch": "2.14.1", "timm": "1.0.31"},
    },
    "rounds": [ROUND],
    "reruns": {
        "nothing": [4.0, 3.0, 9.0],
        "version": [1.5, 2.0, 2.5],
        "change": side(30.0, 10.0) | {"jobs": 9},
    },
    "steps": {
        "emulated": {"net": [1.2, 1.3, 9.0], "other": [1.1, 1.1, 1.1]},
        "products": {"net": {"rounded operands": 2.0, "predicted operands and statistic": 1.5}},
        "metrics": {"net npu": {"reading": [2.0, 2.0], "judging": [1.0, 1.0]}},
        "large": {
            "features disk": {"reading": [1.0, 1.0], "comparing": [1.5, 1.5], "mib": [99.0]},
            "features memory": {"reading": [1.0], "comparing": [4.0], "mib": [99.0]},
            "classification disk": {"reading": [1.0], "comparing": [3.0], "mib": [99.0]},
            "classification memory": {"reading": [1.0], "comparing": [5.0], "mib": [151.4]},
        },
        "latencies": {  # three turns, and the machine is slow in the second one
            "net": {
                "ours": [[10.0, 10.1, 30.0], [40.0, 40.8, 41.0], [9.9, 10.0]],
                "torch": [[10.0, 10.0, 10.0], [39.0, 40.0, 50.0], [10.0, 10.0]],
            }
        },
    },
}


def ratios(text):
    """The last column of the first table by the first one."""
    rows = (re.findall(r"[^|]+", line) for line in text.split("\n\n")[0].splitlines()[2:])
    return {row[0].strip(): row[-1].strip() for row in rows}


def test_timed_passes_count_on_no_side():
    found = ratios(speed.table(MEASURED))
    assert found["the default run, only the work of the scripts"] == "0.40"
    assert found["the default run"] == "0.80"
    assert found["a run after one input was added, 9 of 40 jobs"] == "0.25"


def test_passes_that_a_busy_machine_repeats_are_timed_passes(tmp_path):
    sizes = {"1": {"samples": [100.0, 300.0], "attempts": 3}, "8": {"samples": [50.0]}}
    (tmp_path / "latency.json").write_text(json.dumps({"batch_sizes": sizes}))
    assert sides.timed_passes(tmp_path, "latency.json") == pytest.approx(1.25)


def test_medians_count():
    found = ratios(speed.table(MEASURED))
    assert found["a run with nothing to do"] == "2.0"
    assert found["an emulated pass (HF32)"] == "1.20 (1.10 to 1.30)"
    assert found["the tests with predicted operands and of z"] == "3.5 (3.5 to 3.5)"
    assert found["all metrics and the verdict of a run"] == "0.50 (0.50 to 0.50)"
    assert found["metrics of 50,000 × 1,000 logits"] == "5.0"  # the last row, from memory
    assert found["p50 of latency.json"] == "1.010 (1.010 to 1.010)"
    slower = copy.deepcopy(MEASURED)
    slower["rounds"] += [ROUND | {"full": side(120.0, 20.0)}, ROUND | {"full": side(900.0, 0.0)}]
    assert ratios(speed.table(slower))["the default run"] == "1.00"


def test_the_most_memory_of_comparing_is_said():
    assert "took at most 151 MiB" in speed.table(MEASURED)
    assert "MiB" not in speed.table(MEASURED | {"steps": {}})


def test_stages_are_shares_of_the_time_of_the_scripts():
    text = speed.table(MEASURED)
    assert re.search(r"weights +\| 20.0 % +\| 5.0 % +\| 5.0 %", text)
    assert re.search(r"float64 +\| +\| +\| 4.0 %", text)
    assert "divergence" not in text  # no side has it
    assert "1 of 2 arrays of outputs have the same bits" in text and "is 2e-07" in text


def test_a_busy_machine_is_said():
    assert "busy" not in speed.table(MEASURED)
    conditions = MEASURED["conditions"] | {"load_of_others": 9.8}
    assert "**The machine was busy" in speed.table(MEASURED | {"conditions": conditions})


def test_an_earlier_version_has_a_row_and_a_column():
    earlier = copy.deepcopy(MEASURED)
    earlier["conditions"]["against"] = "v0.1"
    earlier["rounds"][0]["before"] = side(170.0, 20.0, weights=50.0)
    text = speed.table(earlier)
    assert ratios(text)["the default run of v0.1"] == "1.50"
    assert re.search(r"weights +\| 20.0 % +\| 5.0 % +\| 5.0 % +\| 50.0 %", text)


def test_the_rest_is_the_time_without_a_job():
    assert sides.covered([(5.0, 6.0), (0.0, 2.0), (1.0, 3.0), (1.5, 1.6)]) == 4.0


def test_both_sides_get_the_same_systems_without_a_network(tmp_path):
    place = sides.prepare(tmp_path / "copy", ["bird_species", "svhn_digit"])
    found = sides.read(place)
    assert list(found["models"]) == ["bird_species", "svhn_digit"]
    assert found["models"]["bird_species"]["weights"] == ["seed:42"]
    assert list(found["devices"]) == ["cpu", "npu", "onnxruntime"]
    assert found["latency"]["samples"] == 100  # a default: the scripts have none of their own
    with pytest.raises(SystemExit, match="no system nobody, expected bird_species"):
        sides.prepare(tmp_path / "other", ["nobody"])


def test_the_restricted_run_has_rules_that_exist():
    rules = "".join(file.read_text() for file in (ROOT / "rules").glob("*.smk"))
    assert {*sides.RULES} <= {*re.findall(r"^rule (\w+):", rules, re.M)}
    assert "|exact|" in (ROOT / "rules/common.smk").read_text()


@pytest.mark.slow
def test_the_scripts_compute_what_the_workflow_computes(tmp_path, tmp_path_factory):
    """Bit by bit, with one thread as the workflow."""
    project = finished(tmp_path_factory)
    for part in ("config.yaml", "tiny.py", "photo.png", "labels.txt"):
        shutil.copy(project.folder / part, tmp_path)
    for arguments in (
        ("weights", "net"),
        ("infer", "net", "cpu"),
        ("infer", "net", "npu"),
        ("compare", "net", "npu"),
        ("latency", "net", "cpu"),
        ("tables", "net"),
    ):
        command = [sys.executable, sides.PEER / f"{arguments[0]}.py", *arguments[1:]]
        env = os.environ | {"OMP_NUM_THREADS": "1"}
        subprocess.run(command, cwd=tmp_path, env=env, check=True)
    ours, theirs = project.folder / "results/net", tmp_path / "peer/net"
    states = [load_file(folder / "weights.safetensors") for folder in (ours, theirs)]
    assert states[0].keys() == states[1].keys()
    assert all(np.array_equal(states[0][name], states[1][name]) for name in states[0])
    for device, run in (("cpu", "cpu/measured"), ("npu", "npu/predicted")):
        outputs = [np.load(f / "outputs.npy") for f in (ours / run, theirs / device)]
        assert np.array_equal(*outputs)
    found = json.loads((theirs / "npu/metrics.json").read_text())
    expected = json.loads((ours / "npu/predicted/metrics.json").read_text())
    for name in ("max_abs_error", "l2_error", "mean_relative_error", "cosine_similarity"):
        assert found[name] == pytest.approx(expected[name], rel=1e-9)
    assert found["heads"][""]["top1_match"] == expected["top1_match"]
    sizes = json.loads((theirs / "cpu/latency.json").read_text())["batch_sizes"]
    assert {size: len(of["samples"]) for size, of in sizes.items()} == {"1": 3, "2": 2}
    assert "max_abs_error" in (tmp_path / "peer/tables/net.md").read_text()
