"""A port held against its original, in Python: ``print(check_port(reference, ported, inputs))``.

No workflow, no files. `check_port` asks the four questions of `verdict` in one call; an `Original`
does so for several ports and computes what is the reference's only once.
"""

import contextlib
import copy
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import nn

from npu_parity import metrics, outputs, verdict
from npu_parity.devices import Device, configured
from npu_parity.divergence import Step, divergence, first_beyond
from npu_parity.emulation import emulate
from npu_parity.errors import ParityError
from npu_parity.numerics import FORMATS, PRESETS, Numerics, candidate, coarser, shortfall
from npu_parity.operators import OperatorResult, check_operators, execute, without_bound
from npu_parity.probing import probe
from npu_parity.program import differences
from npu_parity.recording import Call, record
from npu_parity.verdict import Answer, Verdict

Context = Callable[[], contextlib.AbstractContextManager]

# What each backend does to float32 operands as it is set up by default.
DEFAULTS = {"cpu": "ieee", "npu": "ascend910b", "cuda": "nvidia_ampere"}


@dataclass(frozen=True)
class Report:
    """What `check_port` found; ``str()`` is for people.

    Attributes:
        verdict: PASS or FAIL, and the four answers.
        outputs: of the port, float32 (inputs, columns).
        metrics: of the port's outputs, as `metrics.compare` returns them; empty where their shape
            is another.
        operators: question 2, one result for each operator of the reference.
        explained: share of the measured difference that the predicted rounding accounts for; None
            where no rounding is predicted.
        numerics_found: the format whose prediction lies nearest to the measured outputs.
        follow: computes `steps`.
    """

    verdict: Verdict
    outputs: np.ndarray
    metrics: dict[str, Any]
    operators: list[OperatorResult]
    explained: float | None
    numerics_found: str | None
    follow: Callable[[], list[Step]] = field(repr=False)

    @property
    def questions(self) -> tuple[Answer, ...]:
        """The answers to the four questions."""
        return self.verdict.answers

    @property
    def passed(self) -> bool:
        """Whether the verdict is PASS."""
        return self.verdict.word == "PASS"

    @cached_property
    def steps(self) -> list[Step]:
        """How the error grows, operator by operator, on the input that differs most."""
        return self.follow()

    @cached_property
    def first(self) -> Step | None:
        """Of a port that fails: the first operator beyond its bound or its predicted envelope."""
        return None if self.passed else first_beyond(self.steps, verdict.ENVELOPE)

    def __str__(self) -> str:
        """Return the verdict, the four answers and the figures behind them."""
        worst = max((r.largest_error for r in self.operators if r.passed is not None), default=0.0)
        lines = [str(self.verdict), *(f"  {answer}" for answer in self.verdict.answers)]
        if self.first:
            where = f"operator {self.first.index} {self.first.operator}"
            lines.append(f"  goes wrong first at {where}, {self.first.module or 'the top level'}")
        for key in ("max_abs_error", "relative_l2_error_max", "one_minus_cosine_max"):
            value = self.metrics.get(key)
            lines.append(f"  {key}: {'not finite' if value is None else f'{value:.3g}'}")
        lines.append(f"  largest operator error: {worst:.3g} of its bound")
        if self.explained is not None:
            lines.append(f"  explained by the predicted rounding: {100 * self.explained:.1f} %")
        if self.numerics_found:
            lines.append(f"  nearest numerics: {self.numerics_found}")
        return "\n".join(lines)


