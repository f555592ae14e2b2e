"""The mean on a sphere where no tolerance is left."""

import pytest
import torch

from tercet.merging.streaming import merge_tensors


@pytest.mark.parametrize("same", [False, True])
def test_without_tolerance_the_mean_is_found_all_the_same(same):
    one = torch.randn(40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    two = one if same else torch.randn(40, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = merge_tensors([one, two], "karcher", {"tol": 0, "max_iter": 50})
    middle = one / one.norm() + two / two.norm()
    torch.testing.assert_close(found, middle / middle.norm() * (one.norm() + two.norm()) / 2)
