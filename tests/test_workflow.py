"""The workflow itself, run by Snakemake in folders of its own on networks of a few layers."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hub_server import NOWHERE, HubServer, hub_env
from project import ABSENT, AS_MAKE, CONFIG, Project, draw, finished, sha256, system, told
from safetensors.numpy import load_file, save_file

from npu_parity.backends.device import Device

pytestmark = pytest.mark.slow


def after(*systems):
    """The jobs that follow from other weights or inputs of these systems."""
    return {"summary", "page"} | {
        job
        for s in systems
        for job in (
            f"outputs {s} cpu measured",
            f"outputs {s} cpu exact",
            f"outputs {s} npu predicted",
            f"metrics {s} npu predicted",
            f"latency {s} cpu",
            f"operators {s} cpu",
            f"divergence {s} npu predicted",
            f"figure {s}",
            f"table {s}",
            f"card {s}",
        )
    }


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The workflow run from nothing; tests that change anything take `project`."""
    project = Project.make(tmp_path_factory.mktemp("base"), CONFIG)
    project.succeed()
    return project


@pytest.fixture
def project(base, tmp_path):
    return base.copy(tmp_path)


# From nothing


def test_the_report_of_snakemake(base, tmp_path):
    """One file with tables, pictures and the page, and no error in a caption."""
    base.succeed("--report", str(tmp_path / "report.html"), "all")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    for name in ("noise", "photo"):
        assert f"Tables of <em>{name}</em>" in text.replace("\\u003c", "<").replace("\\u003e", ">")
        assert f"results/tables/{name}.md" in text and f"results/{name}/divergence.svg" in text
    assert "results/report.html" in text and "system-message" not in text


def test_files_of_the_contract(base):
    runs = ("cpu/exact", "cpu/measured", "npu/predicted")
    expected = {"results/summary.json", "results/report.html"}
    expected |= {f"results/tables/{table}.md" for table in ("summary", "overview")}
    for name in ("noise", "photo"):
        expected |= {
            f"results/tables/{name}.md",
            *(f"results/{name}/{card}.md" for card in ("card", "card.zh")),
            *(f"results/{name}/{kind}" for kind in ("weights.safetensors", "weights.json")),
            *(f"results/{name}/{kind}" for kind in ("inputs.npy", "inputs.json")),
            *(f"results/{name}/{r}/{k}" for r in runs for k in ("outputs.npy", "run.json")),
            f"results/{name}/npu/predicted/metrics.json",
            f"results/{name}/npu/predicted/divergence.csv",
            f"results/{name}/divergence.svg",
            f"results/{name}/cpu/measured/latency.json",
            f"results/{name}/cpu/measured/operators.csv",
        }
    files = base.files()
    assert expected <= set(files)
    assert not [name for name in files if Path(name).name.startswith(".")]  # half-written ones


@pytest.mark.parametrize("name", ["noise", "photo"])
def test_sidecars_state_the_hashes_of_the_files(base, name):
    folder = base.folder / "results" / name
    weights, inputs = sha256(folder / "weights.safetensors"), sha256(folder / "inputs.npy")
    assert base.json(f"results/{name}/weights.json")["sha256"] == weights
    assert base.json(f"results/{name}/inputs.json")["sha256"] == inputs
    for run in ("cpu/exact", "cpu/measured", "npu/predicted"):
        assert base.json(f"results/{name}/{run}/run.json")["sha256"] == {
            "weights": weights,
            "inputs": inputs,
            "outputs": sha256(folder / run / "outputs.npy"),
        }
    timed = base.json(f"results/{name}/cpu/measured/latency.json")
    assert timed["weights_sha256"] == weights


def test_images_are_known_by_their_hashes(base):
    images = base.json("results/photo/inputs.json")["images"]
    files = ["photo.png", "album/one.png"]
    assert [i["sha256"] for i in images] == [sha256(base.folder / f) for f in files]


def test_latency_keeps_every_sample(base):
    timed = base.json("results/noise/cpu/measured/latency.json")["batch_sizes"]
    assert {size: len(found["samples"]) for size, found in timed.items()} == {"1": 3, "2": 2}


