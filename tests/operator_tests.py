"""PyTorch's own tests of operators (OpInfo) and modules, as a test of the bounds.

The samples run on this CPU, and each recorded operator is compared with its bound. The kernels are
correct, so that an alarm is a fault of the bound. `make opinfo` runs all samples and writes
docs/operators.md. ``python tests/operator_tests.py --most 10`` takes 10 samples of each test.
"""

import sys
import textwrap
import types
import unittest
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn

from npu_parity import cli, evidence
from npu_parity.backends.device import Device
from npu_parity.errors import ParityError
from npu_parity.verdict.kernels import check_operators
from npu_parity.verdict.operators import NO_BOUND
from npu_parity.verdict.recording import record

PAGE = Path(__file__).resolve().parents[1] / "docs" / "operators.md"


def _database(module: str, name: str) -> list[Any]:
    """Import a list of tests from torch. It imports expecttest, but uses only its class."""
    stub = types.SimpleNamespace(TestCase=unittest.TestCase)
    missing = "expecttest" not in sys.modules
    if missing:
        sys.modules["expecttest"] = stub  # type: ignore[assignment]
    try:
        with warnings.catch_warnings(action="ignore"):
            found = __import__(f"torch.testing._internal.{module}", fromlist=[name])
        return list(getattr(found, name))
    finally:
        if missing:
            del sys.modules["expecttest"]


class Apply(nn.Module):
    """A function as a network."""

    def __init__(self, function: Callable[[], Any]):
        super().__init__()
        self.function = function

    def forward(self) -> Any:
        return self.function()


Sample = tuple[str, Callable[[], tuple[nn.Module, tuple[Any, ...]]]]


def operator_samples(
    dtype: torch.dtype = torch.float32, only: set[str] | None = None
) -> Iterator[Iterator[Sample]]:
    """Yield the samples of each operator that supports a dtype on the CPU, or only of some."""

    def samples(op: Any) -> Iterator[Sample]:
        for s in op.sample_inputs("cpu", dtype, requires_grad=False):
            run = Apply(lambda s=s: op.op(s.input, *s.args, **s.kwargs))
            yield op.full_name, lambda run=run: (run, ())

    for op in _database("common_methods_invocations", "op_db"):
        if dtype in op.supported_dtypes("cpu") and (not only or op.name in only):
            yield samples(op)


def module_samples() -> Iterator[Iterator[Sample]]:
    """Yield the samples of each module."""

    def samples(info: Any) -> Iterator[Sample]:
        given = {"device": "cpu", "dtype": torch.float32, "requires_grad": False}
        for s in info.module_inputs_func(info, training=False, **given):

            def build(s: Any = s) -> tuple[nn.Module, tuple[Any, ...]]:
                made, used = s.constructor_input, s.forward_input
                module = info.module_cls(*made.args, **made.kwargs).eval()
                if not used.kwargs:
                    return module, used.args
                return Apply(lambda: module(*used.args, **used.kwargs)), ()

            yield info.name, build

    for info in _database("common_modules", "module_db"):
        yield samples(info)


@dataclass
class Counts:
    """What the samples of a database show.

    Attributes:
        tests, samples, calls: how many operators or modules, samples, executed aten operators.
        passed, empty: calls within their bound, calls without values.
        alarms: calls beyond their bound, with the note.
        not_run: tests whose samples do not run or cannot be recorded here, with the first reason.
        unbounded: the tests that use an aten operator without a bound, by operator.
        failed_rules: notes of rules that fail.
    """

    tests: int = 0
    samples: int = 0
    calls: int = 0
    passed: int = 0
    empty: int = 0
    alarms: list[str] = field(default_factory=list)
    not_run: dict[str, str] = field(default_factory=dict)
    unbounded: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    without: Counter[str] = field(default_factory=Counter)
    failed_rules: list[str] = field(default_factory=list)


def count(database: Iterator[Iterator[Sample]], most: int | None = None) -> Counts:
    """Check every aten operator of the samples against its bound.

    Args:
        database: the samples of each test.
        most: samples of each test; None takes all.
    """
    counts, device = Counts(), Device("cpu")
    with warnings.catch_warnings(action="ignore"):
        for samples in database:
            counts.tests += 1
            torch.manual_seed(0)
            for name, build in islice(samples, most):
                counts.samples += 1
                try:
                    model, inputs = build()
                    calls = record(model, *inputs)
                except (ParityError, RuntimeError) as error:
                    counts.not_run.setdefault(name, str(error))
                    continue
                _judge(counts, name, check_operators(calls, device))
    return counts


def _judge(counts: Counts, name: str, results: list[Any]) -> None:
    for result in results:
        counts.calls += 1
        if result.passed:
            counts.passed += 1
        elif result.passed is False:
            counts.alarms.append(f"{name}: {result.operator} {result.shapes}: {result.note}")
        elif not result.note.startswith(NO_BOUND):
            counts.empty += 1
        else:
            counts.unbounded[result.operator].add(name)
            counts.without[result.operator] += 1
            if not result.note.endswith(result.operator):
                counts.failed_rules.append(f"{name}: {result.note}")


HEAD = """# Operators that have a bound

Made by `make opinfo` with torch {version}. Do not edit it.

PyTorch tests its operators and modules with many samples: edge cases of shapes, layouts and values.
Here {samples} run on a CPU in float32.
Each executed aten operator is compared with its bound ([thresholds.md](thresholds.md)). The kernels
are correct, so that an alarm is a fault of a bound.

| Tests | Number | Samples | Executed operators | Within the bound | No values | No bound | Alarms |
|:--|--:|--:|--:|--:|--:|--:|--:|
{rows}

## No bound

Question 2 does not check these operators, and question 4 names them. Most of them compute losses,
random numbers, factorizations or special functions, which networks for vision seldom use.

{unbounded}

## Not run

These samples cannot be recorded on a CPU (sparse tensors, CUDA only, lazy modules, another dtype):
{not_run}.
"""


def page(found: dict[str, Counts], most: int | None = None) -> str:
    """Return docs/operators.md for the counts of at most so many samples of each test."""
    rows, unbounded, not_run = [], [], []
    for name, c in found.items():
        counted = c.tests, c.samples, c.calls, c.passed, c.empty, c.without.total(), len(c.alarms)
        rows.append(" | ".join([f"| {name}", *(f"{n:,}" for n in counted)]) + " |")
        unbounded += [o.removeprefix("aten.").rpartition(".")[0] for o in c.unbounded]
        not_run += c.not_run
    names = ", ".join(f"`{name}`" for name in sorted(set(unbounded)))
    skipped = ", ".join(f"`{name}`" for name in sorted(set(not_run)))
    return HEAD.format(
        samples=f"at most {most} samples of each" if most else "all samples",
        version=torch.__version__.partition("+")[0],
        rows="\n".join(rows),
        unbounded=_wrapped(names),
        not_run=_wrapped(skipped),
    )


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 100, break_long_words=False, break_on_hyphens=False)


def main(most: int | None = None) -> None:
    """Check the samples, write the page, and fail on an alarm or a rule that fails.

    Args:
        most: samples of each test; default all.
    """
    torch.set_num_threads(1)
    found = {
        "operators (OpInfo)": count(operator_samples(), most),
        "modules": count(module_samples(), most),
    }
    evidence.write_text(PAGE, page(found, most))
    problems = [p for c in found.values() for p in (*c.alarms, *c.failed_rules)]
    print(*problems, f"{len(problems)} problems; wrote {PAGE.name}", sep="\n")
    sys.exit(bool(problems))


if __name__ == "__main__":
    cli.run(main)
