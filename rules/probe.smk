"""Probe: how a device rounds operands, before anything else runs there.

in: nothing   out: the probe, the settings and the description of the device
"""


rule probe:
    output:
        "results/probes/{device}.json",
    log:
        "logs/probes/{device}.log",
    conda:
        software
    resources:
        accelerators=accelerators,
        gres=gres,
    params:
        script=script("probe"),
        options=program("probe", only_device),
    shell:
        "python {params.script:q} --threads={threads} --output={output:q} {params.options:q} 2> {log:q}"
