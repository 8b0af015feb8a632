"""Operators: is it the same program there, does each operator keep to its bound, what numerics?

in: weights, inputs, measured outputs   out: program.json, operators.csv, numerics.json
"""


rule operators:
    input:
        of_system(configuration.network_files),
        weights="results/{system}/weights.safetensors",
        provenance="results/{system}/weights.json",
        inputs="results/{system}/inputs.npy",
        names="results/{system}/inputs.json",
    output:
        program="results/{system}/{device}/measured/program.json",
        operators="results/{system}/{device}/measured/operators.csv",
    log:
        "logs/{system}/{device}/measured/operators.log",
    conda:
        "../envs/cpu.yaml"
    params:
        folder=subpath(input.weights, parent=True),
        output=subpath(output.program, parent=True),
        backend=setting("device", "backend"),
        numerics=setting("device", "numerics"),
        ported=ported,
        script=script("operators"),
        code=code("operators"),
    shell:
        "python {params.script:q} --weights-folder {params.folder:q} --inputs {input.inputs:q} "
        "--backend {params.backend} --numerics {params.numerics:q} {params.ported:q} "
        "--threads {threads} --output {params.output:q} 2> {log:q}"


rule numerics:
    input:
        of_system(configuration.network_files),
        weights="results/{system}/weights.safetensors",
        provenance="results/{system}/weights.json",
        inputs="results/{system}/inputs.npy",
        names="results/{system}/inputs.json",
        outputs="results/{system}/{device}/measured/outputs.npy",
        run="results/{system}/{device}/measured/run.json",
    output:
        "results/{system}/{device}/measured/numerics.json",
    log:
        "logs/{system}/{device}/measured/numerics.log",
    conda:
        "../envs/cpu.yaml"
    params:
        folder=subpath(input.weights, parent=True),
        backend=setting("device", "backend"),
        numerics=setting("device", "numerics"),
        script=script("numerics"),
        code=code("numerics"),
    shell:
        "python {params.script:q} --weights-folder {params.folder:q} --inputs {input.inputs:q} "
        "--outputs {input.outputs:q} --backend {params.backend} --numerics {params.numerics:q} "
        "--threads {threads} --output {output:q} 2> {log:q}"
