"""Options: the command line of each rule's program, from the configuration and the wildcards.

A job runs again if the content of its parameters, inputs or code changes. Snakemake does not follow
the programs in `shell:`. Therefore each rule has the hash of its program's code as a parameter.
"""

import json
import os
from functools import cache

from npu_parity import evidence
from npu_parity.backends.base import Accelerator
from npu_parity.backends.device import BACKENDS
from npu_parity.evidence.code import digest
from npu_parity.sources import pretrained


def script(name: str) -> str:
    """Return the relative path of scripts/NAME.py, the same for any folder of the project."""
    return os.path.relpath(f"{workflow.basedir}/scripts/{name}.py")


@cache
def code(name: str, *backends: str) -> str:
    """Return the hash of all code that scripts/NAME.py uses with these backends."""
    return digest(script(name), {BACKENDS.entries[backend] for backend in backends})


sha256 = cache(evidence.sha256)  # a large file is hashed once

HUB_ANSWERS = "logs/hubs.json"  # exists only during a run
LOCK = "weights.lock.yaml"

PROGRAMS = {}  # name: function of the wildcards that returns the options


def program(name: str, *parts, reads=None, then=(), **named):
    """Return a function of the wildcards: the options of scripts/NAME.py and the hash of its code.

    Every value may be a function of the wildcards.

    Args:
        parts: lists of options.
        reads: function of a system's settings that returns the user's own files, of all systems if
            the wildcards name none. They count by content: they are no inputs of the rule, so
            their names and times do not matter.
        then: arguments without a name.
        named: options by name; a mapping becomes JSON.
    """

    def value_of(value, wildcards):
        return value(wildcards) if callable(value) else value

    def options(wildcards):
        found = [option for part in parts for option in value_of(part, wildcards)]
        for key, value in named.items():
            value = value_of(value, wildcards)
            text = value if isinstance(value, str) else json.dumps(value)
            found.append(f"--{key.replace('_', '-')}={text}")
        if reads:
            system = wildcards.get("system")
            files = [
                file
                for name in ([system] if system else SYSTEMS)
                for file in reads(config["models"][name])
            ]
            found.append(f"--reads={','.join(map(sha256, files))}")
        device = config["devices"].get(wildcards.get("device"))
        backends = {"cpu", device["backend"]} if device else ()
        found.append(f"--code={code(name, *sorted(backends))}")
        return [*found, "--", *map(str, value_of(then, wildcards))]

    PROGRAMS[name] = options
    return options


def software(wildcards) -> str:
    """Return the conda file of a program that runs the network; envs/ has one for each backend."""
    own = f"{config['devices'][wildcards.device]['backend']}.yaml"
    own_code = wildcards.get("run", "measured") in ("measured", "hosted")
    found = own_code and os.path.exists(f"{workflow.basedir}/envs/{own}")
    return f"../envs/{own}" if found else "../envs/cpu.yaml"


def accelerators(wildcards) -> int:
    """Return how many accelerators a program uses: `--resources accelerators=8` allows eight at a time."""
    backend = BACKENDS[config["devices"][wildcards.device]["backend"]]
    measured = wildcards.get("run", "measured") == "measured"
    return int(measured and issubclass(backend, Accelerator))


# What Slurm calls the accelerators of a backend. `--set-resources` gives them another name.
GRES = {"cuda": "gpu", "xpu": "gpu"}


def gres(wildcards) -> str:
    """Return the generic resource of Slurm that a program uses, such as `npu:1`, or nothing."""
    backend = config["devices"][wildcards.device]["backend"]
    return f"{GRES.get(backend, backend)}:1" if accelerators(wildcards) else ""


def setting(key: str):
    """Return a function of the wildcards: a setting of the system."""
    return lambda wildcards: config["models"][wildcards.system].get(key, {})


