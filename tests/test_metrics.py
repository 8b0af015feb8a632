"""metrics.compare against oracles written another way: exact fractions, fsum, plain loops."""

import json
import math
import tracemalloc
from fractions import Fraction
from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from npu_parity.errors import ParityError
from npu_parity.verdict import metrics, rowwise
from npu_parity.verdict.digits import decode_digits
from npu_parity.verdict.metrics import compare, explained, softmax, top_k

SVHN = {"length": 7, "digit1": 11, "digit2": 11, "digit3": 11, "digit4": 11, "digit5": 11}
VALUES = st.floats(-100, 100, width=32, allow_subnormal=False)
BAD = [np.nan, np.inf, -np.inf]
fast = settings(max_examples=40, deadline=None)


@st.composite
def pairs(draw, min_columns=1, max_columns=12):
    """Two float32 arrays of one shape, without zero rows."""
    shape = draw(array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=5))
    shape = (shape[0], draw(st.integers(min_columns, max_columns)))
    a, b = (
        draw(arrays(np.float32, shape, elements=VALUES)),
        draw(arrays(np.float32, shape, elements=VALUES)),
    )
    for x in (a, b):
        x[:, 0][~np.abs(x).max(axis=1).astype(bool)] = 1
    return a, b


def sample(inputs=3, columns=10, seed=0, noise=1e-3):
    rng = np.random.default_rng(seed)
    r = rng.normal(size=(inputs, columns)).astype(np.float32)
    return r, (r + noise * rng.normal(size=r.shape)).astype(np.float32)


def exact(array):
    return [[Fraction(float(x)) for x in row] for row in array]


def exact_one_minus_cosine(r, d):
    """sin² is rational by Lagrange's identity, and 1 - cos = sin² / (1 + cos)."""
    dot = sum(a * b for a, b in zip(r, d, strict=True))
    sin2 = 1 - dot**2 / (sum(a * a for a in r) * sum(b * b for b in d))
    cosine = math.copysign(math.sqrt(1 - sin2), dot)
    return float(sin2) / (1 + cosine) if cosine >= 0 else 1 - cosine


def digits(length, *classes):
    """One row of SVHN outputs whose heads' argmax are as given."""
    row = np.zeros(sum(SVHN.values()), np.float32)
    start = 0
    for width, winner in zip(SVHN.values(), (length, *classes), strict=True):
        row[start + winner] = 5
        start += width
    return row


# Errors


@fast
@given(pairs())
def test_errors_agree_with_exact_fractions(pair):
    r, d = pair
    m = compare(r, d, task="features")
    R, D = exact(r), exact(d)
    error = [[abs(b - a) for a, b in zip(x, y, strict=True)] for x, y in zip(R, D, strict=True)]
    flat, size = list(chain(*error)), list(chain(*R))
    squares, energy = [sum(e * e for e in row) for row in error], [sum(a * a for a in x) for x in R]
    rows = [math.sqrt(s / e) for s, e in zip(squares, energy, strict=True)]
    cosines = [exact_one_minus_cosine(x, y) for x, y in zip(R, D, strict=True)]
    expected = {
        "max_abs_error": float(max(flat)),
        "mean_abs_error": float(sum(flat) / len(flat)),
        "mean_relative_error": float(sum(flat) / sum(map(abs, size))),
        "l2_error": math.sqrt(sum(squares)),
        "relative_l2_error": math.sqrt(sum(squares) / sum(energy)),
        "relative_l2_error_max": max(rows),
        "one_minus_cosine": math.fsum(cosines) / len(cosines),
        "one_minus_cosine_max": max(cosines),
        "cosine_similarity": 1 - math.fsum(cosines) / len(cosines),
        "cosine_similarity_min": 1 - max(cosines),
    }
    assert {key: m[key] for key in expected} == pytest.approx(expected, rel=1e-12, abs=1e-14)
    by_element = [e / abs(a) if a else math.inf for e, a in zip(flat, size, strict=True) if e]
    if by_element and max(by_element) == math.inf:
        assert m["max_relative_error"] is None
    else:
        assert m["max_relative_error"] == pytest.approx(float(max(by_element, default=0)))
    for i, row in enumerate(m["per_input"]):
        assert row["max_abs_error"] == float(max(error[i]))
        assert row["relative_l2_error"] == pytest.approx(rows[i])
        assert row["one_minus_cosine"] == pytest.approx(cosines[i], abs=1e-14)
        assert row["cosine_similarity"] == 1 - row["one_minus_cosine"]


