"""Tables show what the JSON files say, rounded, and nothing else."""

import json
import re
import runpy
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from machines import Quiet
from project import ROOT

from models import svhn
from npu_parity import config, evidence
from npu_parity.backends import latency
from npu_parity.errors import ParityError
from npu_parity.evidence.code import digest
from npu_parity.report import results, summary, switches, tables
from npu_parity.verdict import criteria, metrics, published

ARCHITECTURE = """
from torch import nn

def net(columns):
    layers = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(32, columns))
"""
WORDS = ["tabby", "dog", "`code`", "Ära", "a_b*c", "owl", "*"]
LABELS = [f"{word} | {i}" for i, word in enumerate(WORDS)]  # a pipe would add a column
RUNS = ["cpu/measured", "npu/predicted", "twin/measured"]
SYSTEMS = {
    "net": {
        "columns": len(LABELS),
        "task": "classification",
        "labels": "labels.txt",
        "published": "resnet34",
        "compared": "outputs",
        "heads": {},
        "sources": ["seed:1"],
    },
    "house": {
        "columns": 62,
        "task": "digits",
        "published": "svhn",
        "compared": "outputs",
        "heads": svhn.HEADS,
        "sources": ["modelscope:owner/name", "seed:2"],
    },
    "plain": {
        "columns": 3,
        "task": "features",
        "compared": "outputs",
        "heads": {},
        "sources": ["seed:3"],
    },
}
HF32 = {"conv": "hf32"}


def script(name, *arguments):
    """Run a script of this project in this process; it must succeed."""
    file = str(ROOT / "scripts" / f"{name}.py")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr(sys, "argv", [file, *map(str, arguments)])
        runpy.run_path(file, run_name="__main__")
    assert ended.value.code == 0


