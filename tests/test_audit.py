"""The audit of published reports: traps are named, and nobody is accused without a proof."""

import re
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from project import ROOT
from published_reports import EN, as_yaml, falsified, make, write

from npu_parity.audit.figures import interval, read
from npu_parity.audit.published import audit, audit_file, read_report
from npu_parity.errors import ParityError
from npu_parity.verdict import published

REPORTS = 200

# Numbers and labels


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        ("0.0143", 0.0142, 0.0144),
        ("1.106514e-03", 1.106513e-3, 1.106515e-3),
        ("2.04 × 10⁻⁴", 2.03e-4, 2.05e-4),
        ("2.04 x 10^-4", 2.03e-4, 2.05e-4),
        ("0.2397%", 0.002396, 0.002398),
        ("0.157s", 156, 158),
        ("206.59 ms", 206.58, 206.60),
        ("41,943 img/s", 41942, 41944),
        ("80.6×", 80.5, 80.7),
        ("100%", 0.99, 1.01),
        ("49.8 × 1 host", 49.7, 49.9),
    ],
)
def test_a_printed_number_is_an_interval(text, low, high):
    assert interval(text) == pytest.approx((low, high), rel=1e-12)


@given(st.text(max_size=200))
def test_any_text_can_be_read(text):
    assert audit(text).contradictions == [] or "|" in text or ":" in text


LINES = {
    "| 最大绝对误差 | 1.5e-03 |": ("max_abs_error", "", 1.5e-3),
    "- max_abs_diff:0.0015": ("max_abs_error", "", 1.5e-3),
    "Logits 最大绝对误差0.0015": ("max_abs_error", "", 1.5e-3),
    '  "mean_abs_diff": 0.0015,': ("mean_abs_error", "", 1.5e-3),
    "余弦相似度为 0.9975,Top-1 一致": ("cosine", "", 0.9975),
    "- Mean abs error (logits): 0.0015": ("mean_abs_error", "", 1.5e-3),
    '"npu_latency_ms": 4.5': ("latency", "npu", 4.5),
    "| CPU 推理耗时 | 0.2 s |": ("latency", "cpu", 200),
    "- CPU latency: 12.5 ms": ("latency", "cpu", 12.5),
    "CPU0.150s±0.001s10": ("latency", "cpu", 150),
    "NPU (Ascend 910)0.004s ± 0.001s": ("latency", "npu", 4),
    "- speedup: 12.5x": ("speedup", "", 12.5),
}


@pytest.mark.parametrize("line", LINES)
def test_figures_are_read_in_every_notation(line):
    text = f"| a | b |\n|---|---|\n{line}" if line.startswith("|") else line
    name, side, value = LINES[line]
    found = next(f for f in read(text).figures if f.name == name)
    assert found.side == side and found.low < value < found.high


@pytest.mark.parametrize(
    "line",
    [
        "cosine_similarity > 0.99",
        "要求 mean_abs_diff<0.005",
        "latency: 5",  # of what unit?
        "max_abs_diff: see the log",
    ],
)
def test_a_threshold_or_a_number_without_unit_is_no_figure(line):
    assert read(line).figures == []


# Relations, each with figures that fit and figures that do not