class Original:
    """A reference and its inputs, against which ports to one device are held.

    Args:
        reference: in evaluation mode, float32; copied, and run on the CPU.
        inputs: float32 (inputs, 3, H, W), or whatever one tensor the network takes.
        device: a backend (``cpu``, ``npu``, ``cuda``, ``xpu``, ``mps``) or a `Device`.
        numerics: what the device promises: a name of `numerics.PRESETS`, formats by kind of
            operator, or None for the backend's default.
        task: ``classification``, ``features`` or ``digits``, see `metrics.compare`.
        heads: widths of the heads, in order.
        names: of the inputs.
        pretrained: whether the weights are trained; None where nobody knows.
        kernels: makes a context within which ports and the device's operators run: a stand-in
            for a device that is not here.

    Raises:
        ParityError: no inputs, unknown numerics, a reference in training mode.
    """

    def __init__(
        self,
        reference: nn.Module,
        inputs: np.ndarray | torch.Tensor,
        device: str | Device = "cpu",
        numerics: str | Mapping[str, str] | Numerics | None = None,
        task: str = "classification",
        heads: Mapping[str, int] | None = None,
        names: Sequence[str] | None = None,
        pretrained: bool | None = None,
        kernels: Context | None = None,
    ):
        # A copy: a port may share modules with it, and is moved to the device.
        self.reference, self.inputs = copy.deepcopy(reference).to("cpu"), _array(inputs)
        self.device = _device(device, numerics)
        self.promised = Numerics.from_dict(self.device.numerics)
        self.task, self.heads, self.pretrained = task, heads, pretrained
        self.names = list(names or map(str, range(len(self.inputs))))
        self.kernels = kernels

    @cached_property
    def runs(self) -> verdict.Runs:
        """The reference's own, exact and predicted outputs; nothing measured yet."""
        return verdict.Runs(
            reference=outputs.measure(self.reference, self.inputs, Device("cpu")),
            exact=outputs.exact(self.reference, self.inputs, self.device),
            predicted=outputs.predict(self.reference, self.inputs, self.device),
            heads=self.heads,
        )

    @cached_property
    def predictions(self) -> dict[str, np.ndarray]:
        """What the reference would compute in each format, where the device may round."""
        known = {self.promised: self.runs.predicted, Numerics(): self.runs.reference}
        candidates = {name: candidate(self.promised, name) for name in FORMATS}
        return {
            name: known[candidate]
            if candidate in known
            else outputs.predict(self.reference, self.inputs, Device("cpu", candidate.to_dict()))
            for name, candidate in candidates.items()
        }

    @cached_property
    def calls(self) -> list[Call]:
        """The reference's operators on the first input."""
        return record(self.reference, _tensor(self.inputs[:1]))

    @cached_property
    def operators(self) -> list[OperatorResult]:
        """Question 2 on the device, or on what stands in for it."""
        return self._operators(self.kernels or contextlib.nullcontext)

    def differences(self, ported: nn.Module, ported_inputs: np.ndarray | None = None) -> list[str]:
        """Return what speaks against the same program, the first first; question 1."""
        theirs = self.inputs if ported_inputs is None else ported_inputs
        findings = _inputs_differ(self.inputs, theirs)
        return findings + differences(self.reference, ported, _tensor(self.inputs[:1]))

    def follow(
        self,
        ported: nn.Module | None = None,
        number: int = 0,
        ported_inputs: np.ndarray | None = None,
        alone: Mapping[int, float] | None = None,
        within: Context = contextlib.nullcontext,
    ) -> list[Step]:
        """Follow the reference, its prediction and a port, if any, through one input.

        Args:
            ported: runs on the device.
            number: of the input.
            ported_inputs: as of `check_port`.
            alone: largest error of each operator on the device, as a share of its bound.
            within: as `kernels` of `check_port`.
        """
        own = _tensor(self.inputs[number : number + 1])
        calls = record(self.reference, own) if number else self.calls
        exact = record(copy.deepcopy(self.reference).double(), own.double())
        with emulate(self.promised):
            predicted = record(self.reference, own)
        measured = []
        if ported is not None:
            theirs = self.inputs if ported_inputs is None else ported_inputs
            one = _tensor(theirs[number : number + 1])
            with configured(self._target(within)) as target, within():
                measured = record(ported.to(target), one.to(target))
        return divergence(calls, exact, predicted, measured, alone)

    def check(
        self,
        ported: nn.Module,
        ported_inputs: np.ndarray | torch.Tensor | None = None,
        batch: int = 1,
        kernels: Context | None = None,
    ) -> Report:
        """Ask the four questions of a port; arguments as of `check_port`."""
        within = kernels or self.kernels or contextlib.nullcontext
        theirs = self.inputs if ported_inputs is None else _array(ported_inputs)
        findings = self.differences(ported, theirs)
        operators = self._operators(within) if kernels else self.operators
        with configured(self._target(within)) as target, within():
            measured = outputs.forward(ported.to(target), theirs, target, batch)
            lacking = shortfall(probe(device=target), self.promised)
        runs = replace(self.runs, measured=measured)
        alone = {result.index: result.largest_error for result in operators}
        compared, explained, found, number = {}, None, None, 0
        if measured.shape == runs.reference.shape:
            compared = metrics.compare(runs.reference, measured, self.task, self.heads)
            if not self.promised.is_exact:
                explained = metrics.explained(measured, runs.predicted, runs.reference)
            found = verdict.nearest_numerics(measured, self.predictions)
            number = metrics.worst_input(compared)
        return Report(
            verdict=Verdict(
                (
                    Answer(1, not findings, tuple(findings)),
                    verdict.same_kernels(operators, lacking),
                    verdict.same_answer(runs, self.names, coarser(found, self.promised)),
                    verdict.enough_evidence(
                        runs, self.task, self.pretrained, without_bound(operators)
                    ),
                )
            ),
            outputs=measured,
            metrics=compared,
            operators=operators,
            explained=explained,
            numerics_found=found,
            follow=lambda: self.follow(ported, number, theirs, alone, within),
        )

    def _operators(self, within: Context) -> list[OperatorResult]:
        target, run = self._target(within), _running(within)
        return check_operators(self.calls, target, run, numerics=self.promised)

    def _target(self, within: Context) -> Device:
        """What ports run on: a stand-in rounds by itself, and nothing is to be switched on."""
        return self.device if within is contextlib.nullcontext else Device(self.device.backend)


