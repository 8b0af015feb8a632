"""Compare a port with its original in Python: ``print(check_port(reference, ported, inputs))``.

This needs no workflow and no files. `check_port` asks the four questions of the verdict in one
call. An `Original` does the same for several ports and computes the reference only once.
"""

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from npu_parity.backends import batches, heads, network, outputs
from npu_parity.backends.batches import Inputs
from npu_parity.backends.device import Device
from npu_parity.backends.outputs import Outputs
from npu_parity.backends.precision import applied, narrow, storage
from npu_parity.errors import ParityError
from npu_parity.numerics.emulation import emulate
from npu_parity.numerics.formats import FORMATS, PRESETS, Numerics, candidate, expect
from npu_parity.numerics.probing import probe
from npu_parity.numerics.rounding import NARROW
from npu_parity.numerics.widening import widened
from npu_parity.sources.images import alike
from npu_parity.verdict import metrics, port_inputs
from npu_parity.verdict.answers import NOT_ASKED, Program
from npu_parity.verdict.checked import Report
from npu_parity.verdict.divergence import Step, divergence
from npu_parity.verdict.executed import Path, executed
from npu_parity.verdict.executed import compare as compare_paths
from npu_parity.verdict.judge import Case, judge
from npu_parity.verdict.kernels import check_operator, execute
from npu_parity.verdict.numerics_found import distances, sizes
from npu_parity.verdict.operators import IDENTICAL, OperatorResult
from npu_parity.verdict.program import compare, on_cpu
from npu_parity.verdict.recording import Call, memory, record, visit
from npu_parity.verdict.runs import Repeated, Runs, unchanged

Context = Callable[[], contextlib.AbstractContextManager[Any]]


# So many inputs show the format of a device. Every input has its own envelope in question 3.
TELLING = 16


