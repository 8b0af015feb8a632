"""Outputs are one row an input, whatever a network returns and however many go at a time."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from project import ROOT
from torch import nn

from npu_parity import evidence
from npu_parity.backends.device import Device
from npu_parity.backends.outputs import exact, measure, predict
from npu_parity.errors import ParityError
from npu_parity.evidence.code import digest
from npu_parity.numerics.emulation import emulate
from npu_parity.numerics.formats import PRESETS, Numerics
from npu_parity.sources.weights import Wanted, obtain

CPU = Device("cpu")
NPU = Device("npu", Numerics(conv="hf32"))
ARCHITECTURE = """
from torch import nn

def net():
    layers = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(8, 5))
"""


class Returns(nn.Module):
    """A network that returns whatever `function` makes of its input."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.eval()

    def forward(self, x):
        return self.function(x)


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 5)
    ).eval()


def samples(count=7, size=12):
    return np.random.default_rng(0).normal(size=(count, 3, size, size)).astype(np.float32)


@pytest.mark.parametrize("run", [measure, predict])
@pytest.mark.parametrize("batch", [1, 2, 3, 7, 100])
def test_rows_come_out_in_the_order_of_the_inputs(run, batch):
    x = samples()
    marked = Returns(lambda x: x[:, :2, 0, 0])
    assert np.array_equal(run(marked, x, CPU, batch), x[:, :2, 0, 0])
    found = run(network(), x, NPU if run is predict else CPU, batch)
    alone = np.concatenate(
        [run(network(), x[i : i + 1], NPU if run is predict else CPU) for i in range(7)]
    )
    assert found.shape == (7, 5) and found.dtype == np.float32
    np.testing.assert_allclose(found, alone, rtol=1e-4, atol=1e-6)


def test_batch_is_what_the_network_gets():
    sizes = []
    measure(Returns(lambda x: sizes.append(len(x)) or x), samples(), CPU, batch=3)
    assert sizes == [3, 3, 1]


@pytest.mark.parametrize(
    ("function", "columns"),
    [
        (lambda x: {"a": x[:, 0], "b": x[:, 1, :2]}, lambda x: [x[:, 0], x[:, 1, :2]]),
        (lambda x: (x[:, 2], x[:, 0]), lambda x: [x[:, 2], x[:, 0]]),
        (lambda x: [x[:, 0], {"a": x[:, 1], "b": (x[:, 2],)}], lambda x: [x]),
        (lambda x: x, lambda x: [x]),
        (lambda x: x[:, 0, 0, 0], lambda x: [x[:, 0, 0, :1]]),
    ],
    ids=["dictionary", "tuple", "nested", "image", "number"],
)
def test_tensors_are_put_side_by_side(function, columns):
    x = samples()
    expected = np.concatenate([part.reshape(7, -1) for part in columns(x)], axis=1)
    found = measure(Returns(function), x, CPU, batch=2)
    assert found.dtype == np.float32 and np.array_equal(found, expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_outputs_become_float32(dtype):
    x = samples()
    found = measure(Returns(lambda x: x[:, 0, 0].to(dtype)), x, CPU)
    expected = torch.from_numpy(x[:, 0, 0]).to(dtype).float().numpy()
    assert found.dtype == np.float32 and np.array_equal(found, expected)


def test_exact_run_is_float64_and_leaves_the_network_alone():
    x, model = samples(), network()
    found = exact(model, x, NPU, batch=3)
    with torch.no_grad():
        by_hand = network().double()(torch.from_numpy(x).double()).numpy()
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, by_hand, rtol=1e-12)
    assert next(model.parameters()).dtype == torch.float32
    assert 0 < np.abs(found - measure(model, x, CPU)).max() < 1e-5


@pytest.mark.parametrize(
    ("function", "found"),
    [
        (lambda x: None, "NoneType, expected a tensor"),
        (lambda x: "cat", "str, expected a tensor"),
        (lambda x: x.numpy(), "ndarray, expected a tensor"),
        (lambda x: {"a": x, "b": 3}, "int, expected a tensor"),
        (lambda x: x.sum(), "shape (), expected (2, ...)"),
        (lambda x: x[:1], "shape (1, 3, 12, 12), expected (2, ...)"),
        (lambda x: [], "nothing, expected a tensor"),
        (lambda x: {}, "nothing, expected a tensor"),
    ],
)
@pytest.mark.parametrize("run", [measure, predict])
def test_other_outputs_are_refused(run, function, found):
    with pytest.raises(ParityError) as error:
        run(Returns(function), samples(2), CPU, batch=2)
    start = "Returns on inputs 0 to 1 of shape (2, 3, 12, 12): returned "
    assert str(error.value).startswith(start + found)


@pytest.mark.parametrize("run", [measure, predict])
def test_training_mode_is_refused(run):
    with pytest.raises(
        ParityError, match=r"^Sequential is in training mode: call \.eval\(\) first$"
    ):
        run(network().train(), samples(), CPU)


@pytest.mark.parametrize("preset", ["ascend910b", "ascend910a", "cpu_bf16"])
def test_predicted_run_is_emulation_on_the_reference(preset):
    numerics = PRESETS[preset]
    x = samples()
    with emulate(numerics), torch.no_grad():
        by_hand = torch.cat([network()(torch.from_numpy(x[i : i + 1])) for i in range(7)]).numpy()
    found = predict(network(), x, Device("npu", numerics))
    assert np.array_equal(found, by_hand)
    assert not np.array_equal(found, measure(network(), x, CPU))


