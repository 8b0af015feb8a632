"""Outputs: what a system computes on a device, or would by the device's numerics.

One thread a job: outputs shall not depend on how many cores a run is given.

in: weights, inputs   out: outputs.npy (inputs, columns) and its sidecar run.json
"""


rule outputs:
    input:
        of_system(configuration.network_files),
        weights="results/{system}/weights.safetensors",
        provenance="results/{system}/weights.json",
        inputs="results/{system}/inputs.npy",
        names="results/{system}/inputs.json",
    output:
        array="results/{system}/{device}/{run}/outputs.npy",
        sidecar="results/{system}/{device}/{run}/run.json",
    log:
        "logs/{system}/{device}/{run}/outputs.log",
    conda:
        "../envs/cpu.yaml"
    params:
        folder=subpath(input.weights, parent=True),
        backend=setting("device", "backend"),
        numerics=setting("device", "numerics"),
        ported=ported,
        batch=setting("system", "batch"),
        script=script("outputs"),
        code=code("outputs"),
    shell:
        "python {params.script:q} --weights-folder {params.folder:q} --inputs {input.inputs:q} "
        "--run {wildcards.run} --backend {params.backend} --numerics {params.numerics:q} "
        "{params.ported:q} --batch {params.batch} --threads {threads} --output {output.array:q} 2> {log:q}"
