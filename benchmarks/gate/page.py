"""The page ``docs/gate.md``, made from the records of `run`."""

from collections.abc import Callable, Mapping
from typing import Any

import cases  # noqa: F401 (registers them)
import catalogue
import gates
from catalogue import CASES, GROUPS, Case
from scipy.stats import binomtest
from systems import SYSTEMS, about
from tabulate import tabulate

from npu_parity.verdict.answers import QUESTIONS

OWN = "npu-parity"
ALL = [OWN, *gates.GATES]

Record = dict[str, Any]
Results = dict[str, Any]  # version of npu-parity, torch's version, and the records


def document(results: Results) -> str:
    """Return ``docs/gate.md``."""
    records = results["records"]
    names = [n for n in SYSTEMS if any(r["system"] == n for r in records)]
    counted = _counted(records)
    own = [r for r in counted if r["gate"] == OWN]
    headings = [g.removeprefix("criterion ") for g in ALL]
    return PAGE.format(
        version=results["version"],
        slow=", ".join(catalogue.SLOW),
        small=catalogue.SMALL // 10**6,
        faults=sum(c.kind == "fault" for c in CASES),
        variations=sum(c.kind == "clean" for c in CASES),
        systems=_table([_about(n) for n in names], ["System", "Architecture", "Weights"]),
        pairs=sum(r["kind"] == "fault" for r in own),
        clean_pairs=sum(r["kind"] == "clean" for r in own),
        totals=totals(results),
        kinds=_table(_kinds(own), ["Kind", "What changes", "Faults caught", "Variations passed"]),
        caught=_cases("fault", counted, ["Fault", *headings, "Question"]),
        clean=_cases("clean", counted, ["Variation", *headings]),
        questions=_table(_questions(own), ["Asked", "Faults that it caught first"]),
        missed=_wrong(own, "fault", catalogue.LET_THROUGH),
        alarms=_wrong(own, "clean", catalogue.FALSE_ALARMS),
        unchanged=_listed(
            records,
            lambda r: r["kind"] == "fault" and r["gate"] == OWN and r["bitwise_equal"] is True,
        ),
        absent=_listed(records, lambda r: r["gate"] is None),
    )


def totals(results: Results) -> str:
    """Return the table of all gates, with the faults caught and the false alarms."""
    counted = _counted(results["records"])
    rules = {OWN: "the four questions"} | gates.RULES
    rows = []
    for gate in ALL:
        own = [r for r in counted if r["gate"] == gate]
        shares = [_interval([r for r in own if r["kind"] == kind]) for kind in ("fault", "clean")]
        rows.append([f"**{gate}**" if gate == OWN else gate, rules[gate], *shares])
    return _table(rows, ["Gate", "Rule", "Faults caught", "False alarms"])


def _counted(records: list[Record]) -> list[Record]:
    return [r for r in records if r["gate"] and (r["kind"] == "clean" or not r["bitwise_equal"])]


def _table(rows: list[list[str]], headers: list[str]) -> str:
    return tabulate(rows, headers, tablefmt="pipe", disable_numparse=True)


def _about(name: str) -> list[str]:
    found = about(name)
    source = found["weights"][0].partition("/")[0]
    return [name, f"`{found['architecture']}`", f"`{source}`"]


def _share(records: list[Record], caught: bool = True) -> str:
    """Return how many records were caught, or passed, of how many."""
    return f"{sum(r['caught'] == caught for r in records)}/{len(records)}" if records else "—"


def _interval(records: list[Record]) -> str:
    """Return the share that was caught, with its Wilson interval of 95 % confidence."""
    if not records:
        return "—"
    test = binomtest(sum(r["caught"] for r in records), len(records))
    low, high = test.proportion_ci(0.95, "wilson")
    return f"{_share(records)} ({100 * low:.1f} to {100 * high:.1f} %)"


def _kinds(own: list[Record]) -> list[list[str]]:
    """Return a row for each kind of change: the faults caught, and the variations passed."""
    groups = {c.name: c.group for c in CASES}
    rows = []
    for group, text in GROUPS.items():
        of_group = [r for r in own if groups[r["fault"]] == group]
        by_kind = {k: [r for r in of_group if r["kind"] == k] for k in ("fault", "clean")}
        rows.append([group, text, _share(by_kind["fault"]), _share(by_kind["clean"], False)])
    return rows


def _cases(kind: str, counted: list[Record], headings: list[str]) -> str:
    """Return a table of the cases for each kind of change."""
    tables = []
    for group, text in GROUPS.items():
        rows = [_row(c, counted) for c in CASES if (c.kind, c.group) == (kind, group)]
        if rows:
            tables.append(f"### {group.capitalize()}: {text}\n\n{_table(rows, headings)}")
    return "\n\n".join(tables)


def _row(case: Case, counted: list[Record]) -> list[str]:
    of_case = [r for r in counted if r["fault"] == case.name]
    row = [case.name, *(_share([r for r in of_case if r["gate"] == gate]) for gate in ALL)]
    if case.kind == "fault":
        asked = {r.get("question", "raised") for r in of_case if r["gate"] == OWN and r["caught"]}
        row.append(", ".join(map(str, sorted(asked, key=str))))
    return row


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
    """List cases with their systems."""
    found: dict[str, list[str]] = {}
    for r in records:
        if condition(r):
            found.setdefault(r["fault"], []).append(r["system"])
    return (
        "\n".join(f"- *{fault}*: {', '.join(names)}" for fault, names in found.items()) or "None."
    )


PAGE = """# Which gate catches which porting fault

Made by `make gate` from [`results.json`](../benchmarks/gate/results.json). Do not edit it.

The benchmark injects {faults} faults and {variations} harmless variations, one at a time, into
ports of these systems:

{systems}

This CPU simulates an Ascend 910B: it rounds the operands of convolutions to HF32, as the device
promises. Some cases are ports to this CPU itself, or to a device that promises another rounding.
The program does not show faults of kernels (an operator computes a wrong result) and faults of the
host. Some cases change the reference, too: it has state or randomness, or its operands need few
bits. All gates get the same outputs. npu-parity also gets the port. The verdict is that of version
{version}. Cases of the kinds {slow} run on networks of at most {small} million parameters.

A gate catches a fault if it does not pass. A fault does not count on a system if every bit of the
outputs stays the same. There remain {pairs} pairs of fault and system, and {clean_pairs} pairs of
variation and system. A gate raises a false alarm if it does not pass a variation.

## Totals

The ranges are Wilson intervals with 95 % confidence. They hold for faults and variations like those
of this catalogue. Pairs of one fault with several systems are not independent.

{totals}

## By kind

The faults that npu-parity caught, and the variations that it passed, of all pairs with a system.

{kinds}

## Faults that npu-parity does not catch

{missed}

## False alarms of npu-parity

{alarms}

## Which question of npu-parity caught the faults

{questions}

## All faults

The number of systems on which the gate caught the fault / on which the fault changed the outputs.

{caught}

## All variations: false alarms

{clean}

## Faults without effect

Faults that changed no bit of the outputs:

{unchanged}

Cases that do not apply to a system:

{absent}
"""
