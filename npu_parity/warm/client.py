"""Ask the server for a process that runs a program, or run it: ``client.py FOLDER ARGUMENTS``.

It starts before every job, so it imports little. It is run by ``python -I -S``.
"""

import marshal
import os
import resource
import signal
import socket
import sys

SOCKET = "socket"  # in the folder of the server
# Shells set these variables, or Snakemake for each job. Libraries do not read them when imported.
PASSING = {"_", "SHLVL", "PWD", "OLDPWD", "TMPDIR", "TMP", "TEMP", "TEMPDIR"}

LIMITS = sorted(name for name in dir(resource) if name.startswith("RLIMIT_"))


def circumstances(environment: dict[str, str]) -> list[object]:
    """Return what a process can only have from its start, or what libraries read on import."""
    return [
        sorted((key, value) for key, value in environment.items() if key not in PASSING),
        os.getsid(0),
        os.getpriority(os.PRIO_PROCESS, 0),
        sorted(os.sched_getaffinity(0)),
        [resource.getrlimit(getattr(resource, name)) for name in LIMITS],
        [stream is None for stream in (sys.stdin, sys.stdout, sys.stderr)],  # closed
    ]


def ask(folder: str, arguments: list[str], environment: dict[str, str]) -> int | None:
    """Let the server run a program, and return its status as of ``waitpid``.

    Returns:
        None if the program did not run, or died with the server.
    """
    umask = os.umask(0)
    os.umask(umask)
    request = {
        "arguments": arguments,
        "environment": environment,
        "folder": os.getcwd(),
        "umask": umask,
        "group": os.getpgrp(),
        "circumstances": circumstances(environment),
    }
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(os.path.join(folder, SOCKET))
        socket.send_fds(connection, [b"0"], [0, 1, 2])
        connection.sendall(marshal.dumps(request))
        while True:
            try:
                status = connection.recv(4)
            except KeyboardInterrupt:  # the program was interrupted too, and decides
                continue
            return int.from_bytes(status, "little") if status else None


def main() -> None:
    """Run the program of the command line, and end as it has ended."""
    folder, *arguments = sys.argv[1:]
    environment = dict(os.environ)
    environment["PATH"] = environment["PATH"].removeprefix(folder + os.pathsep)
    try:
        status = ask(folder, arguments, environment)
    except (OSError, ValueError):  # no server, or nothing that it could read
        status = None
    if status is None:
        os.execve(sys.executable, ["python", *arguments], environment)
    if os.WIFSIGNALED(status):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the program itself has written a core
        number = os.WTERMSIG(status)
        if number != signal.SIGKILL:
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    os._exit(os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main()
