"""Parity: the comparison of a run with the reference, and the verdict over all runs.

in: arrays of outputs, results of operators   out: metrics.json; verify has no output, so it always runs
"""

EXACT = f"{config['reference']}/exact"


rule metrics:
    input:
        "results/{system}/weights.json",
        "results/{system}/inputs.json",
        f"results/{{system}}/{REFERENCE}/run.json",
        f"results/{{system}}/{EXACT}/run.json",
        "results/{system}/{device}/predicted/run.json",
        reference=f"results/{{system}}/{REFERENCE}/outputs.npy",
        exact=f"results/{{system}}/{EXACT}/outputs.npy",
        predicted="results/{system}/{device}/predicted/outputs.npy",
        measured=branch(
            lambda wildcards: wildcards.run == "measured",
            then=expand(
                "results/{{system}}/{{device}}/measured/{file}",
                file=[
                    "outputs.npy",
                    "run.json",
                    "program.json",
                    "operators.csv",
                    "numerics.json",
                ],
            ),
        ),
    output:
        "results/{system}/{device}/{run}/metrics.json",
    log:
        "logs/{system}/{device}/{run}/metrics.log",
    conda:
        "../envs/cpu.yaml"
    params:
        system=subpath(input[0], parent=True),
        reference=config["reference"],
        task=setting("task"),
        heads=setting("heads"),
        script=script("metrics"),
        code=code("metrics"),
    shell:
        "python {params.script:q} {params.system:q} --reference {params.reference:q} "
        "--device {wildcards.device:q} --run {wildcards.run} --task {params.task} "
        "--heads {params.heads:q} --code {params.code} --output {output:q} 2> {log:q}"


rule verify:
    input:
        expand("results/{system}/{run}/metrics.json", system=SYSTEMS, run=COMPARED),
    log:
        "logs/verify.log",
    conda:
        "../envs/cpu.yaml"
    params:
        script=script("verify"),
    shell:
        "python {params.script:q} {input:q} 2> {log:q}"
