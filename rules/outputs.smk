"""Outputs: the outputs of a system on a device, or the outputs that the device's numerics predict.

Each job uses one thread, so the outputs do not depend on the number of cores.

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
        "../envs/cpu.yaml"
    params:
        device=on_device,
        ported=ported,
        batch=setting("batch"),
        script=script("outputs"),
        code=code("outputs"),
    shell:
        "python {params.script:q} {params.device:q} {params.ported:q} --run {wildcards.run} "
        "--batch {params.batch} --threads {threads} --code {params.code} "
        "--output {output.array:q} 2> {log:q}"