HEADS = (
    "| 输出头 | 平均偏差 | 最大偏差 |\n|---|---|---|\n"
    "| a | 1.0e-4 | {} |\n| b | 2.0e-4 | 4.0e-4 |\n\n"
)
SIDES = "| 指标 | CPU | NPU | 加速比 |\n|---|---|---|---|\n| 平均延迟 | 90.0 ms | 3.00 ms | {}× |"
PLATFORMS = (
    "| 平台 | 推理耗时 (ms) | 加速比 |\n|---|---|---|\n| CPU | 90.0 | 1.00x |\n| NPU | 3.00 | {}x |"
)
BATCHES = "| Batch Size | 延迟 | 吞吐量 |\n|---|---|---|\n| 8 | 2.00 ms | {} imgs/s |"
IMAGES = "| 图像 | 余弦 |\n|---|---|\n| 0 | 0.9991 |\n| 1 | 0.9993 |\n\n平均余弦相似度: {}"
ONE = "1 image, output_shape: [1, 100]\n"
RELATIONS = {
    "mean, max": ("max_abs_diff: {}\nmean_abs_diff: 0.0200", "0.0300", "0.0100"),
    "mean, max of a head": (HEADS, "3.0e-4", "0.5e-4"),
    "heads, all": (HEADS.format("3.0e-4") + "NPU vs CPU 最大偏差: {}", "4.0e-4", "2.0e-4"),
    "mean, L2": (ONE + "mean_abs_diff: 0.0100\nL2 error: {}", "0.120", "0.050"),
    "L2, max": (ONE + "max_abs_diff: 0.0100\nL2 error: {}", "0.090", "0.200"),
    "L2, norm": (ONE + "rel l2 error: 1.0%\nL2 error: 0.100\nreference norm: {}", "10.0", "20.0"),
    "cosine, L2": (ONE + "rel l2 error: 1.00%\ncosine: {}", "0.99995", "0.99990"),
    "cosine, L2 and norm": (
        ONE + "l2 error: 0.10\nreference norm: 10.0\ncosine: {}",
        "0.99995",
        "0.9998",
    ),
    "cosine": ("cosine: {}", "1.0", "1.2"),
    "probabilities": ("max_abs_diff: 0.01000\nprob_max_abs_error: {}", "0.0050", "0.0060"),
    "mean probability": (
        ONE + "max_abs_diff: 0.01000\nprob_mean_abs_error: {}",
        "1.00e-4",
        "1.20e-4",
    ),
    "relative probability": ("max_abs_diff: 0.010\nprob_max_rel_error: {}", "0.020", "0.030"),
    "cosines": (IMAGES, "0.9992", "0.9996"),
    "speed-up in a row": (SIDES, "30.0", "40.0"),
    "speed-up in a table": (PLATFORMS, "30.0", "40.0"),
    "speed-up in a sentence": (
        "CPU0.090s±0.001s5\nNPU0.003s±0.000s5\nNPU 是 CPU 的 {} 倍",
        "30.1",
        "60.1",
    ),
    "throughput": (BATCHES, "4000.0", "8000.0"),
}


@pytest.mark.parametrize("name", RELATIONS)
def test_relation(name):
    report, fits, not_fits = RELATIONS[name]
    right, wrong = audit(report.format(fits)), audit(report.format(not_fits))
    assert right.contradictions == [] and right.findings
    assert len(wrong.contradictions) == 1, wrong.contradictions


def test_several_inputs_excuse_what_one_input_does_not():
    """The L2 error of 10 images together may exceed √n times the maximum."""
    text = "10 images, output_shape: [10, 100]\nmax_abs_diff: 0.01\nL2 error: 0.2"
    assert audit(text).contradictions == []


def test_two_measurements_of_a_name_are_read_as_fits_best():
    text = "max_abs_diff: 0.010\nmean_abs_diff: 0.020\n\nrun 2\nmax_abs_diff: 0.040"
    assert audit(text).contradictions == []


@pytest.mark.parametrize("seed", range(REPORTS))
def test_a_consistent_report_is_never_accused(seed):
    found = audit(write(make(seed), seed))
    assert found.contradictions == [] and len(found.findings) >= 4


def test_the_share_of_falsified_reports_that_is_found(record_property):
    """One figure is wrong by a factor of 2. Most figures have no relation that is so sharp."""
    texts = [(write(falsified(seed), seed), write(make(seed), seed)) for seed in range(REPORTS)]
    changed = [text for text, true in texts if text != true]  # a figure that is not printed
    share = sum(bool(audit(text).contradictions) for text in changed) / len(changed)
    record_property("found", share)
    print(f"{share:.0%} of {len(changed)} falsified reports found")
    assert len(changed) > 100 and share > 0.35