@fast
@given(pairs(), st.sampled_from(["classification", "features"]))
def test_identical_arrays_have_no_error(pair, task):
    m = compare(pair[0], pair[0].copy(), task=task)
    assert m["finite"] and m["bitwise_equal"]
    for key, value in m.items():
        if "error" in key or "one_minus" in key:
            assert value == 0, key
        if "cosine_similarity" in key or key in ("top1_match", "top5_overlap", "top5_same_order"):
            assert value == 1, key


@fast
@given(st.floats(-15.5, -1), st.integers(0, 2**32 - 1))
def test_one_minus_cosine_is_accurate_far_below_float64_epsilon(exponent, seed):
    rng = np.random.default_rng(seed)
    r = rng.normal(size=(1, 50))
    d = r + 10**exponent * rng.normal(size=r.shape)
    expected = exact_one_minus_cosine(exact(r)[0], exact(d)[0])
    # An error of ε in unit vectors that lie s apart is one of 2ε/s in s², s² = 2(1 - cos).
    tolerance = 1e-12 + 4 * 2.3e-16 / math.sqrt(2 * expected)
    assert compare(r, d)["one_minus_cosine"] == pytest.approx(expected, rel=tolerance, abs=0)


def test_one_minus_cosine_of_a_short_output_that_points_away():
    """‖d‖² from ‖r‖² and d - r has lost its digits there."""
    random = np.random.default_rng(0)
    r = random.standard_normal((200, 50))
    d = -0.05 * r + 1e-3 * random.standard_normal(r.shape)
    found = [one["one_minus_cosine"] for one in compare(r, d, "features")["per_input"]]
    x, y = r.astype(np.longdouble), d.astype(np.longdouble)
    expected = 1 - (x * y).sum(1) / np.sqrt((x * x).sum(1) * (y * y).sum(1))
    assert np.abs(found / expected - 1).max() < 2e-15


def test_scaling_changes_no_cosine_though_subtraction_sees_noise():
    r = np.random.default_rng(0).normal(size=(20, 1000))
    d = r * (1 + 1e-7)
    cosine = (r * d).sum(1) / np.sqrt((r * r).sum(1)) / np.sqrt((d * d).sum(1))
    assert np.abs(1 - cosine).max() > 1e-17  # what is to be avoided
    m = compare(r, d, task="features")
    assert m["one_minus_cosine_max"] < 1e-30
    assert m["relative_l2_error"] == pytest.approx(1e-7, rel=1e-6)
    assert compare(r, -r, task="features")["one_minus_cosine"] == pytest.approx(2)


@fast
@given(st.data())
def test_one_planted_error_is_found(data):
    r, _ = sample()
    i, j = data.draw(st.integers(0, 2)), data.draw(st.integers(0, 9))
    d = r.copy()
    d[i, j] += np.float32(0.5)
    planted = abs(float(d[i, j]) - float(r[i, j]))
    m = compare(r, d)
    assert m["max_abs_error"] == m["l2_error"] == planted
    assert m["mean_abs_error"] == pytest.approx(planted / r.size)
    assert not m["bitwise_equal"]
    assert [row["max_abs_error"] for row in m["per_input"]] == [
        planted * (k == i) for k in range(3)
    ]


