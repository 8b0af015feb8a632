"""The atlas: its figures are those of the results, and its sentences follow from the figures."""

import importlib.util
import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from project import Project, system

from npu_parity import zoo
from npu_parity.evidence import manifest

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "atlas.py"
HF32, BF16 = 2.0**-12, 2.0**-8


@pytest.fixture(scope="module")
def atlas():
    spec = importlib.util.spec_from_file_location("atlas", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    manifest.enter(path, manifest.sha256(path))


def results(folder, errors, growth):
    """Results of a network with 20 convolutions, 20 activations and an attention."""
    operators = ["aten.convolution.default"] * 20 + ["aten.relu.default"] * 20
    operators += ["aten._scaled_dot_product_flash_attention_for_cpu.default"]
    about = {"architecture": f"timm:{folder.name}", "parameters": 7, "seed": 42, "sha256": "0"}
    write(folder / "weights.json", json.dumps(about | {"calibrated_batch_norms": 3}))
    for form, error in errors.items():
        keys = ("one_minus_cosine", "max_abs_error", "mean_abs_error")
        metrics = dict.fromkeys(keys, error) | {"relative_l2_error": error, "top1_match": 1.0}
        write(folder / form / "predicted/metrics.json", json.dumps(metrics | {"inputs": 2}))
        made = {"sha256": {"outputs": "1"}, "code": "2"}
        made["versions"] = dict.fromkeys(("torch", "torchvision", "timm"), "1")
        write(folder / form / "predicted/run.json", json.dumps(made))
        steps = pd.DataFrame(
            {
                "module": "",
                "operator": operators,
                "float32_relative_l2_error": 1e-7,
                "predicted_relative_l2_error": error * np.arange(1, len(operators) + 1) ** growth,
            }
        )
        write(folder / form / "predicted/divergence.csv", steps.to_csv(index=False))


@pytest.fixture
def frame(atlas, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root = Path("results")
    results(root / "one", {"hf32": 3 * HF32, "bf16": 3 * BF16}, 0.5)
    results(root / "two", {"hf32": 6 * HF32}, 0.5)
    return pd.DataFrame(atlas.rows(root))


def test_a_row_has_the_figures_of_the_results(frame):
    assert list(zip(frame.architecture, frame.arithmetic, strict=True)) == [
        ("timm:one", "bf16"),
        ("timm:one", "hf32"),
        ("timm:two", "hf32"),
    ]
    assert list(frame.relative_l2_error) == [3 * BF16, 3 * HF32, 6 * HF32]
    assert set(frame.operators) == {41} and set(frame.products) == {22}
    assert frame.kinds[0].startswith("convolution 20, relu 20")
    assert set(frame.float32_relative_l2_error) == {1e-7}


def test_growth_is_the_exponent(frame):
    # All but the attention come in the order of the exponent.
    assert frame.growth.between(0.45, 0.55).all()


def test_a_run_without_divergence_is_no_row_yet(atlas, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    results(Path("results/one"), {"hf32": HF32, "bf16": BF16}, 0.5)
    Path("results/one/hf32/predicted/divergence.csv").unlink()
    assert [row["arithmetic"] for row in atlas.rows(Path("results"))] == ["bf16"]


def test_the_predictor_that_fits_has_the_smallest_spread(atlas):
    products = np.array([4, 16, 64, 256])
    rows = pd.DataFrame(
        {
            "arithmetic": ["hf32", "bf16"] * 2,
            "products": products,
            "float32_relative_l2_error": [1e-7, 3e-7, 1e-6, 2e-8],
            "relative_l2_error": 5 * np.array([HF32, BF16] * 2) * np.sqrt(products),
        }
    )
    divided = atlas.ratios(rows)
    assert np.allclose(divided["u · √n"], 5)
    spreads = {name: atlas.spread(divided[name]) for name in atlas.PREDICTORS}
    assert math.isclose(spreads["u · √n"], 1)
    assert min(value for name, value in spreads.items() if name != "u · √n") > 2


def test_a_network_without_an_error_of_its_own_has_no_quotient(atlas, frame):
    frame.loc[0, "float32_relative_l2_error"] = 0.0
    assert len(atlas.ratios(frame)) == len(frame) - 1
    assert "nan" not in atlas.document(frame).partition("## Growth")[0]


def test_new_rows_replace_those_of_the_same_architecture(atlas, frame):
    newer = frame[frame.architecture == "timm:two"].assign(relative_l2_error=1.0)
    whole = atlas.merged(frame, newer)
    assert list(whole.arithmetic) == ["hf32", "bf16", "hf32"]
    assert list(whole.relative_l2_error) == [3 * HF32, 3 * BF16, 1.0]


def test_the_page_says_how_many_there_are(atlas, frame):
    text = atlas.document(atlas.merged(frame.head(0), frame))
    assert "**2 architectures** of timm and torchvision. The aim is 300; 298 are not done" in text
    assert "Nothing was executed on an accelerator" in text
    assert "| timm:one" in text and "| timm:two" in text


def test_changed_results_are_refused(atlas, frame):
    path = Path("results/one/hf32/predicted/metrics.json")
    path.write_text(path.read_text().replace("1.0", "0.0"))
    with pytest.raises(atlas.ParityError, match="was changed since it was made"):
        list(atlas.rows(Path("results")))


@pytest.mark.slow
def test_a_run_of_the_targets_goes_on_where_it_stopped(atlas, tmp_path):
    """Weights are removed after their last job; only systems that are left need them again."""
    project = Project.make(tmp_path, zoo.whole({"one": system(), "two": system()}))
    targets = [*atlas.targets(["one", "two"])]
    project.succeed(*targets[:4])
    assert not project.files("results/one/weights.safetensors")
    before = project.state("results/one/**/*")
    project.succeed(*targets)
    assert project.state("results/one/**/*") == before
    assert project.plan(*targets) == set()
