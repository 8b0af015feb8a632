"""Parity: the comparison of a run with the reference, and the verdict over all runs.

in: arrays of outputs, results of operators   out: metrics.json; verify has no output, so it always runs;
alone and last, because it reads everything that other jobs write
"""

EXACT = f"{config['reference']}/exact"


rule metrics:
    input:
        "results/{system}/weights.json",
        "results/{system}/inputs.json",
        f"results/{{system}}/{REFERENCE}/run.json",
        f"results/{{system}}/{EXACT}/run.json",
        reference=f"results/{{system}}/{REFERENCE}/outputs.npy",
        exact=f"results/{{system}}/{EXACT}/outputs.npy",
        predicted=branch(
            rounds,
            then=expand(
                "results/{{system}}/{{device}}/predicted/{file}",
                file=["outputs.npy", "run.json"],
            ),
        ),
        hosted=branch(
            has_port,
            then=expand(
                "results/{{system}}/{{device}}/hosted/{file}",
                file=["outputs.npy", "run.json"],
            ),
        ),
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
        script=script("metrics"),
        options=program(
            "metrics",
            lambda wildcards: ["--hosted"] * has_port(wildcards),
            reference=config["reference"],
            device=lambda wildcards: wildcards.device,
            run=lambda wildcards: wildcards.run,
            task=setting("task"),
            heads=setting("heads"),
            then=lambda wildcards: [in_system()(wildcards)],
        ),
    shell:
        "python {params.script:q} --output={output:q} {params.options:q} 2> {log:q}"


rule verify:
    input:
        expand("results/{system}/{run}/metrics.json", system=SYSTEMS, run=COMPARED),
    log:
        "logs/verify.log",
    priority: -1
    conda:
        "../envs/cpu.yaml"
    threads: workflow.cores
    params:
        script=script("verify"),
    shell:
        "python {params.script:q} results 2> {log:q}"
