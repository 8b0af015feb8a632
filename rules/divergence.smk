"""Divergence: the error after each operator, and the place where a run goes wrong first.

in: weights, inputs, metrics.json, operators.csv   out: divergence.csv, divergence.svg
"""


rule divergence:
    input:
        unpack(network),
        metrics="results/{system}/{device}/{run}/metrics.json",
        operators=branch(
            lambda wildcards: wildcards.run == "measured",
            then="results/{system}/{device}/measured/operators.csv",
        ),
    output:
        "results/{system}/{device}/{run}/divergence.csv",
    log:
        "logs/{system}/{device}/{run}/divergence.log",
    conda:
        "../envs/cpu.yaml"
    params:
        operators=lambda wildcards, input: [f"--operators={input.operators}"]
        * bool(input.operators),
        device=on_device,
        ported=ported,
        script=script("divergence"),
        code=code("divergence"),
    shell:
        "python {params.script:q} {params.device:q} {params.ported:q} --metrics {input.metrics:q} "
        "{params.operators:q} --threads {threads} --output {output:q} 2> {log:q}"


rule figure:
    input:
        "results/{system}/weights.json",
        expand("results/{{system}}/{run}/metrics.json", run=COMPARED),
        expand("results/{{system}}/{run}/divergence.csv", run=COMPARED),
        expand("results/{{system}}/{run}/operators.csv", run=MEASURED),
    output:
        "results/{system}/divergence.svg",
    log:
        "logs/{system}/figure.log",
    conda:
        "../envs/cpu.yaml"
    params:
        runs=RUNS,
        folder=subpath(input[0], parent=True),
        script=script("figure"),
        code=code("figure"),
    shell:
        "python {params.script:q} {params.runs} --folder {params.folder:q} "
        "--output {output:q} 2> {log:q}"
