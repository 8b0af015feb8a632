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
        software
    resources:
        accelerators=accelerators,
        gres=gres,
    params:
        script=script("divergence"),
        options=program(
            "divergence",
            on_device,
            ported,
            only_measured("operators", "operators.csv"),
            reads=configuration.network_files,
            metrics=in_run("{run}/metrics.json"),
        ),
    shell:
        "python {params.script:q} --threads={threads} --output={output:q} {params.options:q} 2> {log:q}"


rule figure:
    input:
        "results/{system}/weights.json",
        expand("results/{{system}}/{run}/metrics.json", run=COMPARED),
        expand("results/{{system}}/{run}/divergence.csv", run=COMPARED),
        expand("results/{{system}}/{run}/operators.csv", run=MEASURED),
    output:
        report(
            "results/{system}/divergence.svg",
            caption="captions/divergence.rst",
            category="Systems",
            labels={"system": "{system}", "what": "error through the network"},
        ),
    log:
        "logs/{system}/figure.log",
    conda:
        "../envs/cpu.yaml"
    params:
        script=script("figure"),
        options=program("figure", folder=in_system(), then=RUNS),
    shell:
        "python {params.script:q} --output={output:q} {params.options:q} 2> {log:q}"
