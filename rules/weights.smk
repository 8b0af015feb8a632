"""Weights: the first available source, as one safetensors file with its provenance.

Each run checks each hub once, in the first job that needs the hub. The check is not a rule, because
its answer would be an input. Then a new system would fetch all weights again.

in: the user's files   out: weights.safetensors and its sidecar
"""

HUB_ANSWERS = "results/hubs.json"  # exists only during a run


rule weights:
    input:
        of_system(configuration.weight_files),
    output:
        file="results/{system}/weights.safetensors",
        sidecar="results/{system}/weights.json",
    log:
        "logs/{system}/weights.log",
    conda:
        "../envs/cpu.yaml"
    params:
        sources=setting("weights"),
        architecture=setting("architecture"),
        arguments=setting("arguments"),
        preprocessing=setting("preprocessing"),
        seeded=setting("seeded"),
        tensors=setting("tensors"),
        calibrate=lambda wildcards: (
            "--calibrate"
            if config["models"][wildcards.system]["calibrate"]
            else "--no-calibrate"
        ),
        answers=HUB_ANSWERS,
        script=script("weights"),
        code=code("weights"),
    shell:
        "python {params.script:q} {params.sources:q} --architecture {params.architecture:q} "
        "--arguments {params.arguments:q} --preprocessing {params.preprocessing:q} "
        "--seeded {params.seeded:q} --tensors {params.tensors} {params.calibrate} "
        "--hubs {params.answers:q} --code {params.code} --output {output.file:q} 2> {log:q}"
