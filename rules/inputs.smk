"""Inputs: photographs, synthetic images or samples, with the system's preprocessing.

in: nothing, or the user's images   out: inputs.npy (inputs, 3, H, W) and its sidecar
"""


rule inputs:
    input:
        of_system(lambda system: images.files(system["inputs"])),
    output:
        array="results/{system}/inputs.npy",
        sidecar="results/{system}/inputs.json",
    log:
        "logs/{system}/inputs.log",
    conda:
        "../envs/cpu.yaml"
    params:
        sources=setting("inputs"),
        architecture=setting("architecture"),
        preprocessing=setting("preprocessing"),
        script=script("inputs"),
        code=code("inputs"),
    shell:
        "python {params.script:q} {params.sources:q} --architecture {params.architecture:q} "
        "--preprocessing {params.preprocessing:q} --code {params.code} --output {output.array:q} 2> {log:q}"
