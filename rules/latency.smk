"""Latency: how long a forward pass takes, each job alone on the machine.

in: weights, inputs   out: latency.json with every sample
"""


rule latency:
    input:
        of_system(configuration.network_files),
        weights="results/{system}/weights.safetensors",
        provenance="results/{system}/weights.json",
        inputs="results/{system}/inputs.npy",
        names="results/{system}/inputs.json",
    output:
        "results/{system}/{device}/measured/latency.json",
    log:
        "logs/{system}/{device}/measured/latency.log",
    conda:
        "../envs/cpu.yaml"
    threads: workflow.cores
    params:
        folder=subpath(input.weights, parent=True),
        backend=setting("device", "backend"),
        numerics=setting("device", "numerics"),
        ported=ported,
        batch_sizes=config["latency"]["batch_sizes"],
        warmup=config["latency"]["warmup"],
        samples=config["latency"]["samples"],
        batch_samples=config["latency"]["batch_samples"],
        script=script("latency"),
        code=code("latency"),
    shell:
        "python {params.script:q} {params.batch_sizes} --weights-folder {params.folder:q} "
        "--inputs {input.inputs:q} --backend {params.backend} --numerics {params.numerics:q} "
        "{params.ported:q} --warmup {params.warmup} --samples {params.samples} "
        "--batch-samples {params.batch_samples} --threads {threads} --output {output:q} 2> {log:q}"
