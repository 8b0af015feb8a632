"""Paths are data: a user's file may have any name, or it is refused in one line before the run."""

import os
import shutil
from pathlib import Path

import pytest
import yaml
from project import CONFIG, NETWORK, Project, draw, sha256, system, told
from safetensors.torch import save_file

from npu_parity import config, obtain
from npu_parity.errors import ParityError
from npu_parity.evidence.document import read
from npu_parity.sources.weights import Wanted

pytestmark = [pytest.mark.slow, pytest.mark.abuse("odd paths")]

# Every character that has a meaning to Snakemake, a shell, Python, YAML, Markdown or SVG.
ALL = "-{system} {{x}} 'a' \"b\" $HOME $x$ `id` %s %20 \\n *?[c] ~ ,;&|<b> 猫\u202e é"
NAMES = {
    "all": ALL,
    "dash": "--output=x",
    "newline": "a\nb",
    "hash": "a#b",
    "colon": "a:b",
    "long": "n" * 235 + "🐱🐱",
    "dots": "..",
}
# What a kind of file cannot have, because the text around the path would have two meanings.
NOT_IN = {"architecture": ":\n", "ported": ":\n", "weights": "#\n"}


class Whole(Project):
    """The workflow in its own folder, as after `git clone`."""

    @property
    def folder(self):
        return self.repository

    def command(self, *arguments):
        command = super().command(*arguments)
        return command | {"args": [*command["args"][:3], *arguments]}


def usable(kind, name):
    return not set(NOT_IN.get(kind, "")) & set(name)


