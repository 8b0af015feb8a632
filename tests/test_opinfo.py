"""PyTorch's own operator and module tests: no false alarm, no exception (`make opinfo`: all)."""

from concurrent.futures import ThreadPoolExecutor

import operator_tests
import pytest
import torch

from npu_parity.verdict.bounds import rules

pytestmark = pytest.mark.slow


def count(database, most):
    """Count in a thread. For every sample torch reads its whole stack, and pytest's is deep."""
    with ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,)) as thread:
        return thread.submit(operator_tests.count, database, most).result()


@pytest.fixture(scope="module")
def modules():
    return count(operator_tests.module_samples(), most=1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64], ids=str)
def test_operators(dtype):
    found = count(operator_tests.operator_samples(dtype), most=1)
    assert found.alarms == [] and found.failed_rules == []
    assert found.tests > 300 and found.passed > 500
    assert "aten.add.Tensor" not in found.unbounded


def test_modules(modules):
    assert modules.alarms == [] and modules.failed_rules == []
    assert modules.tests > 100 and modules.passed > 300
    assert "aten.mkldnn_rnn_layer.default" not in modules.unbounded


def test_a_wrong_bound_is_an_alarm(monkeypatch):
    monkeypatch.setitem(rules.RULES, "exp", lambda operator, exact: 1e-12 * exact.abs())
    found = count(operator_tests.operator_samples(only={"exp"}), most=3)
    assert found.alarms and all("aten.exp.default" in alarm for alarm in found.alarms)


def test_the_page_lists_what_has_no_bound(modules):
    text = operator_tests.PAGE.read_text(encoding="utf-8")
    assert modules.unbounded
    for name in modules.unbounded:
        assert f"`{name.removeprefix('aten.').rpartition('.')[0]}`" in text
