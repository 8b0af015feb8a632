"""The configuration: read, checked against its schema, and every mistake told in one line."""

import copy
import difflib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from npu_parity import evidence
from npu_parity.backends.device import BACKENDS, Device
from npu_parity.errors import ParityError
from npu_parity.evidence.files import PACKAGE
from npu_parity.numerics.formats import Numerics
from npu_parity.sources import images, labels, weights
from npu_parity.sources.architectures import own_file
from npu_parity.verdict import published

Config = dict[str, Any]

NETWORKS = ("architecture", "ported")  # keys that may name a file of the user's

# What only code can judge: the ``format`` of a string in the schema.
FORMATS: dict[str, Callable[[str], Any]] = {
    "backend": BACKENDS.require,
    "weights source": weights.parse,
    "input source": images.parse,
}


def load(path: str | Path = "config.yaml") -> Config:
    """Return a configuration file with the schema's defaults filled in.

    Raises:
        ParityError: the file is missing, no YAML, or not as the schema and `check` want it.
    """
    try:
        config = yaml.safe_load(Path(path).read_bytes())
    except FileNotFoundError:
        raise ParityError(f"{path} is missing: run where config.yaml lies") from None
    except yaml.YAMLError as error:
        raise ParityError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    complete(config, path)
    return config


def complete(config: Config, path: str | Path) -> None:
    """Check a configuration and set, in place, the defaults of what it leaves out.

    Raises:
        ParityError: it is not as the schema and `check` want it; `path` is for the message.
    """
    error = jsonschema.exceptions.best_match(_validator().iter_errors(config))
    if error:
        raise ParityError(f"{path}: {explain(error)}")
    fill(config, schema())
    check(config, path)


@cache
def schema() -> dict[str, Any]:
    """Return the schema of the configuration (``config.schema.yaml``)."""
    text = (PACKAGE / "config.schema.yaml").read_text(encoding="utf-8")
    found: dict[str, Any] = yaml.safe_load(text)
    return found


@cache
def _validator() -> jsonschema.Draft202012Validator:
    checker = jsonschema.FormatChecker(formats=())
    for name, parse in FORMATS.items():
        checker.checks(name, raises=ParityError)(_accepts(parse))
    return jsonschema.Draft202012Validator(schema(), format_checker=checker)


def _accepts(parse: Callable[[str], Any]) -> Callable[[object], bool]:
    def accepts(value: object) -> bool:
        if isinstance(value, str):
            parse(value)
        return True

    return accepts


def fill(value: Any, schema: dict[str, Any]) -> None:
    """Set, in place, the defaults of every key that `value` lacks."""
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


def explain(error: jsonschema.ValidationError) -> str:
    """Return one line: where in the configuration, what was found, what was expected."""
    where = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in error.absolute_path)
    where = where.lstrip(".") or "the configuration"
    if error.validator == "additionalProperties":
        known = list(error.schema["properties"])
        key = next(k for k in error.instance if k not in known)
        close = difflib.get_close_matches(str(key), known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"expected one of {', '.join(known)}"
        return f"{where}: unknown key {key!r}; {hint}"
    if error.validator == "required":
        key = next(k for k in error.validator_value if k not in error.instance)
        return f"{where}: the key {key!r} is missing"
    if error.validator == "format":
        return f"{where}: {error.cause}"
    expected = error.schema.get("description", error.message)
    return f"{where}: found {error.instance!r}, expected {expected}"


def check(config: Config, path: str | Path) -> None:
    """Raise ParityError for what a schema cannot express: names and files that must exist."""
    if config["reference"] not in config["devices"]:
        raise ParityError(
            f"{path}: reference: found {config['reference']!r}, expected one of "
            f"{', '.join(config['devices'])}"
        )
    reference = config["devices"][config["reference"]]
    if set(reference["numerics"].values()) - {"fp32"}:
        raise ParityError(
            f"{path}: devices.{config['reference']}.numerics: the reference computes in fp32"
        )
    reports = published.figures()
    for name, system in config["models"].items():
        if system.get("published", next(iter(reports))) not in reports:
            raise ParityError(
                f"{path}: models.{name}.published: found {system['published']!r}, "
                f"expected one of {', '.join(reports)}"
            )
        if "labels" in system and evidence.find(system["labels"]) is None:
            raise ParityError(
                f"{path}: models.{name}.labels: there is no file {system['labels']!r}"
            )
        if system["task"] == "features" and system["compared"] == "probabilities":
            raise ParityError(f"{path}: models.{name}: task features has no probabilities")
        if system["task"] == "digits" and not system["heads"]:
            raise ParityError(f"{path}: models.{name}: task digits needs heads")


def check_files(config: Config, path: str | Path) -> None:
    """Raise ParityError for a file of the user's that is missing.

    Snakemake would not: it takes what was made earlier, from another file, for good.
    """
    for name, system in config["models"].items():
        for key, files in (
            *((key, _own_files(system, key)) for key in NETWORKS),
            ("weights", weight_files(system)),
            ("inputs", images.files(system["inputs"])),
        ):
            for file in files:
                if not Path(file).is_file():
                    raise ParityError(f"{path}: models.{name}.{key}: there is no file {file!r}")


def network_files(system: dict[str, Any]) -> list[str]:
    """Return the user's own files that build the network and its port, if there are any."""
    return list(dict.fromkeys(file for key in NETWORKS for file in _own_files(system, key)))


def _own_files(system: dict[str, Any], key: str) -> list[str]:
    file = own_file(system[key]) if key in system else None
    return [str(file)] if file else []


def weight_files(system: dict[str, Any]) -> list[str]:
    """Return the user's own files that weights are made from."""
    files = [file for source in system["weights"] for file in weights.parse(source).user_files()]
    return files + _own_files(system, "architecture")


def label_files(system: dict[str, Any]) -> list[str]:
    """Return the file of class names, if there is one."""
    return [str(labels.find(system["labels"]))] if "labels" in system else []


def shown(system: dict[str, Any]) -> dict[str, Any]:
    """Return what tables show of a system's settings: they are written again when it changes."""
    keys = ("compared", "labels", "published", "tables", "task")
    return {key: value for key, value in system.items() if key in keys}


def device(config: Config, name: str, path: str | Path) -> Device:
    """Return a device of the configuration; ParityError where it has none of that name."""
    return _device(_named(config, "devices", name, path))


def system(config: Config, name: str, path: str | Path) -> dict[str, Any]:
    """Return the settings of a system; ParityError where there is none of that name."""
    return _named(config, "models", name, path)


def _named(config: Config, section: str, name: str, path: str | Path) -> dict[str, Any]:
    if name not in config[section]:
        kind = {"devices": "device", "models": "system"}[section]
        raise ParityError(f"{path}: no {kind} {name!r}, expected {', '.join(config[section])}")
    return config[section][name]


def runs(config: Config) -> tuple[list[tuple[str, str]], dict[str, str]]:
    """Return the runs (device, measured or predicted) of every system, and devices left out.

    The reference comes first. A device left out has a reason: it is to be measured where it is
    present, and this machine lacks it.
    """
    planned, left_out = [(config["reference"], "measured")], {}
    for name, settings in config["devices"].items():
        if name == config["reference"]:
            continue
        reason = _device(settings).missing()
        if settings["measure"] == "auto" and reason:
            left_out[name] = reason
            continue
        planned.append((name, "predicted"))
        if settings["measure"] != "never":
            planned.append((name, "measured"))
    return planned, left_out


def _device(settings: dict[str, Any]) -> Device:
    return Device(settings["backend"], Numerics.from_dict(settings["numerics"]))
