"""Outputs: what a system computes on a device, or would by the device's numerics.

One thread a job: outputs shall not depend on how many cores a run is given.

in: weights, inputs   out: outputs.npy (inputs, columns) and its sidecar run.json
"""


rule outputs:
    input:
        own_architecture,
        weights="results/{system}/weights.safetensors",
        provenance="results/{system}/weights.json",
        inputs="results/{system}/inputs.npy",
        names="results/{system}/inputs.json",
    output:
        "results/{system}/{device}/{run}/outputs.npy",
        "results/{system}/{device}/{run}/run.json",
    params:
        folder=subpath(input.weights, parent=True),
        backend=of_device("backend"),
        numerics=of_device("numerics"),
        batch=of_system("batch"),
        code=code("outputs"),
    log:
        "logs/{system}/{device}/{run}/outputs.log",
    conda:
        "../envs/cpu.yaml"
    shell:
        "python {SCRIPTS}/outputs.py --weights-folder {params.folder:q} --inputs {input.inputs:q} "
        "--run {wildcards.run} --backend {params.backend} --numerics {params.numerics:q} "
        "--batch {params.batch} --threads {threads} --output {output[0]:q} 2> {log:q}"
