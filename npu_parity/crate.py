"""A run as RO-Crate, which archives such as Zenodo and WorkflowHub read: ``npu-parity crate``.

The crate has the workflow, the configuration, the user's own files and all results. Its
``ro-crate-metadata.json`` follows the profile Workflow Run Crate
(https://w3id.org/ro/wfrun/workflow/0.6): each file with its SHA-256, size and format, each run with
its verdict, the weights with their licence, the software with its versions.
"""

import hashlib
import importlib.metadata
import mimetypes
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression
from rocrate.model.contextentity import ContextEntity
from rocrate.rocrate import ROCrate

from npu_parity import bundle, config, evidence
from npu_parity.errors import ParityError
from npu_parity.evidence import document, manifest
from npu_parity.report import about
from npu_parity.report.publish import LEFT_OUT
from npu_parity.report.results import title

CITATION = "CITATION.cff"
CONTEXT = "https://w3id.org/ro/terms/workflow-run/context"
PROFILES = {
    "https://w3id.org/ro/wfrun/process/0.6": "Process Run Crate",
    "https://w3id.org/ro/wfrun/workflow/0.6": "Workflow Run Crate",
}
# Formats that are no media type: their address, and their name.
FORMATS = {
    ".npy": (
        "https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html",
        "NumPy array",
    ),
    ".safetensors": ("https://huggingface.co/docs/safetensors", "safetensors"),
}
MEDIA = {".md": "text/markdown", ".yaml": "application/yaml", ".smk": "text/plain"}
KINDS = {
    "measured": "Executed on this device.",
    "predicted": "The arithmetic of the device was emulated. Nothing was executed on the device.",
    "exact": "Computed in float64.",
}


def write(to: Path) -> int:
    """Write the crate of a run, and return how many files it has.

    Run it in the folder of config.yaml and ``results/``.

    Args:
        to: a new folder, or an archive if the name ends with .zip.

    Raises:
        ParityError: there are no results, a result was changed since it was made, or a file is
            missing. Then nothing has the name `to`.
    """
    bundle.require_new(to)
    settings = config.load(bundle.CONFIG)
    crate = ROCrate()
    crate.metadata.extra_contexts.append(CONTEXT)
    files = dict(_files(settings))
    if not any(name.startswith(f"{manifest.ROOM}/") for name in files):
        raise ParityError(f"{manifest.ROOM} has no results: run `make`")
    for name, source in files.items():
        _add(crate, name, source)
    _describe_root(crate, citation(), settings)
    _describe_weights(crate, settings)
    _describe_run(crate)
    for folder in _run_folders(files):
        _describe_folder(crate, Path(folder), files)
    with bundle.staged(to) as place:
        if to.suffix == ".zip":
            crate.write_zip(place / to.name)
        else:
            crate.write(place / to.name)
        (place / to.name).replace(to)
    return len(files)


def _files(settings: config.Config) -> Iterator[tuple[str, Path]]:
    """Yield the name of every file in the crate, and the file."""
    for part in (*bundle.WORKFLOW, CITATION):
        source = bundle.PROJECT / part
        found = [source] if source.is_file() else sorted(source.rglob("*"))
        for file in found:
            if file.is_file() and "__pycache__" not in file.parts:
                yield file.relative_to(bundle.PROJECT).as_posix(), file
    for file in (bundle.CONFIG, *bundle.own_files(settings, settings["models"])):
        yield file.as_posix(), file
    for folder in manifest.folders(Path(manifest.ROOM)):
        kept = [name for name in manifest.read(folder) if not name.endswith(LEFT_OUT)]
        for name in [*kept, *[manifest.NAME] * bool(kept)]:
            yield (folder / name).as_posix(), folder / name


def _add(crate: ROCrate, name: str, source: Path) -> None:
    """Add a file with its hash, size and format. A result must be the one in its manifest."""
    content = evidence.read_bytes(source)
    about_it = {
        "name": name,
        "sha256": hashlib.sha256(content).hexdigest(),
        "contentSize": str(len(content)),
        "encodingFormat": _format(crate, name),
    }
    if name == "Snakefile":
        version = importlib.metadata.version("snakemake")
        crate.add_workflow(
            source, name, properties=about_it, main=True, lang="snakemake", lang_version=version
        )
    else:
        crate.add_file(source, name, properties=about_it)


def _format(crate: ROCrate, name: str) -> Any:
    suffix = Path(name).suffix
    if suffix in FORMATS:
        address, kind = FORMATS[suffix]
        page = {"@type": "WebPage", "name": kind}
        return ["application/octet-stream", crate.add(ContextEntity(crate, address, page))]
    return MEDIA.get(suffix) or mimetypes.guess_type(name)[0] or "text/plain"


