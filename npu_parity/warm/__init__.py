"""Warm jobs: a local run forks its jobs from a process that has imported torch and this package.

Most of a small job is the start of Python and the import of torch. `start` runs a server that has
imported everything, and puts another ``python`` first on the path. That one runs
`npu_parity.warm.client` with the same arguments. The client asks the server for a process, and
waits for its end. If there is no server, or if the server refuses, the client becomes the real
Python.

A job cannot see the difference. It has its own arguments, environment, folder, standard files,
process group and exit status. No job can change the next one, because each is a fork of a server
that runs no job. `npu_parity.warm.server` says which jobs it refuses.
"""

import atexit
import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from npu_parity.warm.client import SOCKET

# Snakemake sets these for each job, and libraries read them when they are imported.
THREADS = (
    *("OMP_NUM_THREADS", "GOTO_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"),
    *("VECLIB_MAXIMUM_THREADS", "NUMEXPR_NUM_THREADS"),
)


def start() -> "subprocess.Popen[bytes] | None":
    """Start the server, and let ``python`` use it on the path of this process.

    It ends with this process. It serves jobs of one thread.

    Returns:
        The server. None if there is none, and all jobs are plain processes: this system cannot
        watch processes (it is not Linux), or its folder for temporary files cannot be used.
    """
    if not hasattr(os, "pidfd_open"):
        return None
    try:
        folder = tempfile.mkdtemp(prefix="npu-parity-")  # no other user can enter it
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        server = _start(folder)
    except OSError:
        return None
    atexit.register(_stop, server)
    os.environ["PATH"] = os.pathsep.join([folder, os.environ["PATH"]])
    return server


def _start(folder: str) -> "subprocess.Popen[bytes]":
    """Start the server, with ``python`` and its socket in a folder.

    Raises:
        OSError: the folder is full, its path is too long, or it allows no programs.
    """
    python, here = shutil.which("python") or sys.executable, Path(__file__).parent
    client = shlex.join([python, "-I", "-S", str(here / "client.py"), folder])
    found = Path(folder, "python")
    found.write_text(f'#!/bin/sh\nexec {client} "$@"\n', encoding="utf-8")
    found.chmod(0o700)
    if not os.access(found, os.X_OK):
        raise PermissionError(found)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.join(folder, SOCKET))
        listener.listen(socket.SOMAXCONN)
        return subprocess.Popen(
            [python, here / "server.py", folder, str(listener.fileno())],
            stdin=subprocess.PIPE,  # it is closed when this process ends, also if it is killed
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=os.environ | dict.fromkeys(THREADS, "1"),
            pass_fds=[listener.fileno()],
        )


def _stop(server: "subprocess.Popen[bytes]") -> None:
    server.kill()
    server.wait()  # from now on, the peak of memory of its jobs counts as one of this process
