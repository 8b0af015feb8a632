"""The configuration is described, its defaults are filled, and mistakes are told in one line."""

import copy
import re
import sys
from datetime import date

import pytest
import yaml
from project import ROOT
from snakemake.utils import validate

from npu_parity import config, evidence
from npu_parity.errors import ParityError
from npu_parity.evidence import document
from npu_parity.evidence.files import PACKAGE
from npu_parity.verdict import published

SMALLEST = {
    "reference": "cpu",
    "devices": {
        "cpu": {"backend": "cpu"},
        "npu": {"backend": "npu", "numerics": {"conv": "hf32"}, "measure": "never"},
    },
    "models": {
        "net": {"architecture": "timm:resnet18", "weights": ["seed:1"], "inputs": ["random:1"]}
    },
}
DELETE = object()


def changed(**changes):
    """The smallest configuration with the entries at these paths (a__b) set or deleted."""
    result = copy.deepcopy(SMALLEST)
    for path, value in changes.items():
        *above, key = path.split("__")
        place = result
        for name in above:
            place = place.setdefault(name, {})
        if value is DELETE:
            del place[key]
        else:
            place[key] = value
    return result


@pytest.fixture
def load(tmp_path, monkeypatch):
    """Load a configuration given as data, text or bytes."""
    monkeypatch.chdir(tmp_path)

    def load(content):
        if isinstance(content, dict):
            content = yaml.safe_dump(content)
        (tmp_path / "config.yaml").write_bytes(
            content if isinstance(content, bytes) else content.encode()
        )
        return config.load()

    return load


@pytest.fixture
def refusal(load):
    """The one line that a configuration is refused with."""

    def refusal(content=None, **changes):
        with pytest.raises(ParityError) as error:
            load(changed(**changes) if content is None else content)
        text = str(error.value)
        assert text.startswith("config.yaml") and len(text.splitlines()) == 1
        return text

    return refusal


SCHEMA = PACKAGE / "config.schema.yaml"


# The project's own


def test_own_configuration_is_valid_and_has_its_systems():
    settings = config.load(ROOT / "config.yaml")
    assert list(settings["models"]) == [
        "bird_species",
        "resnet34",
        "efficientnet_b0",
        "convnextv2_atto",
        "svhn",
        "efficientnet_lite0",
        "efficientnet_lite1",
        "efficientnet_lite2",
        "svhn_digit",
    ]
    assert list(published.figures()) == list(settings["models"])[:5]


def test_schema_describes_every_key_and_refuses_others():
    found = config.schema()

    def walk(rule, path):
        if "$ref" in rule:
            rule = found["$defs"][rule["$ref"].rpartition("/")[2]]
        assert len(rule.get("description", "")) > 10, f"{path} has no description"
        for key, value in rule.get("properties", {}).items():
            walk(value, f"{path}.{key}")
        if "properties" in rule:
            assert "additionalProperties" in rule, f"{path} lets any key through"
        if isinstance(rule.get("additionalProperties"), dict):
            walk(rule["additionalProperties"], f"{path}.*")
        elif "properties" in rule:
            assert rule["additionalProperties"] is False
        if rule.get("type") == "array" and "$ref" not in rule["items"]:
            assert rule["items"].get("description") or rule["items"]["type"] == "number", path

    walk(found, "")
    assert all(rule.get("description") for rule in found["$defs"].values())


def test_defaults_are_those_that_snakemake_fills():
    raw = yaml.safe_load((ROOT / "config.yaml").read_text())
    by_snakemake = copy.deepcopy(raw)
    validate(by_snakemake, str(SCHEMA))
    assert config.load(ROOT / "config.yaml") == by_snakemake != raw


def test_smallest_configuration_gets_every_default(load):
    found, by_snakemake = load(SMALLEST), copy.deepcopy(SMALLEST)
    validate(by_snakemake, str(SCHEMA))
    assert found == by_snakemake
    rules = config.schema()["properties"]["models"]["additionalProperties"]["properties"]
    defaults = {key: rule["default"] for key, rule in rules.items() if "default" in rule}
    assert found["models"]["net"] == SMALLEST["models"]["net"] | defaults
    own = {"backend": "cpu", "numerics": {}, "precision": "fp32", "measure": "auto"}
    assert found["devices"]["cpu"] == own
    assert found["latency"] == {
        "batch_sizes": [1, 4, 8, 16],
        "warmup": 3,
        "samples": 100,
        "batch_samples": 10,
    }


def test_defaults_are_not_shared(load):
    content = changed(models__other=SMALLEST["models"]["net"])
    first, second = load(content)["models"].values()
    first["tables"].append("heads")
    assert second["tables"] == load(content)["models"]["net"]["tables"]


