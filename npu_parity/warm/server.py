"""Fork a process for each program that a client asks for: ``server.py FOLDER LISTENER``.

The server imports what programs need, and then does nothing else: no operator, no thread, no
accelerator. So a fork is what a plain process is after its imports. It refuses

- what is not the path of a Python file, such as options of Python;
- a client whose environment, session, priority, CPUs or limits differ from its own, except for the
  number of threads if the program sets it itself;
- everything, if an import has started a thread.

A refused client runs Python itself. A program that is killed is reported to its client. If a client
is killed, its program is killed, and if the server is killed, so are its programs.
"""

import sys

if __name__ == "__main__":  # no program has this folder on its path
    del sys.path[0]

import atexit
import builtins
import contextlib
import ctypes
import gc
import importlib
import importlib.machinery
import io
import marshal
import os
import pkgutil
import selectors
import shutil
import signal
import socket
import tempfile
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import npu_parity
from npu_parity.warm import THREADS
from npu_parity.warm.client import circumstances

# Libraries that functions import, and that take long. Not onnxruntime, which starts a thread.
# torch.onnx.export imports the last three. Their names are internal: some versions have others.
LATE = (
    *("torch._dynamo", "torchvision", "timm", "pydantic.type_adapter", "tabulate"),
    *("torch.export._trace", "torch.onnx._internal.exporter._core"),
    "onnxscript.function_libs.torch_lib.ops",
)
# Programs that set their number of threads themselves, so the variables with it may differ.
THREADED = ("latency",)
PATIENCE = 10.0  # seconds for a request to arrive, which a client sends at once
PR_SET_PDEATHSIG = 1  # of prctl
prctl = ctypes.CDLL(None).prctl

Request = dict[str, Any]  # as `client.ask` sends it


class Ending:
    """Ends a program after all that its exit does, but before Python takes every module apart.

    That would write to all memory that programs share, and take half a second.

    Attributes:
        status: the exit status, or minus the number of a signal; None if there is no program.
    """

    status: int | None = None

    def __call__(self) -> None:
        """Destroy what the program has made, and end."""
        if self.status is None:
            return
        with contextlib.suppress(Exception):  # Python says what cannot be written
            vars(sys.modules["__main__"]).clear()
            gc.collect()
            sys.stdout.flush()
            sys.stderr.flush()
            if self.status < 0:
                signal.signal(-self.status, signal.SIG_DFL)
                os.kill(os.getpid(), -self.status)
            os._exit(self.status)


ENDING = Ending()


def preload() -> None:
    """Import what programs need."""
    for name in LATE:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    for module in pkgutil.walk_packages(npu_parity.__path__, f"{npu_parity.__name__}."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)


class Server:
    """Waits for clients, for the end of their programs, and for the end of the run.

    Args:
        listener: the socket to which clients connect.
        started: the circumstances in which the server has started.
    """

    def __init__(self, listener: socket.socket, started: list[Any]) -> None:
        self.listener, self.started = listener, started
        self.waiting = selectors.DefaultSelector()
        self.when_readable(listener, self.accept)
        self.when_readable(sys.stdin, self.close)

    def when_readable(self, file: Any, action: Callable[[], Request | None]) -> None:
        """Call `action` whenever a file is readable."""
        self.waiting.register(file, selectors.EVENT_READ, action)

    def serve(self) -> Request | None:
        """Return the request of a client in the process that is to run it, or None at the end."""
        while self.waiting.get_map():
            key, _ = self.waiting.select()[0]  # its action may change the others
            request: Request | None = key.data()
            if request:
                return request
        return None

    def close(self) -> None:
        """Accept no more clients, because the run has ended. Programs go on to their end."""
        self.waiting.unregister(sys.stdin)
        self.waiting.unregister(self.listener)
        self.listener.close()

    def accept(self) -> Request | None:
        """Fork for a client; see `serve`. A client that gets no answer runs the program itself."""
        connection, _ = self.listener.accept()
        request = self.receive(connection)
        if request is None:
            connection.close()
            return None
        server = os.getpid()
        program = os.fork()
        if program:
            for file in request["files"]:
                os.close(file)
            self.watch(program, connection)
            return None
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != server:  # it was killed before that
            os._exit(1)
        for key in list(self.waiting.get_map().values()):
            if isinstance(key.fileobj, socket.socket):
                key.fileobj.close()
        self.waiting.close()
        # The client sees no end of the connection while this process lives.
        return request | {"connection": connection}

    def receive(self, connection: socket.socket) -> Request | None:
        """Return what a client asks for, with its files 0 to 2; None if the server refuses."""
        connection.settimeout(PATIENCE)
        files: list[int] = []
        with contextlib.suppress(OSError, EOFError, ValueError, TypeError):  # the client is gone
            _, files, _, _ = socket.recv_fds(connection, 1, 3)
            with connection.makefile("rb") as stream:
                request: Request = marshal.load(stream)
            script = Path(request["folder"], *request["arguments"][:1])
            if (
                len(files) == 3
                and script.suffix == ".py"
                and script.is_file()
                and alike(request["circumstances"], self.started, script.stem in THREADED)
            ):
                return request | {"files": files}
        for file in files:
            os.close(file)
        return None

    def watch(self, program: int, connection: socket.socket) -> None:
        """Report the end of a program to its client; kill the program if the client is killed."""
        handle = os.pidfd_open(program)

        def ended() -> None:
            _, status = os.waitpid(program, 0)
            self.waiting.unregister(handle)
            os.close(handle)
            if connection in self.waiting.get_map():
                self.waiting.unregister(connection)
                with contextlib.suppress(OSError):
                    connection.sendall(status.to_bytes(4, "little"))
            connection.close()

        def left() -> None:
            self.waiting.unregister(connection)
            signal.pidfd_send_signal(handle, signal.SIGKILL)

        self.when_readable(handle, ended)
        self.when_readable(connection, left)


