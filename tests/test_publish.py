"""The repository of a port is complete, runs alone, and is uploaded only if the user says so."""

import html
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest
import yaml
from hub_server import HubServer
from hub_uploads import TOKEN, uploads
from project import finished, sha256

from npu_parity import __main__ as main
from npu_parity.errors import ParityError
from npu_parity.report import publish as publishing
from npu_parity.report import screenshots

pytestmark = pytest.mark.slow

FILES = {
    *(".gitattributes", "config.yaml", "readme.md", "requirements.txt"),
    *("inference.py", "compare_cpu_npu.py", "eval/eval_accuracy.py", "eval/eval_performance.py"),
    *("logs/accuracy_compare.log", "logs/summary.json", "results/accuracy_eval.json"),
    *(
        "assets/divergence.svg",
        "assets/inference.svg",
        "tiny.py",
        "labels.txt",
        "npu_parity/__init__.py",
    ),
    *("results/net/weights.safetensors", "results/net/inputs.npy", "results/net/card.zh.md"),
    "results/net/npu/predicted/metrics.json",
}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of a finished project of one system, with a network and labels of the user."""
    project = finished(tmp_path_factory).copy(tmp_path_factory.mktemp("publish"))
    return project


def program(project, *arguments, env=()):
    done = subprocess.run(
        [sys.executable, "-m", "npu_parity", *map(str, arguments)],
        cwd=project.folder,
        env=os.environ | {"PYTHONPATH": str(project.repository)} | dict(env),
        capture_output=True,
        text=True,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


def refused(project, monkeypatch, *arguments, **options):
    """The one line with which the command refuses, in this process."""
    monkeypatch.chdir(project.folder)
    with pytest.raises(ParityError) as error:
        main.publish(*arguments, config=Path("config.yaml"), **options)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture(scope="module")
def folder(project):
    """What `publish` writes, far from the project. The package in it says that it is used."""
    folder = project.place / "port"
    done = program(project, "publish", "net", "--to", folder, "--language", "zh")
    assert done.returncode == 0, done.stderr
    with (folder / "npu_parity/__init__.py").open("a") as module:
        module.write('\nimport sys; print("the package of the folder", file=sys.stderr)\n')
    return folder


def script(folder, name, *arguments):
    """Run a script of the folder from elsewhere, without the project on the path."""
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, folder / name, *map(str, arguments)],
        cwd=folder.parent,
        env=env,
        capture_output=True,
        text=True,
    )
    assert "Traceback" not in done.stderr, done.stderr
    assert "the package of the folder" in done.stderr
    return done


def test_the_folder_is_complete(folder):
    found = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert found >= FILES
    assert not [
        name for name in found if "__pycache__" in name or name.endswith((".partial", ".onnx"))
    ]
    assert not list(folder.parent.glob(".publish-*"))


def test_the_readme_is_the_card_for_the_hub(folder):
    text = (folder / "readme.md").read_text(encoding="utf-8")
    assert text.startswith("---\nlicense: apache-2.0\n") and "hardware: NPU" in text
    assert "](assets/divergence.svg)" in text and "并非 NPU 实测" in text


# Screenshots


def test_the_readme_shows_what_inference_really_prints(folder):
    svg = (folder / "assets/inference.svg").read_text(encoding="utf-8")
    shown = html.unescape(re.sub(r"<[^>]+>", " ", svg)).replace("\xa0", " ")
    assert "$ python inference.py --device cpu" in shown
    printed = script(folder, "inference.py", "--device", "cpu").stdout
    scores = re.findall(r"\b[01]\.\d{6}$", printed, re.MULTILINE)  # times differ
    assert len(scores) >= 10 and all(score in shown for score in scores)
    assert "http" not in svg.replace("http://www.w3.org/", "").replace("https://www.textualize", "")
    assert "](assets/inference.svg)" in (folder / "readme.md").read_text(encoding="utf-8")


def test_a_program_that_fails_or_prints_much(tmp_path):
    (tmp_path / "fails.py").write_text("import sys; sys.exit('error: no device')")
    with pytest.raises(ParityError, match=r"^`python fails.py` failed: no device$"):
        screenshots.terminal(["fails.py"], tmp_path)
    (tmp_path / "much.py").write_text("print(*range(1000), sep='\\n')")
    found = screenshots.terminal(["much.py"], tmp_path).replace("&#160;", " ")
    assert f"… and {1000 - screenshots.MOST} more lines" in found and ">59<" in found


def browser(folder, content):
    """A Chromium of this test's own, the only one on the path."""
    program = folder / "bin" / "chromium"
    program.parent.mkdir()
    program.write_text(f"#!{sys.executable}\nimport sys\n{content}\n")
    program.chmod(0o755)
    return str(program.parent)


