"""Devices are found or named missing, and their switches are put back."""

import os
import platform
import subprocess
import sys

import pytest
import torch

from npu_parity.backends import cpu, environment, machine
from npu_parity.backends.device import BACKENDS, Device
from npu_parity.errors import ParityError
from npu_parity.numerics.formats import Numerics

SWITCHES = pytest.mark.skipif(
    not hasattr(torch.backends.mkldnn, "conv"), reason="torch before 2.9 has no switches for a CPU"
)


def precisions():
    mkldnn = torch.backends.mkldnn
    return mkldnn.conv.fp32_precision, mkldnn.matmul.fp32_precision


def absent(backend):
    """Whether torch finds no such accelerator: asked of torch, not of the package."""
    module = getattr(torch, backend, None)
    return module is None or not module.is_available()


# Missing


@pytest.mark.parametrize("backend", ["npu", "cuda", "xpu"])
def test_accelerator_is_missing_until_its_driver_shows(backend, tmp_path, monkeypatch):
    node = tmp_path / os.path.basename(BACKENDS[backend].node)
    monkeypatch.setattr(BACKENDS[backend], "node", str(node))
    monkeypatch.setattr(environment, "installed", lambda: True)
    assert Device(backend).missing() == f"this machine has no {node}"
    (tmp_path / node.name.replace("[0-9]*", "0").replace("*", "128")).touch()
    assert Device(backend).missing() is None
    monkeypatch.setattr(environment, "installed", lambda: False)
    software = "this Python has no torch_npu; run: make EXTRA=npu" if backend == "npu" else None
    assert Device(backend).missing() == software


@pytest.mark.parametrize("backend", ["npu", "cuda", "xpu", "mps"])
def test_absent_accelerator_has_a_reason(backend):
    if not absent(backend) or Device(backend).missing() is None:
        pytest.skip(f"this machine has {backend}")
    assert Device(backend).missing().startswith("this ")


def test_mps_is_a_mac_with_apple_silicon(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    assert Device("mps").missing() is None
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    assert Device("mps").missing() == "this machine is not a Mac with Apple silicon"


def test_cpu_is_there():
    assert Device("cpu").missing() is None
    assert Device("cpu", Numerics(conv="fp32", rounding="toward_zero")).missing() is None


def test_cpu_has_bf16_units_where_the_kernel_says_so(monkeypatch):
    bf16 = Device("cpu", Numerics(conv="bf16", depthwise_conv="fp32"))
    monkeypatch.setattr(machine, "cpu_flags", lambda: {"sse", "avx512_bf16"})
    assert bf16.missing() == "this CPU has no bf16 matrix units (amx_bf16)"
    monkeypatch.setattr(machine, "cpu_flags", lambda: {"sse", "amx_bf16"})
    monkeypatch.setattr(cpu, "torch_version", lambda: (2, 9))
    assert bf16.missing() is None
    monkeypatch.setattr(cpu, "torch_version", lambda: (2, 8))
    assert bf16.missing() == "torch before 2.9 cannot switch convolutions to bf16"


@pytest.mark.skipif(not os.path.exists("/proc/cpuinfo"), reason="Linux only")
def test_cpu_flags_are_the_kernels():
    with open("/proc/cpuinfo") as file:
        text = file.read()
    flags = machine.cpu_flags()
    assert ("amx_bf16" in flags) == (" amx_bf16" in text)
    assert len(flags) == 0 or len(flags) > 20


@pytest.mark.parametrize("conv", ["hf32", "tf32", "fp16"])
def test_cpu_has_no_other_formats(conv):
    assert Device("cpu", Numerics(conv=conv)).missing() == f"no CPU computes convolutions in {conv}"


def test_planning_does_not_import_torch():
    code = (
        "import sys; from npu_parity.backends.device import BACKENDS, Device\n"
        "for name in BACKENDS:\n"
        "    Device(name).missing()\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("False\n", "")


# Torch's device


def test_cpu_device():
    assert Device("cpu").implementation.target() == torch.device("cpu")


@pytest.mark.parametrize(
    ("backend", "advice"),
    [
        ("npu", "make EXTRA=npu"),
        ("cuda", "NVIDIA's driver"),
        ("xpu", "Intel's driver"),
        ("mps", "Apple silicon"),
    ],
)
def test_absent_device_says_what_to_do(backend, advice):
    if not absent(backend):
        pytest.skip(f"this machine has {backend}")
    with pytest.raises(ParityError) as error:
        Device(backend).implementation.target()
    text = str(error.value)
    assert text.startswith(f"device {backend}: ") and advice in text
    assert len(text.splitlines()) == 1


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("raise ImportError('libhccl.so: cannot open shared object file')", "libhccl.so"),
        ("raise RuntimeError('Failed to load the backend extension\\nmore')", "Failed to load"),
    ],
)
def test_torch_npu_without_cann(tmp_path, monkeypatch, statement, said):
    """A torch_npu that cannot be loaded, as on a host where CANN's set_env.sh was not sourced."""
    if hasattr(torch, "npu"):
        pytest.skip("this machine has torch_npu")
    (tmp_path / "torch_npu.py").write_text(statement)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ParityError) as error:
        Device("npu").implementation.target()
    text = str(error.value)
    assert said in text and "set_env.sh" in text and "TORCH_DEVICE_BACKEND_AUTOLOAD=0" in text
    assert len(text.splitlines()) == 1


