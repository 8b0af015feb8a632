"""Parity: a run's outputs held against the reference's.

in: two arrays of outputs, their sidecars   out: metrics.json
"""


rule metrics:
    input:
        reference=f"results/{{system}}/{REFERENCE}/outputs.npy",
        reference_run=f"results/{{system}}/{REFERENCE}/run.json",
        outputs="results/{system}/{device}/{run}/outputs.npy",
        run="results/{system}/{device}/{run}/run.json",
    output:
        "results/{system}/{device}/{run}/metrics.json",
    log:
        "logs/{system}/{device}/{run}/metrics.log",
    conda:
        "../envs/cpu.yaml"
    params:
        task=setting("system", "task"),
        heads=setting("system", "heads"),
        script=script("metrics"),
        code=code("metrics"),
    shell:
        "python {params.script:q} --reference {input.reference:q} --outputs {input.outputs:q} "
        "--task {params.task} --heads {params.heads:q} --output {output:q} 2> {log:q}"
