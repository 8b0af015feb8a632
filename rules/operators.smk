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
        software
    resources:
        accelerators=accelerators,
        gres=gres,
    params:
        output=subpath(output.program, parent=True),
        script=script("operators"),
        options=program(
            "operators", on_device, ported, reads=configuration.network_files
        ),
    shell:
        "python {params.script:q} --threads={threads} --output={params.output:q} "
        "{params.options:q} 2> {log:q}"


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
        software
    resources:
        accelerators=accelerators,
        gres=gres,
    params:
        script=script("numerics"),
        options=program(
            "numerics",
            on_device,
            reads=configuration.network_files,
            outputs=in_run("measured/outputs.npy"),
        ),
    shell:
        "python {params.script:q} --threads={threads} --output={output:q} {params.options:q} 2> {log:q}"
