"""Which gate catches which porting fault: rewrites ``results.json`` and ``docs/gate*.md``.

``python benchmarks/gate/run.py [--systems resnet34 …] [--cases PATTERN] [--docs]``
"""

import argparse
import contextlib
import fnmatch
import functools
import json
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import faults
import gates
import numpy as np
import torch
from faults import CASES, Case, NotApplicable, Port, System
from tabulate import tabulate

from npu_parity import config, evidence
from npu_parity.backends import outputs
from npu_parity.check import Report
from npu_parity.errors import first_line
from npu_parity.sources import architectures, weights
from npu_parity.sources.images import collect
from npu_parity.sources.preprocessing import Preprocessing
from npu_parity.verdict import kernels, metrics, questions
from npu_parity.verdict.answers import QUESTIONS

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
RESULTS, DOCS = HERE / "results.json", ROOT / "docs" / "gate.md"
TOTALS = DOCS.with_name("gate-totals.md")  # for the README
OWN = "npu-parity"
ALL = [OWN, *gates.GATES]
PHOTOGRAPHS = ["skimage:chelsea", "skimage:coffee", "skimage:rocket"]

SEEDED = {"weights": ["seed:42"]}
SYSTEMS: dict[str, dict[str, Any]] = {
    "efficientnet_lite0": {},  # real weights
    "resnet34": {},
    "svhn": SEEDED,
    "convnextv2_atto": SEEDED,
    "vit": {"architecture": "timm:test_vit", **SEEDED},
    "efficientnet": {"architecture": "timm:test_efficientnet", **SEEDED},
}

Record = dict[str, Any]


def load(name: str) -> System:
    """Return a system of ``config.yaml`` or timm with the weights of `SYSTEMS`."""
    about = config.load(ROOT / "config.yaml")["models"].get(name, {}) | SYSTEMS[name]
    wanted = weights.Wanted(
        about["architecture"],
        about.get("arguments") or {},
        about["weights"],
        tensors=about.get("tensors", "by_name"),
        calibrate=about.get("calibrate", True),
        preprocessing=about.get("preprocessing"),
    )
    state, found = weights.obtain(wanted)
    model = architectures.build(wanted.architecture, wanted.arguments)
    model.load_state_dict(state)
    preprocessing = Preprocessing(wanted.architecture, wanted.preprocessing)
    settings = dict(preprocessing.settings)
    if "crop_pct" in settings:  # timm's
        settings |= {"crop": settings["input_size"][1]}
        settings |= {"resize": int(settings["crop"] / settings["crop_pct"])}
    images = [i.data for i in collect(PHOTOGRAPHS, preprocessing.shape)]
    system = System(
        name,
        model,
        images,
        {k: settings[k] for k in ("resize", "crop", "interpolation", "mean", "std")},
        about.get("task", "classification"),
        about.get("heads"),
        found["pretrained"],
    )
    if not np.array_equal(system.inputs, np.stack([preprocessing(i) for i in images])):
        raise ValueError(f"{name}: inputs differ from the system's own inputs")
    return system


def judge(system: System, case: Case) -> list[Record]:
    """Return one record for each gate, or a single record if the case does not apply."""
    about = {"system": system.name, "fault": case.name, "kind": case.kind}
    try:
        port = case.make(system)
    except NotApplicable as reason:
        nothing = {"gate": None, "caught": None, "bitwise_equal": None}
        return [about | nothing | {"detail": f"not applicable: {reason}"}]
    original = system.original(case.promised)
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
    equal = report.outputs.tobytes() == clean(system, case.promised, port.batch).tobytes()
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


def _sizes(runs: questions.Runs, report: Report) -> str:
    predicted = metrics.compare(runs.reference, runs.predicted, "features")
    share = f", {report.explained:.0%} explained" if report.explained is not None else ""
    return (
        f"relative L2 error {report.metrics['relative_l2_error_max']:.2g}, "
        f"predicted {predicted['relative_l2_error_max']:.2g}{share}"
    )


