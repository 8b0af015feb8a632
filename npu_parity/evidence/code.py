"""A hash of the code of a job. The job runs again if its code changes.

`digest` follows absolute and relative imports, also inside functions, the ``__init__`` of every
package on the way, the classes in a `Registry`, and the data files and templates that a module
names. Other distributions count by their version. The modification times of files do not count.
"""

import ast
import hashlib
import importlib.metadata
import os
import re
import sys
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from npu_parity.evidence.files import PACKAGE

# A class in a registry, such as npu_parity.backends.npu:Npu.
ENTRY = re.compile(rf"({PACKAGE.name}(?:\.\w+)+):\w+")
FILE_NAME = re.compile(r"[\w-][\w./-]{0,99}")


def digest(script: str | Path, entries: Collection[str] | None = None) -> str:
    """Return a hash of all code that `script` uses, as 16 hexadecimal digits.

    Args:
        script: a Python file.
        entries: the registered classes that the job uses, such as
            ``npu_parity.backends.cpu:Cpu``. Other classes do not count. None counts all classes.
    """
    hashed = hashlib.sha256()
    files, packages = closure(Path(script), entries)
    for content in sorted(file.read_bytes() for file in files):  # paths do not count
        hashed.update(hashlib.sha256(content).digest())
    for release in sorted(set().union(*map(_releases, packages))):
        hashed.update(f"{release}\n".encode())
    return hashed.hexdigest()[:16]


def closure(script: Path, entries: Collection[str] | None = None) -> tuple[set[Path], set[str]]:
    """Return the files of this project that `script` uses, and the names of other packages."""
    files: set[Path] = set()
    packages: set[str] = set()
    waiting = [script.resolve()]
    while waiting:
        file = waiting.pop()
        if file in files:
            continue
        files.add(file)
        if file.suffix == ".py":
            found = _read(file, file.stat().st_mtime_ns)
            packages |= found.packages
            waiting += found.files
            waiting += [
                part
                for entry, parts in found.entries.items()
                if entries is None or entry in entries
                for part in parts
            ]
    return files, packages


@cache
def _releases(package: str) -> frozenset[str]:
    """Return the name and version of every distribution that has a package."""
    found = _distributions().get(package, ())
    return frozenset(f"{one.metadata['Name']} {one.version}" for one in found)


@cache
def _distributions() -> Mapping[str, list[importlib.metadata.Distribution]]:
    """Return the distributions by package, as `importlib.metadata.packages_distributions` does.

    That function takes half a second, because it parses the metadata of every distribution.
    """
    found = defaultdict(list)
    for distribution in importlib.metadata.distributions():
        for package in _packages(distribution):
            found[package].append(distribution)
    return found


def _packages(distribution: importlib.metadata.Distribution) -> set[str]:
    if stated := distribution.read_text("top_level.txt"):
        return set(stated.split())
    files = re.findall(r"^[^,]+\.py(?=,)", distribution.read_text("RECORD") or "", re.MULTILINE)
    return {file.partition("/")[0].removesuffix(".py") for file in files}


@dataclass(frozen=True)
class _Found:
    """The names in one Python file: files of this project, registered classes, packages."""

    files: set[Path]
    entries: dict[str, list[Path]]
    packages: set[str]


@cache
def _read(file: Path, _changed: int) -> _Found:
    found = _Found(set(), {}, set())
    content = file.read_bytes()
    beside = {*os.listdir(PACKAGE), *os.listdir(file.parent)}
    for node in _executed(ast.parse(content), b"TYPE_CHECKING" in content):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if entry := ENTRY.fullmatch(node.value):
                found.entries[node.value] = _module(entry[1])
            elif FILE_NAME.fullmatch(node.value) and node.value.partition("/")[0] in beside:
                found.files.update(_data(node.value, file))
        for name in _imported(node, file):
            top = name.partition(".")[0]
            if top == PACKAGE.name:
                found.files.update(_module(name))
            elif top not in sys.stdlib_module_names:
                found.packages.add(top)
    return found


def _executed(tree: ast.AST, checked: bool) -> Iterator[ast.AST]:
    """Yield every node except those for type checkers only, if there are any (`checked`)."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        if checked and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            waiting += node.orelse
        else:
            waiting += ast.iter_child_nodes(node)


def _imported(node: ast.AST, file: Path) -> list[str]:
    """Return the dotted names of an import statement, including attributes of a module."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    module = node.module or ""
    if node.level and file.is_relative_to(PACKAGE):
        parent = file.parents[node.level - 1].relative_to(PACKAGE.parent)
        module = ".".join([*parent.parts, *filter(None, [module])])
    return [module, *(f"{module}.{alias.name}" for alias in node.names)]


def _module(name: str) -> list[Path]:
    """Return the file of a module of this package, and the ``__init__`` of its parent packages."""
    parts = name.split(".")
    above = [PACKAGE.parent.joinpath(*parts[: i + 1], "__init__.py") for i in range(len(parts))]
    files = [*above, PACKAGE.parent.joinpath(*parts).with_suffix(".py")]
    return [file for file in files if file.is_file()]


def _data(name: str, module: Path) -> list[Path]:
    """Return the data file of a name, or all files of a folder of data.

    The name is relative to the package (``data/published.yaml``) or to the module's own folder
    (``templates``).
    """
    for path in (PACKAGE / name, module.parent / name):
        if path.is_file() and path.suffix != ".py":
            return [path]
    folder = module.parent / name
    if folder.is_dir() and PACKAGE in folder.parents and not (folder / "__init__.py").exists():
        return [file for file in folder.rglob("*") if file.is_file() and file.suffix != ".pyc"]
    return []
