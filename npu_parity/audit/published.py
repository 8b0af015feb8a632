"""Audit somebody else's report: what can be said about it without its arrays."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from npu_parity import evidence
from npu_parity.audit import claims, listed, predicted
from npu_parity.audit.claims import Claims
from npu_parity.audit.consistency import Finding, check
from npu_parity.audit.figures import Report, read
from npu_parity.errors import ParityError, shorten
from npu_parity.verdict.questions import FLAT, SATURATED

LARGEST = 2**23  # bytes of a report

# What a reader needs to believe a report, and how its presence shows.
NEEDED = {
    "the SHA-256 of the weights and of the inputs": r"\b[0-9a-f]{64}\b",
    "the number of inputs": rf"{claims.INPUTS.pattern}|^inputs: \d",
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
    return _audit(report, claims.of(report), results)


def audit_file(path: Path, results: Path | None = None) -> Audit:
    """Audit a report, or a YAML file with its figures; see `audit`.

    Raises:
        ParityError: the file cannot be read, or a YAML file violates its schema.
    """
    if path.suffix in listed.SUFFIXES:
        return _audit(*listed.read(path), results)
    return audit(read_report(path), results)


def _audit(report: Report, said: Claims, results: Path | None) -> Audit:
    flags = re.IGNORECASE | re.MULTILINE
    missing = [need for need, sign in NEEDED.items() if not re.search(sign, report.text, flags)]
    if not report.figures:
        missing.insert(0, "figures: none was found")
    fitting = list(predicted.fits(report, bool(said.random), results)) if results else []
    return Audit(check(report, said.facts), list(weaknesses(report, said)), fitting, missing)


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


def weaknesses(report: Report, said: Claims) -> Iterator[str]:
    """Yield why the figures prove little, even if all of them are true."""
    yield from _error_rate(report)
    for classes in said.classes:
        if len(classes) > 1 and len(set(classes)) == 1:
            yield f"all {len(classes)} inputs have the top-1 class {classes[0]}"
            break
    if said.features and said.ranked:
        yield "the outputs are features, so top-1 and top-5 rank no classes"
    yield from _softmax(said)
    if said.random:
        yield f"weights are random ({said.random}), so no answer can be right or wrong"
    yield from said.unfilled


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


def _softmax(said: Claims) -> Iterator[str]:
    """Probabilities of the best class that show saturated or flat softmax."""
    ends, outputs = [score for score in said.scores if score[1] > 0], said.facts.outputs
    if ends and all(low > SATURATED for low, _ in ends):
        yield f"softmax is saturated: the best class has a probability above {SATURATED:g}"
    if ends and outputs and all(high < FLAT / outputs for _, high in ends):
        yield f"softmax is flat: no class exceeds {FLAT:g} times 1/{outputs}"
