"""Add a repository of a hub to the configuration, after a look at it."""

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from npu_parity import config, evidence
from npu_parity.errors import Absent, ParityError, Unavailable, shorten
from npu_parity.evidence import document
from npu_parity.sources import architectures, hubs, pretrained, repositories, weights
from npu_parity.sources.clients import CLIENTS
from npu_parity.sources.origins import Hub

BY_HAND = "add the system by hand, see docs/guide.md"
PHOTOGRAPHS = ["skimage:chelsea", "skimage:coffee", "skimage:rocket"]
IMAGENET = re.compile(r"in1k(_[0-9]+)?")  # the end of a tag of timm, such as ra_in1k


@dataclass(frozen=True)
class Repository:
    """What a repository of timm says about itself.

    Attributes:
        sources: the sources of its weights, one for each hub that has them.
        about: the content of its ``config.json``.
        licence: as the repository states it; None if it states none.
        preprocessing: what its ``config.json`` says about it.
        missing: why a hub does not count.
    """

    sources: list[str]
    about: dict[str, Any]
    licence: str | None
    preprocessing: dict[str, Any]
    missing: tuple[str, ...] = ()

    @property
    def architecture(self) -> str:
        """The name of the network in timm, without a tag."""
        return str(self.about["architecture"])

    @property
    def tag(self) -> str:
        """The tag of the weights in timm, such as ``ra_in1k``; empty without one."""
        return str(self.about["pretrained_cfg"].get("tag") or "")


def add(
    source: str, name: str | None = None, path: str | Path = "config.yaml"
) -> tuple[Repository, str]:
    """Append a system to a configuration. The rest of the file stays as it is.

    Args:
        source: ``OWNER/REPO`` for both hubs, or ``modelscope:OWNER/REPO[@REVISION][/FILE]``, ….
        name: the name of the system; default the name of its architecture.
        path: the configuration.

    Returns:
        The repository, and the lines that were added.

    Raises:
        ParityError: no hub has the repository, it is not one of timm, or the configuration has a
            system of this name.
    """
    path = Path(path).resolve()
    config.load(path)
    found = look(source)
    name = name or found.architecture
    before = document.read(path).data
    if name in before["models"]:
        raise ParityError(
            f"{path.name}: models has {name!r} already: give another --name, or edit the file"
        )
    system = settings(found)
    lines = written(name, system, found)

    def save(partial: Path) -> None:
        partial.write_text(_inserted(path, lines), encoding="utf-8")
        try:
            complete = document.read(partial).data
        except ParityError:
            complete = None
        if complete != {**before, "models": {**before["models"], name: system}}:
            raise ParityError(
                f"{path.name}: models is not written as a block, one system after the other; "
                f"{BY_HAND}"
            )
        config.load(partial)

    evidence.write(path, save)
    return found, lines


def look(source: str) -> Repository:
    """Return what a repository says about itself. The first hub that has it counts.

    Raises:
        ParityError: no hub has it, or it does not describe a network of timm.
    """
    named = source.partition(":")[0] in weights.KINDS
    found: list[Repository] = []
    missing: list[str] = []
    for text in [source] if named else [f"{hub}:{source}" for hub in CLIENTS]:
        try:
            found.append(_look(text))
        except (Unavailable, Absent) as error:
            missing.append(str(error))
    if not found:
        raise ParityError("; ".join(missing))
    sources = [text for repository in found for text in repository.sources]
    return replace(found[0], sources=sources, missing=tuple(missing))


