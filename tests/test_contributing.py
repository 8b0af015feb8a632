"""What CONTRIBUTING.md and the documentation promise: files that exist, and few for a change."""

import re
from pathlib import Path

import pytest
from project import ROOT

from npu_parity import Device, config
from npu_parity.backends.cpu import Cpu
from npu_parity.backends.device import BACKENDS
from npu_parity.evidence.document import Document
from npu_parity.sources import images, weights

PAGES = [
    ROOT / "README.md",
    ROOT / "README.zh.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
TABLE = re.findall(
    r"^\| ([^|]+) \| ([^|]*`[^|]+) \|[^|]*\|$", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE
)


def test_a_change_touches_at_most_two_files():
    assert len(TABLE) >= 10
    for change, edited in TABLE:
        paths = re.findall(r"`([^`]+)`", edited)
        assert 1 <= len(paths) <= 2, change
        assert all((ROOT / path).exists() for path in paths), change


def test_every_room_is_described():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    rooms = {path.parent for path in (ROOT / "npu_parity").glob("*/__init__.py")}
    assert 1 < len(rooms) <= 8
    assert all(f"| `npu_parity/{room.name}/` |" in text for room in rooms)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page):
    """Not to folders: pages of hubs show files only."""
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if not link.startswith("http"):
            assert (page.parent / link).is_file(), link


# The rows that say "one file", tried


def settings(**system):
    system = {
        "architecture": "timm:resnet10t",
        "weights": ["seed:1"],
        "inputs": ["random:1"],
    } | system
    return {
        "reference": "cpu",
        "devices": {"cpu": {"backend": "cpu"}, "toy": {"backend": "toy"}},
        "models": {"net": system},
    }


class Toy(Cpu):
    """A backend of a user."""

    name = "toy"


class Colours(images.Random):
    """A source of inputs of a user."""


class Vault(weights.Local):
    """A source of weights of a user."""


def test_a_registered_class_is_all_that_a_backend_or_source_needs(monkeypatch):
    monkeypatch.setitem(BACKENDS.entries, "toy", f"{__name__}:Toy")
    monkeypatch.setitem(images.KINDS, "colours", Colours)
    monkeypatch.setitem(weights.KINDS, "vault", Vault)
    wanted = settings(inputs=["colours:2"], weights=["vault:a.pth", "seed:1"])
    config.complete(wanted, Document(Path("config.yaml"), wanted, {}))
    assert Device("toy").missing() is None
    assert config.weight_files(wanted["models"]["net"]) == ["a.pth"]
    assert [i.name for i in images.collect(["colours:2"], (3, 4, 4))] == ["colours_0", "colours_1"]