def test_the_page_is_opened_by_the_browser_on_the_path(tmp_path, monkeypatch):
    page, picture = tmp_path / "report.html", tmp_path / "page.png"
    save = (
        "[open(a[13:], 'w').write(sys.argv[-1]) for a in sys.argv if a.startswith('--screenshot')]"
    )
    monkeypatch.setenv("PATH", browser(tmp_path, save))
    screenshots.page(page, picture)
    assert picture.read_text() == page.as_uri()
    picture.unlink()
    (tmp_path / "bin/chromium").write_text(
        f"#!{sys.executable}\nimport sys; sys.exit('no display')"
    )
    with pytest.raises(ParityError, match=r"^Chromium failed: no display$"):
        screenshots.page(page, picture)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_picture_that_cannot_be_taken_is_named_with_the_reason(
    project, tmp_path, monkeypatch, language
):
    monkeypatch.chdir(project.folder)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(screenshots, "find_spec", lambda name: None)
    refuse = ParityError("`python inference.py` failed: no device")
    monkeypatch.setattr(screenshots, "terminal", Mock(side_effect=refuse))
    main.publish("net", tmp_path / "port", language=language)
    text = (tmp_path / "port/readme.md").read_text(encoding="utf-8")
    said = {
        "en": ("`assets/page.png` is left out: no Chromium was found.", "left out: `python inf"),
        "zh": ("未生成 `assets/page.png`：未找到 Chromium。", "未生成 `assets/inference.svg`：`py"),
    }
    assert all(words in text for words in said[language])
    assert not (tmp_path / "port/assets/page.png").exists()


def test_the_logs_say_that_nothing_ran_on_an_npu(folder):
    found = json.loads((folder / "logs/summary.json").read_text())
    stored = json.loads((folder / "results/net/npu/predicted/metrics.json").read_text())
    assert (found["device"], found["run"], found["latency_ms"]) == ("npu", "predicted", None)
    assert found["max_abs_diff"] == stored["max_abs_error"] > 0
    assert found["mean_abs_diff"] == stored["mean_abs_error"]
    assert found["cosine_similarity"] == stored["cosine_similarity"]
    assert found["top1_match"] is (stored["top1_match"] == 1)
    assert found["pretrained_used"] is False and found["local_weight_used"] is False
    assert found["match_within_1_percent"] is stored["criteria"]["bird_species"]["pass"]
    log = (folder / "logs/accuracy_compare.log").read_text()
    assert "predicted: the device's arithmetic was emulated; nothing ran on the device" in log
    assert json.loads((folder / "results/accuracy_eval.json").read_text())["run"] == "predicted"


def test_inference_runs_alone(folder, project):
    done = script(folder, "inference.py", "--image", project.folder / "photo.png", "--compare")
    assert done.returncode == 0, done.stderr
    assert "1. " in done.stdout and "max_abs_diff=0.0" in done.stdout
    assert any(f" {label} " in done.stdout for label in "abcdefghij")
    everything = script(folder, "inference.py", "--device", "cpu").stdout
    assert "photo" in everything and "random_0" in everything


def test_an_npu_that_is_not_there_is_one_line(folder):
    for name in ("inference.py", "compare_cpu_npu.py", "eval/eval_accuracy.py"):
        done = script(folder, name, "--device", "npu")
        assert done.returncode == 1 and "error: device npu:" in done.stderr, done.stdout