_clean: dict[tuple, np.ndarray] = {}


def clean(system: System, promised, batch: int) -> np.ndarray:
    """Return the device's outputs for an unchanged port."""
    key = system.name, promised, batch
    if key not in _clean:
        net = faults.identity(system).model
        _clean[key] = system.original(promised).check(net, batch=batch).outputs
    return _clean[key]


def measure(name: str, cases: Iterable[Case]) -> Iterator[Record]:
    """Judge cases on a system."""
    # A bound depends only on operator and numerics, and takes longer than the operator.
    exact_and_bound = kernels.exact_and_bound
    kernels.exact_and_bound = functools.cache(exact_and_bound)
    try:
        system = load(name)
        for case in cases:
            records = judge(system, case)
            print(f"{name:20} {case.kind:6} {case.name:46} {_told(records[0])}", flush=True)
            yield from records
    finally:
        kernels.exact_and_bound = exact_and_bound


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


# --- The page


def document(records: list[Record]) -> str:
    """Return ``docs/gate.md``."""
    faults_, clean_ = ([c for c in CASES if c.kind == kind] for kind in ("fault", "clean"))
    names = [n for n in SYSTEMS if any(r["system"] == n for r in records)]
    counted = _counted(records)
    own = [r for r in counted if r["gate"] == OWN]
    pairs = {kind: sum(r["kind"] == kind for r in own) for kind in ("fault", "clean")}
    headings = [g.removeprefix("criterion ") for g in ALL]
    return PAGE.format(
        faults=len(faults_),
        variations=len(clean_),
        systems=_table([_about(n) for n in names], ["System", "Architecture", "Weights"]),
        pairs=pairs["fault"],
        clean_pairs=pairs["clean"],
        totals=totals(records),
        caught=_table(_rows(faults_, counted, True), ["Fault", "In", *headings, "Question"]),
        clean=_table(_rows(clean_, counted, False), ["Variation", *headings]),
        questions=_table(_questions(own), ["Asked", "Faults that it caught first"]),
        missed=_wrong(own, "fault", faults.LET_THROUGH),
        alarms=_wrong(own, "clean", faults.FALSE_ALARMS),
        unchanged=_listed(records, lambda r: r["gate"] == OWN and r["bitwise_equal"] is True),
        absent=_listed(records, lambda r: r["gate"] is None),
    )


def totals(records: list[Record]) -> str:
    """Return the table of all gates, with the faults caught and the false alarms."""
    rows = _totals(_counted(records))
    return _table(rows, ["Gate", "Rule", "Faults caught", "False alarms"])


def _counted(records: list[Record]) -> list[Record]:
    return [r for r in records if r["gate"] and (r["kind"] == "clean" or not r["bitwise_equal"])]


def _table(rows: list[list[str]], headers: list[str]) -> str:
    return tabulate(rows, headers, tablefmt="pipe", disable_numparse=True)


def _about(name: str) -> list[str]:
    about = config.load(ROOT / "config.yaml")["models"].get(name, {}) | SYSTEMS[name]
    source = about["weights"][0].partition("/")[0]
    return [name, f"`{about['architecture']}`", f"`{source}`"]


def _share(records: list[Record]) -> str:
    return f"{sum(r['caught'] for r in records)}/{len(records)}" if records else "—"


def _totals(counted: list[Record]) -> list[list[str]]:
    rules = {OWN: "the four questions"} | gates.RULES
    return [
        [
            f"**{gate}**" if gate == OWN else gate,
            rules[gate],
            *(
                _share([r for r in counted if r["gate"] == gate and r["kind"] == kind])
                for kind in ("fault", "clean")
            ),
        ]
        for gate in ALL
    ]


