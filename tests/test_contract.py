"""What npu_parity/backends/npu.py relies on, in the real Python layer of torch_npu.

There is no NPU and no CANN: see stub_cann.py. So no operator runs here, but each getter, setter,
default and exception is torch_npu's own. `make contract` runs this file for each pair of torch and
torch_npu; this process tests the pair that belongs to its torch. The wheel comes from PyPI.
"""

import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import stub_cann
from project import ROOT
from torch.utils import backend_registration

pytestmark = pytest.mark.slow

# torch_npu by the version of torch: the extras of pyproject.toml, and the newest.
PAIRS = {"2.9": "2.9.0", "2.10": "2.10.0.post4", "2.14": "2.14.0"}
STANDIN = ROOT / "tests" / "standin_npu"
UV = shutil.which("uv")

# Each line is a question: an expression, or a statement after "!". The answer is its value, "done",
# or the type and the first line of the exception.
QUESTIONS = """
torch.npu.is_available()
torch.npu.device_count()
torch.npu.is_initialized()
torch._C._get_privateuse1_backend_name()
torch.npu.conv.allow_hf32
torch.npu.matmul.allow_hf32
torch.npu.matmul.cube_math_type
torch.npu.conv.nonsense
torch_npu._C._npu_getOption("ACL_PRECISION_MODE")
torch_npu._C._npu_getOption("jitCompile")
torch_npu._C._npu_getOption("NONSENSE")
!torch.npu.conv.nonsense = True
!torch.npu.conv.allow_hf32 = False
torch.npu.conv.allow_hf32 # after False
!torch.npu.conv.allow_hf32 = True
torch.npu.conv.allow_hf32 # after True
!torch.npu.matmul.allow_hf32 = True
torch.npu.matmul.allow_hf32 # after True
!torch.npu.matmul.allow_hf32 = 1
!torch.npu.matmul.allow_hf32 = False
[kind.name for kind in torch.npu.CubeMathType]
!torch.npu.matmul.cube_math_type = 3
!torch.npu.matmul.cube_math_type = None
!torch.npu.matmul.cube_math_type = torch.npu.CubeMathType.USE_HF32
torch.npu.matmul.cube_math_type.name
torch.npu.matmul.allow_hf32 # after cube_math_type
!torch.npu.set_option({"ACL_PRECISION_MODE": "nonsense"})
!torch.npu.set_option({"ACL_PRECISION_MODE": ""})
!torch.npu.set_option({"ACL_PRECISION_MODE": "allow_fp32_to_fp16"})
torch_npu._C._npu_getOption("ACL_PRECISION_MODE") # after setting
!torch.npu.set_compile_mode(jit_compile=True)
torch_npu._C._npu_getOption("jitCompile") # after True
!torch.npu.set_compile_mode(jit_compile=False)
torch_npu._C._npu_getOption("jitCompile") # after False
torch.npu.get_device_name(1)
torch.npu.get_device_properties(1)
torch.npu.current_device()
torch.npu.synchronize()
torch.npu.max_memory_allocated()
torch.npu.reset_peak_memory_stats()
type(torch.npu.Event(enable_timing=True)).__name__
torch.manual_seed(1) and None
torch.version.cann
torch_npu.utils.get_cann_version()
torch.zeros(2).to("npu")
"""

LAYER = """
import json, sys

questions, output = json.load(sys.stdin), sys.argv[1]
import torch, torch_npu, torch_npu.utils


def answer(question):
    try:
        if question.startswith("!"):
            exec(question[1:])
            return "done"
        found = eval(question)
    except Exception as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0]}"
    return found.decode() + " (bytes)" if isinstance(found, bytes) else found


answers = {question: answer(question) for question in questions}
with open(output, "w") as file:
    json.dump(answers | {"version": torch_npu.__version__}, file)
"""

