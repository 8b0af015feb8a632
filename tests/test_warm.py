"""Jobs that fork from the server write and end as plain processes do, and leave nothing behind."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from project import AS_MAKE, ROOT, SMALL, Project

from npu_parity import warm
from npu_parity.warm import client, server

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="warm jobs need Linux"),
]

LONGEST = 120  # seconds until a test gives up
WARM = "import sys; print('warm' if 'torch' in sys.modules else 'plain')\n"


def environment():
    """The environment that Snakemake gives to a job."""
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
    return (
        {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
        | dict.fromkeys(warm.THREADS, "1")
        | {"PATH": path, "PYTHONPATH": str(ROOT), "COLUMNS": "80"}
    )


class Served:
    """A server, and programs that shells run as Snakemake's shells do."""

    def __init__(self):
        before, job = dict(os.environ), environment()
        os.environ.clear()
        os.environ.update(job)
        try:
            self.process = warm.start()
            self.folder = Path(os.environ["PATH"].split(os.pathsep)[0])
        finally:
            os.environ.clear()
            os.environ.update(before)

    @property
    def environment(self):
        found = environment()
        return found | {"PATH": f"{self.folder}{os.pathsep}{found['PATH']}"}

    def run(self, command, plain=False, **settings):
        """Run a command of bash, as a rule does."""
        env = environment() if plain else self.environment
        env |= settings.pop("env", {})
        how = {"capture_output": True, "text": True, "timeout": LONGEST} | settings
        return subprocess.run(["bash", "-c", f"set -euo pipefail; {command}"], env=env, **how)

    def popen(self, *arguments, **settings):
        """Start a client in a process group of its own."""
        return subprocess.Popen(
            [self.folder / "python", *arguments],
            env=self.environment,
            process_group=0,
            stdout=subprocess.PIPE,
            text=True,
            **settings,
        )


@pytest.fixture(scope="module")
def served():
    found = Served()
    yield found
    found.process.kill()
    found.process.wait()


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Write a program into the folder of the test, where the test also runs it."""
    monkeypatch.chdir(tmp_path)

    def write(text, name="program.py"):
        (tmp_path / name).write_text(text)
        return name

    return write


def wait_until(true):
    deadline = time.monotonic() + LONGEST
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def alive(number):
    """Whether a process runs. One that has ended may still wait for its parent to notice."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # it ends, or has ended
        return False


def number_in(file):
    """The number that a program writes into a file."""
    wait_until(lambda: file.exists() and file.read_text().endswith("\n"))
    return int(file.read_text())


def both(served, command, **settings):
    """The status, output and errors of a command, which are the same for a plain process."""
    first = served.run(command, **settings)
    second = served.run(command, plain=True, **settings)
    found = (first.returncode, first.stdout, first.stderr)
    assert found == (second.returncode, second.stdout, second.stderr)
    return found


# What a process has

STATE = """
import os, resource, signal, sys, tempfile
umask = os.umask(0)
print(sys.argv, sys.orig_argv, sys.path, sys.flags, sys.executable, sys.prefix, sep="\\n")
print(__file__, __name__, __spec__, __package__, sorted(globals()), sep="\\n")
print(os.getcwd(), umask, os.getsid(0), os.getpgrp(), tempfile.gettempdir(), sep="\\n")
print([(number, signal.getsignal(number)) for number in sorted(signal.valid_signals())])
print(signal.pthread_sigmask(signal.SIG_BLOCK, []), os.nice(0), sorted(os.sched_getaffinity(0)))
print([resource.getrlimit(number) for number in range(10)])
for stream in (sys.stdin, sys.stdout, sys.stderr):
    print(stream.encoding, stream.errors, stream.isatty(), getattr(stream, "write_through", None))
    print(stream.line_buffering, stream.fileno())
for number in range(3, 50):
    try:
        print(number, os.get_inheritable(number) and "inherited")
    except OSError:
        print(number, False)
for item in sorted(os.environ.items()):
    print(*item if item[0] != "_" else ())  # the program that the shell has found
if "torch" in sys.argv:
    import builtins, numpy, torch
    print(torch.get_num_threads(), torch.get_num_interop_threads(), torch.get_default_dtype())
    print(torch.__config__.parallel_info(), torch.backends.mkldnn.allow_tf32, numpy.geterr())
    print(torch.is_grad_enabled(), torch.are_deterministic_algorithms_enabled())
    print(hasattr(builtins, "leak"), hasattr(torch, "leak"), "leak" in sys.modules)
"""


