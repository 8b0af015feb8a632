"""The page in Chromium, opened from disk: `uv sync --group browser` installs it."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from project import ROOT

from npu_parity.audit.trace import Report
from npu_parity.report import page, results

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not find_spec("PyQt6") or not find_spec("PyQt6.QtWebEngineCore"),
        reason="needs Chromium: uv sync --group browser",
    ),
]


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """What happened when the page of two systems was used; see tests/browser.py."""
    place = tmp_path_factory.mktemp("browser")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        report = Report.read(Path("results"))
        systems = [
            results.describe(
                report.folder / name, report.runs, dict(report.settings[name]), results.Traced
            )
            for name in ("resnet34", "svhn")
        ]
        text = page.page(systems, report.left_out, page.pictures(systems))
    (place / "report.html").write_text(text, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, ROOT / "tests/browser.py", place / "report.html", place],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_it_loads_without_network_and_without_complaint(seen):
    assert seen["loaded"] and seen["console"] == []
    assert len(seen["requests"]) == 1 and seen["requests"][0].startswith("file://")
    assert seen["images"] and all(seen["images"])


def test_languages_and_themes(seen):
    assert seen["english"] == ["Does it still compute the same thing there?"]
    assert seen["chinese"] == ["迁移之后，计算结果是否仍然一致？"] and seen["lang"] == "zh-CN"
    light, dark = seen["backgrounds"]
    assert light == "rgb(255, 255, 255)" and dark != light


def test_tables_sort_and_filter(seen):
    assert seen["tables"] == seen["sortable"] > 10
    kept = [float(text) for text in seen["sorted"] if text]
    assert kept == sorted(kept) and kept != [float(text) for text in seen["unsorted"] if text]
    assert seen["aria_sort"] == "ascending"
    assert seen["filtered"] and set(seen["filtered"]) == {"resnet34"}


def test_a_number_shows_its_source(seen):
    assert seen["source"].startswith("results/") and "#" in seen["source"]
    assert seen["unlabelled"] == 0


def test_it_fits_both_widths_and_prints(seen):
    for width in ("wide", "narrow"):
        assert seen[f"overflow_{width}"] <= 0 and seen[f"colours_{width}"] > 50
    assert seen["pdf"] == "%PDF-" and seen["pdf_bytes"] > 50_000