def alike(found: list[Any], started: list[Any], threaded: bool) -> bool:
    """Return whether a client's circumstances are the server's.

    Args:
        found: of the client, see `client.circumstances`.
        started: of the server.
        threaded: whether the variables with the number of threads may differ.
    """

    def compared(circumstances: list[Any]) -> list[Any]:
        environment, *rest = circumstances
        ignored = THREADS if threaded else ()
        return [[pair for pair in environment if pair[0] not in ignored], *rest]

    return compared(found) == compared(started)


def become(request: Request) -> None:
    """Give this process all that the client's process has."""
    import numpy
    import torch

    os.setpgid(0, request["group"])  # for signals of the terminal
    for number, file in enumerate(request["files"]):
        os.dup2(file, number)
        os.close(file)
    if isinstance(sys.stdout, io.TextIOWrapper) and not sys.stdout.write_through:
        sys.stdout.reconfigure(line_buffering=sys.stdout.isatty())
    os.chdir(request["folder"])
    os.umask(request["umask"])
    os.environ.clear()
    os.environ.update(request["environment"])
    tempfile.tempdir = None  # it follows from the environment
    sys.argv[:] = request["arguments"]
    sys.orig_argv[:] = ["python", *request["arguments"]]
    # Every process starts with random numbers of its own. Python's `random` sees to that itself.
    numpy.random.seed()
    torch.default_generator.seed()


def run(script: str) -> None:
    """Run a Python file as ``python FILE`` does."""
    path = os.path.join(os.getcwd(), script)
    sys.path.insert(0, os.path.dirname(os.path.realpath(path)))
    loader = importlib.machinery.SourceFileLoader("__main__", path)
    main = types.ModuleType("__main__")
    vars(main).update(__file__=path, __loader__=loader, __builtins__=builtins, __cached__=None)
    vars(main).update(__annotations__={})
    sys.modules["__main__"] = main
    try:
        exec(compile(loader.get_data(path), path, "exec"), vars(main))
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        ENDING.status = code & 0xFF
        raise
    except BaseException as error:
        ENDING.status = -signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
        trace = error.__traceback__
        while trace and trace.tb_frame.f_code.co_filename == __file__:
            trace = trace.tb_next
        sys.excepthook(type(error), error.with_traceback(trace), trace)
        sys.exit(1)
    ENDING.status = 0


def main() -> None:
    """Serve, and in each process that was forked, run the program of its client."""
    atexit.register(ENDING)  # the first one, so it is called last
    folder, listener = sys.argv[1], socket.socket(fileno=int(sys.argv[2]))
    interrupted = signal.signal(signal.SIGINT, signal.SIG_IGN)  # programs are interrupted, not this
    started = circumstances(dict(os.environ))
    preload()
    if len(os.listdir("/proc/self/task")) > 1:
        return
    gc.freeze()  # a collection in a program does not copy what all programs share
    request = Server(listener, started).serve()
    if request is None:
        shutil.rmtree(folder, ignore_errors=True)
        return
    signal.signal(signal.SIGINT, interrupted)
    become(request)
    run(sys.argv[0])


if __name__ == "__main__":
    main()
