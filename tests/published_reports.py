"""Reports as people publish them, made from arrays, so that their figures are true together."""

import json
from dataclasses import dataclass

import numpy as np
import yaml

ZH = {
    "max_abs_error": "Logits 最大绝对误差",
    "mean_abs_error": "Logits 平均绝对误差",
    "l2_error": "Logits L2 范数差异",
    "norm": "参考输出 L2 范数",
    "relative_l2_error": "相对 L2 误差",
    "cosine": "Logits 余弦相似度",
    "prob_max_abs_error": "概率最大绝对误差",
    "prob_mean_abs_error": "概率平均绝对误差",
    "prob_max_relative_error": "概率最大相对误差",
    "cpu_latency": "CPU 推理耗时",
    "npu_latency": "NPU 推理耗时",
    "speedup": "CPU/NPU 加速比",
    "throughput": "吞吐量",
}
EN = {
    "max_abs_error": "max_abs_diff",
    "mean_abs_error": "mean_abs_diff",
    "l2_error": "l2_error",
    "norm": "reference_norm",
    "relative_l2_error": "relative_l2_error",
    "cosine": "cosine_similarity",
    "prob_max_abs_error": "prob_max_abs_error",
    "prob_mean_abs_error": "prob_mean_abs_error",
    "prob_max_relative_error": "prob_max_rel_error",
    "cpu_latency": "cpu_latency_ms",
    "npu_latency": "npu_latency_ms",
    "speedup": "speedup",
    "throughput": "throughput",
}
SUPERSCRIPTS = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")


@dataclass
class Made:
    """The true figures of a port, and the batch sizes with their times."""

    figures: dict[str, float]
    times: dict[int, tuple[float, float]]  # batch size: ms, inputs per second
    outputs: int


def softmax(z):
    e = np.exp(z - z.max())
    return e / e.sum()


def make(seed: int) -> Made:
    """Return the figures of a random network and a random difference of it."""
    random = np.random.default_rng(seed)
    n = int(random.choice([7, 10, 100, 320, 1000, 1486]))
    r = random.normal(0, 10 ** random.uniform(-1, 1), n)
    size = 10 ** random.uniform(-7, -1) * np.abs(r).mean()
    e = random.choice([random.normal, random.laplace])(0, size, n) + size * random.uniform(-1, 1)
    d, p, q = r + e, softmax(r), softmax(r + e)
    cosine = float(d @ r / np.linalg.norm(d) / np.linalg.norm(r))
    cpu = random.normal(10 ** random.uniform(0.5, 3), 0.1, 20)
    npu = 10 ** random.uniform(0.2, 1.5) * (1 + 0.1 * random.random(20))
    times = {}
    for batch in (1, 4, 8, 16):
        passes = npu * (1 + batch / 20)
        times[batch] = (passes.mean(), 1000 * batch / passes.mean())
    # Some reports print the ratio of means, some the mean of ratios.
    speedup = [cpu.mean() / npu.mean(), (cpu / npu).mean()][seed % 2]
    figures = {
        "max_abs_error": np.abs(e).max(),
        "mean_abs_error": np.abs(e).mean(),
        "l2_error": np.linalg.norm(e),
        "norm": np.linalg.norm(r),
        "relative_l2_error": np.linalg.norm(e) / np.linalg.norm(r),
        "cosine": cosine,
        "prob_max_abs_error": np.abs(q - p).max(),
        "prob_mean_abs_error": np.abs(q - p).mean(),
        "prob_max_relative_error": (np.abs(q - p) / p).max(),
        "cpu_latency": cpu.mean(),
        "npu_latency": npu.mean(),
        "speedup": speedup,
    }
    return Made({k: float(v) for k, v in figures.items()}, times, n)


def printed(value: float, digits: int, way: str) -> str:
    """Return a number in one of the notations that reports use."""
    if way == "raised" and value:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        return f"{mantissa} × 10{str(int(exponent)).translate(SUPERSCRIPTS)}"
    if way == "exponent":
        return f"{value:.{digits - 1}e}"
    return f"{value:.{10 if 0.9 < value < 1 else digits + 2}f}"


def write(made: Made, seed: int) -> str:
    """Return the report as text: a table, a list, or JSON, in Chinese or English."""
    random = np.random.default_rng([seed, 1])
    names, digits = [ZH, EN][random.integers(2)], int(random.integers(2, 8))
    kept = [k for k in made.figures if random.random() < 0.8]
    values = {}
    for key in kept:
        fixed = "latency" in key or key in ("speedup", "cosine")
        way = "fixed" if fixed else str(random.choice(["fixed", "raised", "exponent"]))
        if key in ("prob_max_relative_error", "relative_l2_error") and way == "fixed":
            values[names[key]] = f"{100 * made.figures[key]:.{digits}f}%"
        else:
            values[names[key]] = printed(made.figures[key], digits, way)
        values[names[key]] += " ms" if names is ZH and "latency" in key else ""
    about = (
        f"1 张图像,输出形状:[1, {made.outputs}]"
        if names is ZH
        else f"1 image, output_shape: [1, {made.outputs}]"
    )
    form = random.integers(3)
    if form == 0:
        body = "| 指标 | 值 |\n|---|---|\n" + "\n".join(f"| {k} | {v} |" for k, v in values.items())
    elif form == 1 or names is ZH:
        body = "\n".join(f"- {k}:{v}" for k, v in values.items())
    else:
        body = json.dumps(values, indent=2)
    rows = [f"| {b} | {t:.2f} ms | {rate:.1f} imgs/s |" for b, (t, rate) in made.times.items()]
    table = "\n".join(["| Batch Size | 延迟 | 吞吐量 |", "|---|---|---|", *rows])
    return f"{about}\n\n{body}\n\n{table}\n"


def as_yaml(made: Made, seed: int) -> str:
    """Return the figures as the YAML file that `npu-parity audit` reads."""
    random = np.random.default_rng([seed, 3])
    digits = int(random.integers(4, 8))
    values = {}
    for key, value in made.figures.items():
        unit = " ms" if "latency" in key else ""
        way = "fixed" if unit or key == "speedup" else str(random.choice(["raised", "exponent"]))
        values[key] = f"{value:.12f}" if key == "cosine" else printed(value, digits, way) + unit
    rows = {
        f"batch {b}": {"batch": str(b), "latency": f"{t:.3f} ms", "throughput": f"{rate:.3f}"}
        for b, (t, rate) in made.times.items()
    }
    about = {"inputs": 1, "outputs": made.outputs}
    return yaml.safe_dump({**about, "figures": values, "tables": [rows]}, allow_unicode=True)


def falsified(seed: int) -> Made:
    """Return the figures of `make` with one of them times or divided by 2; 1 − cosine for it."""
    made, random = make(seed), np.random.default_rng([seed, 2])
    factor = 2.0 ** random.choice([-1, 1])
    if (index := random.integers(len(made.figures) + len(made.times))) < len(made.figures):
        key = list(made.figures)[index]
        value = made.figures[key]
        made.figures[key] = 1 - factor * (1 - value) if key == "cosine" else factor * value
    else:
        batch = list(made.times)[index - len(made.figures)]
        time, rate = made.times[batch]
        made.times[batch] = (time, factor * rate)
    return made
