"""Parity: a run held against the reference, and the verdict over all runs.

in: arrays of outputs, what the operators showed   out: metrics.json; verify has none, so that it is always asked
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
                file=["outputs.npy", "program.json", "numerics.json", "run.json"],
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
        measured=lambda wildcards, input: (
            [
                f"--{o}={f}"
                for o, f in zip(("measured", "program", "numerics"), input.measured)
            ]
        ),
        task=setting("system", "task"),
        heads=setting("system", "heads"),
        script=script("metrics"),
        code=code("metrics"),
    shell:
        "python {params.script:q} --reference {input.reference:q} --exact {input.exact:q} "
        "--predicted {input.predicted:q} {params.measured:q} --system {params.system:q} "
        "--task {params.task} --heads {params.heads:q} --output {output:q} 2> {log:q}"


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
