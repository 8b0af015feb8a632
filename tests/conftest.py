"""What every test file has."""

import pytest
import torch


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Tensors of tests are small: threads that wait for each other slow a busy machine down."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
