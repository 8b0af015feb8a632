"""Classes by name, imported on first use."""

import importlib
from collections.abc import Iterator, Mapping
from typing import Any

from npu_parity.errors import ParityError


class Registry(Mapping[str, type[Any]]):
    """A mapping of names to classes. It imports a class on first use.

    `npu_parity.evidence.code` follows the entries, so a job runs again if one of its classes
    changes.

    Args:
        kind: the kind of names, for error messages.
        entries: ``npu_parity.module:Class`` by name.
    """

    def __init__(self, kind: str, entries: Mapping[str, str]):
        self.kind, self.entries = kind, dict(entries)

    def __getitem__(self, name: str) -> type[Any]:
        """Return the class; ParityError if the name is unknown."""
        self.require(name)
        module, _, attribute = self.entries[name].partition(":")
        found: type[Any] = getattr(importlib.import_module(module), attribute)
        return found

    def require(self, name: str) -> None:
        """Raise ParityError with the known names if `name` is not one of them."""
        if name not in self.entries:
            expected = ", ".join(self.entries)
            raise ParityError(f"found {self.kind} {name!r}, expected one of {expected}")

    def __iter__(self) -> Iterator[str]:
        """Yield the names in their order."""
        return iter(self.entries)

    def __len__(self) -> int:
        """Return the number of names."""
        return len(self.entries)

    def __contains__(self, name: object) -> bool:
        """Return whether a name is known, without an import."""
        return name in self.entries
