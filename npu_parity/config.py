"""Read the configuration, check it against its schema, and explain a mistake in one line."""

import copy
import math
import re
from collections.abc import Callable, Collection, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from npu_parity import evidence
from npu_parity.backends.device import BACKENDS, Device
from npu_parity.errors import ParityError
from npu_parity.evidence.document import Document, Place, read
from npu_parity.evidence.files import PACKAGE
from npu_parity.evidence.schema import explain, mistake, shortened
from npu_parity.sources import images, labels, pretrained, weights
from npu_parity.sources.architectures import own_file
from npu_parity.verdict import published

Config = dict[str, Any]

NETWORKS = ("architecture", "ported")  # keys that may name the user's own file

# The ``format`` of a string in the schema, which only code can check.
FORMATS: dict[str, Callable[[str], Any]] = {
    "backend": BACKENDS.require,
    "weights source": weights.parse,
    "input source": images.parse,
}


def load(path: str | Path = "config.yaml") -> Config:
    """Return a configuration file with the schema's defaults.

    Raises:
        ParityError: the file is missing, not YAML, or violates the schema or `check`.
    """
    document = read(path)
    complete(document.data, document)
    config: Config = document.data
    return config


def complete(config: Any, document: Document) -> None:
    """Check a configuration and set the defaults of missing keys in place.

    Args:
        config: what the file says, perhaps with keys from the command line.
        document: the file, for the lines in messages.

    Raises:
        ParityError: the configuration violates the schema or `check`.
    """
    for place, problem in unfit(config):
        raise mistake(document, place, problem)
    error = jsonschema.exceptions.best_match(_validator().iter_errors(config))
    if error:
        raise explain(error, document)
    fill(config, schema())
    check(config, document)


@cache
def schema() -> dict[str, Any]:
    """Return the schema of the configuration (``config.schema.yaml``)."""
    text = (PACKAGE / "config.schema.yaml").read_text(encoding="utf-8")
    found: dict[str, Any] = yaml.safe_load(text)
    return found


@cache
def _validator() -> jsonschema.Draft202012Validator:
    draft = jsonschema.Draft202012Validator
    whole = draft.TYPE_CHECKER.redefine("integer", lambda _, value: type(value) is int)  # not 1.0
    validator = jsonschema.validators.extend(draft, type_checker=whole)  # type: ignore[no-untyped-call]
    checker = jsonschema.FormatChecker(formats=())
    for name, parse in FORMATS.items():
        checker.checks(name, raises=ParityError)(_accepts(parse))
    found: jsonschema.Draft202012Validator = validator(schema(), format_checker=checker)
    return found


def _accepts(parse: Callable[[str], Any]) -> Callable[[object], bool]:
    def accepts(value: object) -> bool:
        if isinstance(value, str):
            parse(value)
        return True

    return accepts


def unfit(value: Any, place: Place = ()) -> Iterator[tuple[Place, str]]:
    """Yield the place and the problem of each value that no command line can carry."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str):
                yield place, f"found the key {shortened(key)}, expected text"
            yield from unfit(key, (*place, key))
            yield from unfit(inner, (*place, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from unfit(inner, (*place, index))
    elif isinstance(value, str):
        if re.search("[\0\ud800-\udfff]", value):
            yield place, f"found {shortened(value)}, which has a character that is no text"
    elif isinstance(value, float):
        if not math.isfinite(value):
            yield place, f"found {value}, expected a finite number"
    elif not isinstance(value, int | None):
        kind = type(value).__name__
        yield (
            place,
            f"found {shortened(value)} of type {kind}, expected text, number, list, mapping",
        )


def fill(value: Any, schema: dict[str, Any]) -> None:
    """Set the defaults of all missing keys of `value` in place."""
    if not isinstance(value, dict):
        return
    for key, rule in schema.get("properties", {}).items():
        if "default" in rule:
            value.setdefault(key, copy.deepcopy(rule["default"]))
        fill(value.get(key), rule)
    rest = schema.get("additionalProperties")
    if isinstance(rest, dict):
        for entry in value.values():
            fill(entry, rest)


def check(config: Config, document: Document) -> None:
    """Raise ParityError for mistakes that a schema cannot express, such as unknown names."""
    reference, devices = config["reference"], config["devices"]
    if reference not in devices:
        text = f"found {shortened(reference)}, expected one of {', '.join(devices)}"
        raise mistake(document, ("reference",), text)
    if set(devices[reference]["numerics"].values()) - {"fp32"}:
        text = "the reference must compute in fp32"
        raise mistake(document, ("devices", reference, "numerics"), text)
    if devices[reference]["precision"] != "fp32":
        text = f"found {devices[reference]['precision']}, but the reference must run in fp32"
        raise mistake(document, ("devices", reference, "precision"), text)
    for name, settings in devices.items():
        executes = BACKENDS[settings["backend"]].executes
        if executes == ("dumps" in settings):
            text = "the backend dumps needs the key 'dumps', and no other backend has it"
            raise mistake(document, ("devices", name), text)
    if not BACKENDS[devices[reference]["backend"]].executes:
        raise mistake(document, ("reference",), f"{shortened(reference)} executes nothing here")
    reports = published.figures()
    for name, system in config["models"].items():
        place = ("models", name)
        if system.get("published", next(iter(reports))) not in reports:
            text = f"found {shortened(system['published'])}, expected one of {', '.join(reports)}"
            raise mistake(document, (*place, "published"), text)
        for key in ("labels", "about"):
            if key in system and evidence.find(system[key]) is None:
                text = f"{shortened(system[key])}: {evidence.problem(system[key])}"
                raise mistake(document, (*place, key), text)
        task = system["task"]
        if task in ("features", "segmentation") and system["compared"] == "probabilities":
            raise mistake(document, place, f"task {task} has no probabilities")
        if task == "digits" and not system["heads"]:
            raise mistake(document, place, "task digits needs heads")


def check_files(config: Config, document: Document) -> None:
    """Raise ParityError if one of the user's files is missing or cannot be used.

    Snakemake would not report it if results of an earlier file exist.
    """
    for name, system in config["models"].items():
        for key, files in FILES.items():
            place = ("models", name, key)
            try:
                found = files(system)
            except ParityError as error:  # a folder without an image
                raise mistake(document, place, str(error)) from None
            for file in found:
                if problem := evidence.problem(file):
                    text = f"{shortened(file)}: {problem}"
                    raise mistake(document, place, text)
    for name, settings in config["devices"].items():
        for dump in (dump_file(settings, system) for system in config["models"]):
            if problem := dump and evidence.problem(dump):
                text = f"{shortened(dump)}: {problem}"
                raise mistake(document, ("devices", name, "dumps"), text)


def _own_files(system: dict[str, Any], key: str) -> list[str]:
    file = own_file(system[key]) if key in system else None
    return [str(file)] if file else []


def network_files(system: dict[str, Any]) -> list[str]:
    """Return the user's own files that build the network and its port, if any."""
    return list(dict.fromkeys(file for key in NETWORKS for file in _own_files(system, key)))