def test_npu_is_predicted_and_says_so(base):
    run = base.json("results/noise/npu/predicted/run.json")
    assert (run["run"], run["backend"], run["executed_on"]["backend"]) == (
        "predicted",
        "npu",
        "cpu",
    )
    assert not base.files("results/*/npu/measured/*") and not base.files("results/*/npu/*/latency*")
    rows = [r for r in base.json("results/summary.json")["rows"] if r["device"] == "npu"]
    assert [(r["run"], r["latency"]) for r in rows] == [("predicted", None)] * 2
    for table in base.files("results/tables/*.md").values():
        lines = [x for x in table.read_text().splitlines() if re.search(r"\bnpu\b", x)]
        assert lines and all("predicted" in x.lower() for x in lines)


def test_absent_device_is_left_out_with_a_reason(base):
    reason = Device(ABSENT).missing()
    assert base.json("results/summary.json")["left_out"] == {"absent": reason}
    summary = (base.folder / "results/tables/summary.md").read_text()
    assert f"absent is left out: {reason}." in summary.splitlines()


def test_nothing_is_done_twice(base):
    output = base.succeed()
    assert "Nothing to be done" in output and "outdated" not in output


def test_planning_says_what_is_outdated_and_why(project):
    changed_by_hand("results/noise/npu/predicted/metrics.json")(project)
    file = "results/noise/npu/predicted/metrics.json"
    assert f"outdated: {file} (it was changed since it was made)" in project.run("-n").stdout


# What a change runs again


def setting(path, value):
    """Set ``devices.npu.numerics`` or the like."""

    def change(project):
        *parents, last = path.split(".")

        def apply(config):
            for key in parents:
                config = config[key]
            config[last] = value

        project.configure(apply)

    return change


def appended(file, text):
    def change(project):
        path = project.place / file
        path.write_text(path.read_text() + text)

    return change


def exchanged(file, write):
    """Change a file by `write`, and give it an older time than it had."""

    def change(project):
        path = project.folder / file
        before = path.stat().st_mtime
        write(path)
        os.utime(path, (before - 1e6, before - 1e6))

    return change


def forgotten(change):
    """Let Snakemake's own memory be gone as well."""

    def both(project):
        change(project)
        shutil.rmtree(project.folder / ".snakemake")

    return both


def more(path):
    path.write_text(path.read_text() + "\n# more\n")


def touched(pattern):
    def change(project):
        paths = [p for p in project.place.glob(pattern) if p.is_file()]
        assert paths
        for path in paths:
            os.utime(path)

    return change


def changed_by_hand(file):
    """Change one digit of a result, and put its time back."""

    def change(project):
        path = project.folder / file
        time, text = path.stat().st_mtime_ns, path.read_text()
        path.write_text(text.replace('"max_abs_error": ', '"max_abs_error": 1', 1))
        os.utime(path, ns=(time, time))

    return change


TABLES = {f"{kind} {s}" for kind in ("table", "card") for s in CONFIG["models"]}
TABLES |= {"summary", "page"}
DIVERGENCE = {
    job for s in CONFIG["models"] for job in (f"divergence {s} npu predicted", f"figure {s}")
}

