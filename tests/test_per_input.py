"""The metrics of each input are made when they are asked for, the same from every side."""

import json

import numpy as np
import pytest

from npu_parity.evidence.files import write_json
from npu_parity.verdict.per_input import BEST, PerInput

BEST_OF = np.array([[(4, 0.5), (1, 0.25)], [(0, 1.0), (2, np.nan)], [(3, 2.0), (0, 1.0)]], BEST)
COLUMNS = {
    "error": np.array([0.5, np.nan, np.inf]),
    "match": np.array([True, False, True]),
    "answer": ["12", None, ""],
    "top5": BEST_OF,
}
ROWS = [
    {"error": 0.5, "match": True, "answer": "12", "top5": [[4, 0.5], [1, 0.25]]},
    {"error": None, "match": False, "answer": None, "top5": None},
    {"error": None, "match": True, "answer": "", "top5": [[3, 2.0], [0, 1.0]]},
]


def test_each_input_has_a_dictionary():
    found = PerInput(COLUMNS)
    assert len(found) == 3
    assert list(found) == ROWS and found == ROWS and found != ROWS[:2]
    assert [found[i] for i in (0, 1, 2, -1)] == [*ROWS, ROWS[2]]
    assert found[1:] == ROWS[1:]
    assert {type(x) for pair in found[0]["top5"] for x in pair} == {int, float}
    assert type(found[0]["match"]) is bool
    with pytest.raises(IndexError):
        found[3]


def test_more_inputs_than_are_made_at_once():
    found = PerInput({"error": np.arange(1000.0)})
    assert list(found) == [{"error": float(i)} for i in range(1000)]


def test_columns_of_different_lengths_are_a_mistake():
    with pytest.raises(ValueError, match="shorter"):
        list(PerInput({"error": np.ones(3), "answer": ["12"]}))


def test_a_file_has_all_of_them(tmp_path):
    write_json(tmp_path / "metrics.json", {"per_input": PerInput(COLUMNS)})
    assert json.loads((tmp_path / "metrics.json").read_text()) == {"per_input": ROWS}
    with pytest.raises(TypeError, match="set cannot be written as JSON"):
        write_json(tmp_path / "other.json", {"a": {1}})
