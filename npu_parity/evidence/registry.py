"""Classes by name, imported on first use."""

import importlib
from collections.abc import Iterator, Mapping
from typing import Any

from npu_parity.errors import ParityError


class Registry(Mapping[str, type[Any]]):
    """A mapping of names to classes, where nothing is imported before it is asked for.

    `npu_parity.evidence.code` follows the entries, so that a job runs again when a class that it
    uses changes.

    Args:
        kind: what the names are, for error messages.
        entries: ``npu_parity.module:Class`` by name.
    """

    def __init__(self, kind: str, entries: Mapping[str, str]):
        self.kind, self.entries = kind, dict(entries)

    def __getitem__(self, name: str) -> type[Any]:
        """Return the class; ParityError where there is none of that name."""
        self.require(name)
        module, _, attribute = self.entries[name].partition(":")
        found: type[Any] = getattr(importlib.import_module(module), attribute)
        return found

    def require(self, name: str) -> None:
        """Raise ParityError, with the names that are known, unless `name` is one of them."""
        if name not in self.entries:
            expected = ", ".join(self.entries)
            raise ParityError(f"found {self.kind} {name!r}, expected one of {expected}")

    def __iter__(self) -> Iterator[str]:
        """Yield the names in their order."""
        return iter(self.entries)

    def __len__(self) -> int:
        """Return how many names there are."""
        return len(self.entries)

    def __contains__(self, name: object) -> bool:
        """Tell whether a name is known, without an import."""
        return name in self.entries