CHANGES = {
    "seed": (setting("models.noise.weights", ["seed:3"]), {"weights noise"} | after("noise")),
    "inputs": (setting("models.noise.inputs", ["random:3"]), {"inputs noise"} | after("noise")),
    "image": (lambda p: draw(p.folder / "photo.png", 2), {"inputs photo"} | after("photo")),
    "image of a folder": (
        lambda p: draw(p.folder / "album" / "one.png", 2),
        {"inputs photo"} | after("photo"),
    ),
    "image more in a folder": (
        lambda p: draw(p.folder / "album" / "two.png", 2),
        {"inputs photo"} | after("photo"),
    ),
    "network": (
        appended("work/tiny.py", "# changed\n"),
        {"weights noise", "weights photo"} | after("noise", "photo"),
    ),
    "numerics": (
        setting("devices.npu.numerics", {"conv": "bf16"}),
        TABLES
        | DIVERGENCE
        | {f"{r} {s} npu predicted" for r in ("outputs", "metrics") for s in CONFIG["models"]},
    ),
    "timing": (
        setting("latency.samples", 4),
        TABLES | {f"latency {s} cpu" for s in CONFIG["models"]},
    ),
    "tables": (setting("models.noise.tables", ["provenance"]), {"table noise", "summary", "page"}),
    "labels": (appended("work/labels.txt", "\nk"), {"table photo", "card photo", "page"}),
    "new system": (
        setting(
            "models.added",
            {
                "architecture": "timm:test_resnet",
                "weights": ["seed:1"],
                "inputs": ["synthetic:2"],
            },
        ),
        {"weights added", "inputs added"} | after("added"),
    ),
    "system removed": (
        lambda p: p.configure(lambda c: c["models"].pop("photo")),
        {"summary", "page"},
    ),
    "script": (
        appended("repository/scripts/metrics.py", "# changed\n"),
        TABLES | DIVERGENCE | {f"metrics {s} npu predicted" for s in CONFIG["models"]},
    ),
    "module": (
        appended("repository/npu_parity/backends/latency.py", "# changed\n"),
        TABLES | {f"latency {s} cpu" for s in CONFIG["models"]},
    ),
    "backend, imported by name": (
        appended("repository/npu_parity/backends/npu.py", "# changed\n"),
        TABLES
        | DIVERGENCE
        | {f"{r} {s} npu predicted" for r in ("outputs", "metrics") for s in CONFIG["models"]},
    ),
    "__init__ of a package": (
        appended("repository/npu_parity/verdict/__init__.py", "# changed\n"),
        TABLES
        | DIVERGENCE
        | {f"metrics {s} npu predicted" for s in CONFIG["models"]}
        | {f"operators {s} cpu" for s in CONFIG["models"]},
    ),
    "data file": (
        appended("repository/npu_parity/data/published.yaml", "# changed\n"),
        TABLES | {f"figure {s}" for s in CONFIG["models"]},
    ),
    "image for an older one": (
        exchanged("photo.png", lambda path: draw(path, 2)),
        {"inputs photo"} | after("photo"),
    ),
    "network for an older one": (
        exchanged("tiny.py", more),
        {"weights noise", "weights photo"} | after("noise", "photo"),
    ),
    "labels for older ones": (
        exchanged("labels.txt", more),
        {"table photo", "card photo", "page"},
    ),
    "seed, memory gone": (
        forgotten(setting("models.noise.weights", ["seed:3"])),
        {"weights noise"} | after("noise"),
    ),
    "numerics, memory gone": (
        forgotten(setting("devices.npu.numerics", {"conv": "bf16"})),
        TABLES
        | DIVERGENCE
        | {f"{r} {s} npu predicted" for r in ("outputs", "metrics") for s in CONFIG["models"]},
    ),
    "script, memory gone": (
        forgotten(appended("repository/scripts/metrics.py", "# changed\n")),
        TABLES | DIVERGENCE | {f"metrics {s} npu predicted" for s in CONFIG["models"]},
    ),
    "memory gone": (forgotten(lambda project: None), set()),
    "user files touched": (touched("work/*.*"), set()),
    "user files touched, memory gone": (forgotten(touched("work/*.*")), set()),
    "a figure changed by hand": (
        changed_by_hand("results/noise/npu/predicted/metrics.json"),
        {"metrics noise npu predicted"}
        | {"divergence noise npu predicted", "figure noise"}
        | {"table noise", "card noise", "summary", "page"},
    ),
    "nothing, files only touched": (touched("*/**/*.p[yn]*"), set()),
}


@pytest.fixture(scope="module")
def plans(base, tmp_path_factory):
    """What each change would run again, planned two at a time."""
    place = tmp_path_factory.mktemp("plans")

    def plan(name):
        project = base.copy(place / name)
        CHANGES[name][0](project)
        return project.plan()

    with ThreadPoolExecutor(2) as pool:
        return {name: pool.submit(plan, name) for name in CHANGES}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_runs_again_what_it_touches(plans, name):
    assert plans[name].result() == CHANGES[name][1]


def test_a_template_counts_as_code(project):
    """Of the cards and of the page: only they are written again."""
    appended("repository/npu_parity/report/templates/card.zh.md", "。\n")(project)
    assert project.plan() == {"card noise", "card photo"}
    appended("repository/npu_parity/report/templates/page.css", "b {}\n")(project)
    assert project.plan() == {"card noise", "card photo", "page"}
    project.succeed()
    assert (project.folder / "results/noise/card.zh.md").read_text().endswith("。\n")
    assert "b {}" in (project.folder / "results/report.html").read_text(encoding="utf-8")
    assert project.plan() == set()


