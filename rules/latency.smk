"""Latency: the time of a forward pass. Each job runs alone on the machine.

in: weights, inputs   out: latency.json with every sample
"""


rule latency:
    input:
        unpack(network),
        unpack(exported),
    output:
        "results/{system}/{device}/measured/latency.json",
    log:
        "logs/{system}/{device}/measured/latency.log",
    conda:
        software
    threads: workflow.cores
    resources:
        accelerators=accelerators,
        gres=gres,
    params:
        script=script("latency"),
        options=program(
            "latency",
            on_device,
            ported,
            from_file,
            reads=configuration.network_files,
            then=config["latency"]["batch_sizes"],
            warmup=config["latency"]["warmup"],
            samples=config["latency"]["samples"],
            batch_samples=config["latency"]["batch_samples"],
        ),
    shell:
        "python {params.script:q} --threads={threads} --output={output:q} {params.options:q} 2> {log:q}"
