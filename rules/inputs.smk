"""Inputs: photographs, synthetic images or samples, preprocessed as the system wants them.

in: nothing, or the user's images   out: inputs.npy (inputs, 3, H, W) and its sidecar
"""


rule inputs:
    input:
        lambda wildcards: input_sources.files(config["models"][wildcards.system]["inputs"]),
    output:
        "results/{system}/inputs.npy",
        "results/{system}/inputs.json",
    params:
        sources=of_system("inputs"),
        architecture=of_system("architecture"),
        preprocessing=of_system("preprocessing"),
        code=code("inputs"),
    log:
        "logs/{system}/inputs.log",
    conda:
        "../envs/cpu.yaml"
    shell:
        "python {SCRIPTS}/inputs.py {params.sources:q} --architecture {params.architecture:q} "
        "--preprocessing {params.preprocessing:q} --output {output[0]:q} 2> {log:q}"
