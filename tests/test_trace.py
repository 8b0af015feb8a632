"""The trace finds any number that does not follow from the arrays and samples, and nothing else."""

import json
import re
import shutil
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from project import ROOT
from typer.testing import CliRunner

from npu_parity import evidence
from npu_parity.__main__ import app
from npu_parity.audit import derive
from npu_parity.audit.trace import Report, _outside, trace
from npu_parity.backends import latency
from npu_parity.errors import ParityError
from npu_parity.report import page, results, summary, tables
from npu_parity.verdict import criteria, metrics, rowwise

pytestmark = pytest.mark.slow

RUN = "results/resnet34/npu/predicted"
LATENCY = "results/resnet34/cpu/measured/latency.json"


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The committed results with README.md, and with a page that has no pictures."""
    place = tmp_path_factory.mktemp("copy")
    left_out = shutil.ignore_patterns("*.safetensors", "inputs.npy", "*.onnx", "*.html")
    shutil.copytree(ROOT / "results", place / "results", ignore=left_out)
    shutil.copy(ROOT / "README.md", place)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        Path("results/report.html").write_text(written(), encoding="utf-8")
    return place


@pytest.fixture
def here(copy, monkeypatch):
    """The copy as the working directory. `change` remembers what it was."""
    monkeypatch.chdir(copy)
    before = {}

    def change(file, edit):
        before.setdefault(file, Path(file).read_bytes())
        found = edit(before[file])
        assert found != before[file]
        Path(file).write_bytes(found)

    yield change
    for file, content in before.items():
        Path(file).write_bytes(content)


def traced():
    report = Report.read(Path("results"))
    return [
        results.describe(report.folder / name, report.runs, dict(settings), results.Traced)
        for name, settings in report.settings.items()
    ]


def written():
    return page.page(traced(), Report.read(Path("results")).left_out, {})


def replaced(old, new, count=1):
    """Return an edit of the first `count` places of a text that has it."""
    return lambda content: content.replace(old.encode(), new.encode(), count)


def compared(*paths):
    return dict(trace([Path(path) for path in paths]))


def counted(*paths):
    """How many numbers each file has; a picture counts as one."""
    return {path: int(text.split()[0].replace(",", "")) for path, text in compared(*paths).items()}


def wrong(*paths):
    with pytest.raises(ParityError) as caught:
        counted(*paths)
    return str(caught.value)


def test_this_repository(monkeypatch):
    """Every number in README.md and in the results follows from the arrays and the samples."""
    monkeypatch.chdir(ROOT)
    code, output, error = run()
    assert error is None, error
    assert code == 0
    said = dict(line.split(": ", 1) for line in output.splitlines() if ": " in line)
    found = {path: int(text.split()[0].replace(",", "")) for path, text in said.items()}
    assert found["README.md"] > 5 and found["results/summary.json"] > 200
    assert found["results/report.html"] > 1000
    assert sum(path.endswith("metrics.json") for path in found) >= 12
    for pattern in ("*/*/*/metrics.json", "*/*/*/latency.json", "tables/*.md", "*/card*.md"):
        files = [path.as_posix() for path in Path("results").glob(pattern)]
        assert files and set(files) <= set(found)
    assert sum(path.endswith(".md") for path in found) > 20


def test_a_part_of_the_results(here):
    assert set(counted(RUN)) == {Path(RUN) / "metrics.json"}
    assert set(counted("results/tables")) == set(Path("results/tables").glob("*.md"))


def digit(place, pattern):
    """Change the last digit of the number that a pattern finds; return both and its line."""
    text = Path(place).read_text(encoding="utf-8")
    match = re.search(pattern, text)
    old = match[1]
    end = match.start(1) + re.match(r"[\d.,]*\d", old).end()
    new = str((int(text[end - 1]) + 1) % 10)
    changed = text[: end - 1] + new + text[end:]
    line = text[:end].count("\n") + 1
    after = end - match.start(1)
    return lambda _: changed.encode(), old, old[: after - 1] + new + old[after:], line


# Pictures

DRAWN = "results/svhn_digit/divergence.svg"
MOVED = re.compile(rb"(M \d+\.\d)\d*")  # the first coordinate of a line


def moved(by):
    return lambda svg: MOVED.sub(lambda found: b"M %.6f" % (float(found[0][2:]) + by), svg, count=1)


def test_a_picture_is_drawn_again(here):
    assert compared(DRAWN) == {Path(DRAWN): "1 picture"}
    here(DRAWN, moved(0.004))  # as another processor may round
    assert compared(DRAWN) == {Path(DRAWN): "1 picture"}


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (moved(1), "the results give "),
        (replaced("predicted</text>", "measured</text>"), "found 'npu measured', the results give"),
        (replaced("#d55e00", "#009e73"), "the results give "),
        (lambda svg: svg[: svg.rindex(b"</svg>")], " lines, the results give "),
    ],
)
def test_a_picture_that_shows_something_else(here, edit, said):
    here(DRAWN, edit)
    line = wrong(DRAWN)
    assert line.startswith(f"{DRAWN}, ") and said in line


def test_a_picture_of_another_matplotlib_is_not_compared(here):
    version = replaced(f"Matplotlib v{matplotlib.__version__}", "Matplotlib v3.0.1")
    here(DRAWN, lambda svg: moved(50)(version(svg)))
    assert compared(DRAWN) == {
        Path(DRAWN): "1 picture not compared, because matplotlib 3.0.1 drew them"
    }


def test_a_picture_shows_other_numbers_than_the_results(here):
    table = "results/svhn_digit/npu/predicted/divergence.csv"
    here(table, lambda content: re.sub(rb"0\.00(\d)", rb"0.0\1", content))
    assert wrong(DRAWN).startswith(f"{DRAWN}, line ")


def test_pictures_in_the_page(here):
    (of,) = (system for system in traced() if system.name == "svhn_digit")
    drawn = page.pictures([of])
    assert ("svhn_digit", "scatter") in drawn
    shown = page.page(traced(), Report.read(Path("results")).left_out, drawn)
    here("results/report.html", lambda _: shown.encode())
    assert compared("results/report.html")[Path("results/report.html")].endswith(
        f", {len(drawn)} pictures"
    )
    name, picture = drawn.popitem()
    text = page.page(traced(), Report.read(Path("results")).left_out, {name: moved(3)(picture)})
    Path("results/report.html").write_text(text, encoding="utf-8")
    assert f", picture {name[1]} of svhn_digit, line " in wrong("results/report.html")


DOCUMENTS = {
    "a predicted figure": (
        "tables/resnet34.md", r"\| mean abs error +\|[^|]+\| (\S+)", "metrics.json#mean_abs_error"
    ),
    "a cosine": (
        "tables/resnet34.md", r"\| cosine similarity +\|[^|]+\| (\S+)", "#cosine_similarity"
    ),
    "a published figure": (
        "tables/resnet34.md", r"(\S+) ± 0\.7", "published.yaml#resnet34.latency.cpu.mean"
    ),
    "a share": ("tables/svhn.md", r"same order +\|[^|]+\| (\S+) %", "#top5_same_order"),
    "a latency": (
        "tables/summary.md", r"\| resnet34 .*\| (\S+) ±", f"{LATENCY}#batch_sizes.1.mean"
    ),
    "the page": ("report.html", rf'{RUN}/[^>]*#max_abs_error"[^>]*>([\d.e-]+)', "#max_abs_error"),
    "an attribute of the page": (
        "report.html", rf'{RUN}/[^>]*#max_abs_error"[^>]* value="([\d.e-]+)', "#max_abs_error"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_digit_in_a_document(here, name):
    file, pattern, origin = DOCUMENTS[name]
    file = f"results/{file}"
    edit, old, new, line = digit(file, pattern)
    here(file, edit)
    found = wrong(file)
    assert found.startswith(f"{file}, line {line}: found ") and f"{origin})" in found
    assert new in found.split("the results give")[0] and old in found.split("the results give")[1]


def test_a_digit_in_the_readme(here):
    edit, old, new, line = digit("README.md", r"\| resnet34 .*?max abs (?:npu: )?(\S+)")
    here("README.md", edit)
    assert wrong("README.md") == (
        f"README.md, line {line}: found {new}, the results give {old} "
        f"({RUN}/metrics.json#max_abs_error)"
    )


def test_a_digit_in_a_metrics_json(here):
    stated = json.loads(Path(f"{RUN}/metrics.json").read_text())["per_input"][1][
        "l2" if 0 else "prob_relative_l2_error"
    ]
    text = repr(stated)
    other = text[:6] + str((int(text[6]) + 1) % 10) + text[7:]
    here(f"{RUN}/metrics.json", replaced(text, other))
    found = wrong("results")
    assert found.startswith(
        f"{RUN}/metrics.json: per_input[1].prob_relative_l2_error: found {other}"
    )
    assert f"the arrays give {text[:5]}" in found


def test_a_key_too_many_and_a_key_too_few(here):
    here(f"{RUN}/metrics.json", replaced('"l2_error"', '"l3_error"'))
    assert "l3_error: found 0." in wrong(f"{RUN}/metrics.json")


def test_a_value_in_the_outputs(here):
    def edit(content):
        return content[:-2] + bytes([content[-2] ^ 1]) + content[-1:]

    here(f"{RUN}/outputs.npy", edit)
    assert wrong("results").startswith(f"{RUN}/outputs.npy: found SHA-256 ")


def test_a_value_in_the_outputs_with_its_hashes(here, monkeypatch):
    """Whoever changes the array and all of its hashes is found by the figures."""
    array = np.load(f"{RUN}/outputs.npy")
    old = evidence.sha256(f"{RUN}/outputs.npy")
    array[1, 7] += np.float32(0.02)
    here(f"{RUN}/outputs.npy", lambda _: b"")
    np.save(f"{RUN}/outputs.npy", array)
    for name in ("run.json", "metrics.json"):
        here(f"{RUN}/{name}", replaced(old, evidence.sha256(f"{RUN}/outputs.npy"), -1))
    monkeypatch.setattr("npu_parity.evidence.manifest.check", lambda *_: None)  # forged, too
    found = wrong("results")
    assert re.match(rf"{RUN}/metrics.json: \w+: found [\d.]+, the arrays give [\d.]+$", found)
    assert "line" in wrong("results/tables/resnet34.md")  # without metrics.json


def test_a_sample_of_a_latency(here):
    sample = str(json.loads(Path(LATENCY).read_text())["batch_sizes"]["1"]["samples"][3])
    here(LATENCY, replaced(sample, str(float(sample) + 1)))
    found = wrong("results")
    assert found.startswith(f"{LATENCY}: batch_sizes.1.") and "the samples give" in found


def test_the_rounding_of_another_cpu(here):
    """The last digits of exp and log differ. Everything is written again from such figures."""
    for file in Path("results").glob("*/*/*/metrics.json"):
        stated = json.loads(file.read_text())
        moved = derive.shifted(stated, 0.5)  # what npu_parity.evidence.tolerance expects
        content = json.dumps(moved).encode()
        here(str(file), lambda _, content=content: content)
    with pytest.MonkeyPatch.context() as patch:  # the manifests have the old hashes
        patch.setattr("npu_parity.evidence.manifest.check", lambda *_: None)
        report = Report.read(Path("results"))
        systems = [
            results.describe(report.folder / name, report.runs, dict(settings))
            for name, settings in report.settings.items()
        ]
        rows = summary.rows(systems)
        for system in systems:
            text = tables.report(system, report.settings[system.name]["tables"])
            Path(f"results/tables/{system.name}.md").write_text(text, encoding="utf-8")
        stated = json.loads(Path("results/summary.json").read_text())
        here("results/summary.json", lambda _: json.dumps(stated | {"rows": rows}).encode())
        here("results/report.html", lambda _: (written() + "\n").encode())
    assert counted("results", "README.md")


def test_a_cosine_of_0_has_the_tolerance_of_1():
    """Two inputs with the cosines 1 and -1 have the mean 0, or almost."""
    low, high = (derive.shifted({"cosine_similarity": 0.0}, by) for by in (-1, 1))
    assert low["cosine_similarity"] < -1e-15 < 1e-15 < high["cosine_similarity"]


def test_a_number_at_a_boundary_of_rounding_may_have_either_last_digit():
    """0.0285 is printed as 0.028 or as 0.029, whichever side a CPU is on."""
    figures = {"relative_l2_error": 1e-6, "max_abs_error": 0.00012345}
    within = [derive.shifted(figures, by)["max_abs_error"] for by in (-1, 0, 1)]
    assert {f"{x:.4g}" for x in within} == {"0.0001234", "0.0001235"}
    assert within[2] / within[1] - 1 == pytest.approx(64 * 2**-53 * 1e6, rel=1e-3)


@pytest.mark.parametrize(
    ("module", "name"),
    [(rowwise, "_errors"), (rowwise, "_ranking"), (metrics, "l2"), (metrics, "explained")],
)
def test_a_mistake_in_the_metrics_is_found(module, name, monkeypatch):
    """The derivation does not use the functions that wrote metrics.json."""
    monkeypatch.setattr(module, name, None)
    r, d = np.float32([[1, 2, 3]]), np.float32([[1, 2, 4]])
    assert derive.compared(r, d, "classification")["max_abs_error"] == 1
    assert derive.explained(d, r, r) == 0


VALUES = st.one_of(
    st.floats(-1e3, 1e3, width=32),
    st.sampled_from([0.0, 1.0, 2.0, float("nan"), float("inf")]),
)
HEADS = {"length": 7, **{f"digit{i}": 11 for i in range(1, 6)}}
CASES = {
    "classification": (8, None, None),
    "features": (1, None, None),
    "digits": (62, HEADS, None),
    "segmentation": (20, {"out": 12, "aux": 8}, {"out": (3, 2, 2), "aux": (2, 2, 2)}),
}


@pytest.mark.parametrize("task", CASES)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_both_derivations_agree(task, data):
    columns, heads, shapes = CASES[task]
    shape = (data.draw(st.integers(1, 3)), columns)
    r = data.draw(arrays.arrays(np.float32, shape, elements=VALUES))
    change = data.draw(
        arrays.arrays(np.float32, shape, elements=st.floats(-1, 1, width=32), fill=st.just(0.0))
    )
    for d in (r + change, r):
        stated = metrics.compare(r, d, task, heads, shapes)
        stated["per_input"] = list(stated["per_input"])
        again = derive.compared(r, d, task, heads, shapes)
        assert outside(stated, again) == []
        assert outside(criteria.evaluate(stated), derive.criteria(stated)) == []


def outside(stated, again):
    """Figures beyond the tolerance, but not those below what float64 resolves.

    A cosine or a probability has a rounding error of about 1e-16, so one derivation may find an
    error of 0 where the other finds 1e-40. Other figures may be denormal.
    """
    moved = (derive.shifted(again, by) for by in (-1, 1))
    return [
        (place, *values)
        for place, *values in _outside(stated, again, *moved)
        for least in [1e-14 if "one_minus" in place or "prob_" in place else 1e-300]
        if any(not isinstance(value, float) or abs(value) > least for value in values)
    ]


@given(st.lists(st.floats(0.01, 1e4), min_size=1, max_size=30), st.integers(1, 16))
def test_timings_agree(samples, size):
    stated, again = latency.summarise(samples, size), derive.timings(samples, size)
    for key, value in again.items():
        assert value == (None if value is None else pytest.approx(stated[key], rel=1e-9, abs=1e-9))


def run(*arguments):
    done = CliRunner().invoke(app, ["trace", *arguments])
    return done.exit_code, done.output, done.exception


def test_the_command_says_what_is_wrong(here):
    here("README.md", digit("README.md", r"max abs (?:npu: )?(\S+)")[0])
    code, _, error = run("README.md")
    assert code == 1 and isinstance(error, ParityError)


def test_mistakes_of_a_user(here, tmp_path):
    assert wrong("no.md") == "no.md: there is no such file"
    assert "found no folder results" in wrong(tmp_path)
    assert "cannot be traced, expected one of" in wrong(f"{RUN}/divergence.csv")
    (tmp_path / "results").mkdir()
    assert "found no summary.json" in wrong(tmp_path / "results")
    here(LATENCY, lambda _: b"{")
    assert "is not JSON" in wrong(LATENCY)
