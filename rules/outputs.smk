"""Outputs: the outputs of a system on a device, or the outputs that the device's numerics predict.

Each job uses one thread, so the outputs do not depend on the number of cores. A measured run also
tries the batch sizes whose latency is measured.

A device that executes files gets the network as network.onnx, which is made again only if the
network or its weights change.

in: weights, inputs   out: network.onnx, outputs.npy (inputs, columns), and their sidecars
"""


rule export:
    input:
        unpack(network),
    output:
        network=large("results/{system}/{device}/measured/network.onnx"),
        sidecar="results/{system}/{device}/measured/network.json",
    log:
        "logs/{system}/{device}/measured/export.log",
    conda:
        software
    params:
        script=script("export"),
        options=program("export", on_device, ported, reads=configuration.network_files),
    shell:
        "python {params.script:q} --threads={threads} --output={output.network:q} "
        "{params.options:q} > {log:q} 2>&1"


rule outputs:
    input:
        unpack(network),
        unpack(exported),
        unpack(probed),
    output:
        array="results/{system}/{device}/{run}/outputs.npy",
        sidecar="results/{system}/{device}/{run}/run.json",
    log:
        "logs/{system}/{device}/{run}/outputs.log",
    conda:
        software
    resources:
        accelerators=accelerators,
        gres=gres,
    params:
        script=script("outputs"),
        options=program(
            "outputs",
            on_device,
            ported,
            from_file,
            dumped,
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
