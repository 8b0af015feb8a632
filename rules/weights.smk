"""Weights: the first source that is there, as one safetensors file with its provenance.

Each hub is asked once a run whether it answers, and only where a system wants something of it.

in: hubs.json, the user's files   out: weights.safetensors and its sidecar
"""

HUBS = ("modelscope", "huggingface")


def wanted_hubs(sources: list[str]) -> list[str]:
    return [hub for hub in HUBS if any(source.startswith(f"{hub}:") for source in sources)]


rule hubs:
    output:
        temp("results/hubs.json"),
    params:
        names=wanted_hubs([s for system in config["models"].values() for s in system["weights"]]),
    log:
        "logs/hubs.log",
    conda:
        "../envs/cpu.yaml"
    shell:
        "python {SCRIPTS}/hubs.py {params.names:q} --output {output:q} 2> {log:q}"


def hub_answers(wildcards):
    sources = config["models"][wildcards.system]["weights"]
    return ["results/hubs.json"] if wanted_hubs(sources) else []


def weight_files(wildcards):
    sources = config["models"][wildcards.system]["weights"]
    files = [s.removeprefix("path:").partition("#")[0] for s in sources if s.startswith("path:")]
    return files + own_architecture(wildcards)


rule weights:
    input:
        weight_files,
        hubs=ancient(hub_answers),
    output:
        "results/{system}/weights.safetensors",
        "results/{system}/weights.json",
    params:
        sources=of_system("weights"),
        architecture=of_system("architecture"),
        arguments=of_system("arguments"),
        preprocessing=of_system("preprocessing"),
        seeded=of_system("seeded"),
        tensors=of_system("tensors"),
        calibrate=lambda wildcards: (
            "--calibrate" if config["models"][wildcards.system]["calibrate"] else "--no-calibrate"
        ),
        hubs=lambda wildcards, input: f"--hubs {input.hubs}" if input.hubs else "",
        code=code("weights"),
    log:
        "logs/{system}/weights.log",
    conda:
        "../envs/cpu.yaml"
    shell:
        "python {SCRIPTS}/weights.py {params.sources:q} --architecture {params.architecture:q} "
        "--arguments {params.arguments:q} --preprocessing {params.preprocessing:q} "
        "--seeded {params.seeded:q} --tensors {params.tensors} {params.calibrate} {params.hubs} "
        "--output {output[0]:q} 2> {log:q}"
