"""From the evidence of a run to its verdict: one pure function for the workflow and for Python.

The workflow reads a `Case` from the files of a run. `npu_parity.check` makes one in memory. Both
get the verdict, the metrics and everything else from `judge`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npu_parity import evidence
from npu_parity.backends import heads as outputs
from npu_parity.backends.device import Device
from npu_parity.errors import ParityError
from npu_parity.numerics.formats import Numerics
from npu_parity.verdict import criteria, metrics, numerics_found, questions
from npu_parity.verdict.answers import NOT_ASKED, Program, Verdict
from npu_parity.verdict.operators import OperatorResult
from npu_parity.verdict.runs import Repeated, Runs


@dataclass(frozen=True)
class Case:
    """All evidence that a verdict needs.

    Attributes:
        runs: the outputs of the reference, of the prediction and, if measured, of the device.
        promised: the numerics that the device promises.
        names: one name for each input.
        task: one of `metrics.TASKS`.
        pretrained: whether the weights are trained; None if unknown.
        program: the result of `program.compare`.
        operators: the result of `kernels.check_operators`; None if question 2 was not asked.
        probed: the result of `numerics.probing.probe` on the device; None if it did not run.
        distances: distance of the measured outputs from the prediction of each format, see
            `numerics_found.distances`; empty if nothing was measured.
        repeated: further runs on the device, and of the reference.
        notes: further reasons why a PASS proves little.
        precision: the precision in which networks run on the device, see `Device`.

    Raises:
        ParityError: the number of names is not the number of inputs.
    """

    runs: Runs
    promised: Numerics
    names: Sequence[str]
    task: str = "classification"
    pretrained: bool | None = None
    program: Program = NOT_ASKED
    operators: Sequence[OperatorResult] | None = None
    probed: Mapping[str, Mapping[str, Any]] | None = None
    distances: Mapping[str, float | None] = field(default_factory=dict)
    repeated: Repeated = field(default_factory=Repeated)
    notes: Sequence[str] = ()
    precision: str = "fp32"

    def __post_init__(self) -> None:
        if len(self.names) != len(self.runs.reference):
            raise ParityError(
                f"names: found {len(self.names)}, expected one for each of the "
                f"{len(self.runs.reference)} inputs"
            )


@dataclass(frozen=True)
class Judgement:
    """The result of `judge`.

    Attributes:
        verdict: PASS, FAIL or PREDICTED, and the answers to the four questions. A prediction FAILs
            if it or the reference is not finite.
        metrics: the result of `metrics.compare` for the measured outputs, or for the predicted
            outputs if nothing was measured; empty if their shape is not the reference's.
        explained: the share of the measured difference that the predicted rounding explains;
            None if nothing was measured or no rounding is predicted.
        numerics_found: the format whose prediction is nearest to the measured outputs.
    """

    verdict: Verdict
    metrics: dict[str, Any]
    explained: float | None
    numerics_found: str | None

    def to_dict(self) -> dict[str, Any]:
        """Return the judgement as ``metrics.json`` stores it."""
        found = self.verdict.to_dict() | self.metrics
        if "per_input" in found:
            found["per_input"] = list(found["per_input"])
        if self.verdict.word != "PREDICTED":
            found |= {"explained": self.explained, "numerics_found": self.numerics_found}
        return found | {"criteria": criteria.evaluate(self.metrics) if self.metrics else {}}


def judge(case: Case) -> Judgement:
    """Answer the four questions of a case. It reads no file and runs no network.

    >>> outputs = np.array([[1.0, 2.0]], dtype=np.float32)
    >>> runs = Runs(outputs, outputs.astype(np.float64), outputs, measured=outputs)
    >>> program = Program(True, "same program")
    >>> print(judge(Case(runs, Numerics(), ["cat"], program=program, operators=[])).verdict)
    PASS (weak evidence)
    """
    runs, promised = case.runs, case.promised
    if runs.measured is None:
        found = _compared(case, runs.predicted)
        failure = questions.unusable(runs, case.names, case.repeated)
        evidence_enough = questions.enough_evidence(
            runs, case.task, case.pretrained, notes=case.notes
        )
        answers = (failure, evidence_enough) if failure else (evidence_enough,)
        return Judgement(Verdict(answers), found, None, None)
    nearest = numerics_found.nearest(case.distances)
    # If outputs cannot be compared, `check_port` does not look at kernels.
    operators = None if runs.misfit else case.operators
    first = questions.same_program(case.program)
    second = questions.same_kernels(operators, promised, case.probed)
    # In 16 bits, the envelope is as sharp as a comparison of formats.
    coarse = numerics_found.coarser(nearest, promised) if case.precision == "fp32" else None
    third = questions.same_answer(runs, case.names, coarse, case.repeated)
    fourth = questions.enough_evidence(
        runs,
        case.task,
        case.pretrained,
        operators or (),
        [answer.question for answer in (first, second) if answer.passed is None],
        case.repeated,
        case.notes,
    )
    compared, explained = {}, None
    if runs.measured.shape == runs.reference.shape and not runs.misfit:
        compared = _compared(case, runs.measured)
        if not promised.is_exact or case.precision != "fp32":
            explained = metrics.explained(runs.measured, runs.predicted, runs.reference)
    return Judgement(Verdict((first, second, third, fourth)), compared, explained, nearest)


def _compared(case: Case, device: NDArray[Any]) -> dict[str, Any]:
    runs = case.runs
    return metrics.compare(runs.reference, device, case.task, runs.heads, runs.shapes)


def read_case(
    system: Path,
    reference: str,
    device: str,
    task: str,
    heads: Mapping[str, int] | None,
    run: str,
    hosted: bool = False,
) -> Case:
    """Read the evidence of one run of a system.

    Args:
        system: the folder ``results/SYSTEM``.
        reference: the reference device's name.
        device: the device's name.
        task: one of `metrics.TASKS`.
        heads: widths of the heads, in order; empty: the reference's own heads, see `heads.widths`.
        run: ``measured`` or ``predicted``.
        hosted: whether the port also ran on the reference's device.

    Raises:
        ParityError: a file is missing or damaged, or comes from other weights or inputs.
    """
    measured = run == "measured"
    inputs = evidence.read_json(system / "inputs.json")
    stated = evidence.read_json(system / device / run / "run.json")
    files = output_files(system, reference, device, run, hosted)
    arrays = {name: _outputs(path, stated["sha256"]) for name, path in files.items()}
    prediction = evidence.read_json(files["predicted"].with_name("run.json"))
    errors = prediction.get("errors")  # an empty list has no columns
    original = evidence.read_json(system / reference / "measured" / "run.json")
    shapes = original["heads"]
    misfit = ""
    if measured:
        theirs = stated["heads"] or shapes  # outputs from a file have no names
        misfit = "" if heads else outputs.mismatch(shapes, theirs)
        for name in {"measured", "hosted"} & arrays.keys():
            arrays[name] = outputs.aligned(arrays[name], shapes, theirs)
    widths, maps = outputs.resolved(shapes, heads, task)
    runs = Runs(
        **arrays,
        heads=widths,
        shapes=maps,
        misfit=misfit,
        overflow=prediction.get("overflow"),
        errors=None if errors is None else np.reshape(errors, (-1, arrays["reference"].shape[1])),
        narrow=hosted
        and evidence.read_json(system / device / "hosted" / "run.json")["precision"] != "fp32",
    )
    unrest = original["repeated"]
    found: dict[str, Any] = {"repeated": Repeated.of_reference(unrest)}
    notes = [*inputs["alike"], *original["notes"]]
    if measured:
        folder = system / device / run
        numerics = evidence.read_json(folder / "numerics.json")
        program = evidence.read_json(folder / "program.json")
        found = {
            "program": Program.from_dict(program),
            "operators": OperatorResult.read(folder / "operators.csv"),
            "probed": numerics["probe"],
            "distances": numerics["distances"],
            "repeated": Repeated.from_dict(stated["repeated"], unrest),
        }
        notes += stated["repeated"]["failed"] + program["unseen"]
    return Case(
        runs,
        Numerics.from_dict(stated["numerics"]),
        names=inputs["names"],
        task=task,
        pretrained=evidence.read_json(system / "weights.json")["pretrained"],
        notes=notes,
        precision=stated["precision"],
        **found,
    )


def output_files(
    system: Path, reference: str, device: str, run: str, hosted: bool = False
) -> dict[str, Path]:
    """Return the files of outputs that the verdict needs, by the names of `Runs`.

    The reference is the prediction of a device that rounds nothing below float32.
    """
    promised = Device.from_dict(evidence.read_json(system / device / run / "run.json"))
    runs = {
        "reference": f"{reference}/measured",
        "exact": f"{reference}/exact",
        "predicted": f"{device}/predicted" if promised.rounds else f"{reference}/measured",
    }
    if run == "measured":
        runs["measured"] = f"{device}/measured"
    if hosted:
        runs["hosted"] = f"{device}/hosted"
    return {name: system / path / "outputs.npy" for name, path in runs.items()}


def _outputs(path: Path, expected: Mapping[str, str]) -> NDArray[Any]:
    """Return a run's outputs; ParityError if they come from other weights or inputs."""
    run = evidence.read_json(path.with_name("run.json"))
    for kind in ("weights", "inputs"):
        if run["sha256"][kind] != expected[kind]:
            raise ParityError(
                f"{path} was computed from other {kind} than the run it is compared with "
                "(the run.json files state different hashes): delete it and run again"
            )
    return evidence.read_array(path, run["sha256"]["outputs"])
