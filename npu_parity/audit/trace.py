"""Trace every number of a report back to the arrays of outputs and the samples of latency.

`Derived` reads the results without ``metrics.json`` and the statistics of ``latency.json``: it
computes these figures again (`npu_parity.audit.derive`). Every document is then written a second
time from them and compared word by word with what is there. A figure in a JSON file must be the
derived one within the tolerance of `npu_parity.evidence.tolerance`. A printed number must be the
derived figure, rounded; near a boundary of rounding, that of a figure moved by the tolerance.

Other numbers have no array: counts of parameters and threads, errors of operators, published
figures. They are compared with the file that states them. Pictures are drawn again.
"""

import base64
import contextlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any

from npu_parity.audit import derive, pictures
from npu_parity.audit.derived import FIGURES, Derived, moved
from npu_parity.audit.stated import Stated, read_json, read_text
from npu_parity.audit.words import same_words
from npu_parity.errors import ParityError
from npu_parity.evidence import manifest
from npu_parity.report import (
    about,
    cards,
    figures,
    page,
    readme,
    results,
    summary,
    switches,
    tables,
)

MISSING = "nothing"  # where one side has no such key
PICTURE = re.compile(r'data-picture="(\S+) (\w+)"')
EMBEDDED = re.compile(
    r'data-picture="(\S+) (\w+)"><img [^>]*?src="data:image/svg\+xml;base64,([^"]*)"'
)
DRAWN = "*/divergence.svg"


@dataclass(frozen=True)
class Report:
    """All that the documents of a results folder are written from.

    Attributes:
        folder: the folder of results.
        settings: the settings of each system's tables.
        runs: the runs of every system, the reference first.
        left_out: reasons by device.
    """

    folder: Path
    settings: Mapping[str, Mapping[str, Any]]
    runs: list[str]
    left_out: Mapping[str, str]

    @classmethod
    def read(cls, folder: Path) -> "Report":
        """Read from the manifest how the summary of a folder was made.

        Raises:
            ParityError: there is no summary.
        """
        entry = manifest.read(folder).get("summary.json")
        if entry is None:
            raise ParityError(f"{folder}: found no summary.json in its manifest: run `make`")
        given, runs = _given(entry)
        return cls(folder, json.loads(given["systems"]), runs, json.loads(given["left-out"]))

    @cached_property
    def readings(self) -> list[list[results.System]]:
        """The systems three times: as derived, and moved down and up by the tolerance."""
        systems = [
            results.describe(self.folder / name, self.runs, dict(settings), Derived)
            for name, settings in self.settings.items()
        ]
        return [systems, *([moved(system, by) for system in systems] for by in (-1, 1))]

    def drawn(self, name: str) -> results.System:
        """Return a system for its pictures."""
        folder, settings = self.folder / name, dict(self.settings[name])
        return results.describe(folder, self.runs, settings, Stated)


Systems = Sequence[results.System]


def _given(entry: Mapping[str, Any]) -> tuple[dict[str, str], list[str]]:
    """Return the options and the arguments of the program that wrote a result."""
    options, runs = entry["options"], []
    if "--" in options:
        place = options.index("--")
        options, runs = options[:place], options[place + 1 :]
    return dict(option.removeprefix("--").split("=", 1) for option in options), runs


def _table(report: Report, systems: Systems, name: str, _: str) -> str:
    """Return the tables of one system."""
    (of,) = (system for system in systems if system.name == Path(name).stem)
    return tables.report(of, list(report.settings[of.name]["tables"]))


def _card(report: Report, systems: Systems, name: str, _: str) -> str:
    """Return the card of one system in the language of its file."""
    folder, file = name.split("/")
    (of,) = (system for system in systems if system.name == folder)
    given, _runs = _given(manifest.read(report.folder / folder)[file])
    settings = json.loads(given["system"])
    (language,) = (code for code, known in cards.FILES.items() if known == file)
    return cards.body(of, about.of(settings), language)