def test_a_changed_seed_is_carried_out(project):
    untouched = "results/noise/**/*", "results/photo/inputs.*"
    before = [project.state(pattern) for pattern in untouched]
    seeded = project.state("results/photo/**/outputs.npy")
    setting("models.photo.weights", ["seed:3"])(project)
    project.succeed(*(f"results/{name}/npu/predicted/metrics.json" for name in CONFIG["models"]))
    assert [project.state(pattern) for pattern in untouched] == before
    again = project.state("results/photo/**/outputs.npy")
    assert len(again) == len(seeded) and all(again[file][1] != seeded[file][1] for file in seeded)
    assert project.json("results/photo/weights.json")["seed"] == 3


# What is wrong is told in one line


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (
            "models.noise.input",
            ["random:1"],
            "models.noise: unknown key 'input'; did you mean 'inputs'?",
        ),
        ("reference", "tpu", "reference: found 'tpu', expected one of cpu, npu, absent"),
        (
            "models.noise.weights",
            ["seed:one"],
            "models.noise.weights[0]: weights source 'seed:one': expected seed:WHOLE_NUMBER",
        ),
        ("models.photo.inputs", ["away.png"], "'away.png'"),
        ("models.photo.weights", ["path:away.safetensors"], "'away.safetensors'"),
        ("models.photo.architecture", "away.py:net", "'away.py'"),
        ("models.photo.ported", "away.py:net", "models.photo.ported: 'away.py': there is no such"),
    ],
)
def test_wrong_configuration(project, path, value, words):
    before = project.state("results/**/*")
    setting(path, value)(project)
    done = project.run()
    assert done.returncode != 0
    assert words in told(done.stdout)
    assert done.stdout.splitlines()[-1].startswith("error: ")
    assert project.state("results/**/*") == before


WRONG = {
    "unknown": (
        "weights",
        {"architecture": "timm:resnet34x"},
        "timm has no model 'resnet34x'; did you mean resnet34",
    ),
    "truncated": ("weights", {"weights": ["path:truncated.safetensors"]}, "fetch it again"),
    "lacking": ("weights", {"weights": ["path:lacking.safetensors"]}, "lacks tensor '0.weight'"),
    "alone": (
        "weights",
        {"weights": ["modelscope:owner/name", "huggingface:owner/name"]},
        "add seed:42 as the last source to continue without a hub",
    ),
    "text": ("inputs", {"inputs": ["text.png"]}, "text.png: not a readable image"),
}