def _rows(cases: list[Case], counted: list[Record], question: bool) -> list[list[str]]:
    rows = []
    for case in cases:
        of_case = [r for r in counted if r["fault"] == case.name and r["kind"] == case.kind]
        shares = [_share([r for r in of_case if r["gate"] == gate]) for gate in ALL]
        asked = {r.get("question", "raised") for r in of_case if r["gate"] == OWN and r["caught"]}
        last = [case.where, *shares, ", ".join(map(str, sorted(asked, key=str)))]
        rows.append([case.name, *(last if question else shares)])
    return rows


def _questions(own: list[Record]) -> list[list[str]]:
    caught = [r.get("question", 0) for r in own if r["kind"] == "fault" and r["caught"]]
    names = {n: f"{n}. {QUESTIONS[n]}?" for n in (1, 2, 3)} | {0: "nothing: the port raised"}
    return [[name, str(caught.count(n))] for n, name in names.items()]


def _wrong(own: list[Record], kind: str, reasons: Mapping[str, str]) -> str:
    """List the faults that passed, or the variations that did not pass."""
    wrong = [r for r in own if r["kind"] == kind and r["caught"] != (kind == "fault")]
    told = [(r, reasons.get(r["fault"], "unexplained")) for r in wrong]
    lines = [f"- *{r['fault']}* on {r['system']}: {why} ({r['detail']})" for r, why in told]
    return "\n".join(lines) or "Nothing."


def _listed(records: list[Record], condition: Callable[[Record], bool]) -> str:
    found: dict[str, list[str]] = {}
    for r in records:
        if r["kind"] == "fault" and condition(r):
            found.setdefault(r["fault"], []).append(r["system"])
    return "\n".join(f"- *{fault}*: {', '.join(names)}" for fault, names in found.items())


PAGE = """# Which gate catches which porting fault

Made by `make gate` from [`results.json`](../benchmarks/gate/results.json). Do not edit it.

The benchmark injects {faults} faults and {variations} harmless variations, one at a time, into
ports of these systems:

{systems}

This CPU simulates an Ascend 910B: it rounds the operands of convolutions to HF32, as the device
promises. Some cases are ports to this CPU itself, which promises float32. A fault is in the
*program*, in its *weights* or *inputs*, in a *kernel* (an operator computes a wrong result, and the
program does not show it) or in a copy to the *host*. All gates get the same outputs. npu-parity
also gets the port. Its verdict was that of version 0.2.0, which passed a port if its relative L2
error was at most 4 times the predicted error.

A gate catches a fault if it does not pass. A fault does not count on a system if every bit of the
outputs stays the same. There remain {pairs} pairs of fault and system, and {clean_pairs} pairs of
variation and system. A gate raises a false alarm if it does not pass a variation.

## Totals

{totals}

## Faults

The number of systems on which the gate caught the fault / on which the fault changed the outputs.

{caught}

## Variations: false alarms

{clean}

## Which question of npu-parity caught the faults

{questions}

## Faults that npu-parity does not catch

{missed}

## False alarms of npu-parity

{alarms}

## Faults without effect

Faults that changed no bit of the outputs:

{unchanged}

Faults that do not apply to a system:

{absent}
"""


def main() -> None:
    """Measure, then write the results and the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--cases", default="*", help="pattern of names, e.g. '*float16*'")
    parser.add_argument("--docs", action="store_true", help="rewrite the page only")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", category=UserWarning)
    records = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    for name in [] if arguments.docs else arguments.systems:
        chosen = [c for c in CASES if fnmatch.fnmatch(c.name, arguments.cases)]
        records = merged(records, list(measure(name, chosen)))
        lines = ",\n".join(json.dumps(r, ensure_ascii=False) for r in records)
        evidence.write_text(RESULTS, f"[\n{lines}\n]\n")
    evidence.write_text(DOCS, document(records))
    evidence.write_text(TOTALS, totals(records) + "\n")


if __name__ == "__main__":
    main()
