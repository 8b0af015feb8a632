"""Snakemake in processes of its own, forked from one that has imported it."""

import multiprocessing
import os
import runpy
import sys

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    [
        *("snakemake.cli", "snakemake.report.html_reporter", "snakemake_logger_plugin_rich"),
        *("smart_open", "jsonschema", "numpy", "yaml", "PIL.Image"),
    ]
)


def _run(command, output):
    """What `subprocess.run(command)` would do in a new Python."""
    with open(output, "wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.clear()
    os.environ.update(command["env"])
    os.chdir(command["cwd"])
    _, _, module, *arguments = map(str, command["args"])
    sys.argv, sys.path[0:0] = [module, *arguments], [command["env"]["PYTHONPATH"]]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def run(command, output, timeout):
    """Run ``python -m MODULE …`` as `Project.command` gives it; return its status and output."""
    child = FORKS.Process(target=_run, args=(command, output))
    child.start()
    child.join(timeout)
    if child.is_alive():
        child.kill()
    child.join()
    return child.exitcode, output.read_text(encoding="utf-8")