@pytest.fixture(scope="module")
def refused(base, tmp_path_factory):
    """A run in which five systems are wrong, each in its own way, and one is right."""
    project = Project.make(tmp_path_factory.mktemp("wrong"), CONFIG)
    whole = base.folder / "results/noise/weights.safetensors"
    tensors = load_file(whole)
    del tensors["0.weight"]
    save_file(tensors, project.folder / "lacking.safetensors")
    content = whole.read_bytes()
    (project.folder / "truncated.safetensors").write_bytes(content[: len(content) // 2])
    (project.folder / "text.png").write_text("no image")
    right = {"architecture": "timm:test_resnet", "weights": ["seed:1"], "inputs": ["synthetic:2"]}
    models = {name: system(**settings) for name, (_, settings, _) in WRONG.items()}
    setting("models", models | {"right": right})(project)
    targets = [f"results/{name}/weights.json" for name in models if name != "text"]
    done = project.run(*targets, "results/text/inputs.npy", "results/right/weights.json")
    assert done.returncode != 0
    return project, done.stdout


@pytest.mark.parametrize("name", WRONG)
def test_wrong_input(refused, name):
    project, output = refused
    rule, _, words = WRONG[name]
    line = told((project.folder / f"logs/{name}/{rule}.log").read_text())
    assert words in line
    assert output.splitlines().count(line) == 1 and "Traceback" not in output
    assert not project.files(f"results/{name}/*")


def test_others_are_finished(refused):
    project, _ = refused
    assert set(project.files("results/*/**/*")) == {
        "results/right/manifest.json",
        "results/right/weights.json",
        "results/right/weights.safetensors",
    }


@pytest.mark.parametrize(
    ("file", "target"),
    [
        ("results/noise/cpu/measured/outputs.npy", "results/noise/npu/predicted/metrics.json"),
        ("results/noise/weights.safetensors", "results/noise/cpu/measured/outputs.npy"),
    ],
)
def test_damaged_intermediate_is_made_again(project, file, target):
    path, time = project.folder / file, (project.folder / file).stat().st_mtime_ns
    before, whole = path.read_bytes(), project.state(target)
    path.write_bytes(before[:-1] + b"?")
    os.utime(path, ns=(time, time))
    assert "Forced execution" in project.succeed(target)
    assert path.read_bytes() == before
    assert project.state(target)[target][1] == whole[target][1]


def test_absent_device_that_must_be_measured(project):
    setting("devices.absent.measure", "always")(project)
    done = project.run("results/noise/absent/measured/outputs.npy")
    assert done.returncode != 0 and f"device {ABSENT}: " in told(done.stdout)
    assert not project.files("results/noise/absent/measured/*")


# Hubs


@pytest.fixture(scope="module")
def served(base, tmp_path_factory):
    """Systems whose weights came from hubs that answer."""
    project = Project.make(tmp_path_factory.mktemp("hubs"), CONFIG)
    both = ["modelscope:owner/name", "huggingface:owner/name", "seed:1"]
    second = ["modelscope:owner/other", *both[1:]]
    setting("models", {"first": system(weights=both), "second": system(weights=second)})(project)
    with HubServer() as server:
        weights = base.folder / "results/noise/weights.safetensors"
        project.commit = server.add("owner/name", "model.safetensors", weights.read_bytes())
        project.env = server.env()
        project.server = server
        project.succeed("results/first/weights.json", "results/second/weights.json")
        project.probes = [r for r in server.requests if r.path == "/"]
        yield project


@pytest.fixture
def hubs(served, tmp_path):
    """A copy of `served`, its hubs' caches empty, to which a system is added."""
    project = served.copy(tmp_path)
    project.env = hub_env(served.server.url, tmp_path)
    yield project
    served.server.fail(None)


def add(project, name, *sources):
    project.configure(lambda config: config["models"].update({name: system(weights=[*sources])}))
    return f"results/{name}/weights.json"


FROM_HUBS = ("modelscope:owner/name", "huggingface:owner/name")


def test_weights_come_from_the_first_hub_that_has_them(served, base):
    file = base.folder / "results/noise/weights.safetensors"
    first, second = (served.json(f"results/{name}/weights.json") for name in ("first", "second"))
    for found, source in zip((first, second), FROM_HUBS, strict=True):
        assert found["source"] == source
        assert (found["repo"], found["file"]) == ("owner/name", "model.safetensors")
        assert (found["revision"], found["pretrained"]) == (served.commit, True)
        assert found["file_sha256"] == sha256(file)
    assert first["tried"] == []
    (failure,) = second["tried"]
    assert failure["source"] == "modelscope:owner/other" and "HTTP 404" in failure["failed"]
    tensors = load_file(file)
    for name in ("first", "second"):
        fetched = load_file(served.folder / f"results/{name}/weights.safetensors")
        assert fetched.keys() == tensors.keys()
        assert all(np.array_equal(fetched[key], tensors[key]) for key in tensors)


def test_each_hub_is_asked_once_and_the_answers_are_removed(served):
    assert len(served.probes) == 2
    assert served.files("logs/hubs.json") == {}


def test_second_hub_where_the_first_is_down(hubs):
    hubs.env |= hub_env(NOWHERE, hubs.place, "modelscope")
    target = add(hubs, "third", *FROM_HUBS)
    earlier = [f"results/{name}/weights.json" for name in ("first", "second")]
    assert hubs.plan(target, *earlier) == {"weights third"}
    hubs.succeed(target, *earlier)
    found = hubs.json(target)
    assert found["source"] == FROM_HUBS[1]
    (failure,) = found["tried"]
    assert failure["source"] == FROM_HUBS[0] and "connection refused" in failure["failed"]


def test_no_hub(hubs):
    online = hubs.env
    hubs.env = hub_env(NOWHERE, hubs.place)
    seeded, strict = add(hubs, "seeded", *FROM_HUBS, "seed:7"), add(hubs, "strict", *FROM_HUBS)
    done = hubs.run(seeded, strict)
    assert done.returncode != 0 and "connection refused" in told(done.stdout)
    found = hubs.json(seeded)
    assert (found["source"], found["pretrained"]) == ("seed:7", False)
    assert [t["source"] for t in found["tried"]] == [*FROM_HUBS]
    assert all("connection refused" in t["failed"] for t in found["tried"])
    assert not hubs.files("results/strict/*")
    hubs.env = online  # what the hubs said in that run is no longer believed
    hubs.succeed(strict, seeded)
    assert hubs.json(strict)["source"] == FROM_HUBS[0]
    assert hubs.json(seeded) == found
    assert hubs.files("logs/hubs.json") == {}


def test_corrupt_download_never_becomes_weights(hubs, served):
    target = add(hubs, "corrupt", *FROM_HUBS, "seed:7")
    served.server.fail("corrupt")
    done = hubs.run(target)
    assert done.returncode != 0 and "the downloaded file has sha256" in told(done.stdout)
    assert not hubs.files("results/corrupt/*")


# Again, and after a kill


@pytest.fixture(scope="module")
def resumed(tmp_path_factory):
    """One system from nothing, killed while its weights were written, completed on one core."""
    project = Project.make(tmp_path_factory.mktemp("killed"), CONFIG)
    target = "results/noise/divergence.svg"
    written = project.folder / "results/noise/weights.safetensors"
    command = project.command("--cores", "2", target)
    with subprocess.Popen(**command, start_new_session=True) as running:
        deadline = time.monotonic() + 120
        while not written.exists() and running.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        os.killpg(running.pid, signal.SIGKILL)
        assert running.wait() == -signal.SIGKILL
    written.write_bytes(written.read_bytes()[:100])  # as a plain writer leaves it
    project.completed = project.run(target, cores=1)
    return project


def test_verify_names_what_was_changed(project):
    """A digit that is changed by hand reaches no table."""
    changed_by_hand("results/noise/npu/predicted/metrics.json")(project)
    command = project.command() | {"args": [sys.executable, "-m", "npu_parity", "verify"]}
    done = subprocess.run(**command)
    file = "results/noise/npu/predicted/metrics.json"
    assert done.returncode == 1
    assert f"error: {file} was changed since it was made: run `snakemake" in done.stdout
    summary = project.state("results/summary.json")
    project.succeed()
    assert project.state("results/summary.json").keys() == summary.keys()
    assert (
        project.json("results/summary.json")["rows"]
        == json.loads(summary["results/summary.json"][1])["rows"]
    )


def test_verify_waits_for_what_other_jobs_write(tmp_path_factory, tmp_path):
    project = finished(tmp_path_factory).copy(tmp_path)
    script = project.repository / "scripts/figure.py"
    slow = "import time\n\ntime.sleep(3)\n\n\ndef main("
    script.write_text(script.read_text().replace("def main(", slow, 1))
    project.succeed(*AS_MAKE, "all", "verify")


def test_a_killed_run_is_completed_by_the_same_command(resumed):
    assert "removed the lock of a run that was killed" in resumed.completed.stdout
    assert resumed.completed.returncode == 0, resumed.completed.stdout


FILES = (
    "weights.safetensors",
    "weights.json",
    "inputs.npy",
    "inputs.json",
    "cpu/exact/outputs.npy",
    "cpu/exact/run.json",
    "cpu/measured/outputs.npy",
    "cpu/measured/run.json",
    "npu/predicted/outputs.npy",
    "npu/predicted/run.json",
    "npu/predicted/metrics.json",
    "npu/predicted/divergence.csv",
    "cpu/measured/operators.csv",
    "cpu/measured/program.json",
    "divergence.svg",
)


@pytest.mark.parametrize("file", FILES)
def test_same_bytes_in_another_folder_and_after_a_kill(base, resumed, file):
    first, second = (p.folder / "results/noise" / file for p in (base, resumed))
    assert first.read_bytes() == second.read_bytes()


def test_lint(project):
    assert "Congratulations" in project.succeed("--lint")
