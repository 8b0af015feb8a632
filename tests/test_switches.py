"""The table of what each setting of a device costs and gains."""

from types import SimpleNamespace

import pytest

from npu_parity.report import switches

FP32, HF32 = ({"conv": conv, "matmul": "fp32"} for conv in ("fp32", "hf32"))


def timed(mean):
    one = {"mean": mean, "std": None, "throughput": 1000 / mean}
    return {"batch_sizes": {"1": one, "8": {**one, "throughput": 4000 / mean**2}}}


@pytest.fixture
def system():
    """One system on a CPU and, in two settings, on an NPU."""
    runs = ["cpu/measured", "npu/predicted", "npu/measured", "npu_fp32/measured"]
    run = {r: {"backend": "npu", "numerics": HF32, "precision": "fp32"} for r in runs}
    run["cpu/measured"] |= {"backend": "cpu", "numerics": FP32}
    run["npu_fp32/measured"] |= {"numerics": FP32}
    metrics = {r: {"relative_l2_error": 0.002, "verdict": "PASS"} for r in runs[1:]}
    metrics["npu/predicted"] = {"relative_l2_error": 0.001}
    metrics["npu/measured"]["explained"] = 0.9375
    probe = {
        "conv": {"format": "hf32", "mantissa_bits": 11},
        "matmul": {"format": None, "mantissa_bits": 20},
    }
    return SimpleNamespace(
        name="net",
        runs=runs,
        run=run,
        metrics=metrics,
        latency={
            "cpu/measured": timed(9.0),
            "npu/measured": timed(1.0),
            "npu_fp32/measured": timed(2.0),
        },
        numerics={"npu/measured": {"probe": probe}, "npu_fp32/measured": {"probe": None}},
    )


def cells(system):
    lines = [line for line in switches.table([system]).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_each_setting_has_its_cost_and_its_gain(system):
    header, _, *rows = cells(system)
    assert header[3:5] == ["Error, predicted", "Error, measured"]
    assert header[-3:] == ["Time of one image (ms)", "Times faster", "Times faster, largest batch"]
    rounded, plain = rows
    assert rounded[:6] == ["net", "npu", "conv hf32, matmul fp32", "0.001", "0.002", "0.938"]
    assert rounded[6:] == ["conv hf32, matmul 20 bits", "PASS", "1", "2", "4"]
    assert plain[:6] == ["net", "npu_fp32", "conv fp32, matmul fp32", "—", "0.002", "—"]
    assert plain[6:] == ["—", "PASS", "2", "1", "1"]


def test_precision_is_a_setting(system):
    system.run["npu/measured"]["precision"] = "fp16"
    assert cells(system)[2][2] == "fp16: conv hf32, matmul fp32"


def test_without_a_plain_device_nothing_is_faster(system):
    system.run["npu_fp32/measured"]["precision"] = "bf16"
    assert [row[-2:] for row in cells(system)[2:]] == [["—", "—"]] * 2


def test_one_device_of_a_backend_is_no_comparison(system):
    del system.latency["npu_fp32/measured"]
    assert switches.table([system]) == ""