# Weak evidence

TOP5 = "| 排名 | CPU 类别 | CPU 分数 | NPU 类别 | NPU 分数 |\n|---|---|---|---|---|\n"
TOP1 = "| 图像 | CPU Top-1 | NPU Top-1 | 匹配 |\n|---|---|---|---|\n"
WEAK = {
    "one minus cosine": (
        "| 指标 | 数值 |\n|---|---|\n| 平均余弦相似度 | 0.99995 |\n| 精度误差率 | 0.005% |",
        "the error rate 0.005% is 1 − cosine; the relative L2 error of such outputs is 0.89 % or",
    ),
    "one class": (
        TOP1 + "| 0 | 7 | 7 | ✅ |\n| 1 | 7 | 7 | ✅ |",
        "all 2 inputs have the top-1 class 7",
    ),
    "features": (
        "输出形状:[1, 64](backbone features)\n- top1_match:一致",
        "the outputs are features, so top-1 and top-5 rank no classes",
    ),
    "saturated": ("Top-5:\n  1. [3] class_3 - 1.000000\n  2. [4] class_4 - 0.000000", "saturated"),
    "saturated table": (TOP5 + "| 1 | a | 0.99999 | a | 0.99999 |", "softmax is saturated"),
    "flat": ("200 个类别\n" + TOP5 + "| Top-1 | a | 0.0060 | a | 0.0061 |", "softmax is flat"),
    "random": ("权重由 torch.manual_seed(1) 得到", "weights are random"),
    "variable in a table": ("| 项 | 值 |\n|---|---|\n| 权重路径 | $path |", "$path is a variable"),
    "variable without bars": ("权重路径$weights", "$weights is a variable without its value"),
    "braces": ("model: {{ name }}", "{{ name }} is a variable"),
    "blank": ("| 项 | 值 |\n|---|---|\n| 余弦相似度 |  |", "余弦相似度 is blank"),
}


@pytest.mark.parametrize("name", WEAK)
def test_weak_evidence(name):
    text, words = WEAK[name]
    found = audit(text)
    assert any(words in line for line in found.weak), found.weak
    assert found.contradictions == [] and len(found.weak) == 1


@pytest.mark.parametrize(
    "text",
    [
        TOP1 + "| 0 | 7 | 7 | ✅ |\n| 1 | 8 | 8 | ✅ |",
        TOP1 + "| 0 | 7 | 7 | ✅ |",
        TOP5 + "| 1 | a | 0.81 | a | 0.80 |",
        "1000 个类别\n" + TOP5 + "| 1 | a | 0.5 | a | 0.5 |",
        "平均余弦相似度: 0.99995\n精度误差率: 0.2%",
        "输出形状:[1, 1000]\n- top1_match:一致",
        "```sh\necho model: $HOME\n```",
        "price: $5",
    ],
)
def test_no_weakness_is_invented(text):
    assert audit(text).weak == []


def test_what_is_missing_is_named():
    assert "figures: none was found" in audit("hello").missing
    complete = (
        f"sha256 {'0' * 64}\n3 images\nL2 error: 0.1\nallow_hf32 = True\n预热 3 次\n± 0.1\n"
        "torch_npu | 2.9.0"
    )
    assert audit(complete).missing == []


# The figures of the five published reports (npu_parity/data/published.yaml)

NAMES = {
    **{name: EN[name] for name in ("max_abs_error", "mean_abs_error", "l2_error")},
    "cosine_similarity": "cosine_similarity",
    "prob_cosine_similarity": "cosine_similarity",
    **{k: k for k in ("prob_max_abs_error", "prob_mean_abs_error")},
    "prob_max_relative_error": "prob_max_rel_error",
}