def weight_files(system: dict[str, Any]) -> list[str]:
    """Return the user's own files that the weights depend on."""
    files = [file for source in system["weights"] for file in weights.parse(source).user_files()]
    return files + _own_files(system, "architecture")


def input_files(system: dict[str, Any]) -> list[str]:
    """Return the user's own files that the inputs depend on."""
    return images.files(system["inputs"]) + pretrained.files(system["weights"])


# The keys of a system that name files, except labels: this package has some. Networks come first,
# because weights depend on them too.
FILES: dict[str, Callable[[dict[str, Any]], list[str]]] = {
    **{key: partial(_own_files, key=key) for key in NETWORKS},
    "weights": weight_files,
    "inputs": input_files,
}


def dump_file(device: dict[str, Any], system: str) -> str | None:
    """Return the file with the outputs of a system; None if the device executes networks itself."""
    return device["dumps"].replace("{system}", system) if "dumps" in device else None


def label_files(system: dict[str, Any]) -> list[str]:
    """Return the file of class names, if any."""
    return [str(labels.find(system["labels"]))] if "labels" in system else []


def card_files(system: dict[str, Any]) -> list[str]:
    """Return the files that a card depends on beside the results: class names and texts, if any."""
    about = [str(evidence.find(system["about"]))] if "about" in system else []
    return label_files(system) + about


def shown(system: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that a system's tables depend on. A change writes the tables again."""
    keys = ("compared", "labels", "published", "tables", "task")
    return {key: value for key, value in system.items() if key in keys}


def carded(system: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that a system's card depends on. A change writes the card again."""
    keys = ("about", "compared", "labels", "published", "task")
    return {key: value for key, value in system.items() if key in keys}


def device(config: Config, name: str, path: str | Path) -> Device:
    """Return a device of the configuration; ParityError if the name is unknown."""
    return _device(_named(config, "devices", name, path))


def system(config: Config, name: str, path: str | Path) -> dict[str, Any]:
    """Return the settings of a system; ParityError if the name is unknown."""
    return _named(config, "models", name, path)


def _named(config: Config, section: str, name: str, path: str | Path) -> dict[str, Any]:
    if name not in config[section]:
        kind = {"devices": "device", "models": "system"}[section]
        raise ParityError(f"{path}: no {kind} {name!r}, expected {', '.join(config[section])}")
    found: dict[str, Any] = config[section][name]
    return found


def runs(config: Config) -> tuple[list[tuple[str, str]], dict[str, str]]:
    """Return the runs (device, measured or predicted) of every system, and omitted devices.

    The reference comes first. A device is omitted, with the reason, if its ``measure`` is ``auto``
    and this machine does not have it. A device that rounds nothing below float32 is not predicted,
    because its prediction is the reference.
    """
    planned, left_out = [(config["reference"], "measured")], {}
    for name, settings in config["devices"].items():
        if name == config["reference"]:
            continue
        device = _device(settings)
        reason = device.missing()
        if settings["measure"] == "auto" and reason:
            left_out[name] = reason
            continue
        kinds = ["predicted"] * device.rounds + ["measured"] * (settings["measure"] != "never")
        planned += [(name, kind) for kind in kinds]
        if not kinds:
            left_out[name] = "it computes in float32 and is never measured: nothing to predict"
    return planned, left_out


def timed(config: Config, planned: Collection[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the runs that have a latency: those that this machine executes on the device.

    Without batch sizes, none has.
    """
    return [
        (name, run)
        for name, run in planned
        if config["latency"]["batch_sizes"]
        and run == "measured"
        and BACKENDS[config["devices"][name]["backend"]].executes
    ]


def check_software(config: Config, planned: Collection[tuple[str, str]]) -> None:
    """Raise ParityError if torch cannot be loaded for a device that these runs measure."""
    for name, run in planned:
        if run == "measured":
            _device(config["devices"][name]).check()


def _device(settings: dict[str, Any]) -> Device:
    return Device.from_dict(settings)