# The class of this project, on the real layer. A machine without NPU has no target.
BACKEND = """
import json, sys

from npu_parity.backends import environment
from npu_parity.backends.npu import Npu
from npu_parity.errors import ParityError
from npu_parity.numerics.formats import Numerics

environment.check = lambda npu=False: None  # the stub of CANN allows pairs that would abort
npu, (output,) = Npu(), sys.argv[1:]
facts = {"described": npu.describe(), "memory": npu.peak_memory()}
try:
    npu.target()
except ParityError as error:
    facts["target"] = str(error)
npu.seed(1)

import torch
Npu.target = lambda self: torch.device("npu")


def inside(**numerics):
    numerics = Numerics(**numerics)
    before = npu.found_switches(numerics)
    with npu.configured(numerics):
        found = npu.found_switches(numerics)
    return [before, found, npu.found_switches(numerics)]


facts["defaults"] = inside(conv="fp32", matmul="hf32")
facts["products"] = inside(conv="fp32", matmul="hf32")
torch.npu.set_option({"ACL_PRECISION_MODE": "allow_fp32_to_fp16"})
torch.npu.matmul.cube_math_type = torch.npu.CubeMathType.USE_FP16
facts["overruled"] = inside(conv="hf32")
facts["fp16"] = inside(conv="fp16", matmul="fp16")
with open(output, "w") as file:
    json.dump(facts, file)
"""


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """Return a function that runs Python on the real torch_npu and reads the JSON that it writes.

    The function fails the test if the process aborts. Without the wheel, the test is skipped.
    """
    if sys.platform != "linux":
        pytest.skip("torch_npu is for Linux only")
    place = tmp_path_factory.mktemp("contract")
    site = torch_npu(place)
    variables = stub_cann.build(site / "torch_npu", place / "cann")
    variables["PYTHONPATH"] = f"{site}{os.pathsep}{ROOT}"

    return partial(facts, place / "facts.json", variables)


def facts(output, variables, code, stdin=""):
    """Run Python in a process of its own and return the JSON that it writes to `output`."""
    output.unlink(missing_ok=True)
    done = python(variables, code, output, stdin=stdin)
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        pytest.fail(f"the process with torch_npu ended by {name}:\n{done.stderr[-3000:]}")
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(output.read_text())


def python(variables, code, *arguments, stdin=""):
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=os.environ | variables,
        input=stdin,
        capture_output=True,
        text=True,
    )