def test_unknown_backend():
    text = f"^found backend 'tpu', expected one of {', '.join(BACKENDS.entries)}$"
    with pytest.raises(ParityError, match=text):
        Device("tpu").implementation.target()
    with pytest.raises(ParityError, match=text):
        Device("tpu").missing()


# Switches


@pytest.fixture
def mkldnn():
    """Set the switches of convolutions and matrix products; they are put back afterwards."""

    def mkldnn(conv, matmul):
        torch.backends.mkldnn.conv.fp32_precision = conv
        torch.backends.mkldnn.matmul.fp32_precision = matmul

    before = precisions()
    yield mkldnn
    mkldnn(*before)


@SWITCHES
@pytest.mark.parametrize("before", [("none", "none"), ("bf16", "ieee")])
def test_switches_are_set_and_put_back(before, mkldnn):
    mkldnn(*before)
    with Device("cpu", Numerics(conv="bf16")).configured() as target:
        assert target == torch.device("cpu") and precisions() == ("bf16", "ieee")
        with Device("cpu", Numerics(matmul="bf16")).configured():
            assert precisions() == ("ieee", "bf16")
        assert precisions() == ("bf16", "ieee")
    assert precisions() == before


@SWITCHES
@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_switches_are_put_back_after_an_error(error, mkldnn):
    mkldnn("none", "bf16")
    with pytest.raises(error), Device("cpu", Numerics(conv="bf16")).configured():
        raise error
    assert precisions() == ("none", "bf16")


@SWITCHES
@pytest.mark.parametrize("numerics", [{}, {"conv": "fp32"}, {"rounding": "nearest_away"}])
def test_reference_is_ieee_whatever_was_set(numerics, mkldnn):
    mkldnn("bf16", "bf16")
    with Device("cpu", Numerics(**numerics)).configured():
        assert precisions() == ("ieee", "ieee")
    assert precisions() == ("bf16", "bf16")


@SWITCHES
@pytest.mark.parametrize("kind", ["conv", "matmul"])
@pytest.mark.parametrize("found", ["hf32", "fp16", "tf32"])
def test_numerics_that_a_cpu_cannot_be_set_to(kind, found):
    before = precisions()
    device = Device("cpu", Numerics(**{kind: found}))
    text = f"^device cpu: found numerics {found} for {kind}, expected one of fp32, bf16$"
    with pytest.raises(ParityError, match=text), device.configured():
        pytest.fail("it was set")
    assert precisions() == before


@pytest.mark.parametrize("conv", ["tf32", "fp32"])
def test_cuda_switches(conv, monkeypatch):
    """Torch has the settings without a GPU, too."""
    if absent("cuda"):
        monkeypatch.setattr(BACKENDS["cuda"], "target", lambda self: torch.device("cpu"))
    device = Device("cuda", Numerics(conv=conv))
    settings = device.implementation.found_switches
    before = settings(device.numerics)
    with device.configured():
        found = settings(device.numerics)
    assert settings(device.numerics) == before
    deterministic = {
        "torch.backends.cudnn.benchmark": False,
        "torch.backends.cudnn.deterministic": True,
    }
    if hasattr(torch.backends.cudnn, "conv"):
        assert found == deterministic | {
            "torch.backends.cudnn.conv.fp32_precision": "tf32" if conv == "tf32" else "ieee",
            "torch.backends.cuda.matmul.fp32_precision": "ieee",
        }
    else:
        assert found == deterministic | {
            "torch.backends.cudnn.allow_tf32": conv == "tf32",
            "torch.backends.cuda.matmul.allow_tf32": False,
        }