def check_port(
    reference: nn.Module,
    ported: nn.Module,
    inputs: np.ndarray | torch.Tensor,
    device: str | Device = "cpu",
    numerics: str | Mapping[str, str] | Numerics | None = None,
    *,
    ported_inputs: np.ndarray | torch.Tensor | None = None,
    batch: int = 1,
    kernels: Context | None = None,
    **about: Any,
) -> Report:
    """Ask whether `ported`, on `device`, is the same network as `reference` on the CPU.

    Args:
        reference: see `Original`, as `inputs`, `device`, `numerics` and `about`.
        ported: what is to be the same; it is left on the device.
        ported_inputs: what the port's own preprocessing makes of the same images.
        batch: how many inputs the port computes at a time.
        kernels: makes a context within which the port and the device's operators run: a stand-in
            for a device that is not here.

    Raises:
        ParityError: no inputs, a device that is not here, outputs that are no rows of numbers.
    """
    original = Original(reference, inputs, device, numerics, kernels=kernels, **about)
    return original.check(ported, ported_inputs, batch)


def _running(within: Context) -> Callable[[Call, torch.device], Any]:
    def run(call: Call, target: torch.device) -> Any:
        with within():
            return execute(call, target)

    return run


def _device(device: str | Device, numerics: str | Mapping[str, str] | Numerics | None) -> Device:
    if isinstance(device, Device):
        return device
    if numerics is None:
        numerics = DEFAULTS.get(device, "ieee")
    if isinstance(numerics, str):
        if numerics not in PRESETS:
            raise ParityError(f"numerics {numerics!r}: expected one of {', '.join(PRESETS)}")
        numerics = PRESETS[numerics]
    if isinstance(numerics, Numerics):
        numerics = numerics.to_dict()
    return Device(device, dict(numerics))


def _inputs_differ(own: np.ndarray, theirs: np.ndarray) -> list[str]:
    if own.shape != theirs.shape:
        return [f"inputs have shape {theirs.shape} where the reference has {own.shape}"]
    digests = [hashlib.sha256(np.ascontiguousarray(a).tobytes()).hexdigest() for a in (own, theirs)]
    if digests[0] == digests[1]:
        return []
    largest = np.abs(own.astype(np.float64) - theirs).max()
    return [f"inputs differ by up to {largest:.3g}: preprocessing is not the same"]


def _array(inputs: np.ndarray | torch.Tensor) -> np.ndarray:
    array = inputs.numpy(force=True) if torch.is_tensor(inputs) else np.asarray(inputs)
    if len(array) == 0:
        raise ParityError("there are no inputs")
    return array


def _tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))