def citation() -> dict[str, Any]:
    """Return CITATION.cff of a project, or of this one if the project has none.

    Raises:
        ParityError: it is no YAML, or it has no title or no authors.
    """
    own = Path(CITATION)
    path = own if own.is_file() else bundle.PROJECT / CITATION
    found = document.read(path, as_written=True).data
    if not isinstance(found, dict) or not found.get("title") or not found.get("authors"):
        raise ParityError(
            f"{path}: expected a mapping with title and authors (citation-file-format)"
        )
    return found


def _describe_root(crate: ROCrate, cited: dict[str, Any], settings: config.Config) -> None:
    crate.name = f"{cited['title']}: results of a run"
    systems = ", ".join(settings["models"])
    crate.description = (
        f"Does each system compute the same thing on each device? Systems: {systems}."
    )
    authors = [crate.add(_author(crate, author)) for author in cited["authors"]]
    workflow = crate.mainEntity
    crate.creator = workflow["author"] = workflow["creator"] = authors
    crate.root_dataset["author"] = authors
    crate.license = workflow["license"] = _license(crate, cited.get("license", about.OWN_LICENSE))
    workflow["name"] = cited["title"]
    workflow["version"] = importlib.metadata.version("npu-parity")
    workflow["hasPart"] = [crate.get(e.id) for e in crate.data_entities if e.id.endswith(".smk")]
    for address, name in PROFILES.items():
        version = address.rpartition("/")[2]
        properties = {"@type": ["CreativeWork", "Profile"], "name": name, "version": version}
        profile = crate.add(ContextEntity(crate, address, properties))
        crate.root_dataset.append_to("conformsTo", profile)


def _author(crate: ROCrate, author: dict[str, str]) -> ContextEntity:
    """Return an author of CITATION.cff: a person with a family name, or an organisation."""
    names = (author.get(key, "") for key in ("given-names", "name-particle", "family-names"))
    person = " ".join(filter(None, names))
    kind, name = ("Person", person) if person else ("Organization", author.get("name", "unknown"))
    properties = {"@type": kind, "name": name}
    if "affiliation" in author:
        properties["affiliation"] = author["affiliation"]
    address = author.get("orcid") or author.get("website") or f"#{name.replace(' ', '-')}"
    return ContextEntity(crate, address, properties)


def _license(crate: ROCrate, name: str) -> Any:
    """Return a licence by its SPDX address, or its name if SPDX has none."""
    try:
        known = canonicalize_license_expression(name)
    except InvalidLicenseExpression:
        return name
    properties = {"@type": "CreativeWork", "name": known}
    return crate.add(ContextEntity(crate, f"https://spdx.org/licenses/{known}", properties))


def _describe_weights(crate: ROCrate, settings: config.Config) -> None:
    """Say of each file of weights whether they are trained, where they are from, their licence."""
    for system, configured in settings["models"].items():
        name = f"{manifest.ROOM}/{system}/weights.safetensors"
        if entity := crate.get(name):
            found = evidence.read_json(Path(name).with_suffix(".json"))
            license_ = about.of(configured).license_of(found)
            kind = "trained" if found["pretrained"] else "random"
            entity["description"] = f"{kind}, from {found['source']}; licence: {license_}"
            if license_ != about.NOT_STATED:
                entity["license"] = _license(crate, license_)


def _describe_run(crate: ROCrate) -> None:
    """Add the run of the workflow. No time is stated, because results do not have one."""
    crate.root_dataset["mentions"] = crate.add_action(
        crate.mainEntity,
        "#run",
        object=[crate.get(bundle.CONFIG.as_posix())],
        result=[e for e in crate.data_entities if e.id.startswith(f"{manifest.ROOM}/")],
        properties={"name": "snakemake all"},
    )


def _run_folders(files: Iterable[str]) -> list[str]:
    """Return the folders of runs, such as ``results/resnet34/npu/predicted``."""
    return [name.removesuffix("/run.json") for name in files if name.endswith("/run.json")]


def _describe_folder(crate: ROCrate, folder: Path, files: Mapping[str, Path]) -> None:
    """Add the folder of a run: what was executed, with which software, and the verdict."""
    found, metrics = evidence.read_json(folder / "run.json"), folder / "metrics.json"
    _, system, device, kind = folder.parts
    verdict = [evidence.read_json(metrics)["verdict_line"]] if metrics.as_posix() in files else []
    said = " ".join([KINDS[kind], *verdict])
    properties = {"name": f"{system}, {title(f'{device}/{kind}')}", "description": said}
    parts = [e for e in crate.data_entities if Path(e.id).parent == folder]
    crate.add_dataset(dest_path=folder, properties=properties)["hasPart"] = parts
    for package, version in found["versions"].items():
        software = {"@type": "SoftwareApplication", "name": package, "softwareVersion": version}
        if (address := f"#{package}-{version}") not in crate:
            added = crate.add(ContextEntity(crate, address, software))
            crate.mainEntity.append_to("softwareRequirements", added)
