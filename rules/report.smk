"""Report: tables and the card of each system, one summary over all, and one page with everything.

in: sidecars, arrays, metrics.json, divergence.csv, operators.csv and latency.json
out: card.md, card.zh.md, tables/*.md, summary.json, report.html
"""


rule table:
    input:
        "results/{system}/weights.json",
        "results/{system}/divergence.svg",
        "results/{system}/inputs.json",
        expand("results/{{system}}/{run}/run.json", run=RUNS),
        expand("results/{{system}}/{run}/metrics.json", run=COMPARED),
        expand("results/{{system}}/{run}/divergence.csv", run=COMPARED),
        expand("results/{{system}}/{run}/operators.csv", run=MEASURED),
        expand("results/{{system}}/{run}/latency.json", run=TIMED),
    output:
        report(
            "results/tables/{system}.md",
            caption="captions/table.rst",
            category="Systems",
            labels={"system": "{system}", "what": "tables"},
        ),
    log:
        "logs/{system}/table.log",
    conda:
        "../envs/cpu.yaml"
    params:
        script=script("table"),
        options=program(
            "table",
            reads=configuration.label_files,
            folder=in_system(),
            system=lambda wildcards: configuration.shown(
                config["models"][wildcards.system]
            ),
            then=RUNS,
        ),
    shell:
        "python {params.script:q} --output={output:q} {params.options:q} 2> {log:q}"


rule card:
    input:
        "results/{system}/weights.json",
        "results/{system}/divergence.svg",
        "results/{system}/inputs.json",
        expand("results/{{system}}/{run}/run.json", run=RUNS),
        expand("results/{{system}}/{run}/metrics.json", run=COMPARED),
        expand("results/{{system}}/{run}/divergence.csv", run=COMPARED),
        expand("results/{{system}}/{run}/operators.csv", run=MEASURED),
        expand("results/{{system}}/{run}/latency.json", run=TIMED),
    output:
        "results/{system}/card.md",
        "results/{system}/card.zh.md",
    log:
        "logs/{system}/card.log",
    conda:
        "../envs/cpu.yaml"
    params:
        script=script("card"),
        options=program(
            "card",
            reads=configuration.card_files,
            folder=in_system(),
            system=lambda wildcards: configuration.carded(
                config["models"][wildcards.system]
            ),
            then=RUNS,
        ),
    shell:
        "python {params.script:q} {params.options:q} 2> {log:q}"


rule summary:
    input:
        expand("results/{system}/weights.json", system=SYSTEMS),
        expand("results/{system}/inputs.json", system=SYSTEMS),
        expand("results/{system}/{run}/run.json", system=SYSTEMS, run=RUNS),
        expand("results/{system}/{run}/metrics.json", system=SYSTEMS, run=COMPARED),
        expand("results/{system}/{run}/operators.csv", system=SYSTEMS, run=MEASURED),
        expand("results/{system}/{run}/latency.json", system=SYSTEMS, run=TIMED),
    output:
        "results/summary.json",
        report(
            "results/tables/summary.md",
            caption="captions/summary.rst",
            category="Summary",
            labels={"what": "all runs"},
        ),
        "results/tables/overview.md",
    log:
        "logs/summary.log",
    conda:
        "../envs/cpu.yaml"
    params:
        script=script("summary"),
        options=program(
            "summary",
            folder="results",
            systems={s: configuration.shown(config["models"][s]) for s in SYSTEMS},
            left_out=LEFT_OUT,
            then=RUNS,
        ),
    shell:
        "python {params.script:q} {params.options:q} 2> {log:q}"


rule page:
    input:
        expand("results/{system}/weights.json", system=SYSTEMS),
        expand("results/{system}/inputs.json", system=SYSTEMS),
        expand(
            "results/{system}/{run}/{file}",
            system=SYSTEMS,
            run=[*RUNS, EXACT],
            file=["run.json", "outputs.npy"],
        ),
        expand("results/{system}/{run}/metrics.json", system=SYSTEMS, run=COMPARED),
        expand("results/{system}/{run}/divergence.csv", system=SYSTEMS, run=COMPARED),
        expand("results/{system}/{run}/operators.csv", system=SYSTEMS, run=MEASURED),
        expand("results/{system}/{run}/latency.json", system=SYSTEMS, run=TIMED),
    output:
        report(
            "results/report.html",
            caption="captions/page.rst",
            category="Summary",
            labels={"what": "the page"},
        ),
    log:
        "logs/page.log",
    conda:
        "../envs/cpu.yaml"
    params:
        script=script("page"),
        options=program(
            "page",
            reads=configuration.label_files,
            folder="results",
            systems={s: configuration.shown(config["models"][s]) for s in SYSTEMS},
            left_out=LEFT_OUT,
            then=RUNS,
        ),
    shell:
        "python {params.script:q} --output={output:q} {params.options:q} 2> {log:q}"
