"""The card of a system: all that a reader of a published port wants to know, in one page.

The prose is in ``templates/``, every number comes from the results. A card that has an empty or an
unexpanded field is not written.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import jinja2
import pandas as pd

from npu_parity import evidence
from npu_parity.errors import ParityError, shorten
from npu_parity.report import exhibits, hubs, tables, terms
from npu_parity.report.about import About
from npu_parity.report.results import System, title

FILES = {"en": "card.md", "zh": "card.zh.md"}
TEMPLATES = {"en": "templates/card.en.md", "zh": "templates/card.zh.md"}

# What a template, a shell or Python leaves behind if a value is missing.
LEFT_OVER = re.compile(r"\$\w+|\$\{|\{\{|\}\}|\{%|%\}|(?<!\w)(?:None|nan|undefined)(?!\w)")
CODE = re.compile(r"`[^`]+`")
BLANK = re.compile(r"[:=：]\s*[。，,;；]")
EMPTY = ("", "None", "nan", "``")

TABLES: dict[str, Callable[[System], pd.DataFrame]] = {
    "environment": exhibits.environment,
    "preparation": exhibits.preparation,
    "runs": tables.runs,
    "provenance": lambda s: tables.provenance(s).rename(columns={"": "Item"}),
    "errors": tables.errors,
    "images": tables.images,
    "answers": exhibits.answers,
    "published_answers": exhibits.published_answers,
    "heads": tables.heads,
    "rules": exhibits.rules,
    "fields": exhibits.fields,
    "questions": exhibits.questions,
    "operators": tables.operators,
    "divergence": tables.divergence,
    "latency": exhibits.latency,
    "batches": exhibits.batches,
    "speedups": exhibits.speedups,
    "files": exhibits.files,
}
# Tables whose cells are names: of inputs, classes, operators, files.
NAMES = ("answers", "published_answers", "images", "operators", "divergence", "files")


def body(
    system: System,
    about: About,
    language: str = "en",
    published: bool = False,
    pictures: Mapping[str, str] | None = None,
) -> str:
    """Return the card without a front matter.

    Args:
        system: a system of the results.
        about: what people wrote about it.
        language: ``en`` or ``zh``.
        published: whether the card belongs to a folder of `publish`, which has its own scripts.
        pictures: the screenshots in ``assets/`` of that folder; each with the reason why it is left
            out, or "".

    Raises:
        ParityError: the language is unknown, or a field is empty or unexpanded.
    """
    if language not in FILES:
        raise ParityError(f"language {language!r} is unknown: expected one of {', '.join(FILES)}")
    translate = terms.translator(language)

    def shown(frame: pd.DataFrame, names: bool = False) -> str:
        if frame.empty:
            return ""
        cells = frame.map(literal) if names else frame
        return tables.markdown(terms.table(cells, translate, names))

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    weights, shape = system.weights, system.run[system.runs[0]]["shape"]
    try:
        text = environment.get_template(TEMPLATES[language]).render(
            system=system,
            about=about,
            name=about.title or system.name,
            introduction=about.introduction.get(language, ""),
            task=translate(hubs.TASKS[system.task]),
            weights=weights,
            license=translate(about.license_of(weights)),
            columns=shape[1],
            input_shape=" × ".join(map(str, system.inputs["shape"][1:])),
            published=published,
            screenshots={n: translate(reason) for n, reason in (pictures or {}).items()},
            picture="assets/divergence.svg" if published else "divergence.svg",
            npu_measured=[title(r) for r in hubs.on_npu(system, "/measured")],
            npu_predicted=[title(r) for r in hubs.on_npu(system, "/predicted")],
            npu=next(map(_device, hubs.on_npu(system, "")), "npu"),
            reference=_device(system.runs[0]),
            lines={
                translate(title(r)): literal(translate(m["verdict_line"]))
                for r, m in system.metrics.items()
            },
            reasons={
                translate(title(run)): [(n, literal(translate(text))) for n, text in found]
                for run, found in exhibits.reasons(system).items()
            },
            version=evidence.versions()["npu-parity"],
            stated=shown(exhibits.stated(about.stated)),
            tables={key: shown(table(system), key in NAMES) for key, table in TABLES.items()},
        )
    except jinja2.UndefinedError as error:
        raise ParityError(
            f"the card of {system.name} has a field without a value: {error}"
        ) from None
    require_complete(text, f"{system.name}, {FILES[language]}")
    return text


def _device(run: str) -> str:
    return run.partition("/")[0]


def card(
    system: System,
    about: About,
    hub: str,
    language: str,
    pictures: Mapping[str, str] | None = None,
) -> str:
    """Return the card for a hub: front matter and body. Raises like `body` and `hubs.front`."""
    front = hubs.front(hub, system, about, language)
    text = f"{front}\n{body(system, about, language, True, pictures)}"
    require_complete(text, f"{system.name}, card for {hub}")
    return text


def literal(text: str) -> str:
    """Return a name or a finding. It is code if it has something that looks left over, such as nan.

    >>> literal("cat"), literal("nan in column 3"), literal(" ")
    ('cat', '`nan in column 3`', '(no name)')
    """
    if not text.strip():
        return "(no name)"
    return f"`{text}`" if LEFT_OVER.search(text) else text


def require_complete(text: str, name: str) -> None:
    """Raise ParityError with the first line that has an empty or unexpanded field, if any."""
    for number, found in incomplete(text):
        raise ParityError(
            f"{name}: line {number} has an empty or unexpanded field: found "
            f"{shorten(found, 120)!r}, expected a value; run the workflow again"
        )


def incomplete(text: str) -> Iterator[tuple[int, str]]:
    r"""Yield each line with an empty or unexpanded field, with its number.

    >>> list(incomplete("# A\nweights: $weight\n| cosine |  |\n| cosine | 1.0 |"))
    [(2, 'weights: $weight'), (3, '| cosine |  |')]
    """
    quoted = False  # BibTeX has braces of its own
    for number, line in enumerate(text.splitlines(), 1):
        quoted = line != "```" and (quoted or line == "```bibtex")
        if quoted:
            continue
        cells = (
            [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] if line[:1] == "|" else []
        )
        blank = any(cell in EMPTY for cell in cells) or (not cells and BLANK.search(line))
        if blank or LEFT_OVER.search(CODE.sub("", line)):
            yield number, line