def odd_system(folder, name):
    """A system whose files all have this name, except where a kind of file cannot have it."""
    given = {kind: name if usable(kind, name) else "plain" for kind in ("architecture", "weights")}
    (folder / f"{name}.txt").write_text("\n".join(f"class {i}" for i in range(10)))
    (folder / f"{given['architecture']}.py").write_text(NETWORK)
    shutil.copy(folder / "trained.safetensors", folder / f"{given['weights']}.safetensors")
    digest = sha256(folder / "trained.safetensors")
    return system(
        architecture=f"{given['architecture']}.py:net",
        ported=f"{given['architecture']}.py:net",
        weights=[f"path:{given['weights']}.safetensors#sha256={digest}"],
        inputs=[f"{name}.png"],
        labels=f"{name}.txt",
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of a project in a folder with an odd name, with odd names of all kinds of files."""
    devices = {"cpu": {"backend": "cpu"}, "twin": {"backend": "cpu"}}
    place = tmp_path_factory.mktemp("odd") / "-项目 'a' \"b\" $HOME `id` %s \\n *?[c]"
    place.mkdir()
    project = Whole.make(place, CONFIG | {"devices": devices, "models": {}})
    network = f"{project.folder / 'tiny.py'}:net"
    save_file(
        obtain(Wanted(network, {}, ["seed:1"], calibrate=False))[0],
        project.folder / "trained.safetensors",
    )
    models = {}
    for seed, (key, name) in enumerate(NAMES.items()):
        draw(project.folder / "drawn.png", seed)
        (project.folder / "drawn.png").rename(project.folder / f"{name}.png")
        folder = project.folder / f"{name} folder"[-60:]
        folder.mkdir()
        shutil.copy(project.folder / f"{name}.png", folder)
        models[key] = odd_system(project.folder, name)
    link = project.folder / "link.png"
    link.symlink_to(f"{ALL}.png")
    models["all"]["inputs"] = [
        *(f"./{name}.png" if name == "a:b" else f"{name}.png" for name in NAMES.values()),
        *(f"{name} folder"[-60:] for name in NAMES.values()),
        *("link.png", f"{project.folder}/photo.png", "../repository/photo.png"),
    ]
    project.configure(lambda empty: empty.update({"models": models}))
    weights = [f"results/{key}/weights.json" for key in NAMES]
    project.succeed("results/tables/all.md", *weights)
    return project


def test_images_of_any_name_are_used(run):
    about = run.json("results/all/inputs.json")
    names = [f"{name}.png" for name in NAMES.values()]
    assert about["names"] == [*names, *names, "link.png", "photo.png", "photo.png"]
    assert [image["sha256"] for image in about["images"][: len(names)]] == [
        sha256(run.folder / name) for name in names
    ]


@pytest.mark.parametrize("key", NAMES)
def test_checkpoints_and_networks_of_any_name_are_used(run, key):
    about, trained = run.json(f"results/{key}/weights.json"), run.folder / "trained.safetensors"
    settings = yaml.safe_load((run.folder / "config.yaml").read_text())["models"][key]
    assert about["source"] == settings["weights"][0] and about["file_sha256"] == sha256(trained)
    assert about["architecture"] == settings["architecture"]
    assert about["pretrained"] and about["parameters"] == 1610


def test_labels_of_any_name_are_used(run):
    table = (run.folder / "results/tables/all.md").read_text()
    assert any(f"class {i}" in table for i in range(10))


# What is no file


def nowhere(path):
    path.symlink_to("nowhere")


def loop(path):
    path.symlink_to(path.name)


def unreadable(path):
    if os.geteuid() == 0:
        pytest.skip("root reads every file")
    path.touch(mode=0)


NO_FILES = {
    "missing": (lambda path: None, "there is no such file"),
    "folder": (Path.mkdir, "this is a folder"),
    "pipe": (os.mkfifo, "this is a pipe or a device"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "this is a pipe or a device"),
    "link to nowhere": (nowhere, "this is a link that leads to no file"),
    "loop": (loop, "this is a link that leads to no file"),
    "unreadable": (unreadable, "permission denied"),
}
KINDS = {
    "image": ("inputs", lambda name: [name], ".png"),
    "image of a folder": ("inputs", lambda name: ["album"], ".png"),
    "checkpoint": ("weights", lambda name: [f"path:{name}#sha256={'0' * 64}"], ".pth"),
    "network": ("architecture", lambda name: f"{name}:net", ".py"),
    "port": ("ported", lambda name: f"{name}:net", ".py"),
    "labels": ("labels", lambda name: name, ".txt"),
}


@pytest.fixture
def refusal(tmp_path, monkeypatch):
    """The line that a setting of a system is refused with while a run is planned."""
    monkeypatch.chdir(tmp_path)

    def refusal(key, value):
        settings = {"architecture": "timm:a", "weights": ["seed:1"], "inputs": ["random:1"]}
        models = {"net": settings | {key: value}}
        Path("config.yaml").write_text(yaml.safe_dump(CONFIG | {"models": models}))
        with pytest.raises(ParityError) as error:
            document = read("config.yaml")
            config.complete(document.data, document)
            config.check_files(document.data, document)
        line = str(error.value)
        assert line.startswith("config.yaml, line ") and f": models.net.{key}" in line
        assert line.isprintable() and len(line) < 300
        return line

    return refusal


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("what", NO_FILES)
def test_what_is_no_file_is_refused_before_the_run(refusal, kind, what):
    key, setting, suffix = KINDS[kind]
    make, words = NO_FILES[what]
    file = Path("album" if kind == "image of a folder" else ".") / f"odd{suffix}"
    Path("album").mkdir()
    make(file)
    if what == "folder" and kind == "image":
        words = "the folder has no image"
    if what in ("missing", "folder") and kind == "image of a folder":
        words = "the folder has no image"
    assert words in refusal(key, setting(str(file)))


@pytest.mark.parametrize("name", ["n" * 256, "猫" * 86, "a/" * 3000, "a\x00b", "a\nb", "\x1b[31m"])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "image of a folder"])
def test_a_name_that_no_file_has(refusal, kind, name):
    key, setting, suffix = KINDS[kind]
    refusal(key, setting(name + suffix))


@pytest.mark.parametrize(
    ("what", "value"),
    [
        ("pipe", {"inputs": ["odd"]}),
        ("device", {"weights": ["path:odd"]}),
        ("loop", {"labels": "odd"}),
        ("nowhere", {"architecture": "odd.py:f"}),
        ("folder", {"inputs": ["{odd} 'x'.png"]}),
    ],
)
def test_snakemake_refuses_it(tmp_path, what, value):
    project = Project.make(tmp_path, CONFIG | {"models": {"net": system(**value)}})
    odd = project.folder / "odd"
    {**NO_FILES, "nowhere": NO_FILES["link to nowhere"]}[what][0](odd)
    line = told(project.run("--dry-run").stdout)
    assert line.startswith("error: config.yaml, line ") and len(line) < 300


@pytest.mark.parametrize("name", ["{system}", "a}", "a:b"])
def test_a_folder_that_snakemake_or_python_would_misread_is_refused(tmp_path, name):
    (tmp_path / name).mkdir()
    project = Whole.make(tmp_path / name, CONFIG)
    line = told(project.run("--dry-run").stdout)
    assert "rename the folder" in line and len(line) < 300