def weights_that_tell(wildcards) -> list[str]:
    """Return the options with the sources of weights that may say how to preprocess."""
    sources = pretrained.telling(config["models"][wildcards.system]["weights"])
    hubs = (
        [f"--hubs={HUB_ANSWERS}", f"--lock={LOCK}"] if pretrained.asked(sources) else []
    )
    return [*(f"--weights={source}" for source in sources), *hubs]


def flag(key: str):
    """Return a function of the wildcards: a setting of the system that is true or false."""
    return lambda wildcards: [
        f"--{key}" if config["models"][wildcards.system][key] else f"--no-{key}"
    ]


def only_measured(option: str, file: str):
    """Return a function of the wildcards: an option with a file that measured runs have."""
    return lambda wildcards: [f"--{option}={in_run(f'measured/{file}')(wildcards)}"] * (
        wildcards.run == "measured"
    )


def network(wildcards) -> dict:
    """Return the results that a program that runs the network reads: weights and inputs."""
    folder = f"results/{wildcards.system}"
    return {
        "weights": f"{folder}/weights.safetensors",
        "provenance": f"{folder}/weights.json",
        "inputs": f"{folder}/inputs.npy",
        "names": f"{folder}/inputs.json",
    }


def exported(wildcards) -> dict:
    """Return the exported network that a device executes, if it executes files."""
    backend = BACKENDS[config["devices"][wildcards.device]["backend"]]
    if wildcards.get("run", "measured") != "measured" or not backend.exports:
        return {}
    folder = f"results/{wildcards.system}/{wildcards.device}/measured"
    return {
        "exported": f"{folder}/network.onnx",
        "exporter": f"{folder}/network.json",
    }


def from_file(wildcards) -> list[str]:
    """Return the option with the exported network, for devices that execute files."""
    file = exported(wildcards).get("exported")
    return [f"--exported={file}"] if file else []


def dumped(wildcards) -> list[str]:
    """Return the options with the outputs of another tool, which count by content."""
    file = configuration.dump_file(
        config["devices"][wildcards.device], wildcards.system
    )
    if wildcards.run != "measured" or not file:
        return []
    return [f"--dumped={file}", f"--reads={sha256(file)}"]


def in_system(file: str = ""):
    """Return a function of the wildcards: the folder of the system, or a file in it."""
    return lambda wildcards: os.path.join(f"results/{wildcards.system}", file).rstrip(
        "/"
    )


def in_run(file: str):
    """Return a function of the wildcards: a file of the device, such as measured/outputs.npy."""
    return (
        lambda wildcards: f"results/{wildcards.system}/{wildcards.device}/"
        + file.format(**wildcards)
    )


def only_device(wildcards) -> list[str]:
    """Return the option with the device of a program."""
    device = config["devices"][wildcards.device]
    target = {key: device[key] for key in ("backend", "numerics", "precision")}
    return [f"--device={json.dumps(target)}"]


def on_device(wildcards) -> list[str]:
    """Return the options of a program that runs the network: weights, inputs and the device."""
    folder = f"results/{wildcards.system}"
    options = {"weights-folder": folder, "inputs": f"{folder}/inputs.npy"}
    return [*(f"--{k}={v}" for k, v in options.items()), *only_device(wildcards)]


def probed(wildcards) -> dict:
    """Return the probe of an accelerator, which is made before a network runs there."""
    return (
        {"probe": f"results/probes/{wildcards.device}.json"}
        if accelerators(wildcards)
        else {}
    )


def has_port(wildcards) -> bool:
    """Return whether a run is of a port with an architecture of its own."""
    return (
        wildcards.run == "measured" and "ported" in config["models"][wildcards.system]
    )


def rounds(wildcards) -> bool:
    """Return whether the device rounds below float32, so there is a prediction."""
    return f"{wildcards.device}/predicted" in RUNS


def ported(wildcards) -> list[str]:
    """Return the option with the port's own architecture, for runs of the port."""
    system, run = config["models"][wildcards.system], wildcards.get("run", "measured")
    own = run in ("measured", "hosted") and wildcards.device != config["reference"]
    return [f"--ported={system['ported']}"] if own and "ported" in system else []