# Mistakes


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"modles": {}}, "the top level: unknown key 'modles'; did you mean 'models'?"),
        (
            {"models__net__wieghts": []},
            "models.net: unknown key 'wieghts'; did you mean 'weights'?",
        ),
        ({"devices__npu__numerics__cnov": "hf32"}, "unknown key 'cnov'; did you mean 'conv'?"),
        ({"latency__zzz": 1}, "latency: unknown key 'zzz'; expected one of batch_sizes, warmup"),
        ({"models": DELETE}, "the top level: the key 'models' is missing"),
        ({"models__net__weights": DELETE}, "models.net: the key 'weights' is missing"),
        ({"devices__npu__backend": DELETE}, "devices.npu: the key 'backend' is missing"),
        ({"models__net__seeded": {"tensors": ["a"]}}, "the key 'seed' is missing"),
        (
            {"models__net__weights": ["seed:x"]},
            "models.net.weights[0]: weights source 'seed:x': expected seed:WHOLE_NUMBER",
        ),
        (
            {"models__net__weights": ["seed:1", "mscope:a/b"]},
            "weights[1]: weights source 'mscope:a/b': expected one of modelscope:, huggingface:",
        ),
        ({"models__net__weights": ["path:a\n.pth"]}, "64 hexadecimal digits"),
        ({"models__net__weights": ["seed:1#sha256=" + 64 * "0"]}, "expected seed:WHOLE_NUMBER"),
        ({"models__net__inputs": ["random:0"]}, "inputs[0]: input random:0: found '0', expected"),
        ({"models__net__weights": ["path:a.pth#sha256=12"]}, "64 hexadecimal digits"),
        ({"models__net__weights": "seed:1"}, "found 'seed:1', expected a list of weights"),
        ({"models__net__weights": []}, "models.net.weights: found [], expected a list"),
        ({"models__net__seeded": {"tensors": ["a"], "seed": "x"}}, "models.net.seeded.seed"),
        ({"models__net__task": "detection"}, "task: found 'detection', expected the kind of"),
        (
            {"devices__npu__backend": "tpu"},
            "devices.npu.backend: found backend 'tpu', expected one of cpu, npu, cuda, xpu, mps",
        ),
        ({"devices__npu__numerics": {"conv": "fp8"}}, "devices.npu.numerics.conv: found 'fp8'"),
        ({"models__net__batch": "one"}, "models.net.batch: found 'one', expected the number"),
        ({"models__net__batch": 0}, "models.net.batch: found 0, expected the number"),
        ({"models__net__calibrate": "yes"}, "models.net.calibrate: found 'yes', expected true"),
        ({"models__net__preprocessing": {"mean": [0.5]}}, "found [0.5], expected three numbers"),
        ({"models__net__preprocessing": {"resize": "64"}}, "found '64', expected the length"),
        ({"models__net__heads": {"a": 0}}, "models.net.heads.a: found 0, expected a whole number"),
        (
            {"models__net__tables": ["error"]},
            "models.net.tables[0]: found 'error', expected one of",
        ),
        ({"models__net__architecture": "resnet18"}, "found 'resnet18', expected timm:NAME"),
        ({"latency__batch_sizes": [1, "x"]}, "latency.batch_sizes[1]: found 'x'"),
        ({"models": {}}, "models: found {}, expected a mapping of system names"),
        ({"models": {"a/b": SMALLEST["models"]["net"]}}, "models: found 'a/b', expected a name"),
        ({"reference": 3}, "reference: found 3, expected the device"),
        ({"reference": "gpu"}, "reference: found 'gpu', expected one of cpu, npu"),
        ({"reference": "npu"}, "devices.npu.numerics: the reference must compute in fp32"),
        (
            {"devices__cpu__precision": "bf16"},
            "devices.cpu.precision: found bf16, but the reference must run in fp32",
        ),
        ({"devices__npu__precision": "int8"}, "devices.npu.precision: found 'int8', expected how"),
        ({"models__net__labels": "no.txt"}, "models.net.labels: 'no.txt': there is no such file"),
        ({"models__net__labels": "data"}, "models.net.labels: 'data': there is no such file"),
        ({"models__net__published": "nobody"}, "published: found 'nobody', expected one of bird"),
        ({"models__net__task": "digits"}, "models.net: task digits needs heads"),
        (
            {"models__net__task": "features", "models__net__compared": "probabilities"},
            "models.net: task features has no probabilities",
        ),
        (
            {"models__net__task": "segmentation", "models__net__compared": "probabilities"},
            "models.net: task segmentation has no probabilities",
        ),
        (
            {"models__net__task": "detection"},
            "one of classification, features, digits, segmentation",
        ),
    ],
)
def test_mistake_is_one_line(refusal, changes, said):
    assert said in refusal(**changes)