class Original:
    """A reference and its inputs, for the comparison with ports to one device.

    Args:
        reference: a float32 network in evaluation mode; a copy of it runs on the CPU.
        inputs: float32 (inputs, 3, H, W), or what the network takes: any array with one row for
            each input, a tuple of them, or a dictionary by the names of its arguments. Whole
            numbers stay whole numbers.
        device: a backend (``cpu``, ``npu``, ``cuda``, ``xpu``, ``mps``) or a `Device`.
        numerics: the numerics that the device promises: a name in `PRESETS`, formats by kind of
            operator, or None for the backend's default.
        precision: how ports run: ``fp32``, ``fp16`` and ``bf16`` (the whole network in 16 bits), or
            ``amp-fp16`` and ``amp-bf16`` (autocast). A `Device` has its own.
        task: ``classification``, ``features``, ``digits`` or ``segmentation``, see
            `metrics.compare`.
        heads: widths of the heads, in order. Default: the tensors that the reference returns.
        names: names of the inputs.
        pretrained: whether the weights are trained; None if unknown.
        kernels: returns a context that simulates an absent device. Ports and the device's
            operators run inside it.
        copied: whether to copy the reference's parameters. If not, nothing may change them, and
            no port may share them.

    Raises:
        ParityError: no inputs, another number of names than of inputs, unknown numerics, or a
            reference in training mode or with lazy modules.

    >>> original = Original(nn.Linear(4, 3).eval(), torch.eye(4))
    >>> original.check(copy.deepcopy(original.reference)).passed
    True
    """

    def __init__(
        self,
        reference: nn.Module,
        inputs: Any,
        device: str | Device = "cpu",
        numerics: str | Mapping[str, str] | Numerics | None = None,
        task: str = "classification",
        heads: Mapping[str, int] | None = None,
        names: Sequence[str] | None = None,
        pretrained: bool | None = None,
        kernels: Context | None = None,
        precision: str = "fp32",
        copied: bool = True,
    ):
        network.expect_ready(reference)
        kept = (
            {} if copied else {id(p): p for p in reference.parameters() if p.device.type == "cpu"}
        )
        with network.guarded(network.named(reference)):
            # Copy, because a port may share modules with the reference and is moved to the device.
            self.reference = copy.deepcopy(reference, kept).to("cpu")
        self.inputs = batches.given(inputs, reference)
        self.device = _device(device, numerics, precision)
        self.promised = self.device.numerics
        self.asked = self.device.implementation.questions
        self.task, self.heads, self.pretrained = task, heads, pretrained
        count = batches.count(self.inputs)
        self.names = list(names or map(str, range(count)))
        if len(self.names) != count:
            raise ParityError(
                f"names: found {len(self.names)}, expected one for each of the {count} inputs"
            )
        self.kernels = kernels
        self._operators: dict[tuple[Context, bool, bool], list[OperatorResult]] = {}
        self._repeats: dict[tuple[int, ...], dict[str, Any]] = {}

    @cached_property
    def runs(self) -> Runs:
        """The reference's outputs, the exact and the predicted outputs, without measured ones."""
        exact = outputs.exact(self.reference, self.inputs, self.device)
        return replace(self._runs, exact=exact)

    @cached_property
    def _runs(self) -> Runs:
        """The same without the exact outputs, which are not always needed."""
        reference = self._reference.array
        predicted, overflow = reference, None
        if not (self.promised.is_exact and self.device.precision == "fp32"):
            predicted, overflow = outputs.predict_watched(self.reference, self.inputs, self.device)
        errors = outputs.further_errors(self.reference, self.inputs, predicted, self.device)
        widths, maps = heads.resolved(self._reference.shapes, self.heads, self.task)
        return Runs(
            reference, None, predicted, heads=widths, shapes=maps, overflow=overflow, errors=errors
        )

    @cached_property
    def _reference(self) -> Outputs:
        """The reference's outputs."""
        return outputs.measure_repeatedly(self.reference, self.inputs, Device("cpu"))[0]

    @property
    def shapes(self) -> heads.Shapes:
        """The shape of each head of the reference, see `heads.columns`."""
        return self._reference.shapes

    def _unrest(self, sizes: Sequence[int]) -> dict[str, Any]:
        """Return how far further runs of the reference differ, see `outputs.repeated`."""
        key = tuple(sizes)
        if key not in self._repeats:
            with outputs.inference(self.reference), Device("cpu").configured() as target:
                self._repeats[key] = outputs.repeated(
                    self.reference, self.inputs, self._reference, target, sizes=key
                )
        return self._repeats[key]

    @cached_property
    def predictions(self) -> dict[str, np.ndarray]:
        """The predicted outputs for each format, for the first `TELLING` inputs.

        For a device with another precision than fp32, the names are precisions, its own first.
        """
        return {
            name: self._known[device][:TELLING]
            if device in self._known
            else outputs.predict(self.reference, batches.rows(self.inputs, slice(TELLING)), device)
            for name, device in self._candidates.items()
        }

    @property
    def _known(self) -> dict[Device, np.ndarray]:
        """The predictions of `runs`, by the device that they are of."""
        promised = Device("cpu", self.promised, self.device.precision)
        return {promised: self._runs.predicted, Device("cpu"): self._runs.reference}

    @property
    def _candidates(self) -> dict[str, Device]:
        """The devices of `predictions`, by name."""
        own = self.device.precision
        if own == "fp32":
            return {name: Device("cpu", candidate(self.promised, name)) for name in FORMATS}
        others = [name for name in ("fp32", *NARROW) if name != own]
        return {own: Device("cpu", self.promised, own)} | {
            name: Device("cpu", precision=name) for name in others
        }

    def distances(self, measured: NDArray[Any]) -> dict[str, float | None]:
        """Return the distance of measured outputs from the prediction of each format.

        The first `TELLING` inputs show the format.

        Rounding to 16 bits after every operator is chaotic: one value that is rounded the other way
        changes all later ones. So only the size of the error identifies a precision.

        If the outputs are exactly one of the predictions of `runs`, no other format is nearer.
        """
        for name, device in self._candidates.items():
            if device in self._known and np.array_equal(measured, self._known[device]):
                return {name: 0.0}
        if self.device.precision == "fp32":
            return distances(measured[:TELLING], self.predictions)
        return sizes(measured[:TELLING], self.predictions, self._runs.reference[:TELLING])

    @cached_property
    def chosen(self) -> list[int]:
        """The numbers of the inputs on which question 2 checks the operators, in one batch.

        They are the input with the largest value, and the input whose outputs differ most from
        those of the first. Only one input is chosen if there is no other, or if the network does
        not accept a batch of two.
        """
        first = int(batches.largest(self.inputs).argmax())
        outcome = self._reference.array.astype(np.float64)
        with np.errstate(invalid="ignore"):  # outputs that are not finite
            apart = np.linalg.norm(outcome - outcome[first], axis=1)
        other = int(np.nan_to_num(apart).argmax())
        both = [first, other]
        return both if other != first and self._accepts(both) else [first]

    def _accepts(self, rows: list[int]) -> bool:
        """Return whether the reference accepts a batch of these inputs."""
        if any(str(len(rows)) in found["batches"] for found in self._repeats.values()):
            return True
        try:
            some = batches.rows(self.inputs, rows)
            outputs.measure(self.reference, some, Device("cpu"), batch=len(rows))
        except ParityError:
            return False
        return True

    def visit(self, each: Callable[[Call], None]) -> None:
        """Run the reference on the chosen inputs, in the device's precision; see `visit`."""
        inputs = batches.rows(self.inputs, self.chosen)
        with self._on_cpu(self.reference) as running:
            visit(running, *batches.tensors(inputs), each=each)

    def _recorded(self, inputs: Inputs) -> list[Call]:
        with self._on_cpu(self.reference) as running:
            return record(running, *batches.tensors(inputs))

    @contextlib.contextmanager
    def _on_cpu(self, model: nn.Module) -> Iterator[nn.Module]:
        """Yield a network on the CPU in the device's precision; 16 bits are emulated inside."""
        own = self.device.precision
        with storage(own), applied(model, own, torch.device("cpu")) as running:
            yield running

    @contextlib.contextmanager
    def _on_device(
        self, ported: nn.Module, within: Context
    ) -> Iterator[tuple[nn.Module, torch.device]]:
        """Yield a port on the device in its precision, and the torch device."""
        device = self._target(within)
        with (
            network.guarded(network.named(ported)),
            device.configured() as target,
            within(),
            applied(ported.to(target), device.precision, target) as running,
        ):
            yield running, target

    def unseen(self) -> list[str]:
        """Return what question 2 did not look at."""
        if 2 in self.asked and len(self.chosen) < min(2, len(self.names)):
            return ["operators were checked on one input only"]
        return []

    def probe(self, target: torch.device) -> dict[str, dict[str, int | str | None]] | None:
        """Return the result of probing the device; None if question 2 is not asked."""
        return probe(device=target) if 2 in self.asked else None

    def program(self, ported: nn.Module, ported_inputs: Inputs | None = None) -> Program:
        """Return the evidence for question 1."""
        if 1 not in self.asked:
            return NOT_ASKED
        theirs = self.inputs if ported_inputs is None else ported_inputs
        wrong, note = port_inputs.differences(self.inputs, theirs)
        reference, own, batch = self.reference, "fp32", batches.tensors(self.inputs)
        if narrow(ported, self.device.precision):
            # The same weights, rounded once. The port takes 16-bit inputs.
            own = self.device.precision
            reference = copy.deepcopy(reference).to(NARROW[own])
            batch = tuple(t.to(NARROW[own]) if t.is_floating_point() else t for t in batch)
        with network.guarded(network.named(ported)), storage(own):
            found = compare(reference, ported, *batch)
        if wrong:
            return Program(False, "", (*wrong, *(() if found.same else found.differences)))
        return replace(found, differences=(*found.differences, *note))

    def follow(
        self,
        ported: nn.Module | None = None,
        number: int = 0,
        ported_inputs: Inputs | None = None,
        alone: Mapping[int, float] | None = None,
        within: Context = contextlib.nullcontext,
    ) -> list[Step]:
        """Return the error of the prediction and of a port after each operator, for one input.

        Args:
            ported: a port, which runs on the device; None gives only the prediction.
            number: the number of the input.
            ported_inputs: the same as in `check_port`.
            alone: largest error of each operator on the device, as a share of its bound.
            within: the same as `kernels` in `check_port`.
        """
        one = slice(number, number + 1)
        own = batches.rows(self.inputs, one)
        calls = record(self.reference, *batches.tensors(own))
        exactly = batches.tensors(batches.widened(own))
        wide = copy.deepcopy(self.reference).double()
        with widened():
            exact = record(wide, *exactly)
        with emulate(self.promised):
            predicted = self._recorded(own)
        measured = []
        if ported is not None and 1 in self.asked and not network.quantised(ported):
            theirs = self.inputs if ported_inputs is None else ported_inputs
            with self._on_device(ported, within) as (running, target):
                measured = record(running, *batches.tensors(batches.rows(theirs, one), target))
        return divergence(calls, exact, predicted, measured, alone)

    def check(
        self,
        ported: nn.Module,
        ported_inputs: Any = None,
        batch: int = 1,
        kernels: Context | None = None,
        batch_sizes: Sequence[int] = (2,),
    ) -> Report:
        """Ask the four questions about a port. The arguments are the same as in `check_port`."""
        within = kernels or self.kernels or contextlib.nullcontext
        network.expect_ready(ported, floating=False)
        for size in (batch, *batch_sizes):
            if size < 1:
                raise ParityError(f"batch: found {size}, expected at least 1")
        theirs = self.inputs if ported_inputs is None else batches.given(ported_inputs, ported)
        name = network.named(ported)
        # Outputs that cannot be compared are an error before anything runs long.
        runs, shapes = self._runs, self.shapes
        hosted, notes = self._hosted(ported, theirs, within)
        device = self._target(within)
        with network.guarded(name), device.configured() as target, within():
            compiled = device.implementation.compiled(ported, theirs)
            with applied(compiled.to(target), device.precision, target) as running:
                measured = outputs.forward(running, theirs, target, batch)
                again = outputs.repeated(running, theirs, measured, target, batch, batch_sizes)
            misfit = "" if self.heads else heads.mismatch(shapes, measured.shapes)
            probed = self.probe(target)
        moved = any(change != 0 for change in again["batches"].values())
        repeated = Repeated.from_dict(again, self._unrest(batch_sizes if moved else ()))
        path = self.path(ported, theirs, within)
        program = path.with_program(self.program(ported, theirs))
        operators = None
        if not misfit:
            operators = self.operators(within, path.channels_last, shares=False)
        found = heads.aligned(measured.array, shapes, measured.shapes)
        if hosted is not None:
            hosted = heads.aligned(hosted, shapes, measured.shapes)
        runs = replace(
            runs,
            measured=found,
            hosted=hosted,
            misfit=misfit,
            narrow=narrow(ported, device.precision),
        )
        if not unchanged(runs, repeated):
            runs = replace(runs, exact=self.runs.exact)
        judgement = judge(
            Case(
                runs,
                self.promised,
                self.names,
                self.task,
                self.pretrained,
                program,
                operators,
                probed,
                self.distances(found),
                repeated,
                [
                    *self._alike(),
                    *self._reference.notes,
                    *notes,
                    *again["failed"],
                    *self.unseen(),
                    *path.unseen,
                ],
                device.precision,
            )
        )
        number = metrics.worst_input(judgement.metrics)
        alone = {r.index: 0.0 if r.note == IDENTICAL else r.largest_error for r in operators or ()}
        return Report(
            judgement,
            found,
            operators,
            follow=lambda: self.follow(ported, number, theirs, alone, within),
        )

    def _alike(self) -> list[str]:
        """Return why an exchange of inputs or channels would not show, for each array."""
        return [why for array in batches.every(self.inputs) for why in alike(array, self.names)]

    def _hosted(
        self, ported: nn.Module, inputs: Inputs, within: Context
    ) -> tuple[NDArray[Any] | None, list[str]]:
        """Return the port's outputs on the reference's device, and why it does not run there."""
        if self.device == Device("cpu") and within is contextlib.nullcontext:
            return None, []  # the measured outputs are the same
        try:
            return outputs.hosted(ported, inputs, self.device), []
        except ParityError as error:
            return None, [f"the port does not run on the reference's device: {error}"]

    def path(
        self,
        ported: nn.Module,
        ported_inputs: Inputs | None = None,
        within: Context = contextlib.nullcontext,
    ) -> Path:
        """Return how a port's path on the device differs from its path on the CPU."""
        same = self.device == Device("cpu") and within is contextlib.nullcontext
        if same or 1 not in self.asked or network.quantised(ported):
            return Path()
        theirs = self.inputs if ported_inputs is None else ported_inputs
        one = batches.rows(theirs, slice(0, 1))
        try:
            with self._on_cpu(on_cpu(ported)) as running:
                here = executed(running, *batches.tensors(one))
            with self._on_device(ported, within) as (running, target):
                there = executed(running, *batches.tensors(one, target))
        except ParityError as error:
            return Path((), (f"the port's operators on the device are not visible: {error}",))
        return compare_paths(here, there)

    def operators(
        self, within: Context | None = None, channels_last: bool = False, shares: bool = True
    ) -> list[OperatorResult] | None:
        """Return the results of question 2 on the device or its simulation; None if not asked.

        Args:
            within: the same as `kernels` in `check_port`; default that of the reference.
            channels_last, shares: see `check_operator`.
        """
        if 2 not in self.asked:
            return None
        within = within or self.kernels or contextlib.nullcontext
        key = within, channels_last, shares
        if key not in self._operators:
            target, run, results = self._target(within), _running(within), []
            own = within is contextlib.nullcontext and target == Device("cpu")
            check = partial(
                check_operator,
                device=target,
                run=run,
                numerics=self.promised,
                channels_last=channels_last,
                recorded=own,
                shares=shares,
            )
            self.visit(lambda call: results.append(check(call)))
            self._operators = {key: results}
        return self._operators[key]

    def _target(self, within: Context) -> Device:
        """Return the device for ports. A simulated device rounds without switches of torch."""
        if within is contextlib.nullcontext:
            return self.device
        return Device(self.device.backend, precision=self.device.precision)


