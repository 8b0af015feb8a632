"""Snakemake in processes of its own, forked from one that has imported it."""

import atexit
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile

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
    sys.argv = [module, *arguments]
    sys.path[0:0] = [os.getcwd(), *command["env"]["PYTHONPATH"].split(os.pathsep)]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        atexit._run_exitfuncs()  # a process of multiprocessing leaves them out


def run(command, timeout=None):
    """Run ``python -m MODULE …`` as `Project.command` gives it; return what it printed."""
    with tempfile.NamedTemporaryFile("r", encoding="utf-8") as output:
        child = FORKS.Process(target=_run, args=(command, output.name))
        child.start()
        child.join(timeout)
        if child.is_alive():
            child.kill()
        child.join()
        return subprocess.CompletedProcess(command["args"], child.exitcode, output.read())
