"""Inputs: photographs, synthetic images or samples, with the preprocessing of
the configuration, the weights or the architecture.

in: nothing, or the user's images   out: inputs.npy (inputs, 3, H, W) and its sidecar
"""


rule inputs:
    output:
        array=large("results/{system}/inputs.npy"),
        sidecar="results/{system}/inputs.json",
    log:
        "logs/{system}/inputs.log",
    conda:
        "../envs/cpu.yaml"
    params:
        script=script("inputs"),
        options=program(
            "inputs",
            weights_that_tell,
            reads=configuration.input_files,
            then=setting("inputs"),
            architecture=setting("architecture"),
            preprocessing=setting("preprocessing"),
        ),
    shell:
        "python {params.script:q} --output={output.array:q} {params.options:q} 2> {log:q}"
