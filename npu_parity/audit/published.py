"""Audit somebody else's report: what can be said about it without its arrays."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from npu_parity import evidence
from npu_parity.audit import predicted
from npu_parity.audit.consistency import Facts, Finding, check
from npu_parity.audit.figures import Report, interval, name_of, read
from npu_parity.errors import ParityError, shorten
from npu_parity.verdict.questions import FLAT, SATURATED

LARGEST = 2**23  # bytes of a report

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

# What a reader needs to believe a report, and how its presence shows.
NEEDED = {
    "the SHA-256 of the weights and of the inputs": r"\b[0-9a-f]{64}\b",
    "the number of inputs": INPUTS.pattern,
    "an L2 error, which weighs all outputs": r"L2",
    "the switches of the device (allow_hf32, precision)": r"hf32|precision_mode|cube_math",
    "the number of timed passes, with warm-up": r"预热|warm-?up",
    "the spread of the times": r"±|标准差|\bstd\b|P9[59]",
    "the version of torch_npu as installed": r"torch_npu\W{1,8}(?<!>= )\d+\.\d+\.\d+",
}


@dataclass(frozen=True)
class Audit:
    """What an audit found.

    Attributes:
        findings: relations between figures, true or not.
        weak: why the figures prove little, even if all are true.
        fitting: predictions of the size of the report's differences.
        missing: what a reader needs to believe the report.
    """

    findings: list[Finding]
    weak: list[str]
    fitting: list[str]
    missing: list[str]

    @property
    def contradictions(self) -> list[str]:
        """Figures that cannot be true together."""
        return [f"{one.text}: not {one.relation}" for one in self.findings if not one.holds]

    def lines(self) -> Iterator[str]:
        """Yield the audit as text."""
        agree = [f"{one.relation}: {one.text}" for one in self.findings if one.holds]
        for title, entries in (
            ("cannot be true together", self.contradictions),
            ("weak evidence", self.weak),
            ("fits a prediction", self.fitting),
            ("can be true together", agree),
            ("missing", self.missing),
        ):
            yield f"{title}: {len(entries) or 'nothing'}"
            yield from (f"  {shorten(entry, 250)}" for entry in entries)


def audit(text: str, results: Path | None = None) -> Audit:
    r"""Audit the text of a report, perhaps against the predictions in a folder of results.

    >>> audit("max_abs_diff: 0.010\nmean_abs_diff: 0.020").contradictions
    ['mean_abs_error 0.020 (line 2) and max_abs_error 0.010 (line 1): not mean_abs_error ≤ ...']
    """
    report = read(text)
    text = report.text
    outputs = None if FEATURES.search(text) else _only(OUTPUTS, text)  # classes are no features
    facts = Facts(outputs, inputs=_only(INPUTS, text))
    missing = [need for need, sign in NEEDED.items() if not re.search(sign, text, re.IGNORECASE)]
    if not report.figures:
        missing.insert(0, "figures: none was found")
    random = RANDOM.search(text) is not None
    fitting = list(predicted.fits(report, random, results)) if results else []
    return Audit(check(report, facts), list(weaknesses(report, facts)), fitting, missing)


def read_report(path: Path) -> str:
    """Return the text of a report; ParityError if it cannot be read."""
    if problem := evidence.problem(path):
        raise ParityError(f"{shorten(str(path), 150)}: {problem}")
    if path.stat().st_size > LARGEST:
        raise ParityError(f"{path}: more than {LARGEST >> 20} MiB, expected a report in Markdown")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ParityError(f"{path}: this is not UTF-8; save the file as UTF-8") from None


def weaknesses(report: Report, facts: Facts) -> Iterator[str]:
    """Yield why the figures prove little, even if all of them are true."""
    yield from _error_rate(report)
    yield from _one_class(report)
    text = report.text
    if FEATURES.search(text) and RANKED.search(text):
        yield "the outputs are features, so top-1 and top-5 rank no classes"
    yield from _softmax(report, facts)
    if found := RANDOM.search(text):
        yield f"weights are random ({found[0]}), so no answer can be right or wrong"
    yield from _unfilled(report)


def _error_rate(report: Report) -> Iterator[str]:
    for rate in report.named("error_rate"):
        for cosine in report.named("cosine", "mean_cosine"):
            low, high = 1 - cosine.high, 1 - cosine.low
            if rate.high > 0 and low <= rate.high and rate.low <= high and cosine.low < 1:
                error = max(low, 0) * (2 - max(low, 0))  # sin² of the smallest angle
                yield (
                    f"line {rate.line}: the error rate {rate.text} is 1 − cosine; the relative L2 "
                    f"error of such outputs is {100 * error**0.5:.2g} % or more"
                )
                return


def _one_class(report: Report) -> Iterator[str]:
    for (_, header), *rows in report.tables:
        for index, head in enumerate(header):
            classes = [cells[index] for _, cells in rows if index < len(cells)]
            named = index and TOP1.search(head) and not SCORE.search(head)
            if named and len(classes) > 1 and len(set(classes)) == 1:
                yield f"all {len(classes)} inputs have the top-1 class {classes[0]}"
                return


def _softmax(report: Report, facts: Facts) -> Iterator[str]:
    """Probabilities of the best class that show saturated or flat softmax."""
    texts = [f.text for f in report.named("top1_score")]
    texts += [found["score"] for found in FIRST.finditer(report.text)]
    for (_, header), *rows in report.tables:
        scores = [index for index, head in enumerate(header) if SCORE.search(head)]
        best = [c for _, c in rows if re.fullmatch(r"(?:Top-?)?1", c[0], re.IGNORECASE)]
        texts += [cells[index] for cells in best for index in scores if index < len(cells)]
    ends = [found for text in texts if (found := interval(text)) and found[1] > 0]
    if ends and all(low > SATURATED for low, _ in ends):
        yield f"softmax is saturated: the best class has a probability above {SATURATED:g}"
    if ends and facts.outputs and all(high < FLAT / facts.outputs for _, high in ends):
        yield f"softmax is flat: no class exceeds {FLAT:g} times 1/{facts.outputs}"


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