@pytest.mark.parametrize("name", published.figures())
def test_the_published_figures(name):
    """One report's speed-up is not the ratio of its times, 157.1 and 4.1 ms; the others agree."""
    about = published.figures()[name]
    lines = [f"{NAMES[k]}: {v}" for k, v in about["metrics"].items() if k in NAMES]
    for side in ("cpu", "npu"):
        times = about["latency"].get(side, {})
        if "std" in times:
            lines.append(f"{side.upper()} {times['mean']} ms ± {times['std']} ms")
        elif times.get("mean"):
            lines.append(f"{side}_latency: {times['mean']} ms")
    lines.append(f"speedup: {about['speedup']}")
    for head, errors in about["metrics"].get("heads", {}).items():
        lines += ["| h | 平均偏差 | 最大偏差 |", "|---|---|---|"]
        lines += [f"| {head} | {errors['mean_abs_error']} | {errors['max_abs_error']} |", ""]
    found = audit("\n".join(lines))
    assert found.findings
    assert len(found.contradictions) == (name == "resnet34")


def test_a_difference_of_a_predicted_size():
    text = "ResNet-34, torch.manual_seed(1)\nmax_abs_diff: 0.0150\nmean_abs_diff: 0.0030"
    (line,) = audit(text, ROOT / "results").fitting
    assert line.startswith("npu (fp32; conv hf32") and "torchvision:resnet34" in line
    for other in (
        text.replace("ResNet-34", "ResNet-340"),
        text.replace("torch.manual_seed(1)", "trained"),
        text.replace("0.0150", "0.1500").replace("0.0030", "0.0300"),
        text.replace("mean_abs_diff: 0.0030", ""),
    ):
        assert audit(other, ROOT / "results").fitting == []


@pytest.mark.parametrize(
    "about",
    [
        "1 张 Ascend 910B 卡,输出形状:[1, 100]",
        "5 images, 100 classes",
        "batch of 1 image, 100 classes",
    ],
)
def test_what_is_not_one_input_is_not_taken_for_it(about):
    assert audit(f"{about}\nmax_abs_diff: 0.0100\nL2 error: 0.200").contradictions == []


# Figures in a YAML file


def listed(folder, text):
    file = folder / "figures.yaml"
    file.write_text(text, encoding="utf-8")
    return audit_file(file)


def test_the_example_of_the_documentation(tmp_path):
    text = (ROOT / "docs/audit.md").read_text(encoding="utf-8")
    example, output = (
        re.search(rf"^```{kind}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)[1]
        for kind in ("yaml", "text")
    )
    found = list(listed(tmp_path, example).lines())
    assert found[: len(output.splitlines())] == output.splitlines()


def test_200_lists_of_consistent_figures_and_200_with_a_false_one(tmp_path):
    found = 0
    for seed in range(REPORTS):
        right = listed(tmp_path, as_yaml(make(seed), seed))
        assert right.contradictions == [] and len(right.findings) >= 10
        found += bool(listed(tmp_path, as_yaml(falsified(seed), seed)).contradictions)
    print(f"{found / REPORTS:.0%} of {REPORTS} falsified lists found")
    assert found > 0.5 * REPORTS


COMMON = "inputs: 1\noutputs: 100\nfigures: "
PLAIN = {
    "mean, max": ("{max_abs_error: {}, mean_abs_error: 0.0200}", "0.0300", "0.0100"),
    "L2, max": ("{max_abs_error: 0.0100, l2_error: {}}", "0.090", "0.200"),
    "cosine": ("{relative_l2_error: 1.00%, cosine: {}}", "0.99995", "0.99990"),
    "speed-up": ("{cpu_latency: 0.09 s, npu_latency: 3.0 ms, speedup: {}}", "30.0", "60.0"),
    "head": (
        "{max_abs_error: 0.01}\ntables: [{digit1: {max_abs_error: {}}}]",
        "0.0099",
        "0.0300",
    ),
    "cosines": (
        "{mean_cosine: {}}\ntables: [{a: {cosine: 0.9991}, b: {cosine: 0.9993}}]",
        "0.9992",
        "0.9996",
    ),
}


@pytest.mark.parametrize("name", PLAIN)
def test_a_relation_of_listed_figures(name, tmp_path):
    figures, fits, not_fits = PLAIN[name]
    right, wrong = (listed(tmp_path, COMMON + figures.replace("{}", v)) for v in (fits, not_fits))
    assert right.contradictions == [] and right.findings
    assert len(wrong.contradictions) == 1, wrong.contradictions


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("figures: {mean_cosine: 0.99995, error_rate: 0.005 %}", "line 1: the error rate 0.005 %"),
        (
            "figures: {}\ntables: [{a: {cpu_top1: 7}, b: {cpu_top1: 7}}]",
            "all 2 inputs have the top-1 class 7",
        ),
        ("task: features\nfigures: {top1_match: 一致}", "the outputs are features"),
        ("figures: {top1_score: 1.000000}", "softmax is saturated"),
        ("outputs: 200\nfigures: {top1_score: 0.0060}", "softmax is flat"),
        ("weights: random\nfigures: {}", "weights are random"),
        ("weights_from: $weight\nfigures: {}", "line 1: $weight is a variable without its value"),
        ("figures:\n  cosine:", "line 2: cosine is blank"),
    ],
)
def test_weak_evidence_in_listed_figures(tmp_path, text, words):
    (line,) = listed(tmp_path, text).weak
    assert words in line


