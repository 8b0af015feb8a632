"""The evidence in results/: every figure in every table follows from arrays with true hashes."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from npu_parity import config, evidence
from npu_parity.backends import latency
from npu_parity.evidence.tolerance import differences
from npu_parity.report import figures, readme, results, summary, switches, tables
from npu_parity.verdict import criteria, metrics, questions
from npu_parity.verdict.runs import Repeated, Runs

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"
CONFIG = config.load(ROOT / "config.yaml")
SUMMARY = evidence.read_json(RESULTS / "summary.json")
RUNS = list(dict.fromkeys(f"{r['device']}/{r['run']}" for r in SUMMARY["rows"]))
RUNS = [run for run in RUNS if not run.endswith("/published")]
SYSTEMS = list(CONFIG["models"])
COMPARED = [(system, run) for system in SYSTEMS for run in RUNS[1:]]


@pytest.fixture(autouse=True)
def in_root(monkeypatch):
    """Paths in tables are relative to the project."""
    monkeypatch.chdir(ROOT)


def folder(system: str, run: str) -> Path:
    return RESULTS / system / run


@pytest.mark.parametrize("system", SYSTEMS)
def test_weights_are_what_the_configuration_names(system):
    sidecar, wanted = evidence.read_json(RESULTS / system / "weights.json"), CONFIG["models"]
    assert sidecar["architecture"] == wanted[system]["architecture"]
    assert sidecar["arguments"] == wanted[system]["arguments"]
    tried = [t["source"] for t in sidecar["tried"]] + [sidecar["source"]]
    assert tried == wanted[system]["weights"][: len(tried)]


@pytest.mark.parametrize(
    ("system", "count"),
    [
        ("bird_species", 26_552_846),
        ("resnet34", 21_797_672),
        ("efficientnet_b0", 5_288_548),
        ("convnextv2_atto", 3_387_400),
        ("svhn", 42_868_734),
        ("efficientnet_lite0", 4_652_008),
        ("efficientnet_lite1", 5_416_680),
        ("efficientnet_lite2", 6_092_072),
        ("svhn_digit", 815_018),
    ],
)
def test_parameter_counts(system, count):
    assert evidence.read_json(RESULTS / system / "weights.json")["parameters"] == count


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("run", RUNS)
def test_outputs_and_sidecars_belong_together(system, run):
    sidecar = evidence.read_json(folder(system, run) / "run.json")
    array = evidence.read_array(folder(system, run) / "outputs.npy", sidecar["sha256"]["outputs"])
    assert array.dtype == np.float32 and list(array.shape) == sidecar["shape"]
    weights = evidence.read_json(RESULTS / system / "weights.json")
    assert sidecar["sha256"]["weights"] == weights["sha256"]
    inputs = evidence.read_json(RESULTS / system / "inputs.json")
    assert sidecar["sha256"]["inputs"] == inputs["sha256"]
    assert len(array) == len(inputs["names"])


@pytest.mark.parametrize(("system", "run"), COMPARED)
def test_metrics_follow_from_the_arrays(system, run):
    found = evidence.read_json(folder(system, run) / "metrics.json")
    arrays = [np.load(folder(system, r) / "outputs.npy") for r in (RUNS[0], run)]
    settings = CONFIG["models"][system]
    again = metrics.compare(*arrays, task=settings["task"], heads=settings["heads"] or None)
    again["criteria"] = criteria.evaluate(again)
    assert list(differences({key: found[key] for key in again}, again)) == []


MEASURED = [run for run in RUNS if run.endswith("/measured")]
# Devices that execute files have no operators that can be checked.
SEEN = [run for run in MEASURED if not run.startswith("onnxruntime")]


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("run", SEEN)
def test_every_operator_keeps_to_its_bound(system, run):
    """Float32 on this CPU, and its real bf16 where it has that: no error is beyond its bound."""
    found = pd.read_csv(folder(system, run) / "operators.csv")
    checked = found["max_error_of_bound"].notna()
    assert checked.sum() > 20 and (found["max_error_of_bound"][checked] <= 1).all()
    assert (found["result"][checked] == "PASS").all()
    program = evidence.read_json(folder(system, run) / "program.json")
    assert program["without_bound"] == [] and program["operators"] == len(found)
    assert program["differences"] == []


@pytest.mark.parametrize(("system", "run"), COMPARED)
def test_verdict_follows_from_the_arrays(system, run):
    found = evidence.read_json(folder(system, run) / "metrics.json")
    device, _, kind = run.partition("/")
    files = {"reference": RUNS[0], "exact": "cpu/exact", "predicted": RUNS[0]}
    files |= {"predicted": f"{device}/predicted"} if f"{device}/predicted" in RUNS else {}
    files |= {"measured": run} if kind == "measured" else {}
    arrays = {name: np.load(folder(system, r) / "outputs.npy") for name, r in files.items()}
    for name, r in files.items():
        assert found["sha256"][name] == evidence.sha256(folder(system, r) / "outputs.npy")
    settings = CONFIG["models"][system]
    runs = Runs(**arrays, heads=settings["heads"] or None)
    pretrained = evidence.read_json(RESULTS / system / "weights.json")["pretrained"]
    more = {}
    if kind == "measured":
        more["repeated"] = Repeated(batches={"2": 0.0})  # larger batches were checked
        more |= {"not_asked": (1, 2)} if run not in SEEN else {}
    again = questions.enough_evidence(runs, settings["task"], pretrained, **more)
    assert found["questions"][-1]["findings"] == list(again.findings)
    assert found["evidence"] == ("strong" if again.passed else "weak")
    assert (found["verdict"] == "PREDICTED") == (kind == "predicted")


@pytest.mark.parametrize(("system", "run"), COMPARED)
def test_divergence_ends_where_the_outputs_are(system, run):
    """The last operator's error is that of the input's outputs, computed independently."""
    steps = pd.read_csv(folder(system, run) / "divergence.csv")
    found = evidence.read_json(folder(system, run) / "metrics.json")
    kind = "measured" if run in SEEN else "predicted"
    if run in MEASURED and run not in SEEN:
        assert steps["measured_relative_l2_error"].isna().all()
        return
    if len(CONFIG["models"][system]["heads"]) > 1:  # several outputs, and none is the last
        return
    errors = steps[f"{kind}_relative_l2_error"].dropna()
    worst = found["per_input"][metrics.worst_input(found)]["relative_l2_error"]
    assert errors.iloc[-1] == pytest.approx(worst, rel=1e-6)


@pytest.mark.parametrize("system", SYSTEMS)
def test_latency_follows_from_its_samples(system):
    for run in RUNS:
        if not run.endswith("/measured"):
            assert not (folder(system, run) / "latency.json").exists()
            continue
        found = evidence.read_json(folder(system, run) / "latency.json")
        for size, timed in found["batch_sizes"].items():
            again = latency.summarise(timed["samples"], int(size))
            assert list(differences({key: timed[key] for key in again}, again)) == []


def described() -> list[results.System]:
    return [
        results.describe(Path("results") / name, RUNS, settings)
        for name, settings in CONFIG["models"].items()
    ]


def test_summary_and_tables_follow_from_the_files():
    rows = summary.rows(described())
    assert rows == SUMMARY["rows"]
    text = summary.table(rows, SUMMARY["left_out"], switches.table(described()))
    assert text == (RESULTS / "tables" / "summary.md").read_text(encoding="utf-8")
    for system in described():
        report = tables.report(system, CONFIG["models"][system.name]["tables"])
        written = RESULTS / "tables" / f"{system.name}.md"
        assert report == written.read_text(encoding="utf-8")


def parts(picture: Path) -> tuple[list[str], list[float]]:
    """Take a picture apart: what is text, and the numbers with a fraction."""
    text = re.split(r"(-?[0-9]+\.[0-9]+)", picture.read_text(encoding="utf-8"))
    return text[::2], [float(number) for number in text[1::2]]


@pytest.mark.parametrize("system", SYSTEMS)
def test_picture_follows_from_the_files(system, tmp_path):
    (of,) = (s for s in described() if s.name == system)
    figures.save(figures.divergence(of), tmp_path / "divergence.svg")
    paths = RESULTS / system / "divergence.svg", tmp_path / "divergence.svg"
    (stated, drawn), (numbers, again) = zip(*map(parts, paths), strict=True)
    assert drawn == stated
    assert numbers == pytest.approx(again, abs=2e-6)  # SVG has six digits after the point


def test_every_file_that_a_table_names_exists():
    for table in (RESULTS / "tables").glob("*.md"):
        for name in re.findall(r"`(results/[^`]+)`", table.read_text(encoding="utf-8")):
            assert (ROOT / name).is_file(), f"{table}: {name}"
        for name in re.findall(r"!\[.*?\]\((.*?)\)", table.read_text(encoding="utf-8")):
            assert (table.parent / name).is_file(), f"{table}: {name}"
    assert all((ROOT / file).is_file() for row in SUMMARY["rows"] for file in row["files"])


def test_readme_carries_the_tables():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    contents = {name: (ROOT / name).read_text(encoding="utf-8") for name in readme.markers(text)}
    assert "results/tables/overview.md" in contents
    assert readme.splice(text, contents) == text


def test_predicted_rows_are_called_so_and_have_no_latency():
    predicted = [row for row in SUMMARY["rows"] if row["run"] == "predicted"]
    assert predicted and all(row["latency"] is None for row in predicted)
    assert not [r for r in SUMMARY["rows"] if r["device"] == "npu" and r["run"] == "measured"]


def test_resnet34_reproduces_its_document():
    found = evidence.read_json(RESULTS / "resnet34/npu/predicted/metrics.json")
    for one in found["per_input"]:
        assert [c for c, _ in one["reference_top5"]] == [134, 425, 552, 332, 676]
        assert [c for c, _ in one["device_top5"]] == [134, 425, 552, 332, 676]
    assert 0.007 < found["max_abs_error"] < 0.03
    assert found["cosine_similarity"] >= 0.9999999


def test_resnet34_is_shown_beside_its_document_and_called_weak():
    text = (RESULTS / "tables/resnet34.md").read_text(encoding="utf-8")
    header = next(line for line in text.splitlines() if line.startswith("| Metric"))
    columns = [cell.strip() for cell in header.strip("|").split("|")]
    assert columns == ["Metric", "npu published", *(results.title(run) for run in RUNS[1:])]
    judged = evidence.read_json(RESULTS / "resnet34/npu/predicted/metrics.json")
    assert judged["evidence"] == "weak"
    findings = judged["questions"][-1]["findings"]
    assert "all 3 inputs have the same top-1 class" in findings
    assert findings[0] in text


def test_efficientnet_lite0_sees_what_is_there():
    found = evidence.read_json(RESULTS / "efficientnet_lite0/npu/predicted/metrics.json")
    names = evidence.read_json(RESULTS / "efficientnet_lite0/inputs.json")["names"]
    seen = {n: one["reference_top5"] for n, one in zip(names, found["per_input"], strict=True)}
    labels = (ROOT / "npu_parity/data/imagenet_1k.txt").read_text(encoding="utf-8").splitlines()
    assert {labels[c] for c, _ in seen["chelsea"][:3]} <= {
        "tabby", "tiger cat", "Persian cat", "Siamese cat", "Egyptian cat"
    }  # fmt: skip
    assert labels[seen["coffee"][0][0]] == "espresso" and seen["coffee"][0][1] > 0.9
    assert 5e-7 < found["prob_one_minus_cosine"] < 2e-5


@pytest.mark.skipif("cpu_bf16/measured" not in RUNS, reason="needs a CPU with bf16 matrix units")
@pytest.mark.parametrize("system", SYSTEMS)
def test_real_bf16_is_as_predicted(system):
    measured, predicted = (
        evidence.read_json(RESULTS / system / f"cpu_bf16/{run}/metrics.json")["relative_l2_error"]
        for run in ("measured", "predicted")
    )
    assert measured == pytest.approx(predicted, rel=0.25)


def test_bird_labels():
    labels = (ROOT / "npu_parity/data/inat2021_birds.txt").read_text(encoding="utf-8").splitlines()
    assert len(labels) == len(set(labels)) == 1486
    assert any(label.endswith("Bubulcus_ibis") for label in labels)
