"""The page: every table and picture of a run in one HTML file that needs no network.

The tables are those of `summary` and `tables`. Their numbers carry their origin
(`npu_parity.report.origin`), so each has its file and field as ``data-source``, and the script of
the page makes it a tooltip.
Every text has an English and a Chinese form, and the page shows one of them.
"""

import base64
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import itables
import jinja2
import pandas as pd
from markupsafe import Markup, escape
from matplotlib.figure import Figure

from npu_parity.report import figures, origin, summary, tables, terms
from npu_parity.report.results import System, title
from npu_parity.report.tables import NONE, number

FOLDER = Path(__file__).parent
TEMPLATE = "templates/page.html"
CHINESE = terms.translator("zh")
STYLES, SCRIPT = "templates/page.css", "templates/page.js"
BUNDLE = Path(itables.__file__).parent / "html" / "dt_bundle.js"  # DataTables, for use offline

Pictures = Mapping[tuple[str, str], bytes]


@dataclass(frozen=True)
class Part:
    """A part of a system's section: tables by their name in `tables.SECTIONS`, and a picture.

    Attributes:
        heading, note: English; see `terms` for the Chinese.
        tables: names of tables.
        draw: draws the picture; None if there is none to draw.
    """

    heading: str
    tables: Sequence[str] = ()
    note: str = ""
    draw: Callable[[System], Figure | None] | None = None


PARTS = {
    "verdict": Part("Verdict", ["verdict"]),
    "criteria": Part(
        "Published criteria",
        ["criteria"],
        "The pass rules of five published reports, applied to every run. They never decide the "
        "verdict.",
    ),
    "answers": Part("Inputs and answers", ["images", "top5"]),
    "errors": Part("Difference from the reference", ["errors", "heads"]),
    "network": Part(
        "Error through the network",
        ["divergence"],
        "Above: the error after each operator, including all operators before it. Below: the error "
        "of each operator alone, with the reference's operands, as a share of its bound.",
        figures.divergence,
    ),
    "scatter": Part(
        "Measured and predicted error",
        (),
        "One dot for each output. On the line, the measured error equals the predicted error.",
        figures.scatter,
    ),
    "operators": Part(
        "Operators against their bounds",
        ["operators"],
        "One dot for each operator. The bounds follow from arithmetic.",
        figures.shares,
    ),
    "speed": Part(
        "Latency and throughput",
        ["latency"],
        "Left: the share of the samples below a latency. Right: throughput by batch size; a hollow "
        "mark was measured on a busy machine and is not comparable.",
        figures.speed,
    ),
    "runs": Part("Runs and weights", ["runs", "provenance"]),
}


@dataclass(frozen=True)
class Glance:
    """A cell of the overview: what one run says about one system, in English.

    Attributes:
        verdict: PASS, FAIL or PREDICTED.
        evidence: strong or weak.
        difference: the difference from the reference.
        against: the comparison with the prediction or the publication; may be empty.
    """

    verdict: str
    evidence: str
    difference: str
    against: str


@dataclass(frozen=True)
class Row:
    """A row of the overview."""

    system: str
    weights: str
    published: str
    runs: list[Glance | None] = field(default_factory=list)


def pictures(systems: Sequence[System]) -> dict[tuple[str, str], bytes]:
    """Return all pictures of the systems that the page shows as SVG, by system and part."""
    drawn = (
        (system.name, name, part.draw(system))
        for system in _shown(systems, summary.rows(list(systems)))
        for name, part in PARTS.items()
        if part.draw
    )
    return {(system, name): figures.svg(found) for system, name, found in drawn if found}


def page(systems: Sequence[System], left_out: Mapping[str, str], pictures: Pictures) -> str:
    """Return the page as HTML. Of many systems, only the worst ones have a section.

    Args:
        systems: with the origins of their numbers (`results.Traced`).
        left_out: reasons by device.
        pictures: the result of the function `pictures`.
    """
    rows = summary.worst_first(summary.rows(list(systems)))
    cells = pd.DataFrame({c.heading: c.cell(row) for c in summary.COLUMNS} for row in rows)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"both": both, "order": order, "uri": _uri}
    return environment.get_template(TEMPLATE).render(
        library=Markup(_library()),
        styles=Markup(BUNDLE.with_suffix(".css").read_text(encoding="utf-8")),
        own_styles=Markup((FOLDER / STYLES).read_text(encoding="utf-8")),
        script=Markup((FOLDER / SCRIPT).read_text(encoding="utf-8")),
        runs=[title(run) for run in _compared(systems)],
        overview=_overview(rows, _compared(systems)),
        summary=cells,
        notes={c.heading: c.note for c in summary.COLUMNS if c.note},
        busy=summary.busy(rows),
        failures=summary.failures(rows),
        rest=summary.rest(rows),
        left_out=left_out,
        systems=[_described(system, pictures) for system in _shown(systems, rows)],
    )


