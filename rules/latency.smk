"""Latency: the time of a forward pass. Each job runs alone on the machine.

in: weights, inputs   out: latency.json with every sample
"""


rule latency:
    input:
        unpack(network),
    output:
        "results/{system}/{device}/measured/latency.json",
    log:
        "logs/{system}/{device}/measured/latency.log",
    conda:
        "../envs/cpu.yaml"
    threads: workflow.cores
    params:
        device=on_device,
        ported=ported,
        batch_sizes=config["latency"]["batch_sizes"],
        warmup=config["latency"]["warmup"],
        samples=config["latency"]["samples"],
        batch_samples=config["latency"]["batch_samples"],
        script=script("latency"),
        code=code("latency"),
    shell:
        "python {params.script:q} {params.batch_sizes} {params.device:q} {params.ported:q} "
        "--warmup {params.warmup} --samples {params.samples} --batch-samples {params.batch_samples} "
        "--threads {threads} --code {params.code} --output {output:q} 2> {log:q}"
