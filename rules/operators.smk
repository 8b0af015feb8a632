"""Operators: is the program the same, is each operator within its bound, what are the numerics?

in: weights, inputs, measured outputs   out: program.json, operators.csv, numerics.json
"""


rule operators:
    input:
        unpack(network),
    output:
        program="results/{system}/{device}/measured/program.json",
        operators="results/{system}/{device}/measured/operators.csv",
    log:
        "logs/{system}/{device}/measured/operators.log",
    conda:
        "../envs/cpu.yaml"
    params:
        output=subpath(output.program, parent=True),
        device=on_device,
        ported=ported,
        script=script("operators"),
        code=code("operators"),
    shell:
        "python {params.script:q} {params.device:q} {params.ported:q} --threads {threads} "
        "--code {params.code} --output {params.output:q} 2> {log:q}"


rule numerics:
    input:
        unpack(network),
        outputs="results/{system}/{device}/measured/outputs.npy",
        run="results/{system}/{device}/measured/run.json",
    output:
        "results/{system}/{device}/measured/numerics.json",
    log:
        "logs/{system}/{device}/measured/numerics.log",
    conda:
        "../envs/cpu.yaml"
    params:
        device=on_device,
        script=script("numerics"),
        code=code("numerics"),
    shell:
        "python {params.script:q} {params.device:q} --outputs {input.outputs:q} "
        "--threads {threads} --code {params.code} --output {output:q} 2> {log:q}"
