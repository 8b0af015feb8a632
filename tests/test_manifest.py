"""Results are believed only as they were made; what was made otherwise is known."""

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from npu_parity import evidence
from npu_parity.audit.verify import damaged
from npu_parity.audit.verify import outdated as made_from_others
from npu_parity.errors import ParityError
from npu_parity.evidence import hashes, manifest
from npu_parity.evidence import outdated as now

RUN = Path("results/net/cpu/measured")


@pytest.fixture
def results(tmp_path, monkeypatch):
    """A few results of each kind, made by two programs."""
    monkeypatch.chdir(tmp_path)
    with manifest.job("weights", "1111", ["--architecture=net", "--", "seed:1"]):
        evidence.write_text("results/net/weights.safetensors", "tensors")
        evidence.write_json("results/net/weights.json", {"seed": 1})
    with manifest.job("outputs", "2222", ["--run=measured"]):
        evidence.read_json("results/net/weights.json")
        evidence.write_array(RUN / "outputs.npy", np.arange(4.0, dtype=np.float32))
        evidence.write_text(RUN / "operators.csv", "index,module\n0,a\n")
        evidence.write_text("results/tables/net.md", "| a |\n")
        evidence.write_text("results/net/divergence.svg", "<svg/>")
    return Path("results")


FILES = (
    "net/weights.safetensors",
    "net/weights.json",
    "net/divergence.svg",
    "net/cpu/measured/outputs.npy",
    "net/cpu/measured/operators.csv",
    "tables/net.md",
)
MANIFESTS = ("net/manifest.json", "net/cpu/measured/manifest.json", "tables/manifest.json")


def test_a_manifest_states_what_made_a_result_and_from_what(results):
    entry = manifest.read(RUN)["outputs.npy"]
    assert entry["sha256"] == evidence.sha256(RUN / "outputs.npy")
    assert (entry["program"], entry["code"]) == ("outputs", "2222")
    assert entry["options"] == ["--run=measured"]
    weights = "results/net/weights.json"
    assert entry["read"] == {weights: evidence.sha256(weights)}
    assert list(damaged(results)) == []


def test_files_outside_results_have_no_manifest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    evidence.write_text("README.md", "text")
    evidence.write_text("docs/a.md", "text")
    assert not list(tmp_path.rglob(manifest.NAME))
    Path("README.md").write_text("changed")
    assert evidence.read_bytes("README.md") == b"changed"


@pytest.mark.abuse("corrupted results")
@pytest.mark.parametrize("name", FILES + MANIFESTS)
def test_a_changed_byte_is_noticed_wherever_it_is(results, name):
    file = results / name
    content, time = file.read_bytes(), file.stat().st_mtime_ns
    for place in range(0, len(content), max(1, len(content) // 25)):
        file.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        os.utime(file, ns=(time, time))
        lines = list(damaged(results))
        assert any(name in line for line in lines), (place, lines)
    for changed in (content[:-1], content + b"\n", b""):
        file.write_bytes(changed)
        assert any(name in line for line in damaged(results)), changed


@pytest.mark.abuse("corrupted results")
@pytest.mark.parametrize("name", FILES)
def test_a_changed_result_is_not_read(results, name):
    file = results / name
    assert evidence.read_bytes(file)
    file.write_bytes(file.read_bytes() + b" ")
    with pytest.raises(ParityError, match=f"^results/{name} was changed since it was made: run "):
        evidence.read_bytes(file)


def test_a_file_that_nobody_made(results):
    (RUN / "more.csv").write_text("a\n")
    assert list(damaged(results)) == [
        f"{RUN}/more.csv is in no manifest: no program of this project made it; remove it"
    ]
    with pytest.raises(ParityError, match=f"{RUN}/more.csv is not in {RUN}/manifest.json"):
        evidence.read_table(RUN / "more.csv")


def test_a_file_that_is_gone(results):
    (RUN / "operators.csv").unlink()
    (results / "net/weights.safetensors").unlink()  # git does not keep it
    (line,) = damaged(results)
    assert line.startswith(f"{RUN}/operators.csv is missing: run `snakemake")


def test_a_result_that_was_made_from_another(results):
    with manifest.job("weights", "1111", []):
        evidence.write_json("results/net/weights.json", {"seed": 2})
    assert list(damaged(results)) == []
    lines = list(made_from_others(results))
    start = f"{RUN}/outputs.npy was made from another results/net/weights.json: run `snakemake"
    assert any(line.startswith(start) for line in lines)


@pytest.mark.abuse("corrupted results")
@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"files": 3}', '{"files": {}}'])
def test_a_manifest_that_is_none(results, content):
    (RUN / manifest.NAME).write_text(content)
    assert any(str(RUN / manifest.NAME) in line for line in damaged(results))
    with pytest.raises(ParityError, match=r"manifest\.json was changed"):
        evidence.read_array(RUN / "outputs.npy")


def test_programs_may_write_into_one_folder_at_a_time(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: evidence.write_text(f"results/net/{i}.txt", str(i)), range(40)))
    assert len(manifest.read(Path("results/net"))) == 40
    assert list(damaged(Path("results"))) == []


# What would be made otherwise today


def outdated(results, weights=("1111", ["--architecture=net", "--", "seed:1"]), outputs="2222"):
    def expected(program, wildcards):
        assert wildcards.get("system", "net") == "net"
        return {"weights": weights, "outputs": (outputs, ["--run=measured"])}.get(program)

    found = dict(now.outdated(results, expected, Path("hashes.json")))
    return {path.relative_to(results).as_posix(): why for path, why in found.items()}


