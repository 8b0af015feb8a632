"""What a report says beside its figures, such as its task and the best classes of its inputs."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from npu_parity.audit.consistency import Facts
from npu_parity.audit.figures import Report, interval, name_of
from npu_parity.errors import shorten

OUTPUTS = re.compile(
    r"(?:output[ _]?shape|输出形状)\W{0,4}\[\s*\d+\s*,\s*(\d+)\s*\]|(\d+)\s*维"
    r"|(?<![-\d])(\d{2,})\s*个?类|(\d+)\s*(?:classes|outputs)\b",
    re.IGNORECASE,
)
INPUTS = re.compile(
    r"(\d+)\s*(?:张(?!.{0,20}(?:卡|NPU|GPU))|个?随机样本)"
    r"|(?<!batch of )\b(\d+)\s+(?:\w+\s+)?(?:images?|photographs?|samples)\b",
    re.IGNORECASE,
)
FEATURES = re.compile(
    r"num_classes\s*=\s*0|(?:输出形状|output[ _]?shape).*(?:features|特征)", re.IGNORECASE
)
RANKED = re.compile(r"top-?[15][_ -]?(?:match|overlap)|top-?[15].{0,6}(?:一致|匹配)", re.IGNORECASE)
VARIABLE = r"(?:\$\{?[A-Za-z_]\w*\}?|\{\{.*?\}\})"
# A variable as the whole value of a field, also where a table lost its bars.
UNEXPANDED = re.compile(rf"(?:[|:：=]|[\u4e00-\u9fff])\s*`?({VARIABLE})`?\s*(?:\||$)")
FENCE = re.compile(r"^\s*```")
RANDOM = re.compile(
    r"随机初始化|manual_seed|random(?:ly)?[ _]initiali[sz]ed|random weights", re.IGNORECASE
)
TOP1 = re.compile(r"(?:CPU|NPU|GPU).*top-?1", re.IGNORECASE)
SCORE = re.compile(r"分数|概率|置信度|score|prob", re.IGNORECASE)
FIRST = re.compile(r"^\s*1[.、)]\s.*?[-:：]\s*(?P<score>[01]\.\d+)\s*$", re.MULTILINE)


@dataclass(frozen=True)
class Claims:
    """What a report says beside its figures.

    Attributes:
        facts: the numbers of inputs and outputs.
        features: whether the outputs are features and no classes.
        ranked: whether it compares top-1 or top-5.
        random: the words that say that the weights are random; empty if nothing says so.
        classes: the best classes of several inputs, a list for each side.
        scores: the probabilities of best classes, as intervals.
        unfilled: fields that are blank or have the name of a variable.
    """

    facts: Facts = field(default_factory=Facts)
    features: bool = False
    ranked: bool = False
    random: str = ""
    classes: list[list[str]] = field(default_factory=list)
    scores: list[tuple[float, float]] = field(default_factory=list)
    unfilled: list[str] = field(default_factory=list)


def of(report: Report) -> Claims:
    """Return the claims in the text and the tables of a report."""
    text = report.text
    features = FEATURES.search(text) is not None
    outputs = None if features else _only(OUTPUTS, text)  # classes are no features
    random = RANDOM.search(text)
    return Claims(
        facts=Facts(outputs, inputs=_only(INPUTS, text)),
        features=features,
        ranked=RANKED.search(text) is not None,
        random=random[0] if random else "",
        classes=list(_classes(report)),
        scores=[found for text in _scores(report) if (found := interval(text))],
        unfilled=list(_unfilled(report)),
    )


def _classes(report: Report) -> Iterator[list[str]]:
    for (_, header), *rows in report.tables:
        for index, head in enumerate(header):
            if index and TOP1.search(head) and not SCORE.search(head):
                yield [cells[index] for _, cells in rows if index < len(cells)]


def _scores(report: Report) -> Iterator[str]:
    yield from (figure.text for figure in report.named("top1_score"))
    yield from (found["score"] for found in FIRST.finditer(report.text))
    for (_, header), *rows in report.tables:
        scores = [index for index, head in enumerate(header) if SCORE.search(head)]
        best = [c for _, c in rows if re.fullmatch(r"(?:Top-?)?1", c[0], re.IGNORECASE)]
        yield from (cells[index] for cells in best for index in scores if index < len(cells))


def _unfilled(report: Report) -> Iterator[str]:
    """Yield fields that are blank or have the name of a variable. Code has variables of its own."""
    code = False
    for number, line in enumerate(report.text.splitlines(), 1):
        code ^= bool(FENCE.match(line))
        if not code and (found := UNEXPANDED.search(line)):
            yield f"line {number}: {found[1]} is a variable without its value"
    for _, *rows in report.tables:
        for number, cells in rows:
            if len(cells) == 2 and not cells[1] and name_of(cells[0]):
                yield f"line {number}: {shorten(cells[0], 60)} is blank"


def _only(pattern: re.Pattern[str], text: str) -> int | None:
    """Return the number that all matches agree on; None if there is no such number."""
    numbers = {int(next(filter(None, found.groups()))) for found in pattern.finditer(text)}
    return numbers.pop() if len(numbers) == 1 and numbers != {0} else None