def _look(source: str) -> Repository:
    parsed = weights.parse(source)
    if not isinstance(parsed, Hub):
        raise ParityError(
            f"{shorten(source, 100)}: expected OWNER/REPO, or a hub before it, such as "
            "huggingface:OWNER/REPO"
        )
    request = parsed.request()
    if reason := hubs.reachable(request.hub):
        raise Unavailable(f"{request}: {reason}")
    listing = hubs.files(request)
    repositories.choose(request, listing)  # are there weights?
    names = [entry.name for entry in listing]
    if "config.json" not in names:
        raise ParityError(f"{request}: has no config.json of a network of timm; {BY_HAND}")
    file = hubs.fetch(replace(request, file="config.json", sha256=None)).path
    preprocessing = pretrained.read(file)  # which refuses what is no JSON object
    about = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(about.get("architecture"), str):
        raise ParityError(f"{request}: its config.json names no architecture of timm; {BY_HAND}")
    if not isinstance(about.setdefault("pretrained_cfg", {}), dict):
        raise ParityError(f"{request}: its pretrained_cfg is no object; {BY_HAND}")
    architectures.require_timm(about["architecture"])
    licence = about["pretrained_cfg"].get("license")
    if "README.md" in names:
        card = hubs.fetch(replace(request, file="README.md", sha256=None)).path
        licence = _licence(card) or licence
    return Repository([source], about, licence, preprocessing[0] if preprocessing else {})


def _licence(card: Path) -> str | None:
    """Return the licence in the first lines of a README, where both hubs expect it."""
    text = card.read_text(encoding="utf-8", errors="replace")[:100_000]
    if head := re.match(r"---\n(.*?)\n---", text.replace("\r\n", "\n"), re.DOTALL):
        stated = re.search(r"^licen[cs]e:[ \t]*([\w.+-]+)", head[1], re.MULTILINE)
        return stated and stated[1]
    return None


def settings(found: Repository) -> dict[str, Any]:
    """Return the settings of the system of a repository, as the configuration has them."""
    import timm
    import torch

    tagged = f"{found.architecture}.{found.tag}"
    known = tagged in timm.list_pretrained(f"{found.architecture}.*")
    arguments = dict(found.about.get("model_args") or {})
    classes = found.about.get("num_classes")
    name = tagged if known else found.architecture  # the tag of timm knows shapes and classes
    with torch.device("meta"):
        built = architectures.build(f"timm:{name}", arguments)
    if isinstance(classes, int) and classes != getattr(built, "num_classes", classes):
        arguments["num_classes"] = classes
    system: dict[str, Any] = {"architecture": f"timm:{name}"}
    if arguments:
        system["arguments"] = arguments
    system |= {"weights": found.sources, "inputs": PHOTOGRAPHS}
    usual = pretrained.settings(f"timm:{name}", found.sources)
    if any((usual or ({}, ""))[0].get(key) != v for key, v in found.preprocessing.items()):
        system["preprocessing"] = found.preprocessing
    if classes == 0:
        system["task"] = "features"
    if classes == 1000 and IMAGENET.search(found.tag):
        system["labels"] = "data/imagenet_1k.txt"
    return system


def written(name: str, system: dict[str, Any], found: Repository) -> str:
    """Return a system as it is written below ``models:``."""
    classes = found.about.get("num_classes")
    about = f"licence: {shorten(str(found.licence or 'not stated'), 60)}"
    about += f"; {classes} classes" if classes else ""
    lines = [f"  # {about}", f"  {name}:"]
    lines += [f"    {key}: {_flow(value)}" for key, value in system.items()]
    return "\n".join(lines) + "\n"


def _flow(value: Any) -> str:
    """Return a value in one line of YAML, without quotes where none are needed."""
    if isinstance(value, list) and all(re.fullmatch(r"[\w./:@-]+", str(v)) for v in value):
        return f"[{', '.join(map(str, value))}]"
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, sort_keys=False)
    return text.removesuffix("...\n").strip()


def _inserted(path: Path, lines: str) -> str:
    """Return the text of a configuration with `lines` at the end of its models."""
    text = path.read_text(encoding="utf-8").splitlines(keepends=True)
    places = document.read(path).lines
    start = places[("models",)] or 1
    tops = [line for place, line in places.items() if len(place) == 1 and line and line > start]
    end = min(tops, default=len(text) + 1) - 1
    while not text[end - 1].partition("#")[0].strip():  # comments before the next key belong to it
        end -= 1
    head = "".join(text[:end])
    return f"{head.rstrip()}\n\n{lines}" + "".join(text[end:])