@fast
@given(pairs(min_columns=5), st.randoms(use_true_random=False))
def test_order_of_inputs_and_columns_does_not_matter(pair, random):
    r, d = pair
    rows, columns = list(range(r.shape[0])), list(range(r.shape[1]))
    random.shuffle(rows), random.shuffle(columns)
    a, b = compare(r, d), compare(r[rows][:, columns], d[rows][:, columns])
    del a["per_input"], b["per_input"]
    for m, x in ((a, r), (b, r)):  # ties are broken by position
        if any(len(set(row)) < len(row) for row in x.tolist() + d.tolist()):
            for key in ("top1_match", "top5_overlap", "top5_same_order", "distinct_top1"):
                del m[key]
    known = {key: value for key, value in b.items() if value is not None}
    assert {key: value for key, value in a.items() if value is not None} == pytest.approx(
        known, rel=1e-9, abs=1e-13
    )


def test_zeros():
    r = np.array([[0, 0, 2]], np.float32)
    assert compare(r, r, task="features")["max_relative_error"] == 0  # 0/0 is no error
    assert compare(r, r + 1, task="features")["max_relative_error"] is None
    m = compare(0 * r, 0 * r, task="features")
    assert m["relative_l2_error"] == m["mean_relative_error"] == m["max_abs_error"] == 0
    assert m["one_minus_cosine"] is None and m["cosine_similarity"] is None  # no direction
    assert compare(0 * r, r, task="features")["relative_l2_error"] is None


def test_bitwise_equal_sees_the_sign_of_zero_and_the_precision():
    r = np.array([[0, 1]], np.float32)
    d = np.array([[-0.0, 1]], np.float32)
    assert compare(r, d)["max_abs_error"] == 0
    assert not compare(r, d)["bitwise_equal"]
    assert not compare(r, r.astype(np.float64))["bitwise_equal"]
    assert compare(r, r.astype(np.float64))["max_abs_error"] == 0


# Probabilities


@fast
@given(pairs(min_columns=2))
def test_probabilities_are_the_features_of_the_softmax(pair):
    r, d = pair
    m = compare(r, d)
    p, q = (
        np.array([[math.exp(x) / math.fsum(map(math.exp, row)) for x in row] for row in a.tolist()])
        for a in (r, d)
    )
    assert softmax(r) == pytest.approx(p, rel=1e-12)
    expected = compare(p, q, task="features")
    keys = [key for key in expected if "error" in key or "cosine" in key]
    assert len(keys) == 11
    for key in keys:
        assert m[f"prob_{key}"] == pytest.approx(expected[key], rel=1e-9, abs=1e-12), key
    assert m["prob_max_relative_error"] == pytest.approx(
        (abs(q - p) / p).max(), rel=1e-9, abs=1e-12
    )


def test_probability_errors_survive_underflow():
    r = np.array([[0, -740, -2000]], np.float32)  # a denormal and a zero in float64
    d = r + np.array([[0, 0.5, 0.25]], np.float32)
    m = compare(r, d)
    assert softmax(r)[0, 2] == 0
    assert m["prob_max_relative_error"] == pytest.approx(math.expm1(0.5), rel=1e-12)
    assert compare(r, r)["prob_max_relative_error"] == 0
    assert softmax(np.array([1000.0, 1000.0])).tolist() == [0.5, 0.5]


def test_features_have_no_probabilities():
    m = compare(*sample(), task="features")
    assert not [key for key in (*m, *m["per_input"][0]) if key.startswith("prob_")]
    assert m["per_input"][0]["reference_top5"][0][1] == float(sample()[0][0].max())


# Ranking


@fast
@given(arrays(np.int8, st.integers(1, 12), elements=st.integers(-3, 3)), st.integers(1, 12))
def test_top_k_breaks_ties_by_the_lower_index(values, k):
    values = values.astype(np.float32)
    expected = sorted(range(len(values)), key=lambda i: (-values[i], i))[:k]
    assert top_k(values, k).tolist() == expected
    assert top_k(values[None], k).tolist() == [expected]


