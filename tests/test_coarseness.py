"""Outputs that use fewer bits, decimals or values than they should."""

import numpy as np
import pytest

from npu_parity.verdict.coarseness import coarsened, coarsened_row, decimals, mantissa_bits


@pytest.mark.parametrize(("dtype", "bits"), [("float16", 10), ("float32", 23)])
def test_mantissa_bits_tell_the_format_that_values_were_stored_in(dtype, bits):
    values = np.random.default_rng(0).standard_normal(1000).astype(dtype).astype(np.float32)
    assert mantissa_bits(values) == bits
    assert mantissa_bits([0.0, 1.0, -2.0, np.nan, np.inf]) == 0
    finding = coarsened(np.random.default_rng(1).standard_normal(1000), values)
    assert (finding is None) == (dtype == "float32")
    assert coarsened(values, values[:10].round()) is None  # too few to tell


@pytest.mark.parametrize("size", [1.0, 30.0])
@pytest.mark.parametrize("count", [1, 3, 4])
def test_rounded_to_decimals(count, size):
    values = (size * np.random.default_rng(1).standard_normal((2, 500))).astype(np.float32)
    rounded = values.round(count)
    assert decimals(values) is None and decimals(rounded) <= count
    assert "decimals where the reference has more" in coarsened(values, rounded)
    assert coarsened(rounded, rounded) is None


def test_few_values():
    values = np.random.default_rng(1).standard_normal((2, 500)).astype(np.float32)
    levels = np.quantile(values, np.linspace(0, 1, 256)).astype(np.float32)
    found = levels[np.abs(values[..., None] - levels).argmin(-1)]
    assert "values where the reference takes 1000" in coarsened(values, found)
    assert coarsened(found, found) is None


@pytest.mark.parametrize("size", [1e2, 1e3, 1e4, 1e5, 1e6])
def test_large_values_have_few_decimals_by_nature(size):
    generator = np.random.default_rng(2)
    for _ in range(50):
        a, b = (size * generator.standard_normal((2, 64))).astype(np.float32)
        assert coarsened(a, b) is None


def test_less_than_half_of_the_values():
    values = np.random.default_rng(1).standard_normal(40).astype(np.float32)
    assert "take 15 values" in coarsened(values, np.resize(values[:15], 40))
    assert coarsened(values, np.resize(values[:20], 40)) is None


def _spoil(row, kind, generator):
    """Make a row coarser in one of several ways."""
    if kind == "bits":
        return (row.view(np.uint32) & np.uint32(0xFFFFFF00)).view(np.float32)
    if kind == "one bit":
        return (row.view(np.uint32) & np.uint32(0xFFFFFFFE)).view(np.float32)
    if kind == "decimals":
        return row.round(int(generator.integers(0, 7)))
    if kind == "values":
        return np.resize(row[: len(row) // 3], len(row))
    return np.where(generator.random(len(row)) < 0.5, np.float32(kind), row)


KINDS = ("bits", "one bit", "decimals", "values", "nan", "inf", "0")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("columns", [31, 32, 100, 1000])
def test_all_rows_at_once_find_what_one_row_does(kind, columns):
    generator = np.random.default_rng(columns)
    for size in (1e-4, 1.0, 1e3, 1e6):
        a, b = (size * generator.standard_normal((2, 60, columns))).astype(np.float32)
        spoilt = int(generator.integers(60))
        b[spoilt] = _spoil(b[spoilt], kind, generator)
        one_by_one = ((i, f) for i in range(60) if (f := coarsened(a[i], b[i])))
        assert coarsened_row(a, b) == next(one_by_one, None)
        assert coarsened_row(b, b) is None


def test_few_values_among_very_many():
    values = np.random.default_rng(1).standard_normal((2**12, 2**11)).astype(np.float32)
    few = np.round(values * 2**12) / np.float32(2**12 + 1)
    assert "values where the reference takes" in coarsened(values, few)
    assert coarsened(values, values[::-1]) is None