@pytest.mark.parametrize("arguments", ["", "-a 'b c' '' 中文 torch"])
def test_the_state_of_a_program_is_that_of_a_plain_process(served, program, arguments):
    program(STATE, "state of.py")
    command = f"umask 027; mkdir -p sub; cd sub; PWD=$PWD python '../state of.py' {arguments}"
    status, output, errors = both(served, command, env={"TMPDIR": os.getcwd()})
    assert status == 0 and not errors
    assert os.getcwd() in output.splitlines() and f"{os.getcwd()}/sub" in output.splitlines()


def test_programs_are_served(served, program):
    program(WARM)
    assert served.run("python program.py").stdout == "warm\n"
    assert served.run("python program.py", plain=True).stdout == "plain\n"


def test_standard_files_are_those_of_the_shell(served, program):
    program("import sys; print(sys.stdin.read().upper()); print('error', file=sys.stderr)")
    command = "echo text | python program.py > out.txt 2> err.log; cat out.txt err.log >&2"
    assert both(served, command) == (0, "", "TEXT\n\nerror\n")


@pytest.mark.parametrize("draw", ["random.random()", "np.random.rand()", "torch.rand(1).item()"])
def test_random_numbers_differ_between_programs(served, program, draw):
    program(f"import random, torch, numpy as np; print({draw})")
    drawn = {served.run("python program.py").stdout for _ in range(3)}
    assert len(drawn) == 3


# How a program ends

ENDINGS = {
    "end": "print('done', end='')",
    "number": "import sys; sys.exit(3)",
    "large number": "import sys; sys.exit(256 + 7)",
    "negative number": "import sys; sys.exit(-1)",
    "text": "import sys; sys.exit('the reason')",
    "none": "import sys; sys.exit(None)",
    "false": "import sys; sys.exit(False)",
    "exception": "def f():\n    raise ValueError('wrong')\n\n\nf()",
    "chain": "try:\n    1 / 0\nexcept ZeroDivisionError as e:\n    raise OSError('x') from e",
    "group": "raise ExceptionGroup('several', [ValueError('a'), TypeError('b')])",
    "syntax": "print('no'\n",
    "own hook": "import sys\nsys.excepthook = lambda *a: print('hook', a[0])\nraise KeyError",
    "abort": "import os; os.abort()",
    "at once": "import os; print('lost'); os._exit(3)",
    "killed": "import os; os.kill(os.getpid(), 9)",
    "terminated": "import os; os.kill(os.getpid(), 15)",
    "interrupted": "import os; os.kill(os.getpid(), 2)",
    "by SIGINT": "import os, signal as s; s.signal(2, s.SIG_DFL); os.kill(os.getpid(), s.SIGINT)",
    "crash": "import ctypes; ctypes.string_at(0)",
    "exit function": "import atexit; atexit.register(print, 'bye'); print('hello')",
    "thread": "import threading; threading.Timer(0.1, print, ['late']).start(); print('early')",
    "daemon": "import threading, time\nt = threading.Thread(target=time.sleep, args=[300])\n"
    "t.daemon = True\nt.start()",
    "open file": "file = open('open.txt', 'w'); file.write('text')",
    "deleted": "class A:\n    def __del__(self):\n        print('deleted')\n\n\na = A()",
    "child": "import subprocess, sys; sys.exit(subprocess.call(['sh', '-c', 'echo out; exit 5']))",
    "full disk": "import sys; sys.stdout = open('/dev/full', 'w'); print('text')",
    "typer": "import typer\n\n\ndef main(a: int):\n    1 / a\n\n\ntyper.run(main)",
}


@pytest.mark.parametrize("text", ENDINGS.values(), ids=ENDINGS)
def test_a_program_ends_as_a_plain_process_does(served, program, text):
    program(text)
    status, output, errors = both(served, "python program.py 0")
    assert (status, output, errors) != (0, "", "") or text in (
        *(ENDINGS[name] for name in ("none", "false", "daemon", "open file")),
    )
    if "open.txt" in text:
        assert Path("open.txt").read_text() == "text"


def test_a_full_disk_is_noticed(served, program):
    program("print('text')")
    for unbuffered in ("", "1"):
        env = {"PYTHONUNBUFFERED": unbuffered}
        status, _, errors = both(served, "python program.py > /dev/full", env=env)
        assert status in (1, 120) and "No space left" in errors