def _page(report: Report, systems: Systems, _: str, text: str) -> str:
    """Return the page, with the pictures that it has."""
    pictures = dict.fromkeys(PICTURE.findall(text), b"picture")
    return page.page(systems, report.left_out, pictures)


# How each document is written, by its name in the folder of results. A first match counts.
# A function gets the report, its systems, the name and the text of the document.
DOCUMENTS: dict[str, Callable[[Report, Systems, str, str], str]] = {
    "tables/summary.md": lambda report, systems, *_: summary.table(
        summary.rows(list(systems)), dict(report.left_out), switches.table(list(systems))
    ),
    "tables/overview.md": lambda _, systems, *__: summary.overview(summary.rows(list(systems))),
    "tables/*.md": _table,
    "*/card.md": _card,
    "*/card.zh.md": _card,
    "report.html": _page,
}


def trace(paths: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    """Derive the numbers of files again; yield each file and what was compared in it.

    Args:
        paths: documents, files of results, or folders of results.

    Raises:
        ParityError: a number is not the derived one, a picture shows something else, or a file
            cannot be traced.
    """
    for path in paths:
        if not path.exists():
            raise ParityError(f"{path}: there is no such file")
        root, place = _results(path), path.resolve()
        with contextlib.chdir(root.parent):  # documents name their files as `results/…`
            report = Report.read(Path(root.name))
            for file in _files(report, root, place):
                yield path / file.relative_to(place), _checked(report, file, root)


def _results(path: Path) -> Path:
    """Return the folder of results that a file belongs to."""
    path = path.absolute()
    for folder in (path, *path.parents):
        if folder.name == manifest.ROOM:
            return folder.resolve()
        if (folder / manifest.ROOM).is_dir():
            return (folder / manifest.ROOM).resolve()
    raise ParityError(f"{path}: found no folder {manifest.ROOM} above it or beside it")


def _files(report: Report, root: Path, path: Path) -> Iterator[Path]:
    """Yield the traced files at a path: what is made from arrays first, what shows it last."""
    if path.is_file():
        yield path
        return
    patterns = [
        *(f"{system}/*/*/{name}.json" for system in report.settings for name in FIGURES),
        *("summary.json", DRAWN, *DOCUMENTS),
    ]
    found = dict.fromkeys(file for p in patterns for file in sorted(root.glob(p)))
    yield from (file for file in found if file.is_relative_to(path))


def _checked(report: Report, file: Path, root: Path) -> str:
    """Compare one file with the derived figures, and return what it has."""
    if not file.is_relative_to(root):
        return _numbers(_markdown(report, Path(os.path.relpath(file)), root))
    name = file.relative_to(root).as_posix()
    if file.suffix == ".json":
        return _numbers(_figures(report, name))
    if fnmatchcase(name, DRAWN):
        drawn = figures.svg(figures.divergence(report.drawn(name.partition("/")[0])))
        return _pictures([(str(report.folder / name), read_text(report.folder / name), drawn)])
    write = next((w for pattern, w in DOCUMENTS.items() if fnmatchcase(name, pattern)), None)
    if write is None:
        known = ", ".join([*DOCUMENTS, "summary.json", "metrics.json", "latency.json"])
        raise ParityError(f"{file}: this file cannot be traced, expected one of {known}")
    text = read_text(report.folder / name)
    expected = [write(report, systems, name, text) for systems in report.readings]
    count = _numbers(same_words(report.folder / name, text, expected))
    return f"{count}, {_embedded(report, name, text)}" if PICTURE.search(text) else count


def _numbers(count: int) -> str:
    return f"{count:,} numbers"


def _embedded(report: Report, name: str, text: str) -> str:
    """Compare the pictures in a page with those that the results give."""
    compared = []
    for system, part, encoded in EMBEDDED.findall(text):
        draw = page.PARTS[part].draw if part in page.PARTS else None
        if (
            draw is None
            or system not in report.settings
            or not (figure := draw(report.drawn(system)))
        ):
            raise ParityError(
                f"{report.folder / name}: the results give no picture {system} {part}"
            )
        found = base64.b64decode(encoded).decode("utf-8", errors="replace")
        place = f"{report.folder / name}, picture {part} of {system}"
        compared.append((place, found, figures.svg(figure)))
    return _pictures(compared)


def _pictures(compared: Sequence[tuple[str, str, bytes]]) -> str:
    """Compare pictures with themselves drawn again; ParityError at the first other one."""
    versions = set()
    for place, found, drawn in compared:
        if version := pictures.other_version(found):
            versions.add(version)
        elif difference := pictures.difference(found, drawn.decode("utf-8")):
            raise ParityError(f"{place}, {difference}")
    count = f"{len(compared)} picture{'s' * (len(compared) != 1)}"
    by = ", ".join(sorted(versions))
    return f"{count} not compared, because matplotlib {by} drew them" if versions else count


def _figures(report: Report, name: str) -> int:
    """Compare a JSON file of results with the derived one."""
    path = report.folder / name
    stated = read_json(path)
    if name == "summary.json":
        again = [
            {"left_out": report.left_out, "rows": summary.rows(systems)}
            for systems in report.readings
        ]
        stated = {key: stated[key] for key in again[0]}
    elif path.stem in FIGURES:
        system, run = name.split("/", 1)
        found = Derived(report.folder / system, report.runs).read(run)
        again = [found, derive.shifted(found, -1), derive.shifted(found, 1)]
    else:
        raise ParityError(f"{path}: this file has no figures that arrays or samples give")
    for place, value, derived in _outside(stated, again[0], again[1], again[2]):
        raw = "samples" if path.name == "latency.json" else "arrays"
        raise ParityError(f"{path}: {place}: found {value!r}, the {raw} give {derived!r}")
    return _count(stated)


def _outside(
    stated: Any, derived: Any, low: Any, high: Any, place: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """Yield every value that is not between the derived ones: its place, and both values."""
    if isinstance(stated, Mapping) and isinstance(derived, Mapping):
        for key in {**stated, **derived}:
            a, b, c, d = (side.get(key, MISSING) for side in (stated, derived, low, high))
            yield from _outside(a, b, c, d, f"{place}.{key}".lstrip("."))
    elif isinstance(stated, list) and isinstance(derived, list) and len(stated) == len(derived):
        for i, (a, b, c, d) in enumerate(zip(stated, derived, low, high, strict=True)):
            yield from _outside(a, b, c, d, f"{place}[{i}]")
    elif isinstance(stated, float) and isinstance(derived, float):
        if not min(low, high) <= stated <= max(low, high):
            yield place, stated, float(derived)
    elif stated != derived or isinstance(stated, bool) != isinstance(derived, bool):
        yield place, stated, derived


def _markdown(report: Report, file: Path, root: Path) -> int:
    """Compare the text between the markers of a page such as README.md with the derived tables."""
    text = read_text(file)
    readings = []
    for systems in report.readings:
        contents = {}
        for name in readme.markers(text):
            target = (file.parent / name).resolve()
            inner = target.relative_to(root).as_posix() if target.is_relative_to(root) else ""
            write = next((w for p, w in DOCUMENTS.items() if fnmatchcase(inner, p)), None)
            contents[name] = write(report, systems, inner, text) if write else read_text(target)
        readings.append(readme.splice(text, contents))
    return same_words(file, text, readings)


def _count(data: Any) -> int:
    """Return how many numbers a JSON file has."""
    if isinstance(data, Mapping):
        return sum(map(_count, data.values()))
    if isinstance(data, list):
        return sum(map(_count, data))
    return isinstance(data, int | float) and not isinstance(data, bool)
