"""CANN without content: libraries whose functions do nothing, so that torch_npu can be imported.

torch_npu's own libraries and its Python layer are the real ones. No operator can run.
"""

import re
import shutil
import subprocess

import pytest

# The libraries of CANN that torch_npu loads during its import.
LIBRARIES = (
    "hccl",
    "ascendcl",
    "acl_op_compiler",
    "ge_runner",
    "graph",
    "acl_tdt_channel",
    "opapi",
)

# Torch's own list of keys for the allocator is hidden. So each library has the first and only key,
# and a pair of torch and torch_npu that would abort can be imported.
KEYS = "_ZN3c1016CachingAllocator26AcceleratorAllocatorConfig14getMutableKeysB5cxx11Ev"
NO_ABORT = f"void *{KEYS}(void) {{ return new std::unordered_set<std::string>; }}"


def build(torch_npu, place, abort=False):
    """Compile the libraries for the package in the folder `torch_npu`; return the environment.

    Without a compiler, skip the test.
    """
    if not (shutil.which("c++") and shutil.which("nm")):
        pytest.skip("needs a C++ compiler and nm to imitate CANN")
    for folder in ("opp", "runtime", "compiler"):
        (place / folder).mkdir(parents=True, exist_ok=True)
    libraries = [*torch_npu.glob("lib/*.so"), *torch_npu.glob("_C*.so")]
    symbols = subprocess.run(
        ["nm", "-D", "--undefined-only", *libraries], capture_output=True, text=True, check=True
    ).stdout
    functions = sorted(set(re.findall(r" U ((?:acl|Hccl|Msprof|rt[A-Z]|_ZN3atb)\w+)", symbols)))
    nothing = [f"void *{name}(void) {{ return 0; }}" for name in functions]
    source = place / "cann.cpp"
    body = "\n".join([*nothing, *([] if abort else [NO_ABORT])])
    source.write_text(f'#include <string>\n#include <unordered_set>\nextern "C" {{\n{body}\n}}\n')
    first, *others = (place / f"lib{name}.so" for name in LIBRARIES)
    command = ["c++", "-shared", "-fPIC", "-w", source, "-o", first]
    subprocess.run(command, check=True, capture_output=True)
    for other in others:
        other.unlink(missing_ok=True)
        other.symlink_to(first.name)
    return {
        "ASCEND_HOME_PATH": str(place),
        "ASCEND_OPP_PATH": str(place / "opp"),
        "LD_LIBRARY_PATH": str(place),
        "LD_PRELOAD": str(first),
        "TORCH_DEVICE_BACKEND_AUTOLOAD": "1",
    }
