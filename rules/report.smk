"""Report: tables of each system, and one summary over all.

in: sidecars, metrics.json, divergence.csv, operators.csv and latency.json   out: tables/*.md, summary.json
"""


rule table:
    input:
        "results/{system}/weights.json",
        "results/{system}/divergence.svg",
        of_system(configuration.label_files),
        "results/{system}/inputs.json",
        expand("results/{{system}}/{run}/run.json", run=RUNS),
        expand("results/{{system}}/{run}/metrics.json", run=COMPARED),
        expand("results/{{system}}/{run}/divergence.csv", run=COMPARED),
        expand("results/{{system}}/{run}/operators.csv", run=MEASURED),
        expand("results/{{system}}/{run}/latency.json", run=MEASURED),
    output:
        "results/tables/{system}.md",
    log:
        "logs/{system}/table.log",
    conda:
        "../envs/cpu.yaml"
    params:
        runs=RUNS,
        folder=subpath(input[0], parent=True),
        system=lambda wildcards: json.dumps(
            configuration.shown(config["models"][wildcards.system])
        ),
        script=script("table"),
        code=code("table"),
    shell:
        "python {params.script:q} {params.runs} --folder {params.folder:q} "
        "--system {params.system:q} --output {output:q} 2> {log:q}"


rule summary:
    input:
        expand("results/{system}/weights.json", system=SYSTEMS),
        expand("results/{system}/inputs.json", system=SYSTEMS),
        expand("results/{system}/{run}/run.json", system=SYSTEMS, run=RUNS),
        expand("results/{system}/{run}/metrics.json", system=SYSTEMS, run=COMPARED),
        expand("results/{system}/{run}/operators.csv", system=SYSTEMS, run=MEASURED),
        expand("results/{system}/{run}/latency.json", system=SYSTEMS, run=MEASURED),
    output:
        "results/summary.json",
        "results/tables/summary.md",
        "results/tables/overview.md",
    log:
        "logs/summary.log",
    conda:
        "../envs/cpu.yaml"
    params:
        runs=RUNS,
        folder=subpath(output[0], parent=True),
        systems=json.dumps(
            {s: configuration.shown(config["models"][s]) for s in SYSTEMS}
        ),
        left_out=json.dumps(LEFT_OUT),
        script=script("summary"),
        code=code("summary"),
    shell:
        "python {params.script:q} {params.runs} --folder {params.folder:q} "
        "--systems {params.systems:q} --left-out {params.left_out:q} --code {params.code} 2> {log:q}"
