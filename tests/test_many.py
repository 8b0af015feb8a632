"""Hundreds of systems: overviews show the worst ones, and nothing is lost in the full tables."""

import math
import re

import pytest

from npu_parity.report import summary, terms


def row(system, error, verdict="PREDICTED", run="predicted"):
    """A row of the summary with the figures that tables show."""
    return {
        "system": system,
        "parameters": 1,
        "weights": "seed:42",
        "pretrained": False,
        "compared": "logits",
        "device": "npu",
        "run": run,
        "reference": verdict is None,
        **dict.fromkeys(("max_abs_error", "mean_abs_error", "one_minus_cosine"), error),
        "relative_l2_error": error,
        "top1_match": 1.0,
        "top5_overlap": 1.0,
        "operators": None,
        "criterion": None,
        "latency": None,
        "verdict": verdict,
        "evidence": "weak" if verdict else None,
        "failed_question": 3 if verdict == "FAIL" else None,
        "verdict_line": verdict,
    }


def many(count):
    """Each system is a reference and two runs; later systems have larger errors."""
    return [
        one
        for i in range(count)
        for one in (
            row(f"net{i:03}", None, None, "measured"),
            row(f"net{i:03}", i * 1e-6),
            row(f"net{i:03}", i * 1e-5),
        )
    ]


def first_cells(table):
    found = [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("|")]
    return [cell for cell in found[2:] if cell]


def test_few_systems_keep_their_order():
    rows = many(summary.SHOWN)
    assert summary.worst_first(rows) == rows and summary.rest(rows) == ""
    names = [f"net{i:03}" for i in range(summary.SHOWN)]
    assert first_cells(summary.overview(rows)) == names == first_cells(summary.table(rows, {}))


@pytest.mark.parametrize(
    ("predicted", "told"),
    [
        ("PREDICTED", "npu: PASS (weak)"),
        ("FAIL", "npu: FAIL, question 3 (weak); npu: PASS (weak)"),
    ],
)
def test_a_device_that_was_measured_needs_no_prediction_unless_it_fails(predicted, told):
    rows = [row("net", 1e-4, predicted), row("net", 1e-4, "PASS", "measured")]
    assert summary.overview(rows).splitlines()[2].split("|")[-2].strip() == told
    others = [rows[0] | {"device": "gpu"}, rows[1]]
    assert "gpu: " in summary.overview(others)


def test_the_worst_of_many_come_first():
    rows = many(300)
    rows[4] |= {"verdict": "FAIL", "failed_question": 3}  # a run of net001
    rows[7] |= {"relative_l2_error": None}  # not finite, of net002
    names = ["net001", "net002", "net299", "net298"]
    assert summary.shown(rows)[:4] == names
    overview = summary.overview(rows)
    assert first_cells(overview)[:4] == names and len(first_cells(overview)) == summary.SHOWN
    assert f"The worst {summary.SHOWN} of 300 systems" in overview
    assert "Of the others, 0 fail." in overview
    whole = first_cells(summary.table(rows, {}))
    assert whole[:4] == names and sorted(whole) == [f"net{i:03}" for i in range(300)]
    assert summary.brief(rows).count("net") == summary.SHOWN


def test_a_system_that_fails_and_is_not_shown_is_counted():
    rows = many(40)
    for one in rows[: 3 * (summary.SHOWN + 5)]:
        one |= {"verdict": one["verdict"] and "FAIL"}
    assert "Of the others, 5 fail." in summary.rest(rows)


def test_the_runs_of_a_system_stay_together():
    rows = summary.worst_first(many(50))
    assert [r["system"] for r in rows[:6]] == ["net049"] * 3 + ["net048"] * 3
    assert [r["run"] for r in rows[:3]] == ["measured", "predicted", "predicted"]


def test_an_infinite_error_is_the_largest():
    rows = many(40)
    rows[1] |= {"relative_l2_error": math.inf}
    assert summary.shown(rows)[0] == "net000"


def test_the_sentence_on_the_rest_has_a_chinese_form():
    found = terms.translator("zh")(summary.rest(many(40)))
    assert re.match(f"共 40 个系统，此处列出最差的 {summary.SHOWN} 个", found)


@pytest.mark.slow
def test_the_page_has_sections_of_the_worst_only(monkeypatch):
    from project import ROOT
    from test_page import described

    from npu_parity.report import page

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(summary, "SHOWN", 2)
    report, systems = described()
    names = summary.shown(summary.rows(systems))
    drawn = []
    part = page.Part("A picture", draw=lambda system: drawn.append(system.name))
    with monkeypatch.context() as patch:
        patch.setattr(page, "PARTS", {"one": part})
        page.pictures(systems)
    assert drawn == names and len(names) == 2
    text = page.page(systems, report.left_out, {})
    assert re.findall(r'<section id="(\w+)"', text) == ["overview", *names]
    assert "The worst 2 of" in text and "此处列出最差的 2 个" in text
    for system in systems:
        assert re.search(rf'<th scope="row"[^>]*>{system.name}</th>', text)
