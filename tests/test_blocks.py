"""Parts of tensors cover every element once, and nothing depends on their size."""

import math

import pytest
import torch

from npu_parity.backends.device import Device
from npu_parity.numerics.formats import Numerics
from npu_parity.verdict import blocks as parts
from npu_parity.verdict.blocks import Largest, blocks
from npu_parity.verdict.bounds import exact_and_bound
from npu_parity.verdict.kernels import check_operator
from npu_parity.verdict.recording import record

SHAPES = [
    (),
    (1,),
    (0,),
    (3, 0, 2),
    (70_000,),
    (2, 50_000),
    (3, 5, 130, 130),
    (40, 7, 70),
    (1, 2, 9),
]


@pytest.mark.parametrize("shape", SHAPES)
def test_parts_cover_every_element_once(shape):
    seen = torch.zeros(shape)
    for index in blocks(shape):
        assert 0 < seen[index].numel() <= parts.SIZE
        seen[index] += 1
    assert (seen == 1).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_the_largest_value_has_its_place_in_the_whole_tensor(shape):
    values = torch.randperm(math.prod(shape)).float().reshape(shape)
    largest = Largest()
    for index in blocks(shape):
        largest.update(values[index] + 1, index)
    if values.numel():
        assert largest.value == values.max() + 1 == values[largest.position] + 1
        assert len(largest.position) == len(shape)


def test_nan_is_the_largest():
    largest = Largest()
    assert largest.update(torch.tensor([1.0, math.nan, 2.0]))
    assert (largest.value, largest.position) == (math.inf, (1,))


def networks():
    conv = torch.nn.Conv2d(3, 9, 3, padding=1)
    yield torch.nn.Sequential(conv, torch.nn.BatchNorm2d(9), torch.nn.GroupNorm(3, 9))
    yield torch.nn.Sequential(torch.nn.Flatten(2), torch.nn.Linear(400, 30), torch.nn.LayerNorm(30))


@pytest.mark.parametrize("numerics", [Numerics(), Numerics(conv="hf32", matmul="hf32")])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_results_do_not_depend_on_the_size_of_parts(numerics, layout, monkeypatch):
    x = torch.randn(2, 3, 20, 20).to(memory_format=layout)
    x[0, 0, 0, :2] = 1e-40  # a device may flush it
    results = []
    for size in (2**14, 50):
        monkeypatch.setattr(parts, "SIZE", size)
        torch.manual_seed(0)
        for network in networks():
            for call in record(network.eval(), x):
                bounds = [e.bound for e in exact_and_bound(call, numerics) or () if e]
                r = check_operator(call, Device("cpu"), numerics=numerics)
                assert r.passed is not False
                results.append((bounds, r.largest_error, r.worst, r.predicted_error, r.largest_z))
    one, other = results[: len(results) // 2], results[len(results) // 2 :]
    for (bounds, *rest), (others, *further) in zip(one, other, strict=True):
        assert all(a is b is None or a.equal(b) for a, b in zip(bounds, others, strict=True))
        torch.testing.assert_close(rest, further, rtol=0, atol=0, equal_nan=True)