def test_ranking_by_hand():
    r = np.array([[9, 8, 7, 6, 5, 0], [0, 1, 2, 3, 4, 5.5], [9, 8, 7, 6, 5, 0]], np.float32)
    d = np.array([[8, 9, 7, 6, 5, 0], [0, 1, 2, 3, 4, 5.5], [9, 8, 7, 6, 0, 5]], np.float32)
    m = compare(r, d)
    assert m["top1_match"] == pytest.approx(2 / 3)
    assert m["top5_overlap"] == pytest.approx((1 + 1 + 4 / 5) / 3)
    assert m["top5_same_order"] == pytest.approx(1 / 3)
    assert m["distinct_top1"] == 2
    assert m["margin_min"] == 1
    first, second, _ = m["per_input"]
    assert [c for c, _ in first["reference_top5"]] == [0, 1, 2, 3, 4]
    assert [c for c, _ in first["device_top5"]] == [1, 0, 2, 3, 4]
    assert first["device_top5"][0][1] == pytest.approx(float(softmax(d)[0, 1]))
    assert (first["top1_match"], second["top1_match"]) == (False, True)
    assert second["margin"] == 1.5


def test_fewer_than_five_columns():
    m = compare(*sample(columns=3, noise=0))
    assert len(m["per_input"][0]["device_top5"]) == 3 and m["top5_overlap"] == 1
    m = compare(*sample(columns=1))
    assert m["margin_min"] is None and m["top1_match"] == 1


# What is not finite is never agreement


@fast
@given(
    st.sampled_from(BAD),
    st.sampled_from(["reference", "device", "both"]),
    st.sampled_from(["classification", "features", "digits"]),
    st.integers(0, 2),
    st.integers(0, 61),
)
def test_nan_and_infinity_are_never_a_match(bad, where, task, row, column):
    r, _ = sample(columns=62)
    d = r.copy()
    if where != "device":
        r[row, column] = bad
    if where != "reference":
        d[row, column] = bad
    m = compare(r, d, task=task, heads=SVHN if task == "digits" else None)
    json.dumps(m, allow_nan=False, default=list)
    assert not m["finite"] and not m["bitwise_equal"]
    for key, value in m.items():
        if "error" in key or "cosine" in key:
            assert value is None, key
    matches = [x["top1_match"] for x in m["per_input"]]
    assert matches == [i != row for i in range(3)]
    assert m["top1_match"] == m["top5_same_order"] == pytest.approx(2 / 3)
    assert m["top5_overlap"] == pytest.approx(2 / 3)
    assert where == "device" or m["per_input"][row]["margin"] is m["margin_min"] is None
    for i, x in enumerate(m["per_input"]):  # the other inputs keep their figures
        assert (x["max_abs_error"], x["one_minus_cosine"]) == ((None,) * 2 if i == row else (0, 0))
    if task == "digits":
        assert m["digits_match"] == pytest.approx(2 / 3)
        spoilt = [name for name, figures in m["heads"].items() if not figures["finite"]]
        assert len(spoilt) == 1 and m["heads"][spoilt[0]]["max_abs_error"] is None
    else:
        side = m["per_input"][row]["device_top5" if where != "reference" else "reference_top5"]
        assert side is None


def test_all_nan():
    m = compare(np.full((2, 6), np.nan, np.float32), np.full((2, 6), np.nan, np.float32))
    assert (m["top1_match"], m["distinct_top1"], m["margin_min"]) == (0, 0, None)
    json.dumps(m, allow_nan=False, default=list)


# Heads and digits


def test_heads_are_the_columns_compared_alone():
    r, d = sample(columns=62)
    m = compare(r, d, task="digits", heads=SVHN)
    assert list(m["heads"]) == list(SVHN)
    start = 0
    for name, width in SVHN.items():
        alone = compare(r[:, start : start + width], d[:, start : start + width])
        del alone["per_input"]
        assert m["heads"][name] == alone
        start += width
    heads = m["heads"].values()
    assert m["max_abs_error"] == max(h["max_abs_error"] for h in heads)
    assert m["prob_max_abs_error"] == max(h["prob_max_abs_error"] for h in heads)
    assert m["prob_max_relative_error"] == max(h["prob_max_relative_error"] for h in heads)
    assert m["l2_error"] == pytest.approx(math.hypot(*(h["l2_error"] for h in heads)))
    assert m["top5_overlap"] == pytest.approx(np.mean([h["top5_overlap"] for h in heads]))
    assert m["margin_min"] == min(h["margin_min"] for h in heads)


