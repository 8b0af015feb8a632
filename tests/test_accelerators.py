"""A job takes one card of a machine that has several."""

import os

import pytest

from npu_parity.backends import accelerators
from npu_parity.backends.device import BACKENDS, Device


@pytest.fixture(autouse=True)
def nothing_taken(monkeypatch, tmp_path):
    """Let this process begin anew; its lock files are in a folder of the test."""
    monkeypatch.setattr(accelerators, "_taken", {})
    monkeypatch.setattr(accelerators.tempfile, "gettempdir", lambda: str(tmp_path))


def another_process(monkeypatch):
    """Forget which card was taken, but not its lock: as in another process."""
    before = dict(accelerators._taken)
    monkeypatch.setattr(accelerators, "_taken", {})
    return before


def test_each_process_gets_a_card_of_its_own(monkeypatch):
    assert accelerators.take("npu", ["0", "1"]) == "0"
    assert accelerators.take("npu", ["0", "1"]) == "0"  # the same process keeps it
    first = another_process(monkeypatch)
    assert accelerators.take("npu", ["0", "1"]) == "1"
    second = another_process(monkeypatch)

    def sleep(seconds):
        os.close(first["npu"][1])  # the first process ends

    monkeypatch.setattr(accelerators.time, "sleep", sleep)
    assert accelerators.take("npu", ["0", "1"]) == "0"
    assert second["npu"][0] == "1"


def test_cards_of_two_backends_are_apart():
    assert accelerators.take("npu", ["0", "1"]) == "0"
    assert accelerators.take("cuda", ["0", "1"]) == "0"


@pytest.mark.parametrize("backend", ["npu", "cuda", "xpu"])
@pytest.mark.parametrize(
    ("nodes", "before", "after"),
    [(0, None, None), (1, None, None), (2, None, "0"), (8, "5", "5"), (8, "5,6", "5")],
)
def test_card_is_chosen_by_the_environment(monkeypatch, tmp_path, backend, nodes, before, after):
    implementation = BACKENDS[backend]
    pattern = tmp_path / os.path.basename(implementation.node)
    for number in range(nodes):
        (tmp_path / f"{pattern.name.partition('[')[0].rstrip('*')}{number}").touch()
    monkeypatch.setattr(implementation, "node", str(pattern))
    monkeypatch.delenv(implementation.visible, raising=False)
    if before:
        monkeypatch.setenv(implementation.visible, before)
    Device(backend).take_accelerator()
    assert os.environ.get(implementation.visible) == after
    if after and not before:  # it ends with the test
        monkeypatch.delenv(implementation.visible)


def test_a_cpu_is_no_card():
    before = dict(os.environ)
    Device("cpu").take_accelerator()
    assert dict(os.environ) == before
