"""Do the tests of the verdict notice a wrong verdict? ``make mutants`` changes its code and looks.

Cosmic Ray makes the mutants: it changes one operator, number, condition or decorator. All mutants
would take days, so each module gives a sample. A hash chooses it, so that a change of the module
exchanges few mutants. Every mutant runs the fast tests of its module, in a copy of the project.

``mutants.yaml`` names the tests of each module, and judges each mutant that survives. Results are
in ``mutants.json``. A mutant that a test killed does not run again while its module stays the same.
``python benchmarks/mutants.py npu_parity/verdict/metrics.py`` runs the mutants of one module.
"""

import ast
import difflib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis  # noqa: F401  (imported once, before the forks)
import pytest
import timm  # noqa: F401
import torch
import yaml
from tabulate import tabulate

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
PLAN, RESULTS, PAGE = HERE / "mutants.yaml", HERE / "mutants.json", ROOT / "docs" / "mutants.md"
LEAST, EVERY = 5, 20  # mutants of a module: one of so many places, at least so many
OPTIONS = ("-x", "-q", "-m", "not slow", "-p", "no:cacheprovider", "--hypothesis-seed=0")
FORKED = ("-W", "ignore:Module already imported")
BITS = {"BitAnd", "BitOr", "BitXor", "LShift", "RShift"}  # numbers with a fraction have none
SECONDS = 30  # more than three times as long as without a mutation is an endless loop
JUDGEMENTS = ("equivalent", "slack")
HEAD = """# Do the tests bite?

Made by `make mutants`. Do not edit it.

A mutant is the code of the verdict with one small mistake: another operator, another number, a
condition the other way round, a rule without its decorator.
[Cosmic Ray](https://cosmic-ray.readthedocs.io) makes the mutants, in a sample of {mutants} of
{places:,} places. A mutant is *killed* if a fast test of its module fails. *Timeout* means that the
tests do not end. Otherwise the mutant *survives*, and a person judges it:

- *equivalent*: no input shows the difference, or only a text, the speed or the memory changes;
- *slack*: a bound changes by less than the room that its derivation leaves.

A survivor without a judgement is an error, so a mistake that a test must notice gets a test. Such
tests were written for this sample. Among other places, more mutants may survive. Type hints
are not mutated. Measured with Python {python} and torch {torch}.
[mutants.json](../benchmarks/mutants.json) lists every mutant, and
[mutants.yaml](../benchmarks/mutants.yaml) has the judgements.
[test_sabotage.py](../tests/test_sabotage.py) makes large mistakes. Each must fail many tests.
"""


