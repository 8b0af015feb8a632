"""The zoo: a crash or an endless loop costs one row, and a run goes on where it stopped."""

import importlib.util
import os
import signal
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from torch import nn

from npu_parity.verdict.executed import is_channels_last

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "zoo.py"


@pytest.fixture
def zoo(monkeypatch, tmp_path):
    spec = importlib.util.spec_from_file_location("zoo", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "RESULTS", tmp_path / "zoo.csv")
    monkeypatch.setattr(module, "DOCS", tmp_path / "zoo.md")
    monkeypatch.setattr(sys, "argv", ["zoo.py"])
    return module


def rows_of(zoo, name):
    kinds = ("copy", "channels last", *zoo.FORMATS)
    row = {"network": name, "outcome": "PASS", "passes": 2.0, "memory": 1.5}
    return [row | {"kind": kind} for kind in kinds]


def test_a_crash_costs_one_row(zoo, monkeypatch):
    def check(name):
        yield from rows_of(zoo, name)[:2]
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(zoo, "check", check)
    *kept, last = zoo.run("timm:any")
    assert [row["kind"] for row in kept] == ["copy", "channels last"]
    assert (last["outcome"], last["detail"]) == ("crash", "exit status -9")


def test_an_endless_loop_ends(zoo):
    def work():
        yield 1
        time.sleep(600)

    assert zoo._apart(work, seconds=1) == ([1], "more than 1 s")


def test_a_run_goes_on_where_it_stopped(zoo, monkeypatch):
    """Networks that this code has checked are not checked again, those of other code are."""
    names = ["timm:a", "timm:b", "timm:c"]
    checked = []

    def check(name):
        checked.append(name)
        return rows_of(zoo, name)

    monkeypatch.setattr(zoo, "networks", lambda: iter(names))
    monkeypatch.setattr(zoo, "run", check)
    zoo.main()
    assert checked == names
    whole = zoo.RESULTS.read_text()
    frame = pd.read_csv(zoo.RESULTS)
    assert list(dict.fromkeys(frame.network)) == names
    frame.loc[frame.network == "timm:b", "code"] = "older"
    frame.to_csv(zoo.RESULTS, index=False)
    checked.clear()
    zoo.main()
    assert checked == ["timm:b"] and zoo.RESULTS.read_text() == whole
    assert "**18 checks: 18 PASS, 0 false alarms" in zoo.DOCS.read_text()


def test_networks_of_videos_have_channels_last_too(zoo):
    """`Module.to` takes one memory format, which fails for weights of the other kind."""
    model = nn.Sequential(nn.Conv3d(3, 4, 3), nn.Conv2d(4, 2, 3), nn.Linear(2, 2))
    last = zoo.channels_last(model)
    assert [is_channels_last(layer.weight) for layer in last] == [True, True, False]
    assert not any(is_channels_last(layer.weight) for layer in model)


def test_values_beyond_float16_are_no_false_alarm(zoo):
    """A network that computes them cannot pass in float16. Any other FAIL is a false alarm."""
    rows = [row | {"code": "any", "detail": "", "without_bound": None} for row in rows_of(zoo, "a")]
    rows[4] |= {"outcome": "FAIL", "detail": f"nan; an operand exceeds 65504, {zoo.BEYOND})"}
    page = zoo.document(pd.DataFrame(rows))
    assert "6 checks: 5 PASS, 0 false alarms" in page and "1 with values beyond float16" in page
    rows[5] |= {"outcome": "FAIL", "detail": "operator 1: 2 times its bound"}
    assert "4 PASS, 1 false alarms" in zoo.document(pd.DataFrame(rows))
