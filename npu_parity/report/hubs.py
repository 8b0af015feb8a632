"""The front matter of a card, as each hub wants it.

GitCode (AtomGit) reads a scalar ``hardware`` and a line of ``#+`` tags. Modelers reads lists of
frameworks and hardware. ModelScope has its own licence names. Hugging Face's client writes its own.
"""

from collections.abc import Callable
from typing import Any

import yaml

from npu_parity.errors import ParityError
from npu_parity.report.about import NOT_STATED, About
from npu_parity.report.results import System

TASKS = {
    "classification": "image-classification",
    "features": "image-feature-extraction",
    "digits": "image-classification",
    "segmentation": "image-segmentation",
}
# Licences in the words of ModelScope. Any other one is "other" there.
MODELSCOPE_LICENSES = {
    "apache-2.0": "Apache License 2.0",
    "mit": "MIT",
    "gpl-2.0": "GPL-2.0",
    "gpl-3.0": "GPL-3.0",
    "lgpl-2.1": "LGPL-2.1",
    "lgpl-3.0": "LGPL-3.0",
    "afl-3.0": "AFL-3.0",
    "ecl-2.0": "ECL-2.0",
}
METRICS = ["cosine similarity", "max abs error", "mean abs error", "top-1 match"]
TAGS = ["NPU", "Ascend", "ascend-npu", "npu-parity", "PyTorch"]


def front(hub: str, system: System, about: About, language: str) -> str:
    """Return what stands above the body of a card on a hub.

    Raises:
        ParityError: the hub is unknown.
    """
    if hub not in HUBS:
        raise ParityError(f"hub {hub!r} is unknown: expected one of {', '.join(HUBS)}")
    return HUBS[hub](system, about, language)


def tags(system: System, about: About) -> list[str]:
    """Return the tags of a card. One says whether an NPU was measured."""
    kind = "measured" if on_npu(system, "/measured") else "predicted"
    task = TASKS[system.task]
    return [*TAGS, task, f"parity-{kind}", *(tag for tag in about.tags if tag != task)]


def on_npu(system: System, ending: str) -> list[str]:
    """Return the runs of an NPU with this ending: ``/predicted``, ``/measured`` or none."""
    return [r for r in system.runs if r.endswith(ending) and system.run[r]["backend"] == "npu"]


def _gitcode(system: System, about: About, language: str) -> str:
    found = tags(system, about)
    matter = {
        "license": _license(system, about, "other"),
        "language": [language],
        "pipeline_tag": TASKS[system.task],
        "hardware": "NPU",
        "tags": found,
    }
    return f"{_yaml(matter)}\n{' '.join(f'#+{tag}' for tag in found)}\n"


def _modelers(system: System, about: About, language: str) -> str:
    matter = {
        "license": _license(system, about, "other"),
        "language": [language],
        "pipeline_tag": TASKS[system.task],
        "frameworks": ["PyTorch"],
        "library_name": _library(system),
        "hardwares": ["NPU"],
        "tags": tags(system, about),
    }
    return _yaml(matter)


def _modelscope(system: System, about: About, language: str) -> str:
    matter: dict[str, Any] = {
        "license": MODELSCOPE_LICENSES.get(about.license_of(system.weights), "other"),
        "language": [language],
        "tasks": [TASKS[system.task]],
        "frameworks": ["pytorch"],
        "metrics": METRICS,
        "tags": tags(system, about),
    }
    if base := _base_model(system):
        matter["base_model"] = [base]
    return _yaml(matter)


def _huggingface(system: System, about: About, language: str) -> str:
    from huggingface_hub import ModelCardData

    data = ModelCardData(
        base_model=_base_model(system),
        language=language,
        library_name=_library(system),
        license=_license(system, about, "unknown"),
        pipeline_tag=TASKS[system.task],
        tags=tags(system, about),
    )
    return f"---\n{data.to_yaml()}\n---\n"


HUBS: dict[str, Callable[[System, About, str], str]] = {
    "gitcode": _gitcode,
    "modelers": _modelers,
    "modelscope": _modelscope,
    "huggingface": _huggingface,
}


def _license(system: System, about: About, not_stated: str) -> str:
    found = about.license_of(system.weights)
    return not_stated if found == NOT_STATED else found


def _base_model(system: System) -> str | None:
    """Return the repository on a hub that the weights come from; None if from elsewhere."""
    source: str = system.weights["source"]
    repo: str | None = system.weights["repo"]
    return repo if source.startswith(("modelscope:", "huggingface:")) else None


def _library(system: System) -> str:
    return "timm" if system.weights["architecture"].startswith("timm:") else "pytorch"


def _yaml(matter: dict[str, Any]) -> str:
    return f"---\n{yaml.safe_dump(matter, sort_keys=False, allow_unicode=True)}---\n"
