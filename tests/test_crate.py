"""The archive of a run, read again: every file is what the metadata says, no path is absolute."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from project import finished, sha256
from rocrate.rocrate import ROCrate

from npu_parity import crate
from npu_parity.errors import ParityError

pytestmark = pytest.mark.slow

CITED = """
cff-version: 1.2.0
message: Cite it.
title: My ports
license: mit
authors:
  - {given-names: Ada, family-names: Example, orcid: "https://orcid.org/0000-0002-1825-0097"}
  - name: The lab
date-released: 2026-01-02
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of a finished project of one system, with its own citation."""
    project = finished(tmp_path_factory).copy(tmp_path_factory.mktemp("crate"))
    (project.folder / "CITATION.cff").write_text(CITED)
    return project


def command(project, *arguments):
    done = subprocess.run(
        [sys.executable, "-m", "npu_parity", "crate", *map(str, arguments)],
        cwd=project.folder,
        env=os.environ | {"PYTHONPATH": str(project.repository)},
        capture_output=True,
        text=True,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


@pytest.fixture(scope="module", params=["crate", "crate.zip"])
def unpacked(request, project, tmp_path_factory):
    """The folder of a crate that was written as a folder, or as an archive."""
    place = tmp_path_factory.mktemp("written")
    done = command(project, "--to", place / request.param)
    assert done.returncode == 0, done.stderr
    if request.param.endswith(".zip"):
        shutil.unpack_archive(place / request.param, place / "crate")
    assert sorted(p.name for p in place.iterdir()) == sorted({"crate", request.param})
    return place / "crate"


def test_every_file_is_what_the_metadata_says(unpacked, project):
    found = ROCrate(unpacked)
    files = {e.id: e for e in found.data_entities if "sha256" in e.properties()}
    there = {p.relative_to(unpacked).as_posix() for p in unpacked.rglob("*") if p.is_file()}
    assert there == {*files, "ro-crate-metadata.json"}
    for name, entity in files.items():
        assert entity["sha256"] == sha256(unpacked / name), name
        assert int(entity["contentSize"]) == (unpacked / name).stat().st_size
        assert entity["encodingFormat"]
    results = {n for n in project.files() if not n.endswith(".onnx")}
    assert there > results and {"config.yaml", "tiny.py", "labels.txt", "photo.png"} <= there


def test_no_path_is_absolute(unpacked, project):
    text = (unpacked / "ro-crate-metadata.json").read_text(encoding="utf-8")
    assert str(project.place) not in text and str(unpacked.parent) not in text
    names = [entity["@id"] for entity in json.loads(text)["@graph"]]
    assert not [name for name in names if name.startswith(("/", "file:"))]


def test_the_workflow_its_run_and_its_software(unpacked, project):
    found = ROCrate(unpacked)
    workflow = found.mainEntity
    assert workflow.id == "Snakefile" and "ComputationalWorkflow" in workflow.type
    assert workflow["programmingLanguage"]["name"] == "Snakemake"
    profiles = {profile.id for profile in found.root_dataset["conformsTo"]}
    assert {"https://w3id.org/ro/wfrun/workflow/0.6", "https://w3id.org/ro/wfrun/process/0.6"} < (
        profiles
    )
    run = found.root_dataset["mentions"]
    assert run.type == "CreateAction" and run["instrument"] is workflow
    assert [e.id for e in run["object"]] == ["config.yaml"]
    assert {"results/summary.json", "results/net/cpu/measured/outputs.npy"} < {
        e.id for e in run["result"]
    }
    versions = {e["name"]: e["softwareVersion"] for e in workflow["softwareRequirements"]}
    assert versions == project.json("results/net/cpu/measured/run.json")["versions"]


def test_what_a_run_and_the_weights_are(unpacked, project):
    found = ROCrate(unpacked)
    for run in ("cpu/measured", "npu/predicted"):
        assert found.get(f"results/net/{run}/")["name"] == f"net, {run.replace('/', ' ')}"
    said = found.get("results/net/npu/predicted/")["description"]
    assert "Nothing was executed on the device" in said and "PREDICTED" in said
    weights = found.get("results/net/weights.safetensors")
    assert weights["description"] == "random, from seed:1; licence: apache-2.0"
    assert weights["license"].id == "https://spdx.org/licenses/Apache-2.0"


def test_authors_licence_and_time(unpacked):
    found = ROCrate(unpacked)
    person, lab = found.creator
    assert (person.type, person["name"]) == ("Person", "Ada Example")
    assert person.id == "https://orcid.org/0000-0002-1825-0097"
    assert (lab.type, lab["name"]) == ("Organization", "The lab")
    assert found.license.id == "https://spdx.org/licenses/MIT"
    assert found.name == "My ports: results of a run" and found.datePublished


# What is refused


@pytest.fixture
def other(project, tmp_path):
    return project.copy(tmp_path / "copy")


@pytest.fixture
def refused(monkeypatch):
    def refused(project, to):
        monkeypatch.chdir(project.folder)
        with pytest.raises(ParityError) as error:
            crate.write(to)
        assert not [p for p in to.parent.iterdir() if "partial" in p.name]
        return str(error.value)

    return refused


def test_a_changed_result_is_refused(other, tmp_path, refused):
    file = other.folder / "results/net/cpu/measured/outputs.npy"
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    assert "outputs.npy was changed since it was made" in refused(other, tmp_path / "a.zip")
    assert not (tmp_path / "a.zip").exists()


def test_a_name_that_exists_is_refused(project, tmp_path, refused):
    (tmp_path / "a.zip").write_text("mine")
    assert "a.zip exists already" in refused(project, tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_text() == "mine"


def test_no_results_and_no_authors(other, tmp_path, refused):
    (other.folder / "CITATION.cff").write_text("title: a\n")
    assert "CITATION.cff: expected a mapping with title and authors" in (
        refused(other, tmp_path / "a")
    )
    shutil.rmtree(other.folder / "results")
    assert "results has no results: run `make`" in refused(other, tmp_path / "a")