def test_prediction_of_exact_numerics_is_the_measurement():
    assert np.array_equal(predict(network(), samples(), CPU), measure(network(), samples(), CPU))


def switches():
    mkldnn = torch.backends.mkldnn
    return (
        torch.is_grad_enabled(),
        torch.backends.mha.get_fastpath_enabled(),
        torch.backends.cuda.flash_sdp_enabled(),
        [getattr(getattr(mkldnn, kind, None), "fp32_precision", 0) for kind in ("conv", "matmul")],
        torch.utils._python_dispatch._get_current_dispatch_mode(),
    )


@pytest.mark.parametrize("run", [measure, predict])
@pytest.mark.parametrize("fails", [False, True])
def test_everything_is_put_back(run, fails):
    before, x, model = switches(), samples(), network()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    exact = measure(model, x, CPU)
    if fails:
        with pytest.raises(ParityError):
            run(
                nn.Sequential(model, Returns(lambda x: None)).eval(),
                x,
                CPU if run is measure else NPU,
            )
    else:
        run(model, x, CPU if run is measure else NPU)
    assert switches() == before
    assert all(torch.equal(state[n], t) for n, t in model.state_dict().items())
    assert np.array_equal(measure(model, x, CPU), exact)


def test_gradients_are_not_recorded():
    seen = []
    measure(Returns(lambda x: seen.append(torch.is_grad_enabled()) or x), samples(), CPU)
    assert not any(seen)


def test_prediction_needs_no_device_and_knows_its_numerics():
    with pytest.raises(ParityError, match=r"numerics\.conv: found 'fp8'"):
        predict(network(), samples(), Device("npu", Numerics(conv="fp8")))


# The program


@pytest.fixture
def program(tmp_path, monkeypatch, capsys):
    """scripts/outputs.py in this process on a small system; returns status and errors."""
    monkeypatch.chdir(tmp_path)
    Path("model.py").write_text(ARCHITECTURE)
    from safetensors.torch import save_file

    state, _ = obtain(Wanted("model.py:net", {}, ["seed:1"], calibrate=False))
    evidence.write("net/weights.safetensors", lambda partial: save_file(state, partial))
    digest = evidence.sha256("net/weights.safetensors")
    about = {"architecture": "model.py:net", "arguments": {}, "sha256": digest}
    evidence.write_json("net/weights.json", about)
    evidence.write_json(
        "net/inputs.json", {"sha256": evidence.write_array("net/inputs.npy", samples())}
    )

    def program(*arguments):
        threads = torch.get_num_threads()
        folders = ["--weights-folder", "net", "--inputs", "net/inputs.npy"]
        output = ["--output", "net/x/outputs.npy"]
        script = str(ROOT / "scripts/outputs.py")
        monkeypatch.setattr(sys, "argv", [script, *folders, *output, *arguments])
        try:
            with pytest.raises(SystemExit) as ended:
                runpy.run_path(script, run_name="__main__")
        finally:
            torch.set_num_threads(threads)
        return ended.value.code, capsys.readouterr().err

    return program


@pytest.mark.parametrize("run", ["measured", "predicted"])
def test_sidecar_describes_the_run(program, run):
    numerics = {} if run == "measured" else {"conv": "hf32"}
    backend = "cpu" if run == "measured" else "npu"
    device = json.dumps({"backend": backend, "numerics": numerics})
    options = ["--run", run, "--device", device]
    assert program(*options, "--batch", "3", "--threads", "9999") == (0, "")
    about = json.loads(Path("net/x/run.json").read_text())
    array = evidence.read_array("net/x/outputs.npy", about["sha256"]["outputs"])
    assert list(array.shape) == about["shape"] == [7, 5] and array.dtype == np.float32
    assert (about["run"], about["backend"], about["batch"]) == (run, backend, 3)
    assert about["executed_on"]["backend"] == "cpu"  # a prediction says where it was computed
    assert about["numerics"] == Numerics(**numerics).to_dict()
    assert about["sha256"]["weights"] == evidence.sha256("net/weights.safetensors")
    assert about["sha256"]["inputs"] == evidence.sha256("net/inputs.npy")
    assert 1 <= about["threads"] < 9999
    assert about["versions"] == evidence.versions()
    assert about["code"] == digest(ROOT / "scripts/outputs.py") and about["seed"] == 0


@pytest.mark.parametrize("file", ["net/inputs.npy", "net/weights.safetensors"])
def test_changed_file_is_noticed(program, file):
    content = bytearray(Path(file).read_bytes())
    content[-1] ^= 1
    Path(file).write_bytes(content)
    status, text = program()
    assert status == 1 and text.startswith(f"error: {file} has SHA-256") and text.count("\n") == 1
    assert not Path("net/x").exists()


def test_absent_device_is_one_line(program):
    if hasattr(torch, "npu"):
        pytest.skip("this machine has torch_npu")
    status, text = program("--device", "npu")
    assert status == 1 and text.startswith("error: device npu: ") and text.count("\n") == 1
