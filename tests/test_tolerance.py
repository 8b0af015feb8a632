"""Figures agree within what float64 arithmetic may differ by between machines, and no further."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from npu_parity.evidence.tolerance import differences, tolerance
from npu_parity.verdict import metrics


def found(stated, again):
    return list(differences(stated, again))


@given(st.floats(1e-12, 1.0))
def test_the_smaller_the_difference_the_fewer_its_digits(error):
    assert 0 < tolerance(1.0) <= tolerance(error) < 1e-2
    assert tolerance(error / 2) > tolerance(error)


@pytest.mark.parametrize("value", [0, True, "PASS", None, [1, 2], {"a": [0.5, "x"]}])
def test_equal_values_agree(value):
    assert found(value, value) == []


@pytest.mark.parametrize(
    ("stated", "again"),
    [(1, 2), (1, 1.0), ("PASS", "FAIL"), (None, 0.0), (True, 1), ([1], [1, 2]), ({"a": 1}, {})],
)
def test_what_is_no_float_must_be_equal(stated, again):
    assert len(found(stated, again)) == 1


def test_a_place_is_named():
    assert found({"a": [{"b": 1.0}]}, {"a": [{"b": 2.0}]}) == [".a[0].b: 1.0, computed again 2.0"]


def test_metrics_agree_with_the_file_that_has_them():
    r = np.random.default_rng(0).standard_normal((3, 8)).astype(np.float32)
    figures = metrics.compare(r, r + np.float32(1e-3))
    stated = json.loads(json.dumps(figures, default=list))
    assert found(stated, figures) == []
    stated["per_input"][1]["margin"] += 1e-9
    assert len(found(stated, figures)) == 1


def test_the_last_digits_may_differ_and_the_ninth_may_not():
    figures = {"relative_l2_error": 1e-4, "max_abs_error": 0.013468742370605469}
    for changed, agrees in ((1e-13, True), (1e-9, False)):
        again = figures | {"max_abs_error": figures["max_abs_error"] * (1 + changed)}
        assert (found(figures, again) == []) is agrees


@pytest.mark.parametrize("error", [1e-2, 1e-4, 1e-6])
def test_other_exponentials_stay_within_the_tolerance(error, monkeypatch):
    """NumPy's exp and log, off by up to 4 units in the last place, as another machine's may be."""
    generator = np.random.default_rng(0)
    reference = generator.standard_normal((5, 100)).astype(np.float32) * 5
    device = reference * (1 + error * generator.standard_normal(reference.shape))
    stated = metrics.compare(reference, device.astype(np.float32))
    exp, log = np.exp, np.log

    def off(function):
        def other(values, out=None):
            exact = function(values)
            return np.add(
                exact, np.spacing(exact) * generator.integers(-4, 5, np.shape(exact)), out=out
            )

        return other

    monkeypatch.setattr(np, "exp", off(exp))
    monkeypatch.setattr(np, "log", off(log))
    again = metrics.compare(reference, device.astype(np.float32))
    assert again != stated and found(stated, again) == []
