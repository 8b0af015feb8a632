"""Compare results with their manifests, and every verdict with the arrays that it follows from."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from npu_parity import evidence
from npu_parity.errors import ParityError
from npu_parity.evidence import manifest
from npu_parity.evidence.tolerance import differences
from npu_parity.verdict.judge import judge, read_case

# Git does not keep these: the workflow makes them again, byte for byte.
MADE_AGAIN = ("weights.safetensors", "inputs.npy", "network.onnx")


def damaged(results: Path) -> Iterator[str]:
    """Yield a line for each file that is not as it was made, and what to do about it.

    Each file must be in the manifest of its folder, with its hash.

    Raises:
        ParityError: there are no results.
    """
    folders = manifest.folders(results)
    if not any((folder / manifest.NAME).is_file() for folder in folders):
        raise ParityError(f"{results}: there are no results with a {manifest.NAME} here")
    for folder in folders:
        try:
            entries = manifest.read(folder)
        except ParityError as error:
            yield str(error)
            continue
        found = {path.name for path in folder.iterdir() if not path.is_dir()} - {manifest.NAME}
        if found and not entries:
            again = f"{manifest.MEND_ALL}; remove what it does not make"
            yield f"{folder / manifest.NAME} is missing: {again}"
            continue
        for name, entry in entries.items():
            yield from _file(folder / name, entry["sha256"])
        for name in sorted(found - entries.keys()):
            path = folder / name
            yield f"{path} is in no manifest: no program of this project made it; remove it"


def outdated(results: Path) -> Iterator[str]:
    """Yield a line for each result that was made from other files than there are now."""
    for path, other in manifest.made_from_others(results, manifest.all_entries(results)):
        yield f"{path} was made from another {other}: {manifest.mend(path)}"


def _file(path: Path, digest: str) -> Iterator[str]:
    if not path.is_file():
        if path.name not in MADE_AGAIN:
            yield f"{path} is missing: {manifest.mend(path)}"
    elif evidence.sha256(path) != digest:
        yield f"{path} was changed since it was made: {manifest.mend(path)}"


def judged(results: Path) -> Iterator[tuple[Path, dict[str, Any], list[str]]]:
    """Yield each run's folder, its metrics.json, and where it differs from the arrays.

    The verdict and every figure are computed again from the arrays of outputs and from what the
    operators showed.
    """
    for path in sorted(results.glob("*/*/*/metrics.json")):
        found = evidence.read_json(path)
        case = read_case(
            path.parents[2],
            found["reference"],
            path.parents[1].name,
            found["task"],
            found["head_widths"],
            found["run"],
            "hosted" in found["sha256"],
        )
        again = judge(case).to_dict()
        yield path.parent, found, list(differences({k: found.get(k) for k in again}, again))


def verify(results: Path) -> tuple[list[str], list[str]]:
    """Return a line for each run with its verdict, and a line for each thing that is wrong.

    A result that was made from other files than there are now has a line too. It is not wrong: the
    next run makes it again.
    """
    wrong = list(damaged(results))
    if wrong:  # figures of damaged files say nothing
        return [], wrong
    lines = []
    for folder, found, differ in judged(results):
        line = f"{folder}: {found['verdict_line']}"
        lines.append(line)
        if differ:
            wrong.append(f"{folder}/metrics.json differs from the arrays, first at {differ[0]}")
        elif found["verdict"] == "FAIL":
            wrong.append(line)
    return lines + list(outdated(results)), wrong