def test_what_a_list_of_figures_lacks(tmp_path):
    hashes = f"{{weights: {'0' * 64}, inputs: {'1' * 64}}}"
    complete = (
        f"inputs: 3\nfigures: {{l2_error: 0.1, npu_latency: 3 ms ± 0.1 ms}}\nsha256: {hashes}\n"
        "switches: {allow_hf32: true}\npasses: {warmup: 3, timed: 10}\n"
        "versions: {torch_npu: 2.9.0}"
    )
    assert listed(tmp_path, complete).missing == []
    assert len(listed(tmp_path, "figures: {} # sha256, L2, allow_hf32, 3 inputs").missing) == 8


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("figures: {max_abs: 1}", "line 1: figures: unknown key 'max_abs'; did you mean 'max_abs_"),
        ("figures: {cosine: high}", "line 1: figures.cosine: found 'high', expected a number as"),
        ("figures: {npu_latency: 4.1}", "figures.npu_latency: found '4.1', expected a time with"),
        ("inputs: 0\nfigures: {}", "line 1: inputs: found '0', expected a number of things"),
        (
            "tables: [{a: {cosine: ~}}]\nfigures: {}",
            "tables[0].a.cosine: found '~', expected a num",
        ),
        ("outputs: 1", "figures.yaml: the top level: the key 'figures' is missing"),
        ("- 1", "the top level: found ['1'], expected a mapping with the key figures"),
        ("", "figures.yaml: the top level: found None, expected a mapping"),
        ("a: b: c", "figures.yaml, line 1: this is not YAML"),
    ],
)
def test_a_mistake_in_a_list_of_figures_is_one_line(tmp_path, text, said):
    with pytest.raises(ParityError) as error:
        listed(tmp_path, text)
    assert said in str(error.value) and "\n" not in str(error.value)


# The command


def test_command(tmp_path):
    report = tmp_path / "report.md"
    for mean, code in (("0.0100", 0), ("0.0300", 1)):
        report.write_text(f"max_abs_diff: 0.0200\nmean_abs_diff: {mean}", encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-m", "npu_parity", "audit", report], capture_output=True, text=True
        )
        assert done.returncode == code, done.stderr
        assert done.stdout.startswith("cannot be true together: ")
    assert done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("content", [b"\xff\xfe", None])
def test_a_report_that_cannot_be_read_is_one_line(tmp_path, content):
    if content:
        (tmp_path / "report.md").write_bytes(content)
    with pytest.raises(ParityError, match=r"report\.md: (this is not UTF-8|there is no such file)"):
        read_report(tmp_path / "report.md")