def test_a_mistake_has_a_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "config.yaml").read_text(encoding="utf-8")
    (tmp_path / "config.yaml").write_text(text.replace("task: features", "task: feature"))
    with pytest.raises(ParityError) as error:
        config.load()
    line = text.splitlines().index("    task: features") + 1
    start = f"config.yaml, line {line}: models.convnextv2_atto.task: found 'feature', expected "
    assert str(error.value).startswith(start)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("models.net\n", None),
        ("n" * 5000, None),
        ("net" * 20, None),
        ("models.net.preprocessing", {"std": [0, 0, 0]}),
        ("models.net.preprocessing", {"crop": 10_000_000}),
        ("models.net.inputs", ["random:" + "9" * 3000]),
        ("models.net.architecture", "a" * 5000 + ".py:f"),
        ("models.net.architecture", "a.py:f\n"),
        ("latency.samples", 10**15),
        ("models.net.batch", 1.0),
        ("models.net.batch", 10**17),
        ("models.net.seeded", {"tensors": ["a"], "seed": 2**64}),
        ("models.net.weights", [f"seed:{2**64}"]),
        ("models.net.labels", "a\0b"),
        ("models.net.inputs", ["skimage:\x1b[31m"]),
        ("models.net.arguments", {"a": "\ud800"}),
        ("models.net.heads", {"\u202e": 0}),
        ("models.net." + "k" * 5000, 1),
    ],
)
def test_what_only_a_job_would_notice_is_refused_before(tmp_path, monkeypatch, path, value):
    monkeypatch.chdir(tmp_path)
    settings = {
        "reference": "cpu",
        "devices": {"cpu": {"backend": "cpu"}},
        "models": {
            "net": {"architecture": "timm:x", "weights": ["seed:1"], "inputs": ["random:1"]}
        },
    }
    *parents, last = path.split(".")
    if value is None:
        settings["models"] = {last: settings["models"]["net"]}
    else:
        holder = settings
        for key in parents:
            holder = holder.setdefault(key, {})
        holder[last] = value
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    with pytest.raises(ParityError) as error:
        config.load()
    text = str(error.value)
    assert text.startswith("config.yaml") and len(text) < 300 and text.isprintable()


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({1: 2}, "found the key 1, expected text"),
        ({"a": float("nan")}, "models.net.arguments.a: found nan, expected a finite number"),
        ({"a": date(2024, 1, 2)}, "found datetime.date(2024, 1, 2) of type date"),
        ({"a": {1}}, "found {1} of type set"),
    ],
)
def test_what_snakemake_reads_by_itself_is_checked_too(load, value, words):
    """From --config and --configfile, which YAML's own pitfalls reach."""
    settings = load(SMALLEST)
    settings["models"]["net"]["arguments"] = value
    with pytest.raises(ParityError, match=r"^config\.yaml") as error:
        config.complete(settings, document.read("config.yaml"))
    assert words in str(error.value) and len(str(error.value)) < 300


@pytest.mark.parametrize("content", ["", "a list", "- a\n- list\n", "3"])
def test_something_else_than_a_mapping(refusal, content):
    assert "config.yaml: the top level: found" in refusal(content)


@pytest.mark.parametrize(
    "content", ["reference: [cpu\nmodels: {}\n", "a: b: c\n", "a:\n\t- b\n", b"a: \xe4\xf6\n"]
)
def test_no_yaml(refusal, content):
    text = refusal(content)
    assert text.startswith("config.yaml, line ") and ": this is not " in text


def test_missing_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ParityError, match=r"^config\.yaml is missing: run where it is, or name another file$"
    ):
        config.load()


# Runs and files


def test_runs(load):
    devices = SMALLEST["devices"] | {
        "same": {"backend": "cpu"},
        "absent": {
            "backend": "npu" if sys.platform == "darwin" else "mps",
            "numerics": {"conv": "fp16"},
        },
        "idle": {"backend": "cpu", "measure": "never"},
    }
    planned, left_out = config.runs(load(changed(devices=devices, reference="same")))
    assert planned == [
        ("same", "measured"),
        ("cpu", "measured"),
        ("npu", "predicted"),
    ]
    assert list(left_out) == ["absent", "idle"] and left_out["absent"].startswith("this ")
    assert left_out["idle"].endswith("nothing to predict")


def test_device_that_must_be_measured_is_planned_even_where_it_is_missing(load):
    planned, left_out = config.runs(load(changed(devices__npu__measure="always")))
    assert ("npu", "predicted") in planned and ("npu", "measured") in planned
    assert left_out == {}


def test_files_are_looked_for_here_then_in_this_project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert evidence.find("data/imagenet_1k.txt") == PACKAGE / "data/imagenet_1k.txt"
    (tmp_path / "data").mkdir()
    (tmp_path / "data/imagenet_1k.txt").touch()
    assert evidence.find("data/imagenet_1k.txt").resolve() == tmp_path / "data/imagenet_1k.txt"


def test_own_label_files_have_a_name_for_each_class():
    for name, classes in (("imagenet_1k", 1000), ("inat2021_birds", 1486)):
        labels = (
            (ROOT / "npu_parity" / "data" / f"{name}.txt").read_text(encoding="utf-8").splitlines()
        )
        assert len(labels) == classes and all(re.match(r"\S", label) for label in labels)
