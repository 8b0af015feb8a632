"""A lock that a killed run left is removed; that of a live run is respected."""

import os
import signal
import subprocess
import sys

import pytest

from npu_parity.errors import ParityError
from npu_parity.evidence import lock

HOLD = """
from npu_parity.evidence import lock

owner = lock.release_dead()
print("held", flush=True)
input()
"""


@pytest.fixture
def left(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lock.LOCKS.mkdir(parents=True)
    files = [lock.LOCKS / f"0.{kind}.lock" for kind in ("input", "output")]
    for file in files:
        file.touch()
    return files


@pytest.fixture
def other(left):
    """A run that is alive, from before the lock files were there."""
    for file in left:
        file.rename(file.with_suffix(".kept"))
    with subprocess.Popen(
        [sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout.readline() == "held\n"
        for file in left:
            file.with_suffix(".kept").rename(file)
        yield running
        running.kill()


def test_nobody_has_it(left, capsys):
    lock.release_dead().close()
    assert not any(file.exists() for file in left)
    assert capsys.readouterr().err == "removed the lock of a run that was killed\n"
    lock.release_dead().close()
    assert capsys.readouterr().err == ""


def test_a_live_run_has_it(left, other, capsys):
    lock.release_dead().close()
    assert all(file.exists() for file in left) and capsys.readouterr().err == ""


def test_a_run_that_was_killed_had_it(left, other, capsys):
    os.kill(other.pid, signal.SIGKILL)
    other.wait()
    lock.release_dead().close()
    assert not any(file.exists() for file in left)


@pytest.fixture
def incomplete(left):
    file = left[0].parents[2] / "results/net/.outputs.npy.77.partial"
    file.parent.mkdir(parents=True)
    file.touch()
    return file


def test_incomplete_files_of_a_dead_run_are_removed(incomplete):
    whole = incomplete.with_name("outputs.npy")
    whole.touch()
    lock.release_dead().close()
    assert whole.exists() and not incomplete.exists()


def test_incomplete_files_of_a_live_run_stay(incomplete, other):
    incomplete.touch()
    lock.release_dead().close()
    assert incomplete.exists()


def test_a_folder_that_a_run_cannot_make(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lock.require_folders(["results/net/cpu", "logs/net"])
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "results").mkdir()
    (tmp_path / "results/net").touch()
    with pytest.raises(ParityError, match=r"^results/net is no folder, expected a folder: move it"):
        lock.require_folders(["results", "results/net/cpu"])
    (tmp_path / "logs").symlink_to("away")
    with pytest.raises(ParityError, match=r"^logs is no folder"):
        lock.require_folders(["logs/net"])


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(ParityError, match=r"^\. cannot be written: allow it, or run in another"):
        lock.require_folders(["results/net"])
    (tmp_path / ".snakemake").touch()
    with pytest.raises(ParityError, match=r"^\.snakemake/owners cannot be written: "):
        lock.release_dead()
