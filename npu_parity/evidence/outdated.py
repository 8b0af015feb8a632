"""Which results this code and this configuration would make in another way."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from npu_parity.evidence import manifest
from npu_parity.evidence.hashes import hashes

Expected = Callable[[str, dict[str, str]], tuple[str, Sequence[str]] | None]


def outdated(results: Path, expected: Expected, memory: Path) -> Iterator[tuple[Path, str]]:
    """Yield each result that the same program would now make in another way, and why.

    Args:
        results: the folder.
        expected: takes a program, and the system, device and run that the path of a result names.
            It returns the hash of the program's code and its options now. It returns None if the
            configuration does not ask for this result.
        memory: see `hashes`.
    """
    entries = manifest.all_entries(results)
    others = dict(manifest.made_from_others(results, entries))
    paths = [
        path
        for folder in manifest.folders(results)
        for path in sorted(p for p in folder.iterdir() if p.is_file() and manifest.holds(p))
    ]
    with hashes(paths, memory) as digest:  # other processors hash while this one reads the code
        for path in paths:
            entry = entries.get(path, {})
            asked = expected(entry.get("program", ""), _names(path.relative_to(results)))
            if not entry:
                yield path, "it is in no manifest"
            elif asked is None:
                continue
            elif entry["code"] != asked[0]:
                yield path, "other code made it"
            elif list(entry["options"]) != list(asked[1]):
                yield path, "other settings made it"
            elif path in others:
                yield path, "a result that it was made from has changed"
            elif digest(path) != entry["sha256"]:
                yield path, "it was changed since it was made"


def summary(outdated: Mapping[Path, str]) -> Iterator[str]:
    """Yield a line for each reason why results are outdated, with their number and an example.

    >>> list(summary({Path("results/a.md"): "other code made it"}))
    ['outdated: results/a.md (other code made it)']
    """
    reasons: dict[str, list[Path]] = {}
    for path, reason in outdated.items():
        reasons.setdefault(reason, []).append(path)
    for reason, (first, *others) in reasons.items():
        more = f" and {len(others)} more results" if others else ""
        yield f"outdated: {first}{more} ({reason})"


def _names(path: Path) -> dict[str, str]:
    """Return the system, device and run that the path of a result names."""
    *folders, name = path.parts
    of_files = {"tables": "system", "probes": "device"}  # folders whose files have these names
    if len(folders) == 1 and folders[0] in of_files:
        return {of_files[folders[0]]: name.partition(".")[0]}
    return dict(zip(("system", "device", "run"), folders, strict=False))
