"""Pictures: the same bytes from the same files, and every run in them."""

import itertools
import math
import xml.etree.ElementTree as ElementTree
from types import SimpleNamespace

import pandas as pd
import pytest

from npu_parity.report import figures
from npu_parity.verdict.divergence import Step

pytestmark = pytest.mark.slow


def steps(measured=None, names=("stem", "blocks.0", "blocks.1", "head")):
    return [
        Step(i, names[i // 5], "aten.convolution.default", 1e-7, 1e-4 * (i + 1), e, None)
        for i, e in enumerate(measured or [None] * 5 * len(names))
    ]


def operators(share=0.2):
    return pd.DataFrame({"index": range(20), "max_error_of_bound": [share, 0.0, None, 0.1] * 5})


def system(first=None, **measured):
    """What `figures` looks at of a `results.System`."""
    runs = ["cpu/measured", "npu/predicted", *(f"{d}/measured" for d in measured)]
    found = {"npu/predicted": steps()} | {f"{d}/measured": steps(e) for d, e in measured.items()}
    return SimpleNamespace(
        name="net",
        runs=runs,
        divergence=found,
        operators={run: operators() for run in runs if run.endswith("/measured")},
        first_beyond={f"{d}/measured": found[f"{d}/measured"][first] for d in measured if first},
    )


def texts(path):
    root = ElementTree.parse(path).getroot()
    return [e.text for e in root.iter() if e.tag.endswith("}text") or e.tag.endswith("}tspan")]


def drawn(of, path):
    figures.save(figures.divergence(of), path)
    return [text for text in texts(path) if text]


def test_same_bytes(tmp_path):
    files = [tmp_path / name for name in ("a.svg", "b.svg")]
    for file in files:
        drawn(system(npu=[1e-4] * 20), file)
    first, second = (file.read_bytes() for file in files)
    assert first == second and b"dc:date" not in first


def test_runs_and_modules_are_named(tmp_path):
    found = drawn(system(npu=[1e-4] * 20, other=[1e-3] * 20), tmp_path / "a.svg")
    wanted = {"net", "cpu measured", "npu predicted", "npu measured", "other measured"}
    assert wanted <= set(found)
    assert {"stem", "blocks.0", "blocks.1", "head"} <= set(found)
    assert "float32 itself, against float64" in found


def test_where_it_goes_wrong_is_marked(tmp_path):
    clean = drawn(system(npu=[1e-4] * 20), tmp_path / "a.svg")
    assert "convolution" not in clean
    failed = drawn(system(first=7, npu=[1e-4] * 7 + [1.0] * 13), tmp_path / "b.svg")
    assert "convolution" in failed and failed.count("blocks.0") == 2


def test_what_is_not_finite_or_missing(tmp_path):
    of = system(npu=[1e-4] * 5 + [math.inf] * 5 + [None] * 10)
    of.operators["npu/measured"] = operators(share=math.inf)
    assert "npu measured" in drawn(of, tmp_path / "a.svg")
    nothing = system(npu=[0.0] * 20)
    nothing.operators["cpu/measured"] = operators(share=0.0).assign(max_error_of_bound=0.0)
    assert "net" in drawn(nothing, tmp_path / "b.svg")


def test_a_device_without_a_dot_is_not_in_the_legend(tmp_path):
    of = system(npu=[1e-4] * 20, blind=[None] * 20)
    of.operators["blind/measured"] = operators().iloc[:0]
    found = drawn(of, tmp_path / "a.svg")
    assert found.count("npu measured") == 2 and "blind measured" not in found


def test_reference_alone(tmp_path):
    of = SimpleNamespace(
        name="net", runs=["cpu/measured"], divergence={}, operators={"cpu/measured": operators()},
        first_beyond={},
    )  # fmt: skip
    assert "cpu measured" in drawn(of, tmp_path / "a.svg")


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (["", "", ""], {}),
        (["stem", "a.b", "a.c", "head"], {0: "stem", 5: "a.b", 10: "a.c", 15: "head"}),
        ([f"a.{i}" for i in range(30)], {0: "a"}),
        ([f"{'ab'[i // 15]}.{i}" for i in range(30)], {0: "a", 75: "b"}),
    ],
)
def test_ticks(names, shown):
    of = steps([None] * 5 * len(names), names)
    assert figures.ticks(of) == shown


def test_ticks_do_not_overlap():
    close = [Step(i, f"m{i}", "aten.add", None, None, None, None) for i in range(4)]
    rest = [Step(i, "rest", "aten.add", None, None, None, None) for i in range(4, 400)]
    found = list(figures.ticks(close + rest))
    assert found[0] == 0 and all(b - a > 8 for a, b in itertools.pairwise(found))