def check_port(
    reference: nn.Module,
    ported: nn.Module,
    inputs: Any,
    device: str | Device = "cpu",
    numerics: str | Mapping[str, str] | Numerics | None = None,
    *,
    precision: str = "fp32",
    ported_inputs: Any = None,
    batch: int = 1,
    kernels: Context | None = None,
    batch_sizes: Sequence[int] = (2,),
    **about: Any,
) -> Report:
    """Check whether `ported` on `device` is the same network as `reference` on the CPU.

    Args:
        reference: see `Original`, also for `inputs`, `device`, `numerics`, `precision` and
            `about`.
        ported: the network to check; it stays on the device.
        ported_inputs: the same images after the port's own preprocessing; default `inputs`.
        batch: the number of inputs in one forward pass of the port.
        batch_sizes: other batch sizes. They must give the same outputs.
        kernels: returns a context that simulates an absent device. The port and the device's
            operators run inside it.

    Raises:
        ParityError: no inputs, the device is not available, a network fails, or its outputs cannot
            be compared: they are whole numbers, or do not have one row for each input.

    >>> reference = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten()).eval()
    >>> ported = copy.deepcopy(reference)
    >>> ported[1].eps = 1e-3
    >>> print(check_port(reference, ported, torch.ones(2, 3, 8, 8)).verdict)
    FAIL (question 1, same program: batch_norm eps 0.001 where the reference has 1e-05, at 1)
    """
    copied = not _apart(reference, ported)
    about |= {"kernels": kernels, "precision": precision, "copied": copied}
    original = Original(reference, inputs, device, numerics, **about)
    return original.check(ported, ported_inputs, batch, batch_sizes=batch_sizes)


def _apart(reference: nn.Module, ported: nn.Module) -> bool:
    """Return whether two networks surely share no parameter."""
    try:
        ours, theirs = ({memory(p) for p in model.parameters()} for model in (reference, ported))
    except Exception:  # a lazy or a sparse one, or no network: what follows says so
        return False
    return not ours & theirs


def _running(within: Context) -> Callable[..., Any]:
    def run(call: Call, target: torch.device, channels_last: bool = False) -> Any:
        with within():
            return execute(call, target, channels_last)

    return run


def _device(
    device: str | Device,
    numerics: str | Mapping[str, str] | Numerics | None,
    precision: str,
) -> Device:
    if isinstance(device, Device):
        return device
    if numerics is None:
        numerics = Device(device).implementation.numerics()
    elif isinstance(numerics, str):
        expect("numerics", numerics, tuple(PRESETS))
        numerics = PRESETS[numerics]
    elif not isinstance(numerics, Numerics):
        numerics = Numerics.from_dict(numerics)
    return Device(device, numerics, precision)