def both(text: Any) -> Markup:
    """Return a text as HTML in both languages; in one if they are equal."""
    english, chinese = str(text), CHINESE(str(text))
    if english == chinese:
        return _html(english)
    return Markup('<span lang="en">{}</span><span lang="zh">{}</span>').format(
        _html(english), _html(chinese)
    )


def order(text: str) -> str | None:
    """Return the number that a cell begins with, to sort by; empty for a dash, None for words.

    >>> order("26,552,846"), order("1.6e-08"), order("—"), order("cat: 0.9")
    ('26552846', '1.6e-08', '', None)
    """
    shown = origin.plain(str(text))
    if shown in ("", NONE):
        return ""
    found = re.match(r"-?\d[\d,]*(\.\d+)?(e[+-]?\d+)?(?=$| ±| %| of |, )", shown)
    return found[0].replace(",", "") if found else None


def _html(text: str) -> Markup:
    """Return a text with its origins, verdicts and emphasis as HTML."""
    parts = (_number(part, source) if source else _words(part) for part, source in _pieces(text))
    return Markup("").join(parts)


def _pieces(text: str) -> Sequence[tuple[str, str]]:
    return list(origin.pieces(text))


def _number(text: str, source: str) -> Markup:
    return Markup('<data data-source="{}" value="{}">{}</data>').format(
        source, text.replace(",", ""), text
    )


def _words(text: str) -> Markup:
    marked = re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", str(escape(text)))
    marked = re.sub(r"\*(.+?)\*", r"<em>\1</em>", marked)
    marked = re.sub(r"`(.+?)`", r"<code>\1</code>", marked)
    return Markup(
        re.sub(
            r"\b(PASS|FAIL|PREDICTED)\b",
            lambda word: f'<b class="word {word[0].lower()}">{word[0]}</b>',
            marked,
        )
    )


def _uri(svg: bytes) -> Markup:
    return Markup("data:image/svg+xml;base64," + base64.b64encode(svg).decode("ascii"))


def _library() -> str:
    """Return DataTables as JavaScript that an inline module can hold."""
    source = BUNDLE.read_text(encoding="utf-8")
    exported = re.search(r"export\{.*?(\w+) as default.*?\};?", source)
    assert exported, "itables exports DataTables as default"
    source = source.replace(exported[0], f"\nwindow.DataTable = {exported[1]};")
    # HTML allows no control characters. They are in strings, where JavaScript has escapes.
    return re.sub(r"[\x00-\x08\x0b-\x1f]", lambda found: f"\\x{ord(found[0]):02x}", source)


def _shown(systems: Sequence[System], rows: list[dict[str, Any]]) -> list[System]:
    by_name = {system.name: system for system in systems}
    return [by_name[name] for name in summary.shown(rows)]


def _compared(systems: Sequence[System]) -> list[str]:
    return list(dict.fromkeys(run for system in systems for run in system.runs[1:]))


def _overview(rows: list[dict[str, Any]], runs: Sequence[str]) -> list[Row]:
    found = []
    for name in summary.shown(rows):
        of_system = {f"{r['device']}/{r['run']}": r for r in rows if r["system"] == name}
        published = next((r for r in of_system.values() if r["run"] == "published"), None)
        key = summary.difference(published)
        shown = summary.DIFFERENCES[key]
        first = next(iter(of_system.values()))
        found.append(
            Row(
                name,
                "trained" if first["pretrained"] else "random",
                f"{shown} {number(published[key])}" if published else NONE,
                [_glance(of_system, run, key, published) for run in runs],
            )
        )
    return found


def _glance(
    of_system: Mapping[str, dict[str, Any]], run: str, key: str, published: dict[str, Any] | None
) -> Glance | None:
    row = of_system.get(run)
    if row is None:
        return None
    value, device = row[key], row["device"]
    predicted = of_system.get(f"{device}/predicted") if row["run"] == "measured" else None
    against = ""
    if value is not None and predicted and predicted[key]:
        against = f"{number(value / predicted[key])} × the prediction"
    elif value is not None and published and published["device"] == device and published[key]:
        against = f"{number(value / published[key])} × the published figure"
    return Glance(
        row["verdict"],
        f"{row['evidence']} evidence",
        f"{summary.DIFFERENCES[key]} {number(value)}",
        against,
    )


def _described(system: System, pictures: Pictures) -> dict[str, Any]:
    """Return what the template shows of a system."""
    parts = []
    for name, part in PARTS.items():
        sections = [tables.SECTIONS[table] for table in part.tables]
        frames = [(section, section.table(system)) for section in sections]
        shown = [
            (section.heading, frame, tables.sources(system, section.file))
            for section, frame in frames
            if not frame.empty
        ]
        picture = pictures.get((system.name, name))
        if shown or picture:
            parts.append({"name": name, "part": part, "tables": shown, "picture": picture})
    verdicts = {title(run): found["verdict_line"] for run, found in system.metrics.items()}
    return {
        "name": system.name,
        "about": tables.about(system),
        "verdicts": verdicts,
        "parts": parts,
    }
