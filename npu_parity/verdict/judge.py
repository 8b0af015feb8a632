"""From what was found of a run to its verdict: one pure function, for files and for Python.

The workflow reads a `Case` from the files of a run, `npu_parity.check` fills one with what it has
in memory. Both get their verdict, their metrics and everything else from `judge`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from npu_parity import evidence
from npu_parity.errors import ParityError
from npu_parity.numerics.formats import Numerics
from npu_parity.verdict import criteria, metrics, questions
from npu_parity.verdict.answers import Verdict
from npu_parity.verdict.operators import OperatorResult
from npu_parity.verdict.questions import Runs


@dataclass(frozen=True)
class Case:
    """Everything that a verdict follows from.

    Attributes:
        runs: the outputs of the reference, the prediction and, where there is one, the device.
        promised: the numerics that the device states.
        names: of the inputs, one each.
        task: classification, features or digits.
        pretrained: whether the weights are trained; None where nobody knows.
        differences: what `program.differences` found; None where question 1 was not asked.
        operators: what `kernels.check_operators` found; None where question 2 was not asked.
        probed: what `numerics.probing.probe` found on the device; None where it was not asked.
        distances: of the measured outputs from the prediction of each format, see
            `questions.distances`; empty where nothing was measured.

    Raises:
        ParityError: there is not one name for each input.
    """

    runs: Runs
    promised: Numerics
    names: Sequence[str]
    task: str = "classification"
    pretrained: bool | None = None
    differences: Sequence[str] | None = None
    operators: Sequence[OperatorResult] | None = None
    probed: Mapping[str, Mapping[str, Any]] | None = None
    distances: Mapping[str, float | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.names) != len(self.runs.reference):
            raise ParityError(
                f"names: found {len(self.names)}, expected one for each of the "
                f"{len(self.runs.reference)} inputs"
            )


@dataclass(frozen=True)
class Judgement:
    """What `judge` says of a case.

    Attributes:
        verdict: PASS, FAIL or PREDICTED, and the answers to the four questions.
        metrics: as `metrics.compare` returns them, of the measured outputs where there are any,
            else of the predicted ones; empty where their shape is not the reference's.
        explained: share of the measured difference that the predicted rounding accounts for;
            None where nothing was measured or no rounding is predicted.
        numerics_found: the format whose prediction lies nearest to the measured outputs.
    """

    verdict: Verdict
    metrics: dict[str, Any]
    explained: float | None
    numerics_found: str | None

    def to_dict(self) -> dict[str, Any]:
        """Return what ``metrics.json`` says of it."""
        found = self.verdict.to_dict() | self.metrics
        if self.verdict.word != "PREDICTED":
            found |= {"explained": self.explained, "numerics_found": self.numerics_found}
        return found | {"criteria": criteria.evaluate(self.metrics) if self.metrics else {}}


def judge(case: Case) -> Judgement:
    """Answer the four questions of a case; nothing is read, run or changed.

    >>> outputs = np.array([[1.0, 2.0]], dtype=np.float32)
    >>> runs = Runs(outputs, outputs.astype(np.float64), outputs, measured=outputs)
    >>> print(judge(Case(runs, Numerics(), names=["cat"], differences=[], operators=[])).verdict)
    PASS (weak evidence)
    """
    runs, promised = case.runs, case.promised
    if runs.measured is None:
        found = metrics.compare(runs.reference, runs.predicted, case.task, runs.heads)
        evidence_enough = questions.enough_evidence(runs, case.task, case.pretrained)
        return Judgement(Verdict((evidence_enough,)), found, None, None)
    nearest = questions.nearest(case.distances)
    first = questions.same_program(case.differences)
    second = questions.same_kernels(case.operators, promised, case.probed)
    third = questions.same_answer(runs, case.names, questions.coarser(nearest, promised))
    fourth = questions.enough_evidence(
        runs,
        case.task,
        case.pretrained,
        case.operators or (),
        [answer.question for answer in (first, second) if answer.passed is None],
    )
    compared, explained = {}, None
    if runs.measured.shape == runs.reference.shape:
        compared = metrics.compare(runs.reference, runs.measured, case.task, runs.heads)
        if not promised.is_exact:
            explained = metrics.explained(runs.measured, runs.predicted, runs.reference)
    return Judgement(Verdict((first, second, third, fourth)), compared, explained, nearest)


def read_case(
    system: Path, reference: str, device: str, task: str, heads: Mapping[str, int] | None, run: str
) -> Case:
    """Read a run of a system and everything that its verdict follows from.

    Args:
        system: the folder ``results/SYSTEM``.
        reference: the reference device's name.
        device: the device's name.
        task: classification, features or digits.
        heads: widths of the heads, in order.
        run: ``measured`` or ``predicted``.

    Raises:
        ParityError: a file is missing or damaged, or was computed from other weights or inputs.
    """
    measured = run == "measured"
    stated = evidence.read_json(system / device / run / "run.json")
    runs = Runs(
        **{
            name: _outputs(path, stated["sha256"])
            for name, path in output_files(system, reference, device, run).items()
        },
        heads=heads or None,
    )
    found: dict[str, Any] = {}
    if measured:
        folder = system / device / run
        numerics = evidence.read_json(folder / "numerics.json")
        found = {
            "differences": evidence.read_json(folder / "program.json")["differences"],
            "operators": OperatorResult.read(folder / "operators.csv"),
            "probed": numerics["probe"],
            "distances": numerics["distances"],
        }
    return Case(
        runs,
        Numerics.from_dict(stated["numerics"]),
        names=evidence.read_json(system / "inputs.json")["names"],
        task=task,
        pretrained=evidence.read_json(system / "weights.json")["pretrained"],
        **found,
    )


def output_files(system: Path, reference: str, device: str, run: str) -> dict[str, Path]:
    """Return the arrays of outputs that a verdict follows from, by what they are to it."""
    runs = {
        "reference": f"{reference}/measured",
        "exact": f"{reference}/exact",
        "predicted": f"{device}/predicted",
    }
    if run == "measured":
        runs["measured"] = f"{device}/measured"
    return {name: system / path / "outputs.npy" for name, path in runs.items()}


def _outputs(path: Path, expected: Mapping[str, str]) -> NDArray[Any]:
    """Return a run's outputs, which must come from the expected weights and inputs."""
    run = evidence.read_json(path.with_name("run.json"))
    for kind in ("weights", "inputs"):
        if run["sha256"][kind] != expected[kind]:
            raise ParityError(
                f"{path} was computed from other {kind} than the run it is compared with "
                "(the run.json files state different hashes): delete it and run again"
            )
    return evidence.read_array(path, run["sha256"]["outputs"])
