"""Weights: the first available source, as one safetensors file with its provenance.

Each run checks each hub once, in the first job that needs the hub. The check is not a rule, because
its answer would be an input. Then a new system would fetch all weights again.

in: the user's files   out: weights.safetensors and its sidecar, an entry of weights.lock.yaml
"""


rule weights:
    input:
        # Only for the order of jobs: with a file that will be removed, Snakemake finishes a system
        # before it starts the next one.
        branch(
            config["keep_large"],
            then=[],
            otherwise=ancient("results/{system}/inputs.npy"),
        ),
    output:
        file=large("results/{system}/weights.safetensors"),
        sidecar="results/{system}/weights.json",
    log:
        "logs/{system}/weights.log",
    conda:
        "../envs/cpu.yaml"
    params:
        script=script("weights"),
        options=program(
            "weights",
            flag("calibrate"),
            reads=configuration.weight_files,
            then=setting("weights"),
            architecture=setting("architecture"),
            arguments=setting("arguments"),
            preprocessing=setting("preprocessing"),
            seeded=setting("seeded"),
            tensors=setting("tensors"),
            state=setting("state"),
            hubs=HUB_ANSWERS,
            lock=LOCK,
        ),
    shell:
        "python {params.script:q} --output={output.file:q} {params.options:q} 2> {log:q}"