def test_nothing_is_outdated_that_would_be_made_the_same(results):
    assert outdated(results) == {}


def test_other_code_and_other_settings(results):
    assert set(outdated(results, outputs="3333")) == set(FILES[2:])
    assert set(outdated(results, outputs="3333").values()) == {"other code made it"}
    found = outdated(results, weights=("1111", ["--architecture=net", "--", "seed:2"]))
    assert found == dict.fromkeys(FILES[:2], "other settings made it")


def test_what_the_configuration_does_not_ask_for_is_left_alone(results):
    assert outdated(results, weights=None) == {}


def test_a_folder_of_an_older_run_is_outdated(results):
    """Its files fit its manifest; they were made from weights that there are no more."""
    kept = RUN.with_name("kept")
    RUN.rename(kept)
    with manifest.job("weights", "1111", ["--architecture=net", "--", "seed:1"]):
        evidence.write_json("results/net/weights.json", {"seed": 2})
    kept.rename(RUN)
    why = "a result that it was made from has changed"
    assert outdated(results) == dict.fromkeys(FILES[2:], why)


def test_a_manifest_of_another_version(results):
    """Its hash fits, but its entries do not have today's keys."""
    path = RUN / manifest.NAME
    entries = manifest.read(RUN)
    path.write_text(manifest._text({name: {"sha256": "0"} for name in entries}))
    (line,) = damaged(results)
    assert line.startswith(f"{path} was changed since it was made: run `snakemake")
    assert set(outdated(results)) == set(FILES[3:5])


def test_a_manifest_that_is_gone(results):
    (RUN / manifest.NAME).unlink()
    (line,) = damaged(results)
    assert line.startswith(f"{RUN / manifest.NAME} is missing: run `snakemake")


def test_a_changed_and_an_unknown_file_are_outdated(results):
    (results / FILES[5]).write_text("changed")
    (RUN / "more.csv").write_text("a\n")
    found = outdated(results)
    assert found == {
        FILES[5]: "it was changed since it was made",
        "net/cpu/measured/more.csv": "it is in no manifest",
    }


def test_all_of_a_folder_is_outdated_where_its_manifest_was_changed(results):
    file = RUN / manifest.NAME
    file.write_text(json.dumps(json.loads(file.read_text())))
    assert set(outdated(results)) == set(FILES[3:5])


def test_no_results(tmp_path):
    assert dict(now.outdated(tmp_path / "results", lambda *_: None, tmp_path / "hashes.json")) == {}
    with pytest.raises(ParityError, match="there are no results"):
        list(damaged(tmp_path))


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("tables/net.md", {"system": "net"}),
        ("probes/npu_fp32.json", {"device": "npu_fp32"}),
        ("net/weights.json", {"system": "net"}),
        ("net/npu/measured/run.json", {"system": "net", "device": "npu", "run": "measured"}),
    ],
)
def test_path_of_a_result_names_what_it_is_of(path, names):
    assert now._names(Path(path)) == names


# Files that nobody touched are not read again


@pytest.fixture
def memory(tmp_path, monkeypatch):
    """Two old files, and a function that hashes them and returns which ones it has read."""
    monkeypatch.chdir(tmp_path)
    files = [Path("a.npy"), Path("b.npy")]
    for file in files:
        file.write_bytes(b"1234")
    monkeypatch.setattr(hashes, "TICK", -(10**18))  # these files are new

    def read_now():
        read = []
        original = evidence.sha256
        monkeypatch.setattr(hashes, "sha256", lambda name: read.append(name) or original(name))
        with hashes.hashes(files, Path("kept/hashes.json")) as digest:
            assert [digest(file) for file in files] == [original(file) for file in files]
        return sorted(read)

    assert read_now() == ["a.npy", "b.npy"]
    return read_now


def test_a_file_is_read_once(memory):
    assert memory() == []


def change_in_place(file):
    with file.open("r+b") as opened:
        opened.write(b"5")


def replace(file):
    other = file.with_name("other")
    other.write_bytes(b"5234")
    other.replace(file)


@pytest.mark.parametrize("change", [change_in_place, replace])
def test_a_file_with_the_old_size_and_time_is_read_again(memory, change):
    file = Path("a.npy")
    before = file.stat()
    time.sleep(0.02)  # longer than a tick of the clock
    change(file)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (4, before.st_mtime_ns)
    assert memory() == ["a.npy"]


def test_a_new_file_is_not_remembered(memory, monkeypatch):
    """It may change again in the same tick of the clock."""
    monkeypatch.setattr(hashes, "TICK", 2 * 10**9)
    Path("a.npy").write_bytes(b"5678")
    assert memory() == ["a.npy"]
    assert memory() == ["a.npy"]


@pytest.mark.parametrize("text", ["", "[]", '{"a.npy": 3}', '{"a.npy": []}', "\0"])
def test_a_damaged_memory(memory, text):
    Path("kept/hashes.json").write_text(text)
    assert memory() == ["a.npy", "b.npy"]
    assert memory() == []


def test_a_file_that_another_run_removes(tmp_path):
    """Who does not ask for it need not know."""
    gone = tmp_path / "gone"
    with (
        hashes.hashes([gone], tmp_path / "hashes.json") as digest,
        pytest.raises(FileNotFoundError),
    ):
        digest(gone)