def build(system, settings):
    """Make a system's folder of results as the workflow does."""
    folder, threads = f"results/{system}", torch.get_num_threads()
    options = ["--architecture", "model.py:net"]
    script(
        *("weights", *settings["sources"], *options, "--hubs", "hubs.json"),
        *("--arguments", json.dumps({"columns": settings["columns"]}), "--no-calibrate"),
        *("--output", f"{folder}/weights.safetensors"),
    )
    sizes = json.dumps({"resize": 20, "crop": 16})
    script(
        *("inputs", "random:2", "synthetic:1", *options, "--preprocessing", sizes),
        *("--output", f"{folder}/inputs.npy"),
    )
    given = ["--weights-folder", folder, "--inputs", f"{folder}/inputs.npy"]
    for run in [*RUNS, "cpu/exact"]:
        device, _, kind = run.partition("/")
        target = json.dumps({"backend": "npu", "numerics": HF32}) if device == "npu" else "cpu"
        script(
            *("outputs", *given, "--run", kind, "--device", target),
            *("--output", f"{folder}/{run}/outputs.npy"),
        )
    for run in RUNS:
        device, _, kind = run.partition("/")
        if kind == "measured":
            place = f"{folder}/{run}"
            counts = ["--samples", 3, "--batch-samples", 2, "--warmup", 1]
            script("latency", 1, 4, *given, *counts, "--output", f"{place}/latency.json")
            script("operators", *given, "--output", place)
            outputs = ["--outputs", f"{place}/outputs.npy"]
            script("numerics", *given, *outputs, "--output", f"{place}/numerics.json")
        if run != RUNS[0]:
            script(
                *("metrics", folder, "--reference", "cpu", "--device", device, "--run", kind),
                *("--task", settings["task"]),
                *("--heads", json.dumps(settings["heads"])),
                *("--output", f"{folder}/{run}/metrics.json"),
            )
            of = ["--metrics", f"{folder}/{run}/metrics.json"]
            of += [f"--operators={folder}/{run}/operators.csv"] * (kind == "measured")
            script("divergence", *given, *of, "--output", f"{folder}/{run}/divergence.csv")
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Results of three small systems, a prediction and a measurement each."""
    folder = tmp_path_factory.mktemp("tree")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("model.py").write_text(ARCHITECTURE)
        Path("labels.txt").write_text("\n".join(LABELS) + "\n", encoding="utf-8")
        evidence.write_json("hubs.json", {"asked": [], "unreachable": {"modelscope": "a | b"}})
        patch.setattr(latency, "Machine", Quiet)  # other processes do not change these tests
        for system, settings in SYSTEMS.items():
            build(system, settings)
    return folder


@pytest.fixture(autouse=True)
def here(tree, monkeypatch):
    monkeypatch.chdir(tree)


def system(name="net", runs=RUNS, **settings):
    return results.describe(Path("results") / name, runs, SYSTEMS[name] | settings)


def stored(name, run, file):
    return json.loads(Path("results", name, run, file).read_text())


def rows(text):
    """The rows of the Markdown tables in a text, as dictionaries."""
    found, header = [], None
    for line in text.splitlines():
        if not line.startswith("|"):
            header = None
            continue
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if header is None:
            header = cells
        elif not set(line) <= set("|:-"):
            found.append(dict(zip(header, cells, strict=True)))
    return found


def section(name, of="net", **settings):
    return rows(tables.report(system(of, **settings), [name]))


def close(cell, value, digits=3):
    """Whether a cell shows a figure to that many digits."""
    if value is None:
        return cell == "—"
    if cell.endswith("%"):
        cell, value = cell.removesuffix("%"), 100 * value
    return float(cell.replace(",", "")) == pytest.approx(value, rel=0.51 * 10 ** (1 - digits))


# Each kind of table against its files


def test_errors_are_the_metrics():
    found = section("errors")
    names = {v: k for k, v in metrics.FIGURES.items()}
    printed = published.figures()["resnet34"]["metrics"]
    compared = {run.replace("/", " "): stored("net", run, "metrics.json") for run in RUNS[1:]}
    keys = set()
    for row in found:
        name, probabilities, _ = row.pop("Metric").partition(" (probabilities)")
        key = names[name].format("prob_" if probabilities else "")
        keys.add(key)
        assert list(row) == ["npu published", "npu predicted", "twin measured"]
        for column, cell in row.items():
            value = printed.get(key) if column == "npu published" else compared[column].get(key)
            assert close(cell, value), (key, column)
    assert {"max_abs_error", "prob_max_abs_error", "cosine_similarity", "top1_match"} <= keys
    assert all(key in keys for key in printed if key in names or f"{{}}{key}" in names)


def test_cosines_keep_ten_decimals():
    (row,) = (r for r in section("errors") if r["Metric"] == "cosine similarity")
    assert row["npu published"] == "0.9999999822"
    assert row["twin measured"] == "1.0000000000"
    value = stored("net", "npu/predicted", "metrics.json")["cosine_similarity"]
    assert row["npu predicted"] == f"{value:.10f}"


def test_top5_is_that_of_the_arrays():
    found, labels = section("top5"), [label.replace("|", "\\|") for label in LABELS]
    names = json.loads(Path("results/net/inputs.json").read_text())["names"]
    assert len(found) == 5 * len(names) == 15
    for run in RUNS:
        outputs = np.load(f"results/net/{run}/outputs.npy").astype(float)
        for i, row in enumerate(found):
            scores = np.exp(outputs[i // 5]) / np.exp(outputs[i // 5]).sum()
            best = np.argsort(-scores)[i % 5]
            assert (row["Input"], row["Rank"]) == (names[i // 5], str(i % 5 + 1))
            label, _, score = row[run.replace("/", " ")].rpartition(" ")
            assert label.rstrip(":") == labels[best] and close(score, scores[best], 4)


def test_images_are_the_inputs():
    found = section("images")
    for run in RUNS[1:]:
        column = run.replace("/", " ")
        for row, one in zip(found, stored("net", run, "metrics.json")["per_input"], strict=True):
            for side, of in (("reference", "cpu measured"), ("device", column)):
                label = LABELS[one[f"{side}_top5"][0][0]].replace("|", "\\|")
                assert row[f"{of} top-1"] == label
            assert row[f"{column} match"] == ("yes" if one["top1_match"] else "no")
            assert row[f"{column} cosine"] == f"{one['cosine_similarity']:.10f}"
    assert [row["Input"] for row in found] == ["random_0", "random_1", "synthetic_0"]


def test_images_of_probabilities_show_their_cosine():
    found = section("images", compared="probabilities")
    per_input = stored("net", "npu/predicted", "metrics.json")["per_input"]
    for row, one in zip(found, per_input, strict=True):
        assert row["npu predicted cosine"] == f"{one['prob_cosine_similarity']:.10f}"


def test_images_of_digits_show_the_answers():
    per_input = stored("house", "npu/predicted", "metrics.json")["per_input"]
    for row, one in zip(section("images", "house"), per_input, strict=True):
        assert row["cpu measured answer"] == (one["reference_answer"] or "(none)")
        assert row["npu predicted answer"] == (one["device_answer"] or "(none)")


def test_heads_are_the_metrics():
    found = section("heads", "house")
    assert [row["Head"] for row in found] == list(svhn.HEADS)
    printed = published.figures()["svhn"]["metrics"]["heads"]
    for row in found:
        for column, of in (("npu published", printed), ("npu predicted", None)):
            of = of or stored("house", "npu/predicted", "metrics.json")["heads"]
            for short, key in (("mean", "mean_abs_error"), ("max", "max_abs_error")):
                assert close(row[f"{column} {short}"], of[row["Head"]][key])


def test_latency_is_the_samples():
    found = {row.pop(""): row for row in section("latency")}
    assert all(
        list(row) == ["cpu measured", "twin measured", "cpu published", "npu published"]
        for row in found.values()
    )
    for run in ("cpu/measured", "twin/measured"):
        column = run.replace("/", " ")
        sizes = stored("net", run, "latency.json")["batch_sizes"]
        mean, _, std = found["mean ± standard deviation, ms"][column].partition(" ± ")
        samples = sizes["1"]["samples"]
        assert close(mean, np.mean(samples)) and close(std, np.std(samples, ddof=1), 2)
        for name, share in (("p50", 50), ("p95", 95), ("p99", 99)):
            assert close(found[f"{name}, ms"][column], np.percentile(samples, share))
        for size in (1, 4):
            rate = 1000 * size / np.mean(sizes[str(size)]["samples"])
            assert close(found[f"images/s at batch {size}"][column], rate)
    printed = found["mean ± standard deviation, ms"]
    assert (printed["cpu published"], printed["npu published"]) == ("157 ± 0.7", "4.1 ± 0")
    assert found["p95, ms"]["npu published"] == "—"


def made_busy(size):
    """A system with a latency.json that says that the machine was busy at a batch size."""
    of = system()
    run = RUNS[0]
    found = stored("net", run, "latency.json")
    why = "other processes used 48 % of the CPUs"
    found["batch_sizes"][size] |= {"busy": True, "why": why, "mean": 1186.2, "std": 828.4}
    of.__dict__["latency"] = of.latency | {run: found}
    return of


def test_a_time_on_a_busy_machine_is_marked():
    of = made_busy("1")
    found = {row.pop(""): row for row in rows(tables.report(of, ["latency"]))}
    column = "cpu measured"
    marked = found["mean ± standard deviation, ms"][column]
    assert marked == "1,186 ± 828, busy: not comparable"
    for row in ("p50, ms", "p95, ms", "p99, ms", "images/s at batch 1"):
        assert found[row][column].endswith(", busy: not comparable")
    assert found["busy at batch 1"] == {
        column: "other processes used 48 % of the CPUs",
        **dict.fromkeys(("twin measured", "cpu published", "npu published"), "—"),
    }
    others = [row["twin measured"] for row in found.values()]
    assert not any("busy" in cell for cell in [*others, found["images/s at batch 4"][column]])

    full = summary.rows([of])
    text = summary.table(full, {})
    assert rows(text)[0]["Latency"] == "1,186 ± 828, busy: not comparable"
    assert [row["Latency"] for row in rows(text) if "busy" in row["Latency"]] == [
        rows(text)[0]["Latency"]
    ]
    assert text.count(summary.BUSY) == 1
    assert summary.BUSY in summary.brief(full)
    assert summary.BUSY not in summary.brief(summary.rows([system()]))


def test_a_larger_batch_on_a_busy_machine_is_marked():
    found = {
        row.pop(""): row["cpu measured"] for row in rows(tables.report(made_busy("4"), ["latency"]))
    }
    assert [name for name, cell in found.items() if "busy" in name + cell] == [
        "images/s at batch 4", "busy at batch 4"
    ]  # fmt: skip


def test_a_quiet_machine_and_an_older_file_have_no_mark(described):
    assert not any("busy" in cell for row in section("latency") for cell in row.values())
    assert "busy" not in summary.table(summary.rows(described), {})
    of = system()
    older = ("mean", "std", "p50", "p95", "p99", "throughput", "samples")
    for found in of.latency.values():
        sizes = found["batch_sizes"]
        for size in sizes:
            sizes[size] = {key: sizes[size][key] for key in older}
    assert rows(tables.report(of, ["latency"])) == section("latency")
    assert "busy" not in summary.table(summary.rows([of]), {})


def test_published_throughput_by_batch_size():
    found = {row.pop(""): row for row in section("latency", "house")}
    assert found["p99, ms"]["npu published"] == "1.48"
    assert found["images/s at batch 1"]["npu published"] == "726.4"
    assert close(found["images/s at batch 16"]["npu published"], 8833.2)


def test_choices_of_a_checkpoint_are_rows():
    weights = json.loads(Path("results/house/weights.json").read_text())
    weights |= {"state": "ema", "other_states": {"model": "fits too"}, "prefix": "module."}
    rows = tables.provenance(SimpleNamespace(weights=weights)).set_index("")["Weights"]
    assert (
        rows["state of the checkpoint"] == "ema" and rows["prefix taken off the names"] == "module."
    )
    assert rows["its other states"] == "{'model': 'fits too'}" and "shards" not in rows


def test_provenance_is_the_sidecar():
    found = {row[""]: row["Weights"] for row in section("provenance", "house")}
    about = json.loads(Path("results/house/weights.json").read_text())
    assert found["source"] == "seed:2" and found["seed"] == "2" and found["pretrained"] == "no"
    assert found["repository"] == found["revision"] == found["file"] == "—"
    assert found["SHA-256 of weights.safetensors"] == about["sha256"]
    assert found["seeded tensors"] == f"{about['tensors']} of {about['tensors']}"
    assert found["parameters"] == f"{8 * 27 + 8 + 16 + 33 * 62:,}"
    assert found["tried: modelscope:owner/name"] == "modelscope: a \\| b"


def test_criteria_are_those_of_the_metrics():
    found = section("criteria")
    judged = stored("net", "npu/predicted", "metrics.json")["criteria"]
    conditions = [(name, c) for name, j in judged.items() for c in j["conditions"]]
    assert len(found) == len(conditions) == 9
    for row, (name, condition) in zip(found, conditions, strict=True):
        assert row["Criterion of"] == name
        word, _, value = row["npu predicted"].rstrip(")").partition(" (")
        assert word == ("pass" if condition["pass"] else "FAIL")
        assert close(value, condition["value"])


# What tables leave out


@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.parametrize("kind", tables.SECTIONS)
def test_every_kind_renders_for_every_task(name, kind):
    text = tables.report(system(name), [kind])
    expected = tables.SECTIONS[kind]
    missing = {"net": ["heads"], "house": ["top5"], "plain": ["heads"]}[name]
    assert (f"## {expected.heading}" in text) == (kind not in missing)
    if kind not in missing:
        assert rows(text) or expected.picture in text
        named = re.findall(r"`([^`]*/[^`]*\.(?:json|csv))`", text.splitlines()[-1])
        assert named and all(Path(f).is_file() and f.endswith(expected.file) for f in named)


def test_config_offers_every_kind():
    models = config.schema()["properties"]["models"]["additionalProperties"]["properties"]
    assert set(models["tables"]["items"]["enum"]) == set(tables.SECTIONS)


def test_reference_alone_has_no_differences():
    text = tables.report(system("plain", RUNS[:1]), list(tables.SECTIONS))
    assert re.findall("## (.*)", text) == [
        "Latency", "Weights", "Runs", "Operators against their bounds"
    ]  # fmt: skip
    (row,) = summary.rows([system("plain", RUNS[:1])])
    assert row["reference"] and row["max_abs_error"] is None


def test_runs_say_where_they_were_executed():
    found = {row["Run"]: row for row in section("runs")}
    assert list(found) == ["cpu measured", "npu predicted", "twin measured"]
    for run, row in found.items():
        stated = stored("net", run.replace(" ", "/"), "run.json")
        assert row["Executed on"] == f"cpu: {stated['executed_on']['name']}"
        assert row["With"] == f"torch {stated['versions']['torch']}"
    assert found["npu predicted"]["Numerics"] == "conv hf32"
    assert found["cpu measured"]["Numerics"] == "float32"


def test_divergence_shows_where_a_run_that_fails_goes_wrong(tmp_path):
    shutil.copytree("results/net", tmp_path / "net")
    steps = tmp_path / "net/twin/measured/divergence.csv"
    lines = steps.read_text().splitlines()
    wrong = next(i for i, line in enumerate(lines) if "batch_norm" in line)
    cells = lines[wrong].split(",")
    cells[5] = "0.5"  # measured_relative_l2_error
    steps.write_text("\n".join([*lines[:wrong], ",".join(cells), *lines[wrong + 1 :], ""]))
    of = replace(system(), folder=tmp_path / "net")
    assert not rows(tables.report(of, ["divergence"]))  # nothing failed
    file = tmp_path / "net/twin/measured/metrics.json"
    found = evidence.read_json(file)
    found["verdict"] = "FAIL"
    evidence.write_json(file, found)
    of = replace(system(), folder=tmp_path / "net")
    shown = rows(tables.report(of, ["divergence"]))
    (bold,) = (row for row in shown if row["Operator"].startswith("**"))
    assert bold["Operator"] == "**native_batch_norm**" and bold["Index"] == cells[0]
    assert bold["Measured"] == "0.5" and bold["Run"] == "twin measured"


def test_sections_come_in_the_order_asked_for():
    text = tables.report(system(), ["latency", "errors", "provenance"])
    assert re.findall("## (.*)", text) == ["Latency", "Difference from the reference", "Weights"]
    assert text.startswith("# net\n")


def test_what_is_not_finite_is_a_dash_and_fails(tmp_path):
    outputs = [np.load(f"results/net/{run}/outputs.npy") for run in RUNS[:2]]
    outputs[1][1, 2] = np.nan
    found = metrics.compare(*outputs)
    shutil.copytree("results/net", tmp_path / "net")
    file = tmp_path / "net" / RUNS[1] / "metrics.json"
    former = evidence.read_json(file)
    evidence.write_json(file, former | found | {"criteria": criteria.evaluate(found)})
    broken = replace(system(runs=RUNS[:2]), folder=tmp_path / "net")
    errors = {r["Metric"]: r for r in rows(tables.report(broken, ["errors"]))}
    assert errors["max abs error"]["npu predicted"] == "—"
    assert errors["top-1 match"]["npu predicted"] == "66.67 %"
    top5 = rows(tables.report(broken, ["top5"]))
    assert [row["npu predicted"] == "—" for row in top5] == [False] * 5 + [True] * 5 + [False] * 5
    assert rows(tables.report(broken, ["images"]))[1]["npu predicted match"] == "no"
    cells = [row["npu predicted"] for row in rows(tables.report(broken, ["criteria"]))]
    assert cells[0] == "FAIL (—)" and not any(cell.startswith("pass") for cell in cells)
    row = next(r for r in summary.rows([broken]) if r["run"] == "predicted")
    text = summary.table([row], {})
    assert "nan" not in text.lower() and rows(text)[0]["Max abs"] == "—"


def test_labels_must_be_one_a_class():
    of = replace(system(), labels=LABELS[:-1])
    with pytest.raises(ParityError, match="net: found 6 labels, expected 7, one per class"):
        tables.report(of, ["top5"])


def test_without_labels_classes_are_numbers():
    best = stored("net", "npu/predicted", "metrics.json")["per_input"][0]["reference_top5"][0][0]
    cell = section("top5", labels=None)[0]["cpu measured"]
    assert re.match(rf"{best}\b", cell)


# Summary


@pytest.fixture
def described(tree):
    return [results.describe(tree / "results" / n, RUNS, s) for n, s in SYSTEMS.items()]


def test_summary_rows_are_full_precision_and_name_their_files(described):
    found = summary.rows(described)
    runs = [(row["system"], row["device"], row["run"]) for row in found]
    measured = [("cpu", "measured"), ("npu", "predicted"), ("twin", "measured")]
    published = [measured[0], ("npu", "published"), *measured[1:]]
    assert runs == [
        *(("net", *run) for run in published),
        *(("house", *run) for run in published),
        *(("plain", *run) for run in measured),
    ]
    for row in found:
        files = [Path(file) for file in row["files"]]
        assert files and all((ROOT / file).is_file() for file in files)
        if row["run"] == "published":
            assert files == [Path("npu_parity/data/published.yaml")]
            continue
        assert (row["latency"] is not None) == (row["run"] == "measured")
        texts = {f.name: json.loads(f.read_text()) for f in files if f.suffix == ".json"}
        if row["reference"]:
            assert row["criterion"] is None and "metrics.json" not in texts
        else:
            assert row["max_abs_error"] == texts["metrics.json"]["max_abs_error"]
            assert row["top1_match"] == texts["metrics.json"]["top1_match"]
        if row["latency"]:
            one = texts["latency.json"]["batch_sizes"]["1"]
            assert row["latency"] == {
                k: v for k, v in one.items() if k not in ("samples", "stages")
            }


def test_summary_of_probabilities(described):
    row = summary.rows([replace(described[0], compared="probabilities")])[2]
    found = stored("net", "npu/predicted", "metrics.json")
    assert row["compared"] == "probabilities" and row["device"] == "npu"
    for key in ("max_abs_error", "mean_abs_error", "relative_l2_error", "one_minus_cosine"):
        assert row[key] == found[f"prob_{key}"] != found[key]


def test_predicted_rows_have_no_latency_and_say_predicted(described):
    full = summary.rows(described)
    for row, cells in zip(full, rows(summary.table(full, {})), strict=True):
        assert cells["Run"] == ("reference" if row["reference"] else row["run"])
        if row["run"] == "predicted":
            assert cells["Latency"] == "—"
        elif row["run"] == "measured":
            mean, _, std = cells["Latency"].partition(" ± ")
            assert close(mean, row["latency"]["mean"]) and close(std, row["latency"]["std"], 2)
        assert close(cells["Max abs"], row["max_abs_error"])
        assert close(cells["Mean abs"], row["mean_abs_error"])
        assert close(cells["Relative"], row["relative_l2_error"])
        assert close(cells["1 − cos"], row["one_minus_cosine"], 2)
        assert close(cells["Top-1"], row["top1_match"])


def test_summary_says_a_systems_name_once(described):
    found = rows(summary.table(summary.rows(described), {}))
    assert [row["System"] for row in found if row["System"]] == list(SYSTEMS)
    assert [row["Of"] for row in found if row["Of"]] == ["logits", "logits", "features"]


def test_summary_says_what_is_left_out_and_why(described):
    full = summary.rows(described)
    text = summary.table(full, {"gpu": "this machine has no /dev/nvidia"})
    assert "gpu is left out: this machine has no /dev/nvidia." in text.splitlines()
    assert "left out" not in summary.table(full, {})


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("modelscope:timm/efficientnet_b0.ra_in1k", "modelscope:timm/efficientnet_b0.ra_in1k"),
        ("huggingface:owner/name@v1/a.pth#sha256=00", "huggingface:owner/name@v1/a.pth"),
        ("package:a-name/a/long/path.pth#sha256=00", "package:a-name"),
        ("seed:42", "seed:42"),
    ],
)
def test_summary_names_the_source_of_weights(described, source, shown):
    row = summary.rows(described[:1])[0] | {"weights": source}
    assert rows(summary.table([row], {}))[0]["Weights"] == shown


# Cells


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "—"),
        ("", "—"),
        (0, "0"),
        (0.0, "0"),
        (3, "3"),
        (1.23456e-7, "1.23e-07"),
        (0.012349, "0.0123"),
        (157.1, "157"),
        (999.9, "1,000"),
        (1234.5678, "1,235"),
        (-1e6, "-1,000,000"),
        ("text", "text"),
    ],
)
def test_number(value, shown):
    assert tables.number(value) == shown


def test_number_to_two_digits_is_never_a_power_of_ten():
    assert [tables.number(x, 2) for x in (99.6, 157.1)] == ["100", "157"]


@pytest.mark.parametrize(
    ("key", "value", "shown"),
    [
        ("top1_match", 1.0, "100 %"),
        ("top1_match", True, "100 %"),
        ("top5_overlap", 2 / 3, "66.67 %"),
        ("digits_match", 0.0, "0 %"),
        ("cosine_similarity", 0.99999999821234, "0.9999999982"),
        ("max_abs_error", 0.014432907, "0.0144"),
        ("top1_match", None, "—"),
        ("cosine_similarity", None, "—"),
    ],
)
def test_metric(key, value, shown):
    assert tables.metric(key, value) == shown


def test_every_row_of_every_table_has_a_cell_for_each_column(described):
    for of in described:
        for line in tables.report(of, list(tables.SECTIONS)).splitlines():
            assert line.count("|") == line.count(" \\| ") or line.startswith("|")
        assert rows(tables.report(of, list(tables.SECTIONS)))  # whose zip is strict
    assert " \\| " in tables.report(described[0], ["top5"])


# The programs


def test_programs_write_what_the_package_says(tmp_path):
    settings = {name: s | {"tables": list(tables.SECTIONS)} for name, s in SYSTEMS.items()}
    of = json.dumps(settings["net"])
    script("table", *RUNS, "--folder", "results/net", "--system", of, "--output", "net.md")
    expected = tables.report(system(), list(tables.SECTIONS))
    assert Path("net.md").read_text(encoding="utf-8") == expected

    left_out = {"gpu": "no"}
    of = ["--systems", json.dumps(settings), "--left-out", json.dumps(left_out)]
    script("summary", *RUNS, "--folder", "results", *of)
    found = json.loads(Path("results/summary.json").read_text())
    described = [system(name) for name in SYSTEMS]
    full = summary.rows(described)
    assert found.pop("versions") == evidence.versions()
    assert found.pop("code") == digest(ROOT / "scripts" / "summary.py")
    assert found == {"left_out": left_out, "rows": full}
    text = Path("results/tables/summary.md").read_text(encoding="utf-8")
    costs = switches.table(described)
    assert "| twin " in costs and text == summary.table(full, left_out, costs)
    text = Path("results/tables/overview.md").read_text(encoding="utf-8")
    assert text == summary.overview(full)
