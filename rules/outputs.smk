"""Outputs: the outputs of a system on a device, or the outputs that the device's numerics predict.

Each job uses one thread, so the outputs do not depend on the number of cores. A measured run also
tries the batch sizes whose latency is measured.

in: weights, inputs   out: outputs.npy (inputs, columns) and its sidecar run.json
"""


rule outputs:
    input:
        unpack(network),
    output:
        array="results/{system}/{device}/{run}/outputs.npy",
        sidecar="results/{system}/{device}/{run}/run.json",
    log:
        "logs/{system}/{device}/{run}/outputs.log",
    conda:
        software
    params:
        script=script("outputs"),
        options=program(
            "outputs",
            on_device,
            ported,
            reads=configuration.network_files,
            run=lambda wildcards: wildcards.run,
            batch=setting("batch"),
            then=lambda wildcards: (
                config["latency"]["batch_sizes"] if wildcards.run == "measured" else []
            ),
        ),
    shell:
        "python {params.script:q} --threads={threads} --output={output.array:q} "
        "{params.options:q} 2> {log:q}"