def test_the_accuracy_is_computed_again(folder):
    done = script(folder, "eval/eval_accuracy.py", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    found = json.loads((folder / "results/accuracy_eval.json").read_text())
    assert found["run"] == "measured" and found["executed_on"]["backend"] == "cpu"
    assert found["max_abs_diff"] < 1e-5 and found["top1_match"] is True
    assert len(found["per_input"]) == len(found["names"]) == 2


def test_a_wrong_port_is_seen(folder, tmp_path):
    """The scripts compare what is there: other weights are other outputs."""
    copy = tmp_path / "port"
    subprocess.run(["cp", "-r", folder, copy], check=True)
    network = copy / "tiny.py"
    network.write_text(network.read_text().replace("nn.ReLU()", "nn.GELU()"))
    script(copy, "eval/eval_accuracy.py")
    found = json.loads((copy / "results/accuracy_eval.json").read_text())
    assert found["match_within_1_percent"] is False and "is not < 0.01" in found["match_basis"]


def test_the_performance_is_measured(folder):
    script(folder, "eval/eval_performance.py", "--batch", 1, "--batch", 2, "--samples", 2)
    found = json.loads((folder / "results/performance_eval.json").read_text())
    assert list(found["batch_sizes"]) == ["1", "2"] and found["unit"] == "ms"
    assert found["batch_sizes"]["1"]["throughput"] > 0 and found["batch_sizes"]["1"]["samples"]


def test_both_devices_are_compared_on_one_machine(folder):
    done = script(folder, "compare_cpu_npu.py", "--device", "cpu")
    assert done.returncode == 0 and "max_abs_diff: 0.0" in done.stdout
    found = json.loads((folder / "logs/summary.json").read_text())
    assert found["run"] == "measured" and "latency_ms" not in found


def test_the_evidence_in_the_folder_verifies(folder, project):
    done = subprocess.run(
        [sys.executable, "-m", "npu_parity", "verify", "results"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    weights = "results/net/weights.safetensors"
    assert sha256(folder / weights) == sha256(project.folder / weights)


def test_requirements_are_those_of_the_run(folder):
    text = (folder / "requirements.txt").read_text()
    run = json.loads((folder / "results/net/npu/predicted/run.json").read_text())
    for name in ("torch", "torchvision", "numpy"):
        assert f"{name}=={run['versions'][name].partition('+')[0]}\n" in text
    assert "# No NPU was used." in text and "torch-npu==" in text  # the pairs, as comments
    versions = run["versions"] | {"torch": "2.9.0+cpu", "torch-npu": "2.9.0"}
    found = publishing.requirements(run | {"versions": versions, "run": "measured"})
    assert "torch==2.9.0\n" in found and "torch-npu==2.9.0\n" in found and "No NPU" not in found


def test_the_folder_names_no_place_of_this_machine(folder, project):
    settings = (folder / "config.yaml").read_text()
    assert str(project.place) not in settings
    assert yaml.safe_load(settings)["models"]["net"]["weights"] == [
        "path:results/net/weights.safetensors"
    ]


# What is refused


def test_a_folder_that_is_not_empty_is_refused(project, tmp_path, monkeypatch):
    (tmp_path / "mine.txt").write_text("mine")
    line = refused(project, monkeypatch, "net", tmp_path)
    assert line == f"{tmp_path} is not empty, expected a new or an empty folder"
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]
    assert "is not empty" in refused(project, monkeypatch, "net", tmp_path / "mine.txt")
    assert "lies in results" in refused(project, monkeypatch, "net", Path("results/port"))


def test_a_changed_result_is_refused_and_nothing_is_left(project, tmp_path, monkeypatch):
    other = project.copy(tmp_path / "copy")
    file = other.folder / "results/net/cpu/measured/outputs.npy"
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    line = refused(other, monkeypatch, "net", tmp_path / "port")
    assert "outputs.npy was changed since it was made" in line
    assert sorted(p.name for p in tmp_path.iterdir()) == ["copy"]


def test_a_network_outside_the_project_is_refused(project, tmp_path, monkeypatch):
    other = project.copy(tmp_path / "copy")
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join("abcdefghij"))
    other.configure(lambda config: config["models"]["net"].update(labels=str(labels)))
    line = refused(other, monkeypatch, "net", tmp_path / "port")
    assert f"{labels}: found a file outside the project, expected a relative path" in line


def test_unknown_system_and_hub(project, tmp_path, monkeypatch):
    line = refused(project, monkeypatch, "nut", tmp_path / "port")
    assert "config.yaml: no system 'nut', expected net" in line
    line = refused(project, monkeypatch, "net", tmp_path / "port", hub="lab")
    assert "hub 'lab' is unknown" in line and not (tmp_path / "port").exists()


# Upload


@pytest.mark.parametrize("hub", ["huggingface", "modelscope"])
def test_upload_is_dry_until_yes(project, tmp_path, hub):
    arguments = ("publish", "net", "--hub", hub, "--no-screenshots", "--upload", "me/port", "--to")
    port = tmp_path / "port"
    with HubServer(tmp_path / "hub") as server, uploads(server) as taken:
        env = server.env() | {"HF_TOKEN": TOKEN, "MODELSCOPE_API_TOKEN": TOKEN}
        env["HF_HUB_DISABLE_XET"] = "1"
        done = program(project, *arguments, port, env=env)
        assert done.returncode == 0 and "dry run: would upload" in done.stdout, done.stderr
        assert taken == {} and server.requests == []

        shutil.rmtree(port)
        done = program(project, *arguments, port, "--yes", env=env)
        assert done.returncode == 0 and "uploaded " in done.stdout, (done.stderr, server.requests)
        files = {p.relative_to(port).as_posix(): p for p in port.rglob("*") if p.is_file()}
        assert set(files) >= {"README.md", "results/net/weights.safetensors"}
        assert taken["me/port"] == {name: p.read_bytes() for name, p in files.items()}
        if hub == "huggingface":  # its client lets its hub validate the card
            assert set(server.cards) == {(port / "README.md").read_text(encoding="utf-8")}

        env |= {"HF_TOKEN": "hf_other", "MODELSCOPE_API_TOKEN": "other"}
        done = program(project, *arguments, tmp_path / "no", "--yes", env=env)
        assert done.returncode == 1 and done.stderr.count("error: ") == 1
        assert f"error: {hub}:me/port cannot be uploaded: " in done.stderr


def test_upload_needs_a_client_and_an_owner(project, tmp_path, monkeypatch):
    to = tmp_path / "port"
    line = refused(project, monkeypatch, "net", to, hub="gitcode", upload="me/port")
    assert line.startswith("hub 'gitcode' has no client: push the folder with git, or take hugging")
    for name in ("port", "me/", "a/b/c"):
        line = refused(project, monkeypatch, "net", to, hub="modelscope", upload=name)
        assert line == f"--upload: found {name!r}, expected OWNER/NAME"
    assert not to.exists()
