"""The benchmark of the sparse head's training step, at a small size; the lean side at its full one."""

import math
import sys

import pytest

import sparse_loss_memory as benchmark
from largest_tensor import LargestTensor


def test_nothing_in_the_full_step_is_larger_than_the_hidden_states_gradient():
    step = benchmark.tercet_step(16, 512, 250_002, width=64)
    with LargestTensor() as largest:
        assert math.isfinite(step())
    assert largest.bytes == 16 * 512 * 64 * 4


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
def test_memory_that_a_step_adds_and_gives_back_is_counted():
    found, value = benchmark.added(lambda: float(sum(bytearray(64 << 20)[:: 1 << 12])))
    assert value == 0
    assert 60 << 20 < found < 100 << 20
