"""The answers to the four questions, and the verdict that follows from them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

QUESTIONS = {1: "same program", 2: "same kernels", 3: "same answer", 4: "enough evidence"}


@dataclass(frozen=True)
class Program:
    """The evidence for question 1: how a port's program compares with the reference's.

    Attributes:
        same: None if the question was not asked.
        kind: ``same program``, ``same function`` (by another program), or empty.
        differences: one sentence each, the most important first. They are reasons for "no" or for
            "not asked". With "yes" they only describe the port.

    >>> Program(True, "same program").to_dict()
    {'same': True, 'kind': 'same program', 'differences': []}
    """

    same: bool | None
    kind: str = ""
    differences: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as ``program.json`` stores them."""
        return asdict(self) | {"differences": list(self.differences)}

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> "Program":
        """Read the fields of ``program.json``."""
        return cls(found["same"], found["kind"], tuple(found["differences"]))


NOT_ASKED = Program(None)


@dataclass(frozen=True)
class Answer:
    """The answer to one question.

    Attributes:
        question: 1 to 4.
        passed: None if the question was not asked.
        findings: reasons for "no", the most important first; each is one readable line. With
            "yes" or "not asked" they are notes.
    """

    question: int
    passed: bool | None
    findings: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return one line: the question, the answer and the first finding."""
        word = {None: "not asked", True: "yes", False: "no"}[self.passed]
        more = f" (and {len(self.findings) - 1} more)" if len(self.findings) > 1 else ""
        told = f"{', ' if self.passed else ': '}{self.findings[0]}{more}" if self.findings else ""
        return f"{self.question}. {QUESTIONS[self.question]}? {word}{told}"


@dataclass(frozen=True)
class Verdict:
    """PASS, FAIL or PREDICTED, and the answers that lead to it."""

    answers: tuple[Answer, ...]

    @property
    def failed(self) -> Answer | None:
        """The first question that failed. Question 4 cannot fail."""
        return next((a for a in self.answers if a.question < 4 and a.passed is False), None)

    @property
    def word(self) -> str:
        """FAIL if a question failed, PASS if outputs were measured, otherwise PREDICTED."""
        if self.failed:
            return "FAIL"
        measured = any(a.question == 3 and a.passed is not None for a in self.answers)
        return "PASS" if measured else "PREDICTED"

    @property
    def evidence(self) -> str:
        """``strong`` or ``weak``."""
        return "weak" if any(a.question == 4 and not a.passed for a in self.answers) else "strong"

    def __str__(self) -> str:
        """Return one line: FAIL with its first finding, PASS or PREDICTED with the evidence."""
        if self.failed:
            number, first = self.failed.question, self.failed.findings[0]
            return f"FAIL (question {number}, {QUESTIONS[number]}: {first})"
        return f"{self.word} ({self.evidence} evidence)"

    def to_dict(self) -> dict[str, Any]:
        """Return the verdict as ``metrics.json`` stores it."""
        return {
            "verdict": self.word,
            "evidence": self.evidence,
            "verdict_line": str(self),
            "failed_question": self.failed.question if self.failed else None,
            "failed_first": self.failed.findings[0] if self.failed else None,
            "questions": [asdict(answer) for answer in self.answers],
        }