@pytest.mark.parametrize(
    ("row", "answer"),
    [
        (digits(3, 1, 2, 3, 10, 10), "123"),
        (digits(0, 1, 2, 3, 4, 5), ""),
        (digits(5, 9, 8, 7, 6, 0), "98760"),
        (digits(6, 9, 8, 7, 6, 0), "98760"),
        (digits(2, 10, 4, 10, 10, 10), "_4"),
    ],
)
def test_decode_digits(row, answer):
    assert decode_digits(row[None], SVHN) == [answer]


def test_digits_match_asks_for_the_answer_and_top1_for_every_head():
    r = np.stack([digits(1, 7, 10, 10, 10, 10), digits(2, 4, 2, 10, 10, 10)])
    d = np.stack([digits(1, 7, 3, 10, 10, 10), digits(2, 4, 3, 10, 10, 10)])
    m = compare(r, d, task="digits", heads=SVHN)
    assert (m["digits_match"], m["top1_match"]) == (0.5, 0)
    assert m["heads"]["digit1"]["top1_match"] == 1 and m["heads"]["digit2"]["top1_match"] == 0
    assert [x["reference_answer"] for x in m["per_input"]] == ["7", "42"]
    assert [x["device_answer"] for x in m["per_input"]] == ["7", "43"]
    assert m["distinct_top1"] == 2


# Explained


def test_explained():
    r, _ = sample()
    error = np.random.default_rng(1).normal(size=r.shape)
    assert explained(r + error, r + error, r) == 1
    assert explained(r + error, r, r) == 0
    assert explained(r + error, r + error / 2, r) == pytest.approx(0.75)
    assert explained(r + error, r - error, r) == pytest.approx(-3)
    assert explained(r, r + error, r) is None
    assert explained(r * np.nan, r, r) is None
    with pytest.raises(ParityError, match=r"\(3, 9\)"):
        explained(r, r[:, :9], r)


# Mistakes


