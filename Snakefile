"""Does a vision model still compute the same thing there, how do you know, and how fast is it?"""


include: "rules/common.smk"
include: "rules/options.smk"
include: "rules/inputs.smk"
include: "rules/weights.smk"
include: "rules/probe.smk"
include: "rules/outputs.smk"
include: "rules/operators.smk"
include: "rules/parity.smk"
include: "rules/divergence.smk"
include: "rules/latency.smk"
include: "rules/report.smk"
include: "rules/outdated.smk"
include: "rules/run.smk"


# Short jobs, which a cluster need not run.
localrules:
    metrics,
    figure,
    table,
    card,
    summary,
    page,
    verify,


rule all:
    input:
        expand("results/{system}/weights.safetensors", system=LARGE),
        expand("results/{system}/inputs.npy", system=LARGE),
        expand("results/{system}/{run}/outputs.npy", system=SYSTEMS, run=RUNS),
        expand("results/{system}/{run}/metrics.json", system=SYSTEMS, run=COMPARED),
        expand("results/{system}/{run}/operators.csv", system=SYSTEMS, run=MEASURED),
        expand("results/{system}/{run}/divergence.csv", system=SYSTEMS, run=COMPARED),
        expand("results/{system}/{run}/latency.json", system=SYSTEMS, run=TIMED),
        expand("results/{system}/divergence.svg", system=SYSTEMS),
        expand("results/tables/{system}.md", system=SYSTEMS),
        expand("results/{system}/{card}.md", system=SYSTEMS, card=["card", "card.zh"]),
        "results/tables/summary.md",
        "results/tables/overview.md",
        "results/summary.json",
        "results/report.html",