def sample(path: str, source: str) -> tuple[int, list[dict[str, Any]]]:
    """Return the number of places that can be mutated, and the mutants of the sample.

    A mutant has the ``line``, the code ``before`` and ``after``, and the whole ``source``.
    """
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator, operator_names

    hints = list(_hints(source))
    nodes = list(ast_nodes(get_ast(source)))
    places: dict[Any, list[tuple[str, Any, int]]] = {}
    for name in operator_names():
        kind = get_operator(name)
        pair = name.rpartition("/")[2].split("_")[1:]
        mixed = "BinaryOperator" in name and len({one in BITS for one in pair}) > 1
        if kind.arguments() or mixed:
            continue
        found = [place for node in nodes for place in kind().mutation_positions(node)]
        for occurrence, (start, end) in enumerate(found):
            if not any(first <= start < last for first, last in hints):
                places.setdefault((start, end), []).append((name, kind, occurrence))
    mutants = []
    for (start, _), choices in places.items():
        text = source.splitlines()[start[0] - 1]
        name, kind, occurrence = min(
            choices, key=lambda c: _order(path, text, start[1], c[0], c[2])
        )
        mutants.append((_order(path, text, start[1], name), start[0], kind, occurrence))
    chosen = sorted(mutants, key=lambda m: m[0])[: max(LEAST, len(mutants) // EVERY)]
    listed = []
    for _, line, kind, occurrence in sorted(chosen, key=lambda m: m[1]):
        mutated = mutate_code(source, kind(), occurrence)
        before, after = _difference(source, mutated)
        listed.append({"line": line, "before": before, "after": after, "source": mutated})
    return len(mutants), listed


def _order(*key: Any) -> str:
    return hashlib.sha256(repr(key).encode()).hexdigest()


def _hints(source: str) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Yield where type hints begin and end. A mistake there says nothing about the tests."""
    for node in ast.walk(ast.parse(source)):
        for name in ("annotation", "returns"):
            if hint := getattr(node, name, None):
                yield (hint.lineno, hint.col_offset), (hint.end_lineno, hint.end_col_offset)


def _difference(source: str, mutated: str) -> tuple[str, str]:
    lines = list(difflib.unified_diff(source.splitlines(), mutated.splitlines(), n=0))[3:]
    before, after = (
        [line[1:].strip() for line in lines if line[0] == sign and line[1:].strip()]
        for sign in "-+"
    )
    return "\n".join(before), "\n".join(after)


def outcome(folder: Path, tests: list[str], seconds: float) -> str:
    """Run tests in a folder: ``killed`` if one fails, ``timeout``, or else ``survived``.

    The process is a fork of this one, which has imported the libraries, but not npu_parity.
    """
    child = os.fork()
    if not child:
        os.setsid()
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        os.chdir(folder)
        os.environ["PYTHONPATH"] = str(folder)
        sys.path[:1] = [str(folder)]
        sys.dont_write_bytecode = True  # the time of a file is too coarse to tell mutants apart
        os._exit(int(pytest.main([*OPTIONS, *FORKED, *tests])))
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return "killed" if os.waitstatus_to_exitcode(status) else "survived"
        time.sleep(0.05)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "timeout"


def measure(
    path: str, tests: list[str], known: dict[str, Any], folder: Path, clean: dict[str, float]
) -> dict[str, Any]:
    """Return the result of a module. Mutants that are known to be killed do not run again.

    `clean` remembers the seconds of the tests without a mutation.

    Raises:
        SystemExit: the tests fail without a mutation.
    """
    file = folder / path
    source = file.read_text(encoding="utf-8")
    sha256 = hashlib.sha256(source.encode()).hexdigest()
    places, mutants = sample(path, source)
    dead = {
        (m["before"], m["after"]): m["outcome"]
        for m in known.get("mutants", ())
        if m["outcome"] != "survived" and known["sha256"] == sha256
    }
    tests, together = [path, *tests], " ".join(tests)
    for mutant in mutants:
        mutated = mutant.pop("source")
        mutant["outcome"] = dead.get((mutant["before"], mutant["after"]))
        if mutant["outcome"]:
            continue
        if together not in clean:
            began = time.monotonic()
            if outcome(folder, tests, 3600) != "survived":
                raise SystemExit(f"tests of {path} fail without a mutation: {together}")
            clean[together] = time.monotonic() - began
        file.write_text(mutated, encoding="utf-8")
        try:
            mutant["outcome"] = outcome(folder, tests, 3 * clean[together] + SECONDS)
        finally:
            file.write_text(source, encoding="utf-8")
    return {"sha256": sha256, "places": places, "mutants": mutants}


def survivors(results: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield module and mutant for each one that survived."""
    for path, found in results["modules"].items():
        yield from ((path, m) for m in found["mutants"] if m["outcome"] == "survived")


def judgements(plan: dict[str, Any]) -> dict[tuple[str, str, str], dict[str, str]]:
    """Return the judgements of survivors by module, code before and code after."""
    return {(j["module"], j["before"], j["after"]): j for j in plan["survivors"]}


def page(results: dict[str, Any], plan: dict[str, Any]) -> str:
    """Return docs/mutants.md.

    Raises:
        SystemExit: a survivor has no judgement, or a judgement has no survivor.
    """
    known = judgements(plan)
    found = {(path, m["before"], m["after"]): m for path, m in survivors(results)}
    missing = [f"{path}: - {before} + {after}" for path, before, after in found.keys() - known]
    missing += [f"{key[0]}: {key[2]} does not survive" for key in known.keys() - found]
    missing += [
        f"{key[0]}: found {j['judgement']}, expected one of {', '.join(JUDGEMENTS)}"
        for key, j in known.items()
        if j["judgement"] not in JUDGEMENTS
    ]
    if missing:
        raise SystemExit("\n".join([*sorted(missing), f"expected a judgement in {PLAN.name}"]))
    rows, total = [], Counter[str]()
    for path, module in results["modules"].items():
        counts = Counter({"places": module["places"], "mutants": len(module["mutants"])})
        for m in module["mutants"]:
            judged = known.get((path, m["before"], m["after"]))
            counts[judged["judgement"] if judged else m["outcome"]] += 1
        total += counts
        rows.append((f"`{path}`", counts))
    kinds = ("places", "mutants", "killed", "timeout", *JUDGEMENTS)
    table = tabulate(
        [(name, *(counts[kind] for kind in kinds)) for name, counts in [*rows, ("all", total)]],
        ("Module", *kinds),
        "github",
        intfmt=",",
    )
    listed = tabulate(
        [
            (f"`{path}`", _code(before), _code(after), j["judgement"], _cell(j["why"]))
            for (path, before, after), j in known.items()
        ],
        ("Module", "Code", "Mutant", "Judgement", "Why"),
        "github",
    )
    head = HEAD.format(**total, python=results["python"], torch=results["torch"])
    return f"{head}\n{table}\n\n## Survivors\n\n{listed}\n"


def _code(text: str) -> str:
    return "<br>".join(_cell(f"`` {line} ``") for line in text.splitlines())


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def main(only: list[str]) -> None:
    """Run the mutants of all modules, or only of some, and write the results and the page."""
    plan = yaml.safe_load(PLAN.read_text(encoding="utf-8"))
    known = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    results: dict[str, Any] = {
        "python": sys.version.split()[0],
        "torch": torch.__version__.partition("+")[0],
        "modules": known.get("modules", {}),
    }
    listing = ("git", "ls-files", "--cached", "--others", "--exclude-standard")
    files = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    clean: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in files.splitlines():
            if (ROOT / name).is_file():
                (Path(folder) / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, Path(folder) / name)
        for path in only or plan["tests"]:
            before = results["modules"].get(path, {})
            found = measure(path, plan["tests"][path], before, Path(folder), clean)
            results["modules"][path] = found
            print(path, Counter(m["outcome"] for m in found["mutants"]).most_common(), flush=True)
            results["modules"] = {p: m for p, m in sorted(results["modules"].items())}
            RESULTS.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", "utf-8")
    PAGE.write_text(page(results, plan), encoding="utf-8")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main(sys.argv[1:])
