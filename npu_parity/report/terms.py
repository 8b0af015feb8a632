"""Words of tables in another language.

The file of a language has a line for each heading, label and sentence of the cards and of the page.
In it, ``{n}`` stands for a number, and ``{}`` for any text, which is translated too.
"""

import re
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import pandas as pd
import yaml

from npu_parity.report import origin

# English is what the tables are written in.
FILES = {"zh": "templates/terms.zh.yaml"}

Translate = Callable[[str], str]


@cache
def translator(language: str) -> Translate:
    """Return a function that translates a text into `language`. Unknown text stays as it is.

    >>> translator("zh")("npu predicted max")
    'npu 预测 最大值'
    """
    if language not in FILES:
        return str
    file = Path(__file__).parent / FILES[language]
    terms: Mapping[str, str] = yaml.safe_load(file.read_text(encoding="utf-8"))
    patterns = [(_pattern(text), to) for text, to in terms.items() if "{}" in text or "{n}" in text]

    def translate(text: str) -> str:
        if text in terms:
            return terms[text]
        for pattern, translation in patterns:
            if match := pattern.fullmatch(text):
                return translation.format(*map(translate, match.groups()))
        return text

    return translate


def table(frame: pd.DataFrame, translate: Translate, names: bool = False) -> pd.DataFrame:
    """Return a frame of strings with translated headings and cells.

    With `names`, cells are names of inputs, classes or files, which nobody translates. Only the
    cells of columns about a match are words then.
    """
    words = [c for c in frame.columns if not names or str(c).endswith(" match")]
    frame = frame.copy()
    frame[words] = frame[words].map(lambda cell: translate(str(cell)))
    return frame.rename(columns=lambda heading: translate(str(heading)))


def _pattern(text: str) -> re.Pattern[str]:
    parts = re.split(r"(\{n?\})", text)
    number = rf"((?:{origin.OPEN}.*?{origin.BETWEEN})?[\d,.]+{origin.CLOSE}?)"
    kinds = {"{}": "(.+?)", "{n}": number}
    return re.compile("".join(kinds.get(part) or re.escape(part) for part in parts), re.DOTALL)
