"""What every test file has."""

import os

import pytest
import torch

# For examples in docstrings pytest imports every file; this one would become torch's "npu".
collect_ignore = ["standin_npu"]


@pytest.fixture(autouse=True, scope="module")
def few_threads():
    """One thread: the tensors of tests are small. OMP_NUM_THREADS asks for more."""
    before = torch.get_num_threads()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    yield
    torch.set_num_threads(before)