@pytest.mark.parametrize(
    ("reference", "device", "options", "message"),
    [
        (np.ones((2, 3)), np.ones((2, 4)), {}, r"\(2, 4\), expected the reference's \(2, 3\)"),
        (np.ones((2, 3)), np.ones((1, 3)), {}, r"\(1, 3\), expected the reference's \(2, 3\)"),
        (np.ones((0, 3)), np.ones((0, 3)), {}, "empty"),
        (np.ones((3, 0)), np.ones((3, 0)), {}, "empty"),
        (np.ones(3), np.ones(3), {}, r"expected \(inputs, columns\)"),
        (np.ones((1, 3), int), np.ones((1, 3), int), {}, "int64, expected float32"),
        (np.ones((1, 3)), np.ones((1, 3)), {"heads": {"a": 1, "b": 1}}, "2 columns, expected 3"),
        (np.ones((1, 3)), np.ones((1, 3)), {"heads": {"a": 3, "b": 0}}, "at least one"),
        (np.ones((1, 3)), np.ones((1, 3)), {"task": "digits"}, "no heads"),
        (np.ones((1, 3)), np.ones((1, 3)), {"task": "regression"}, "'regression', expected one of"),
        (np.ones((1, 3)), np.ones((1, 3)), {"task": "digits", "heads": {"a": 3}}, "digit1"),
        (
            np.ones((1, 62)),
            np.ones((1, 62)),
            {"task": "digits", "heads": {"size": 7} | {k: 11 for k in SVHN if k != "length"}},
            "head length",
        ),
    ],
)
def test_mistakes_are_told_in_one_line(reference, device, options, message):
    with pytest.raises(ParityError, match=message) as error:
        compare(reference, device, **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_no_input_is_changed(dtype):
    r, d = (x.astype(dtype) for x in sample())
    r[0, 0] = np.inf
    before = r.tobytes(), d.tobytes()
    compare(r, d)
    assert (r.tobytes(), d.tobytes()) == before


def test_worst_input_is_the_one_that_differs_most():
    reference = np.ones((4, 3), dtype=np.float32)
    device = reference * np.array([[1.0], [1.2], [1.1], [1.2]], dtype=np.float32)
    assert metrics.worst_input(metrics.compare(reference, device)) == 1
    device[2, 0] = np.nan
    assert metrics.worst_input(metrics.compare(reference, device)) == 2
    assert metrics.worst_input(metrics.compare(reference, reference)) == 0


def test_arrays_on_disk_are_compared_in_blocks(tmp_path, monkeypatch):
    """Of two files of 32 MB, only parts are in memory."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    random = np.random.default_rng(0)
    reference = random.standard_normal((8_000, 1_000), dtype=np.float32)
    device = reference + np.float32(1e-4)
    paths = [tmp_path / "reference.npy", tmp_path / "device.npy"]
    for path, array in zip(paths, (reference, device), strict=True):
        np.save(path, array)
    del reference, device
    tracemalloc.start()
    found = compare(*(np.load(path, mmap_mode="r") for path in paths))
    memory = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found["max_abs_error"] == pytest.approx(1e-4, rel=0.01)
    assert memory < 32e6


@pytest.mark.parametrize("mode", ["r", "r+", "c"])
def test_arrays_on_disk_keep_what_was_written_into_them(tmp_path, mode):
    """Memory of the file is given back; a private copy of a page is no such memory."""
    np.save(tmp_path / "a.npy", sample()[0])
    mapped = np.load(tmp_path / "a.npy", mmap_mode=mode)
    if mode != "r":
        mapped[1, 2] = 7.5
    before = mapped.copy()
    assert compare(mapped, mapped[:])["bitwise_equal"]
    assert np.array_equal(mapped, before)


@pytest.mark.parametrize("task", ["classification", "features"])
def test_the_size_of_a_block_changes_no_metric_of_an_input(monkeypatch, task):
    random = np.random.default_rng(1)
    reference, noise = random.standard_normal((2, 7, 12)).astype(np.float32)
    device = reference + noise / 100
    whole = compare(reference, device, task)
    monkeypatch.setattr("npu_parity.verdict.metrics._BLOCK", 24)
    parts = compare(reference, device, task)
    assert parts.pop("per_input") == whole.pop("per_input")
    assert parts == pytest.approx(whole, rel=1e-14)


@pytest.mark.parametrize("task", ["classification", "features"])
def test_the_number_of_threads_changes_nothing(monkeypatch, task):
    random = np.random.default_rng(2)
    reference, noise = random.standard_normal((2, 60, 12)).astype(np.float32)
    device = reference + noise / 100
    reference[3, 4], device[50, 1] = np.inf, np.nan  # warnings would be errors here
    monkeypatch.setattr("npu_parity.verdict.metrics._BLOCK", 24)
    found = []
    for number in (1, 5):
        monkeypatch.setattr("npu_parity.verdict.metrics.threads", lambda number=number: number)
        found.append(compare(reference, device, task))
    assert found[0] == found[1] and not found[0]["finite"]


def test_largest_share_and_distance_of_very_many_rows():
    generator = np.random.default_rng(0)
    logits, others = (9 * generator.standard_normal((2, 300, 1000))).astype(np.float32)
    assert rowwise.best_share(logits) == pytest.approx(softmax(logits).max(axis=1), rel=1e-14)
    mean = logits.mean(axis=0)
    expected = np.linalg.norm(logits.astype(np.float64) - others)
    assert metrics.distance(logits, others) == pytest.approx(expected, rel=1e-12)
    expected = np.linalg.norm(logits.astype(np.float64) - mean)
    assert metrics.distance(logits, mean) == pytest.approx(expected, rel=1e-12)
    logits[7, 3] = np.nan
    assert math.isfinite(metrics.distance(logits, others))