def torch_npu(place):
    """Return the folder with the torch_npu that belongs to this torch; skip the test if none."""
    if found := importlib.util.find_spec("torch_npu"):
        return Path(found.origin).parents[1]
    torch = importlib.metadata.version("torch")
    version = PAIRS.get(".".join(torch.split(".")[:2]))
    if version is None:
        pytest.skip(f"no torch_npu is known for torch {torch}")
    if UV is None:
        pytest.skip("needs uv to fetch torch_npu")
    site = place / "site"
    command = [UV, "pip", "install", "--quiet", "--no-deps", "--target", site]
    command += ["--python", sys.executable, f"torch-npu=={version}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=place)
    if done.returncode:
        pytest.skip(f"torch_npu {version} cannot be had: {done.stderr.strip().splitlines()[-1]}")
    return site


@pytest.fixture(scope="module")
def answers(real):
    return real(LAYER, json.dumps(QUESTIONS.split("\n")[1:-1]))


@pytest.fixture(scope="module")
def backend(real):
    return real(BACKEND)


def test_every_question_has_an_expected_answer(answers):
    """A question without an assertion below would be no test."""
    asked = set(QUESTIONS.split("\n")[1:-1])
    assert asked == set(EXPECTED)


NO_DEVICE = r"RuntimeError: .*"  # the words come from CANN
INVALID = "AssertionError: Invalid device id"
NO_ENUM = "TypeError: value should be one of Enum CubeMathType when setting cube_math_type, but got"
NO_MODE = (
    "ValueError: value of ACL_PRECISION_MODE should be in "
    "['allow_fp32_to_fp16', 'must_keep_origin_dtype'] but got"
)
EXPECTED = {
    "torch.npu.is_available()": False,
    "torch.npu.device_count()": 0,
    "torch.npu.is_initialized()": False,
    "torch._C._get_privateuse1_backend_name()": "npu",
    # Defaults: HF32 for convolutions only; None or "" for what was never set.
    "torch.npu.conv.allow_hf32": True,
    "torch.npu.matmul.allow_hf32": False,
    "torch.npu.matmul.cube_math_type": None,
    "torch.npu.conv.nonsense": None,
    'torch_npu._C._npu_getOption("ACL_PRECISION_MODE")': " (bytes)",
    'torch_npu._C._npu_getOption("jitCompile")': " (bytes)",
    'torch_npu._C._npu_getOption("NONSENSE")': None,
    # A setting that does not exist is ignored without a word.
    "!torch.npu.conv.nonsense = True": "done",
    "!torch.npu.conv.allow_hf32 = False": "done",
    "torch.npu.conv.allow_hf32 # after False": False,
    "!torch.npu.conv.allow_hf32 = True": "done",
    "torch.npu.conv.allow_hf32 # after True": True,
    "!torch.npu.matmul.allow_hf32 = True": "done",
    "torch.npu.matmul.allow_hf32 # after True": True,
    "!torch.npu.matmul.allow_hf32 = 1": re.compile(
        "done|TypeError: allow_hf32 must be a bool, but got int"  # older and newer versions
    ),
    "!torch.npu.matmul.allow_hf32 = False": "done",
    "[kind.name for kind in torch.npu.CubeMathType]": [
        "KEEP_DTYPE",
        "ALLOW_FP32_DOWN_PRECISION",
        "USE_FP16",
        "USE_HF32",
        "FORCE_GRP_ACC_FOR_FP32",
    ],
    # The type of products cannot be unset, and says nothing about the flag.
    "!torch.npu.matmul.cube_math_type = 3": f"{NO_ENUM} <class 'int'>",
    "!torch.npu.matmul.cube_math_type = None": f"{NO_ENUM} <class 'NoneType'>",
    "!torch.npu.matmul.cube_math_type = torch.npu.CubeMathType.USE_HF32": "done",
    "torch.npu.matmul.cube_math_type.name": "USE_HF32",
    "torch.npu.matmul.allow_hf32 # after cube_math_type": False,
    '!torch.npu.set_option({"ACL_PRECISION_MODE": "nonsense"})': f"{NO_MODE} nonsense",
    '!torch.npu.set_option({"ACL_PRECISION_MODE": ""})': f"{NO_MODE} ",
    '!torch.npu.set_option({"ACL_PRECISION_MODE": "allow_fp32_to_fp16"})': "done",
    'torch_npu._C._npu_getOption("ACL_PRECISION_MODE") # after setting': (
        "allow_fp32_to_fp16 (bytes)"
    ),
    "!torch.npu.set_compile_mode(jit_compile=True)": "done",
    'torch_npu._C._npu_getOption("jitCompile") # after True': "enable (bytes)",
    "!torch.npu.set_compile_mode(jit_compile=False)": "done",
    'torch_npu._C._npu_getOption("jitCompile") # after False': "disable (bytes)",
    # Without a device
    "torch.npu.get_device_name(1)": INVALID,
    "torch.npu.get_device_properties(1)": INVALID,
    "torch.npu.current_device()": re.compile(NO_DEVICE),
    "torch.npu.synchronize()": re.compile(NO_DEVICE),
    "torch.npu.max_memory_allocated()": 0,
    "torch.npu.reset_peak_memory_stats()": (
        "RuntimeError: invalid argument to reset_peak_memory_stats"
    ),
    "type(torch.npu.Event(enable_timing=True)).__name__": "Event",
    "torch.manual_seed(1) and None": None,
    "torch.version.cann": "not known",
    "torch_npu.utils.get_cann_version()": "",
    'torch.zeros(2).to("npu")': re.compile(NO_DEVICE),
}


@pytest.mark.parametrize("question", EXPECTED)
def test_layer(answers, question):
    found, expected = answers[question], EXPECTED[question]
    if isinstance(expected, re.Pattern):
        assert expected.fullmatch(str(found)), found
    else:
        assert found == expected


def test_version_is_that_of_the_pair(answers):
    torch = importlib.metadata.version("torch")
    assert answers["version"] == PAIRS[".".join(torch.split(".")[:2])]


def test_words_without_cann(tmp_path):
    """The stand-in says the same. Older versions add advice."""
    site = torch_npu(tmp_path)
    variables = {"PYTHONPATH": str(site), "TORCH_DEVICE_BACKEND_AUTOLOAD": "1"}
    done = python(variables, "import torch")
    assert done.returncode == 1
    missing = "libhccl.so: cannot open shared object file: No such file or directory"
    assert f"ImportError: {missing}" in done.stderr
    assert "RuntimeError: Failed to load the backend extension: torch_npu." in done.stderr
    variables = {"PYTHONPATH": str(STANDIN), "STANDIN_NPU_FAULT": "no_cann"}
    found = python(variables | {"TORCH_DEVICE_BACKEND_AUTOLOAD": "1"}, "import torch").stderr
    assert f"ImportError: {missing}\n" in found and "backend extension: torch_npu." in found


# The stand-in of test_npu.py has a device. All else is as in the real layer.

WITH_DEVICE = re.compile(
    r"torch\.npu\.(is_\w+|device_count|current_device|synchronize|\w+_memory\w*)\(.*|torch\.zeros.*"
)
OF_CANN = {"torch.version.cann", "torch_npu.utils.get_cann_version()"}
SAME = [q for q in EXPECTED if not WITH_DEVICE.fullmatch(q) and q not in OF_CANN]


@pytest.fixture(scope="module")
def standin(tmp_path_factory):
    if not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"):
        pytest.skip("this torch cannot have a device that is written in Python")
    output = tmp_path_factory.mktemp("standin") / "facts.json"
    variables = {"PYTHONPATH": str(STANDIN), "TORCH_DEVICE_BACKEND_AUTOLOAD": "1"}
    return facts(output, variables, LAYER, json.dumps(SAME))


@pytest.mark.parametrize("question", SAME)
def test_standin_answers_as_the_real_layer(standin, question):
    test_layer(standin, question)


# The class Npu


def test_no_device_is_one_line(backend):
    assert backend["target"].startswith("device npu: torch finds none on this machine; source CANN")
    assert "\n" not in backend["target"]


def test_description_without_a_device(backend):
    assert backend["described"] == {"name": "npu", "cann": None, "soc": "npu"}
    assert backend["memory"] == 0


def named(conv, matmul, cube=None, mode=None, compiled="disable"):
    return {
        "torch.npu.conv.allow_hf32": conv,
        "torch.npu.matmul.allow_hf32": matmul,
        "torch.npu.matmul.cube_math_type": cube,
        "torch.npu.option.ACL_PRECISION_MODE": mode,
        "torch.npu.option.jitCompile": compiled,
    }


def test_flags_are_set_and_put_back(backend):
    before, inside, after = backend["defaults"]
    assert before == named(True, False, compiled=None)
    assert inside == named(False, True)
    assert after == named(True, False)  # the mode of compilation cannot be unset
    assert backend["products"] == [after, inside, after]


def test_what_overrules_the_flags_is_corrected_and_put_back(backend):
    before = named(True, False, "USE_FP16", "allow_fp32_to_fp16")
    right = named(True, False, "KEEP_DTYPE", "must_keep_origin_dtype")
    assert backend["overruled"] == [before, right, before]
    halves = named(False, False, "USE_FP16", "allow_fp32_to_fp16")
    assert backend["fp16"] == [before, halves, before]