class Settings:
    """What `torch.SETTINGS` is in the next tests."""

    plain, silent, unset = "before", "before", None

    def __setattr__(self, name, value):
        if name != "silent":
            super().__setattr__(name, value)


@pytest.fixture
def settings(monkeypatch):
    monkeypatch.setattr(torch, "SETTINGS", Settings(), raising=False)
    return torch.SETTINGS


def switched(monkeypatch, **values):
    """A CPU with these settings."""
    switches = {f"SETTINGS.{name}": value for name, value in values.items()}
    monkeypatch.setattr(cpu.Cpu, "switches", lambda self, numerics: switches)
    return Device("cpu")


def test_setting_is_put_back_and_one_that_was_never_set_stays(monkeypatch, settings):
    with switched(monkeypatch, plain="inside", unset="inside").configured():
        assert (settings.plain, settings.unset) == ("inside", "inside")
    assert (settings.plain, settings.unset) == ("before", "inside")


def test_setting_without_a_value_is_only_recorded(monkeypatch, settings):
    device = switched(monkeypatch, plain=None)
    with device.configured():
        assert settings.plain == "before"
    found = device.implementation.found_switches(device.numerics)
    assert found == {"torch.SETTINGS.plain": "before"}


def test_setting_that_does_nothing_is_named(monkeypatch, settings):
    device = switched(monkeypatch, plain="inside", silent="inside")
    text = r"device cpu: torch\.SETTINGS\.silent was set to 'inside', but it reads 'before'"
    with pytest.raises(ParityError, match=text), device.configured():
        pytest.fail("it ran with other numerics than asked for")
    assert settings.plain == "before"


def test_device_that_fails_while_its_settings_are_put_back(monkeypatch, settings):
    device = switched(monkeypatch, plain="inside")
    monkeypatch.setattr(cpu.Cpu, "failure", lambda self, error: ParityError(f"failed: {error}"))

    def write(self, path, value):
        if value == "before":
            raise RuntimeError("lost")

    monkeypatch.setattr(cpu.Cpu, "read", lambda self, path: "before")
    monkeypatch.setattr(cpu.Cpu, "write", write)
    monkeypatch.setattr(cpu.Cpu, "switches", lambda self, numerics: {"SETTINGS.plain": "before"})
    with pytest.raises(ParityError, match=r"^failed: lost$"), device.configured():
        pytest.fail("it ran on a device that is lost")


# The machine


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("device", [Device("cpu"), Device("npu", Numerics(conv="hf32"))])
def test_threads_are_at_most_the_cpus_there_are(threads, device):
    for wanted, used in ((1, 1), (10_000, machine.cpus()), (0, 1), (-3, 1)):
        assert device.use_threads(wanted) == used == torch.get_num_threads()


def test_cpu_that_rounds_gets_two_threads(threads):
    device = Device("cpu", Numerics(conv="bf16"))
    for wanted, used in ((1, 2), (2, 2), (10_000, max(2, machine.cpus()))):
        assert device.use_threads(wanted) == used == torch.get_num_threads()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux only")
def test_cpus_are_those_that_this_process_may_use():
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert machine.cpus() == 1
    finally:
        os.sched_setaffinity(0, allowed)
    assert machine.cpus() == len(allowed)


def test_the_environment_may_allow_fewer_threads_than_there_are_cpus(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert machine.threads() == machine.cpus()
    for text, number in (("1", 1), ("10000", machine.cpus()), ("0", machine.cpus()), ("4,2", None)):
        monkeypatch.setenv("OMP_NUM_THREADS", text)
        assert machine.threads() == (number or machine.cpus())


def test_cpu_is_described():
    found = Device("cpu").implementation.describe()
    assert set(found) == {"name", "capability"} and all(found.values())
    Device("cpu").implementation.synchronize()
