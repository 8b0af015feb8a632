"""What people wrote about a system: its title, its source, licences and a citation.

The key ``about`` of the configuration names the file. The package has one for each of its own
systems in ``data/about/``. Nothing in it is measured. Without a file, a card says only what the
results say.
"""

from dataclasses import dataclass, field, fields
from typing import Any

import yaml

from npu_parity import evidence
from npu_parity.errors import ParityError, first_line, shorten

NOT_STATED = "not stated"
OWN_LICENSE = "apache-2.0"  # of this project, and of everything that it draws from a seed


@dataclass(frozen=True)
class About:
    """The texts of a system.

    Attributes:
        title: name for people.
        source: address of the original model.
        introduction: text by language, ``en`` and ``zh``.
        licenses: licence of the weights by repository, as its publisher states it (SPDX).
        stated: figures that others state and nothing here measures: figure, value, by.
        tags: tags for hubs.
        citation: BibTeX.
    """

    title: str = ""
    source: str = ""
    introduction: dict[str, str] = field(default_factory=dict)
    licenses: dict[str, str] = field(default_factory=dict)
    stated: list[dict[str, str]] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    citation: str = ""

    def license_of(self, weights: dict[str, Any]) -> str:
        """Return the licence of the weights in ``weights.json``: SPDX, or "not stated"."""
        if weights["repo"] is None and not weights["pretrained"]:
            return OWN_LICENSE
        return self.licenses.get(weights["repo"] or "", NOT_STATED)


def of(settings: dict[str, Any]) -> About:
    """Return the texts that a system's settings name; empty texts if they name none; see `read`."""
    return read(settings["about"]) if "about" in settings else About()


def read(name: str) -> About:
    """Read a file about a system.

    Raises:
        ParityError: there is no such file, it is not YAML, or it has an unknown or a wrong key.
    """
    path = evidence.find(name)
    if path is None:
        raise ParityError(f"about {shorten(name, 150)}: {evidence.problem(name)}")
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ParityError(f"{name}: found no YAML ({first_line(error)})") from None
    known: dict[str, type] = {f.name: type(getattr(About(), f.name)) for f in fields(About)}
    if not isinstance(found, dict) or (unknown := found.keys() - known.keys()):
        what = f"the key {min(unknown)!r}" if isinstance(found, dict) else "no mapping"
        raise ParityError(f"{name}: found {what}, expected the keys {', '.join(known)}")
    for key, value in found.items():
        if not isinstance(value, known[key]):
            kind = {"str": "text", "dict": "a mapping", "list": "a list"}[known[key].__name__]
            raise ParityError(f"{name}: {key}: found {shorten(repr(value), 80)}, expected {kind}")
    return About(**found)
