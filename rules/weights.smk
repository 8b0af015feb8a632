"""Weights: the first source that is there, as one safetensors file with its provenance.

Each hub is asked once a run whether it answers, and only where a system wants something of it.

in: hubs.json, the user's files   out: weights.safetensors and its sidecar
"""


rule hubs:
    output:
        temp("results/hubs.json"),
    log:
        "logs/hubs.log",
    conda:
        "../envs/cpu.yaml"
    params:
        names=configuration.hubs_of(*config["models"].values()),
        script=script("hubs"),
    shell:
        "python {params.script:q} {params.names:q} --output {output:q} 2> {log:q}"


rule weights:
    input:
        of_system(configuration.weight_files),
        hubs=ancient(
            of_system(
                lambda s: ["results/hubs.json"] if configuration.hubs_of(s) else []
            )
        ),
    output:
        file="results/{system}/weights.safetensors",
        sidecar="results/{system}/weights.json",
    log:
        "logs/{system}/weights.log",
    conda:
        "../envs/cpu.yaml"
    params:
        sources=setting("system", "weights"),
        architecture=setting("system", "architecture"),
        arguments=setting("system", "arguments"),
        preprocessing=setting("system", "preprocessing"),
        seeded=setting("system", "seeded"),
        tensors=setting("system", "tensors"),
        calibrate=lambda wildcards: (
            "--calibrate"
            if config["models"][wildcards.system]["calibrate"]
            else "--no-calibrate"
        ),
        hubs=lambda wildcards, input: f"--hubs {input.hubs}" if input.hubs else "",
        script=script("weights"),
        code=code("weights"),
    shell:
        "python {params.script:q} {params.sources:q} --architecture {params.architecture:q} "
        "--arguments {params.arguments:q} --preprocessing {params.preprocessing:q} "
        "--seeded {params.seeded:q} --tensors {params.tensors} {params.calibrate} {params.hubs} "
        "--output {output.file:q} 2> {log:q}"
