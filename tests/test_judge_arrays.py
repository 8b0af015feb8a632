"""`npu-parity judge`: arrays of any tool get the verdict of the workflow."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from npu_parity.__main__ import main
from npu_parity.errors import ParityError
from npu_parity.numerics.formats import Numerics
from npu_parity.verdict.arrays import UNKNOWN, read_arrays
from npu_parity.verdict.judge import Case, judge
from npu_parity.verdict.runs import Runs

HEADS = {"a": 24, "b": 16}


@pytest.fixture
def arrays(tmp_path, monkeypatch):
    """Outputs of a reference in float32 and float64, and of a device that adds in another order."""
    monkeypatch.chdir(tmp_path)
    exact = np.random.default_rng(0).standard_normal((3, 40))
    noise = np.random.default_rng(1).standard_normal((2, 3, 40)) * 1e-6
    reference, right = (exact * (1 + noise)).astype(np.float32)
    found = {"exact": exact, "reference": reference, "right": right}
    found["wrong"] = right.copy()
    found["wrong"][1, 5] += 0.1
    for name, array in found.items():
        np.save(f"{name}.npy", array)
    return found


def run(monkeypatch, capsys, *options, device="right.npy", exact="exact.npy"):
    own = ["--reference", "reference.npy", "--device-outputs", device]
    own += ["--exact", exact] if exact else []
    monkeypatch.setattr(sys, "argv", ["npu-parity", "judge", *own, *options])
    with pytest.raises(SystemExit) as end:
        main()
    return end.value.code, *capsys.readouterr()


def test_right_outputs_pass_with_weak_evidence(arrays, tmp_path, monkeypatch, capsys):
    before = set(tmp_path.iterdir())
    code, out, err = run(monkeypatch, capsys)
    lines = out.splitlines()
    assert (code or 0, lines[0], err) == (0, "PASS (weak evidence)", "")
    assert lines[1] == "1. same program? not asked"
    assert lines[2] == "2. same kernels? not asked"
    assert lines[3] == "3. same answer? yes"
    assert all(f"   {reason}" in lines for reason in UNKNOWN)
    assert set(tmp_path.iterdir()) == before


def test_wrong_outputs_fail_and_name_the_input(arrays, monkeypatch, capsys):
    code, out, _ = run(monkeypatch, capsys, device="wrong.npy")
    assert code == 1
    assert out.startswith("FAIL (question 3, same answer: input 1: ")


@pytest.mark.parametrize("name", ["exact", "predicted"])
def test_arrays_of_one_reference_have_one_shape(arrays, name):
    """NumPy would stretch one row to three."""
    paths = {n: Path("exact.npy") for n in ("exact", "predicted")} | {name: Path("row.npy")}
    np.save("row.npy", arrays["exact"][:1])
    expected = r"^row\.npy: found shape \(1, 40\), expected \(3, 40\) as in reference\.npy$"
    with pytest.raises(ParityError, match=expected):
        read_arrays(Path("reference.npy"), Path("right.npy"), **paths)


def test_verdict_is_that_of_the_pure_function(arrays, monkeypatch, capsys):
    options = ["--heads", json.dumps(HEADS), "--json", "out.json"]
    code, *_ = run(monkeypatch, capsys, *options, device="wrong.npy")
    runs = Runs(
        arrays["reference"],
        arrays["exact"],
        arrays["reference"],
        measured=arrays["wrong"],
        heads=HEADS,
    )
    names = ["0", "1", "2"]
    expected = judge(Case(runs, Numerics(), names, notes=UNKNOWN)).to_dict()
    with open("out.json", encoding="utf-8") as file:
        found = json.load(file)
    assert code == 1
    assert found["failed_first"].startswith("input 1: relative L2 error")
    assert "of head a" in found["failed_first"]
    assert found.items() >= json.loads(json.dumps(expected)).items()
    assert set(found["sha256"]) == {"reference", "measured", "exact"}


def test_prediction_allows_the_rounding_of_the_device(arrays, monkeypatch, capsys):
    rounded = (arrays["exact"] * (1 + 1e-3 * np.sin(np.arange(40)))).astype(np.float32)
    np.save("predicted.npy", rounded)
    np.save("device.npy", rounded * np.float32(1 + 1e-7))
    assert run(monkeypatch, capsys, device="device.npy")[0] == 1
    code, out, _ = run(monkeypatch, capsys, "--predicted=predicted.npy", device="device.npy")
    assert (code or 0, out.splitlines()[0]) == (0, "PASS (weak evidence)")


def test_exact_outputs_lie_beside_the_reference(arrays, tmp_path):
    for name, array in {"measured": "reference", "exact": "exact"}.items():
        (tmp_path / "cpu" / name).mkdir(parents=True)
        np.save(tmp_path / "cpu" / name / "outputs.npy", arrays[array])
    with pytest.MonkeyPatch.context() as patch:
        own = ["--reference", "cpu/measured/outputs.npy", "--device-outputs", "right.npy"]
        patch.setattr(sys, "argv", ["npu-parity", "judge", *own])
        with pytest.raises(SystemExit) as end:
            main()
    assert not end.value.code


def test_maps_and_half_precision_are_read_exactly(arrays):
    half = arrays["right"].astype(np.float16)
    np.save("half.npy", half.reshape(3, 10, 2, 2))
    from pathlib import Path

    case = read_arrays(*(Path(f"{name}.npy") for name in ("reference", "half", "exact")))
    assert case.runs.measured.dtype == np.float32
    assert np.array_equal(case.runs.measured, half)
    assert judge(case).verdict.word == "FAIL"


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_outputs_that_are_not_finite_fail(broken, arrays, monkeypatch, capsys):
    arrays["right"][2, 0] = broken
    np.save("right.npy", arrays["right"])
    code, out, _ = run(monkeypatch, capsys)
    assert code == 1 and f"input 2: {broken} in column 0" in out


def test_other_shape_fails(arrays, monkeypatch, capsys):
    np.save("right.npy", arrays["right"][:, :39])
    code, out, _ = run(monkeypatch, capsys)
    assert code == 1 and "outputs of shape (3, 39), expected (3, 40)" in out


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "found no .npy array"),
        (b"text", "found no .npy array"),
        (np.array([None, {}]), "found no .npy array"),  # a pickle
        (np.ones((3, 40), int), "found an array of int64, expected floating-point"),
        (np.ones(3), "found shape (3,), expected one row for each input"),
        (np.ones((0, 40)), "found shape (0, 40)"),
        (None, "there is no such file"),
    ],
    ids=["empty", "text", "pickle", "integers", "flat", "none", "absent"],
)
def test_file_that_cannot_be_used_is_one_line(content, told, arrays, monkeypatch, capsys):
    if isinstance(content, bytes):
        with open("other.npy", "wb") as file:
            file.write(content)
    elif content is not None:
        np.save("other.npy", content)
    code, out, err = run(monkeypatch, capsys, device="other.npy")
    assert (code, out) == (2, "")
    assert err.startswith("error: other.npy: ") and told in err
    assert err.count("\n") == 1 and len(err) < 300


def test_float64_run_is_needed(arrays, monkeypatch, capsys):
    code, _, err = run(monkeypatch, capsys, exact=None)
    assert code == 2 and "--exact" in err and err.count("\n") == 1


@pytest.mark.parametrize(
    "option", ["--task=guess", '--heads={"a": 3}', "--task=digits", "--task=segmentation"]
)
def test_option_that_does_not_fit_is_one_line(option, arrays, monkeypatch, capsys):
    code, _, err = run(monkeypatch, capsys, option)
    assert code == 2 and err.startswith("error: ") and err.count("\n") == 1
