"""The page: valid HTML in one file, in two languages, and every number with its true origin."""

import itertools
import json
import re
from pathlib import Path

import html5lib
import pandas as pd
import pytest
import yaml
from project import ROOT

from npu_parity import evidence
from npu_parity.audit.trace import Report
from npu_parity.report import figures, origin, page, results, summary, tables
from npu_parity.report.origin import Count, Figure

pytestmark = pytest.mark.slow
HTML = "{http://www.w3.org/1999/xhtml}"
DOT = b'<svg xmlns="http://www.w3.org/2000/svg"></svg>'


def described():
    report = Report.read(Path("results"))
    return report, [
        results.describe(report.folder / name, report.runs, dict(settings), results.Traced)
        for name, settings in report.settings.items()
    ]


@pytest.fixture(scope="module")
def text():
    """The page of the committed results, with a dot for every picture."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        report, systems = described()
        parts = [name for name, part in page.PARTS.items() if part.draw]
        dots = {(system.name, name): DOT for system in systems for name in parts}
        return page.page(systems, report.left_out, dots)


@pytest.fixture(scope="module")
def document(text):
    """The page as a tree; a mistake in the HTML is an error."""
    return html5lib.HTMLParser(strict=True).parse(text)


def found(document, tag, **attributes):
    return [
        e for e in document.iter(HTML + tag) if all(e.get(k) == v for k, v in attributes.items())
    ]


def said(element):
    return "".join(element.itertext())


def test_one_file(text, document):
    assert len(text.encode()) < 5_000_000
    links = [e.get(k) for e in document.iter() for k in ("src", "href", "action") if e.get(k)]
    assert links and all(link.startswith(("#", "data:")) for link in links)
    assert "@import" not in text and not re.search(r"url\((?!data:)", text.split("</style>")[1])
    assert [e.get("type") for e in found(document, "script")] == ["module"]


def test_the_same_results_give_the_same_bytes(text, monkeypatch):
    monkeypatch.chdir(ROOT)
    report, systems = described()
    parts = [name for name, part in page.PARTS.items() if part.draw]
    dots = {(system.name, name): DOT for system in systems for name in parts}
    assert page.page(systems, report.left_out, dots) == text


def test_structure(document):
    ids = [e.get("id") for e in document.iter() if e.get("id")]
    assert len(ids) == len(set(ids))
    targets = {e.get("href") for e in found(document, "a")}
    assert {t.removeprefix("#") for t in targets} <= set(ids)
    assert len(found(document, "h1")) == 1 and len(found(document, "main")) == 1
    levels = [int(e.tag[-1]) for e in document.iter() if re.fullmatch(r".*}h[1-6]", str(e.tag))]
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels))
    for table in found(document, "table"):
        width = len(found(table, "th", scope="col"))
        rows = list(table.find(HTML + "tbody").iter(HTML + "tr"))
        assert rows and all(len(list(row)) == width for row in rows)
        assert all(row[0].tag == HTML + "th" for row in rows)
    assert all(image.get("alt") for image in found(document, "img"))
    assert all(said(button).strip() for button in found(document, "button"))


def test_every_system_has_every_part(document):
    for system in json.loads((ROOT / "results/summary.json").read_text())["rows"]:
        (section,) = found(document, "section", id=system["system"])
        shown = {e.get("class") for e in found(section, "section")}
        assert {f"part {name}" for name in page.PARTS} == shown - {None}


def test_both_languages(document):
    """Every English text that changes has its Chinese beside it."""
    pairs = 0
    for parent in document.iter():
        children = list(parent)
        for i, child in enumerate(children):
            if child.tag == HTML + "span" and child.get("lang") == "en":
                other = children[i + 1]
                assert other.get("lang") == "zh" and said(other) != said(child)
                pairs += bool(re.search("[\u4e00-\u9fff]", said(other)))
    assert pairs > 500


def test_every_heading_has_a_chinese_form(document):
    untouched = {"", "Top-1", "Top-5", "Batch"}
    for heading in [*found(document, "th", scope="col"), *found(document, "h3")]:
        if not found(heading, "span", lang="zh"):
            assert said(heading).strip() in untouched, said(heading)


def test_chinese_words():
    assert page.CHINESE("max abs error (probabilities)") == "最大绝对误差（概率）"
    finding = "no: all 3 inputs have the same top-1 class; weights are random"
    assert page.CHINESE(finding) == "否：全部 3 个输入的 Top-1 类别相同；权重为随机生成"
    assert page.CHINESE("no such sentence") == "no such sentence"


def value_of(source):
    """Look a field up in the file of an origin."""
    file, _, field = source.partition("#")
    text = (ROOT / file).read_text(encoding="utf-8")
    if file.endswith(".csv"):
        column, row = re.fullmatch(r"(\w+)\[(\d+)\]", field).groups()
        return float(pd.read_csv(ROOT / file)[column][int(row)])
    value = yaml.safe_load(text) if file.endswith(".yaml") else json.loads(text)
    for key, index in re.findall(r"([^.\[\]]+)|\[(\d+)\]", field):
        value = value[int(index)] if index else value.get(key, value.get(maybe_int(key)))
    return value


def maybe_int(key):
    return int(key) if key.isdigit() else key


def test_every_number_has_a_true_origin(document):
    numbers = found(document, "data")
    assert len(numbers) > 1000
    for number in numbers:
        source, shown = number.get("data-source"), said(number).replace(",", "")
        assert number.get("value") == shown
        values = [value_of(one) for one in source.split("÷")]
        value = values[0] / values[1] if len(values) > 1 else values[0]
        # Shares are percent, and a summary of a report shows 1 - cosine of its cosine.
        readings = {value, 100 * value, 1 - value}
        digits = re.sub(r"e.*|[.-]", "", shown).lstrip("0")
        near = 0.51 * 10.0 ** (1 - max(len(digits), 1)) * 10
        assert any(abs(float(shown) - r) <= near * abs(r) + 1e-15 for r in readings), (
            shown,
            source,
            value,
        )


def test_numbers_of_results_in_tables_have_an_origin(document):
    """A cell that is a number is marked, unless it counts (rank, threads) or names something."""
    counts = {"Rank", "Threads", "Batch", "Count", "Index"}
    for table in found(document, "table"):
        headings = [said(h).strip() for h in found(table, "th", scope="col")]
        for row in table.find(HTML + "tbody").iter(HTML + "tr"):
            for heading, cell in zip(headings, row, strict=True):
                number = re.fullmatch(r"-?\d+\.\d+(e-?\d+)?", said(cell).strip())
                if number and not any(heading.startswith(c) for c in counts):
                    assert found(cell, "data"), (heading, said(cell))


def test_a_number_that_is_formatted_keeps_its_origin():
    figure, count = Figure(0.5, "a+b.json#x"), Count(1234, "b.json#y")
    text = f"{figure:.2g} of {count:,}, {100 * figure:.0f} %, {1 - figure}"
    assert origin.plain(text) == "0.5 of 1,234, 50 %, 0.5"
    assert [source for _, source in origin.pieces(text) if source] == [
        *("a+b.json#x", "b.json#y", "a+b.json#x", "a+b.json#x")
    ]
    assert (figure / Figure(2.0, "c")).source == "a+b.json#x÷c"
    assert json.dumps({"x": figure, "y": count}) == '{"x": 0.5, "y": 1234}'


def test_tables_with_origins_say_the_same(monkeypatch):
    monkeypatch.chdir(ROOT)
    report, traced = described()
    for system in traced:
        names = list(report.settings[system.name]["tables"])
        text = origin.plain(tables.report(system, names))
        written = (ROOT / f"results/tables/{system.name}.md").read_text(encoding="utf-8")
        assert text.split() != [] and words(text) == words(written)
    assert (
        json.loads(json.dumps(summary.rows(traced)))
        == evidence.read_json("results/summary.json")["rows"]
    )


def words(text):
    return re.sub(r":?-{2,}:?", "-", text).split()


@pytest.mark.parametrize(
    ("cell", "key"),
    [
        *(("26,552,846", "26552846"), ("1.6e-08", "1.6e-08"), ("78.7 ± 12", "78.7")),
        *(("100 %", "100"), ("4.1, busy: not comparable", "4.1"), ("—", ""), ("", "")),
        *(("pass (0.1)", None), ("cpu", None), ("2 of 3", "2"), ("1 − cosine", None)),
    ],
)
def test_a_cell_sorts_by_its_number(cell, key):
    assert page.order(cell) == key


def test_text_of_users_is_escaped():
    assert page.both("<b>&amp;") == "&lt;b&gt;&amp;amp;"


def test_pictures_of_the_page(monkeypatch):
    monkeypatch.chdir(ROOT)
    _, systems = described()
    (svhn,) = (system for system in systems if system.name == "svhn")
    drawn = page.pictures([svhn])
    assert {name for _, name in drawn} == {"network", "scatter", "operators", "speed"}
    texts = drawn["svhn", "speed"].decode()
    assert "npu published (another machine)" in texts
    assert "error of float32 itself" in drawn["svhn", "scatter"].decode()
    assert figures.svg(figures.speed(svhn)) == drawn["svhn", "speed"]


def test_a_busy_machine_shows_in_the_picture(monkeypatch):
    monkeypatch.chdir(ROOT)
    _, systems = described()
    latency = systems[1].latency["cpu/measured"]["batch_sizes"]["1"]
    latency["busy"] = True
    assert "busy: not comparable" in figures.svg(figures.speed(systems[1])).decode()


def test_nothing_measured_draws_nothing(monkeypatch):
    monkeypatch.chdir(ROOT)
    report, _ = described()
    settings = dict(report.settings["resnet34"])
    only = results.describe(Path("results/resnet34"), report.runs[:2], settings, results.Traced)
    assert figures.scatter(only) is None
    empty = results.System(Path("results/resnet34"), [])
    assert figures.shares(empty) is None and figures.speed(empty) is None
