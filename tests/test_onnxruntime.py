"""ONNX Runtime as a device: the exported file, its execution, and the verdict."""

import copy
import hashlib

import numpy as np
import onnx as format_of_onnx
import onnxruntime
import pytest
import torch
from torch import nn

from npu_parity import check_port
from npu_parity.backends import onnx, outputs
from npu_parity.backends.device import Device
from npu_parity.errors import ParityError
from npu_parity.evidence import write_sidecar
from npu_parity.numerics.formats import Numerics

ORT = Device("onnxruntime")
INPUTS = np.random.default_rng(0).standard_normal((5, 3, 12, 12), dtype=np.float32)


class Heads(nn.Module):
    """A convolution, a norm and two heads in a dictionary."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.SiLU())
        self.first, self.second = nn.Linear(8, 4), nn.Linear(8, 3)

    def forward(self, x):
        x = self.body(x).mean((2, 3))
        return {"logits": self.first(x), "digit": self.second(x)}


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    model = Heads().eval()
    model.body[1].running_mean.normal_()
    return model


@pytest.fixture(scope="module")
def single(network):
    return nn.Sequential(network.body, nn.Flatten(), nn.Linear(800, 40)).eval()


@pytest.fixture(scope="module")
def exported(single, tmp_path_factory):
    file = tmp_path_factory.mktemp("onnx") / "network.onnx"
    digest = onnx.export(single, INPUTS, file)
    write_sidecar(file.with_suffix(".json"), {"sha256": digest})
    return file


@pytest.mark.slow
def test_a_right_port_passes_and_the_report_says_what_was_not_asked(network):
    report = check_port(network, network, INPUTS, device="onnxruntime", task="features")
    assert report.passed and report.verdict.evidence == "weak"
    text = str(report)
    assert "1. same program? not asked" in text and "2. same kernels? not asked" in text
    assert report.operators is None


@pytest.mark.slow
def test_a_wrong_port_fails(single):
    port = copy.deepcopy(single)
    with torch.no_grad():
        port[2].bias[7] += 1e-3
    report = check_port(single, port, INPUTS, device="onnxruntime")
    assert str(report.verdict).startswith("FAIL (question 3, same answer")


def test_any_batch_size_gives_the_networks_outputs(single, exported):
    session = ORT.implementation.opened(exported)
    for size in (1, 2, 5):
        with torch.no_grad():
            expected = single(torch.from_numpy(INPUTS[:size]))
            torch.testing.assert_close(session(torch.from_numpy(INPUTS[:size])), expected)
    found = outputs.measure(session, INPUTS, ORT, batch=2)
    np.testing.assert_allclose(found, outputs.measure(single, INPUTS, Device("cpu")), atol=1e-5)


def test_the_file_is_the_same_again_and_has_no_traces_of_the_machine(single, exported, tmp_path):
    digest = onnx.export(copy.deepcopy(single), INPUTS, tmp_path / "again.onnx")
    content = exported.read_bytes()
    assert digest == hashlib.sha256(content).hexdigest()
    format_of_onnx.checker.check_model(str(exported))
    for trace in (b"/home", b"/root", b"site-packages", b".py"):
        assert trace not in content


def test_heads_keep_their_names(network):
    measured, _ = outputs.measure_repeatedly(network, INPUTS, ORT)
    assert measured.shapes == {"logits": (4,), "digit": (3,)}


def test_a_changed_file_is_refused(exported, tmp_path):
    file = tmp_path / "network.onnx"
    file.write_bytes(exported.read_bytes()[:-1] + b"\0")
    file.with_suffix(".json").write_bytes(exported.with_suffix(".json").read_bytes())
    with pytest.raises(ParityError, match=r"network\.onnx"):
        ORT.implementation.opened(file)
    digest = hashlib.sha256(b"no network").hexdigest()
    file.write_bytes(b"no network")
    write_sidecar(file.with_suffix(".json"), {"sha256": digest})
    with pytest.raises(ParityError, match="ONNX Runtime cannot use it") as caught:
        ORT.implementation.opened(file)
    assert len(str(caught.value)) < 300


def test_a_network_that_cannot_be_exported_is_one_line():
    class Depends(nn.Module):
        def forward(self, x):
            return x * 2 if float(x.sum()) > 0 else x[:, :1].expand_as(x) + 1

    with pytest.raises(ParityError, match=r"torch\.onnx\.export cannot export it") as caught:
        outputs.measure(Depends().eval(), INPUTS, ORT)
    assert len(str(caught.value)) < 300 and "\n" not in str(caught.value)


def test_torch_devices_do_not_execute_files(exported):
    with pytest.raises(ParityError, match="device cpu executes no exported file"):
        Device("cpu").implementation.opened(exported)


@pytest.mark.parametrize(
    ("device", "reason"),
    [
        (Device("onnxruntime_cann"), "no CANNExecutionProvider: install onnxruntime-cann"),
        (Device("onnxruntime", Numerics(conv="hf32")), "computes in float32"),
        (Device("onnxruntime", precision="fp16"), "float32 only"),
    ],
)
def test_what_is_missing(device, reason):
    assert reason in device.missing()


@pytest.mark.parametrize("backend", ["onnxruntime", "onnxruntime_cann"])
def test_the_version_is_that_of_whatever_distribution_is_installed(backend):
    assert Device(backend).implementation.describe()["onnxruntime"] == onnxruntime.__version__


def test_it_is_there():
    assert ORT.missing() is None
    assert ORT.implementation.describe()["provider"] == "CPUExecutionProvider"
