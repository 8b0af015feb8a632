"""Which gate catches which porting fault: rewrites ``results.json`` and ``docs/gate*.md``.

``python benchmarks/gate/run.py [--systems svhn …] [--cases PATTERN] [--docs]``
"""

import argparse
import contextlib
import copy
import fnmatch
import functools
import importlib.metadata
import json
import multiprocessing
import os
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed

import gates
import numpy as np
import torch
from catalogue import CASES, Case, Port, System
from page import ALL, OWN, Record, Results, document, totals
from rewritings import NotApplicable
from systems import ROOT, SYSTEMS, load

from npu_parity import evidence
from npu_parity.backends import outputs
from npu_parity.check import Original
from npu_parity.errors import first_line
from npu_parity.numerics.formats import Numerics
from npu_parity.verdict import kernels, metrics
from npu_parity.verdict.checked import Report
from npu_parity.verdict.runs import Runs

RESULTS = ROOT / "benchmarks" / "gate" / "results.json"
DOCS = ROOT / "docs" / "gate.md"
TOTALS = DOCS.with_name("gate-totals.md")  # for the README


def judge(system: System, case: Case) -> list[Record]:
    """Return one record for each gate, or a single record if the case does not apply."""
    about = {"system": system.name, "fault": case.name, "kind": case.kind}
    try:
        port = case.port(system)
    except NotApplicable as reason:
        nothing = {"gate": None, "caught": None, "bitwise_equal": None}
        return [about | nothing | {"detail": f"not applicable: {reason}"}]
    original = system.original(case.promised, port.reference)
    torch.manual_seed(0)
    try:
        report = original.check(port.model, port.inputs, port.batch, port.kernels)
    except Exception as error:  # a faulty port may raise anything
        if not _crashes(system, port):
            raise
        raised = f"raised {type(error).__name__}: {first_line(error)}"
        about |= {"caught": True, "bitwise_equal": False, "detail": raised}
        return [about | {"gate": gate} for gate in ALL]
    found = gates.Outputs(
        original.runs.reference, original.runs.exact, report.outputs, system.task, system.heads
    )
    equal = report.outputs.tobytes() == clean(system, case.promised, port, original).tobytes()
    about |= {"bitwise_equal": equal}
    failed = report.verdict.failed
    own = about | {"gate": OWN, "caught": not report.passed}
    if failed:
        own |= {"question": failed.question, "detail": failed.findings[0]}
    else:
        own |= {"detail": _sizes(original.runs, report)}
    return [
        own,
        *(about | {"gate": g, "caught": not gates.passes(g, found)} for g in gates.GATES),
    ]


def _crashes(system: System, port: Port) -> bool:
    """Return whether the port itself cannot run."""
    inputs = system.inputs if port.inputs is None else port.inputs
    try:
        with (port.kernels or contextlib.nullcontext)():
            outputs.forward(port.model, inputs, torch.device("cpu"), port.batch)
    except Exception:
        return True
    return False


def _sizes(runs: Runs, report: Report) -> str:
    predicted = metrics.compare(runs.reference, runs.predicted, "features")
    share = f", {report.explained:.0%} explained" if report.explained is not None else ""
    return (
        f"relative L2 error {report.metrics['relative_l2_error_max']:.2g}, "
        f"predicted {predicted['relative_l2_error_max']:.2g}{share}"
    )


_clean: dict[tuple, np.ndarray] = {}


def clean(system: System, promised: Numerics, port: Port, original: Original) -> np.ndarray:
    """Return the device's outputs for an unchanged port, with the batches of `port`."""
    key = system.name, promised, port.batch
    if port.reference is None and key in _clean:
        return _clean[key]
    found = original.check(copy.deepcopy(original.reference), batch=port.batch).outputs
    if port.reference is None:
        _clean[key] = found
    return found


def measure(name: str, pattern: str = "*") -> list[Record]:
    """Judge on a system all cases whose name matches a pattern."""
    warnings.filterwarnings("ignore", category=UserWarning)
    torch.set_num_threads(1)
    system = load(name)
    # A bound depends only on operator and numerics, and takes longer than the operator. The bounds
    # of a whole network in one kind of numerics fit into memory, so these cases follow each other.
    tried = kernels.tried
    size = len(system.original().calls)
    kernels.tried = functools.lru_cache(size)(tried)
    chosen = [case for case in CASES if fnmatch.fnmatch(case.name, pattern)]
    promises = list(dict.fromkeys(case.promised for case in chosen))
    try:
        found: list[Record] = []
        for case in sorted(chosen, key=lambda case: promises.index(case.promised)):
            records = judge(system, case)
            print(f"{name:20} {case.kind:6} {case.name:46} {_told(records[0])}", flush=True)
            found += records
        return found
    finally:
        kernels.tried = tried


def measured(names: list[str], pattern: str = "*") -> Iterator[list[Record]]:
    """Yield the records of each system, with a process for each core, see `measure`."""
    context = multiprocessing.get_context("spawn")  # threads do not survive a fork
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), mp_context=context) as processes:
        running = [processes.submit(measure, name, pattern) for name in names]
        for done in as_completed(running):
            yield done.result()


def stored(results: Results) -> str:
    """Return the text of ``results.json``, with one record in each line."""
    facts = {k: v for k, v in results.items() if k != "records"}
    lines = ",\n".join(json.dumps(r, ensure_ascii=False) for r in results["records"])
    return f'{json.dumps(facts)[:-1]}, "records": [\n{lines}\n]}}\n'


def _told(own: Record) -> str:
    word = {None: "", True: "caught", False: "passed"}[own["caught"]]
    equal = "=" if own["bitwise_equal"] else " "
    return f"{equal} {word} {own.get('question', '')} {own.get('detail', '')}"


def merged(old: list[Record], new: list[Record]) -> list[Record]:
    """Replace old records by new ones, in the order of systems, cases and gates."""
    judged = {(r["system"], r["fault"]) for r in new}
    kept = [r for r in old if (r["system"], r["fault"]) not in judged]
    order = {
        key: i for i, key in enumerate((name, case.name) for name in SYSTEMS for case in CASES)
    }
    known = [r for r in kept + new if (r["system"], r["fault"]) in order]
    return sorted(known, key=lambda r: order[r["system"], r["fault"]])


def main() -> None:
    """Measure, then write the results and the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--cases", default="*", help="pattern of names, e.g. '*float16*'")
    parser.add_argument("--docs", action="store_true", help="rewrite the page only")
    arguments = parser.parse_args()
    results: Results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"records": []}
    for found in () if arguments.docs else measured(arguments.systems, arguments.cases):
        results = {
            "version": importlib.metadata.version("npu-parity"),
            "torch": torch.__version__,
            "records": merged(results["records"], found),
        }
        evidence.write_text(RESULTS, stored(results))
    evidence.write_text(DOCS, document(results))
    evidence.write_text(TOTALS, totals(results) + "\n")


if __name__ == "__main__":
    main()
