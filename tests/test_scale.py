"""The measurement of many systems: what it runs, and what its table says about growth."""

import importlib.util
from pathlib import Path

import pandas as pd
import pytest

from npu_parity import config

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "scale.py"
NETWORKS = {
    name: {"architecture": f"timm:{name}", "weights": ["seed:42"], "inputs": ["random:1"]}
    for name in ("a", "b")
}


@pytest.fixture(scope="module")
def scale():
    spec = importlib.util.spec_from_file_location("scale", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def row(systems, wall, planning):
    memory = {f"{kind}_memory": 200.0 for kind in ("planning", "run", "nothing")}
    times = {"run_wall": wall, "run_cpu": wall, "planning_wall": planning, "planning_cpu": planning}
    sizes = {"results_mib": systems * 0.2, "large_mib": 10.0, "load": 0.1, "cpus": 2, "cores": 2}
    return {"systems": systems, **memory, **times, **sizes}


def test_every_system_has_a_seed_of_its_own(scale):
    found = scale.config(5, NETWORKS)["models"]
    assert list(found) == ["a_0", "b_1", "a_2", "b_3", "a_4"]
    assert [s["weights"] for s in found.values()] == [[f"seed:{i}"] for i in range(5)]
    assert NETWORKS["a"]["weights"] == ["seed:42"]


def test_the_configuration_predicts_and_measures(scale):
    whole = scale.config(2, NETWORKS)
    config.fill(whole, config.schema())
    planned, left_out = config.runs(whole)
    assert ("cpu_again", "measured") in planned and ("hf32", "predicted") in planned
    assert not left_out


def test_the_table_says_how_the_time_grows(scale):
    rows = pd.DataFrame([row(30, 300.0, 6.0), row(300, 3300.0, 66.0)])
    text = scale.table(rows)
    assert "A system of 300 took 1.10 times as long" in text
    assert "Planning took at most 2.0% of a run" in text
    assert "Not run yet: 300 systems" in scale.table(rows[rows.systems == 30])


def test_a_failed_run_is_no_row(scale, monkeypatch, tmp_path):
    monkeypatch.setattr(scale, "TARGET", "results/none.json")
    (tmp_path / "config.yaml").write_text("reference: cpu\n")
    with pytest.raises(SystemExit) as raised:
        scale.snakemake(tmp_path, 1)
    assert "error: snakemake" in str(raised.value) and "devices" in str(raised.value)