def test_a_missing_program_is_reported_by_python(served, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, _, errors = both(served, "python absent.py")
    assert status == 2 and "No such file" in errors


# What a program leaves behind

LEAKS = """
import builtins, os, random, resource, signal, sys, threading, time, warnings
import numpy, torch
torch.leak = builtins.leak = 1
sys.modules["leak"] = sys
sys.path.insert(0, "/leak")
os.environ["LEAK"] = "1"
os.chdir("/")
os.umask(0)
os.nice(5)
resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.signal(signal.SIGINT, signal.SIG_IGN)
sys.excepthook = print
warnings.simplefilter("error")
numpy.seterr(all="raise")
torch.set_num_threads(7)
torch.set_default_dtype(torch.float64)
torch.use_deterministic_algorithms(True)
torch.set_grad_enabled(False)
torch.backends.mkldnn.allow_tf32 = True
torch.rand(400, 400) @ torch.rand(400, 400)
threading.Thread(target=time.sleep, args=[99], daemon=True).start()
torch.load = torch.save = None
"""


@pytest.mark.parametrize(
    "end", ["", "sys.exit(1)", "os.abort()", "os._exit(3)", "os.kill(os.getpid(), 9)"]
)
def test_a_program_leaves_nothing_to_the_next(served, program, end):
    program(STATE, "state.py")
    program(LEAKS + end, "leaks.py")
    served.run("python leaks.py")
    status, output, errors = both(served, "python state.py torch")
    assert status == 0 and not errors and "leak" not in output.replace("False", "").lower()


# Programs that are refused

REFUSED = {
    "threads": ("", {"OMP_NUM_THREADS": "2"}),
    "BLAS": ("", {"OPENBLAS_CORETYPE": "Prescott"}),
    "kernels of torch": ("", {"ATEN_CPU_CAPABILITY": "default"}),
    "hash seed": ("", {"PYTHONHASHSEED": "0"}),
    "anything else": ("", {"ANYTHING": ""}),
    "a variable less": ("unset COLUMNS; ", {}),
    "limit": ("ulimit -n 200; ", {}),
    "nice": ("nice -n 3 ", {}),
    "session": ("setsid --wait ", {}),
    "no input": ("exec 0<&-; ", {}),
}


@pytest.mark.parametrize(("before", "env"), REFUSED.values(), ids=REFUSED)
def test_other_circumstances_get_a_plain_process(served, program, before, env):
    program(WARM)
    found = served.run(f"{before}python program.py", env=env)
    assert (found.returncode, found.stdout, found.stderr) == (0, "plain\n", "")


@pytest.mark.parametrize("command", ["-c", "-X dev program.py", "- < program.py", "program"])
def test_only_files_of_python_without_options_are_served(served, program, command):
    for name in ("program.py", "program"):
        program(WARM, name)
    command = f"-c {shlex.quote(WARM)}" if command == "-c" else command
    assert served.run(f"python {command}").stdout == "plain\n"


@pytest.mark.parametrize("name", warm.THREADS)
def test_only_a_program_that_sets_its_threads_itself_may_have_others(served, program, name):
    env = {name: "3"}
    for script in server.THREADED:
        assert (ROOT / f"scripts/{script}.py").is_file()
        program(WARM, f"{script}.py")
        assert served.run(f"python {script}.py", env=env).stdout == "warm\n"
        assert served.run(f"python {script}.py", env=env | {"OTHER": "3"}).stdout == "plain\n"
    program(WARM)
    assert served.run("python program.py", env=env).stdout == "plain\n"


# Signals

WAITING = """
import os, time
from pathlib import Path
Path("new").write_text(f"{os.getpid()}\\n")
Path("new").rename("number")
try:
    time.sleep(300)
finally:
    print("finally")
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGHUP])
def test_a_killed_client_takes_its_program_along(served, program, number):
    with served.popen(program(WAITING)) as started:
        job = number_in(Path("number"))
        assert alive(job) and job != started.pid
        started.send_signal(number)
        assert started.wait(LONGEST) == -number
    wait_until(lambda: not alive(job))
    assert served.run(f"python {program(WARM)}").stdout == "warm\n"


def test_a_group_that_is_interrupted_ends_as_plain_processes_do(served, program):
    """The terminal interrupts the whole group: Snakemake, its shells and their programs."""
    with served.popen(program(WAITING), stderr=subprocess.PIPE) as started:
        job = number_in(Path("number"))
        os.killpg(started.pid, signal.SIGINT)
        output, errors = started.communicate(timeout=LONGEST)
    assert started.returncode == -signal.SIGINT
    assert output == "finally\n" and errors.endswith("KeyboardInterrupt\n")
    assert not alive(job)


def test_a_killed_program_is_reported(served, program):
    with served.popen(program(WAITING)) as started:
        os.kill(number_in(Path("number")), signal.SIGKILL)
        assert started.wait(LONGEST) == -signal.SIGKILL


# The end of the server

TWICE = f"""
import os, sys, time
from pathlib import Path
if "torch" in sys.modules:
    Path("new").write_text(f"{{os.getpid()}}\\n")
    Path("new").rename("number")
    time.sleep(300)
{WARM}
"""


def test_programs_run_again_if_the_server_is_killed(program):
    own = Served()
    with own.popen(program(TWICE)) as started:
        job = number_in(Path("number"))
        own.process.kill()
        output, _ = started.communicate(timeout=LONGEST)
    assert (started.returncode, output) == (0, "plain\n")
    assert not alive(job)
    own.process.wait()
    assert own.run("python program.py").stdout == "plain\n"  # it is not there any more
    (own.folder / client.SOCKET).unlink()
    assert own.run("python program.py").stdout == "plain\n"


def test_a_server_with_a_thread_serves_nobody(program, tmp_path, monkeypatch):
    program(ENDINGS["daemon"], "sitecustomize.py")
    found = environment()
    found["PYTHONPATH"] += f"{os.pathsep}{tmp_path}"
    monkeypatch.setattr(f"{__name__}.environment", lambda: dict(found))
    own = Served()
    assert own.run(f"python {program(WARM)}").stdout == "plain\n"
    assert own.process.wait(LONGEST) == 0


@pytest.mark.parametrize("folder", ["long" * 30, "absent/folder"])
def test_without_a_folder_there_is_no_server(tmp_path, monkeypatch, folder):
    if "/" not in folder:
        (tmp_path / folder).mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / folder))
    path = os.environ["PATH"]
    assert warm.start() is None and os.environ["PATH"] == path


OWNER = """
import os, time
from npu_parity import warm
print(warm.start().pid, os.environ["PATH"].split(os.pathsep)[0], flush=True)
time.sleep(300)
"""


def test_the_server_ends_with_the_run_and_its_programs_go_on(program):
    """Snakemake is killed. Plain processes would go on as well."""
    command = [sys.executable, "-c", OWNER]
    own = object.__new__(Served)
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True) as owner:
        number, own.folder = owner.stdout.readline().split()
        own.folder = Path(own.folder)
        with own.popen(program(WAITING.replace("300", "3"))) as started:
            job = number_in(Path("number"))
            owner.kill()
            owner.wait()
            assert started.communicate(timeout=LONGEST)[0] == "finally\n"
            assert started.returncode == 0
    wait_until(lambda: not alive(job) and not alive(int(number)))
    assert not own.folder.exists()


# The workflow

# Python runs this at every start, but not for clients.
COUNTED = """
import atexit, os, sys

def note(moment):
    with open(os.environ["COUNTED"], "a") as file:
        print(moment, *map(os.path.basename, sys.orig_argv[1:2]), file=file)

note("start")
atexit.register(lambda: "torch" in sys.modules and note("torch"))
"""
WITHOUT_TORCH = {"metrics", "figure", "table", "card", "summary", "page", "readme", "show"}


def started_in(project, fewest):
    """The programs that a run starts with a new Python, and those that have imported torch."""
    (project.place / "sitecustomize.py").write_text(COUNTED)
    path = os.pathsep.join([str(project.place), str(project.repository)])
    project.env = {"PYTHONPATH": path, "COUNTED": str(project.place / "counted")}
    (project.folder / "README.md").write_text("# A port\n")
    rules = project.repository / "rules/run.smk"
    rules.write_text(re.sub(r"FEWEST = \d+", f"FEWEST = {fewest}", rules.read_text()))
    project.succeed(*AS_MAKE, "all")
    counted = (project.place / "counted").read_text()
    return [set(re.findall(rf"^{word} (\w+)\.py$", counted, re.M)) for word in ("start", "torch")]


def test_a_run_writes_the_same_bytes_with_warm_jobs(tmp_path):
    """And comparing and reporting need no torch, also in plain processes."""
    warmed, plain = (Project.make(tmp_path / name, SMALL) for name in ("warm", "plain"))
    assert started_in(warmed, 1)[0] == {"server"}
    started, torch = started_in(plain, 1000)
    assert started - torch == WITHOUT_TORCH
    assert {"weights", "outputs", "operators", "divergence", "latency"} <= torch
    first, second = warmed.comparable(), plain.comparable()
    assert first.keys() == second.keys() and len(first) > 20
    assert [name for name in first if first[name] != second[name]] == []
    logs = [{n: p.read_text() for n, p in p.files("logs/**/*").items()} for p in (warmed, plain)]
    assert logs[0] == logs[1]
