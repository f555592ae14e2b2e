"""One rounding from float64."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tercet.merging.rounding import rounded


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_number_just_beyond_the_middle_goes_up(dtype):
    step = torch.finfo(dtype).eps
    middle = 1 + step / 2
    above, below = np.nextafter(middle, 2), np.nextafter(middle, 0)
    exact = torch.tensor([middle, above, below, -middle, -above, -below], dtype=torch.float64)
    assert rounded(exact, dtype).tolist() == [1, 1 + step, 1, -1, -1 - step, -1]
    # what torch does alone: the number above the middle is rounded to the middle first
    assert exact.to(dtype).tolist()[1] == 1


@given(st.lists(st.floats(width=64, allow_nan=False), min_size=1, max_size=20))
def test_float16_is_what_numpy_rounds_to(values):
    exact = np.array(values, dtype=np.float64)
    with np.errstate(over="ignore"):
        expected = exact.astype(np.float16)
    np.testing.assert_array_equal(rounded(torch.from_numpy(exact), torch.float16).numpy(), expected)


def test_infinite_and_no_numbers_stay_so():
    exact = torch.tensor([float("inf"), -float("inf"), float("nan"), 1e300, -0.0], dtype=torch.float64)
    made = rounded(exact, torch.bfloat16)
    assert made.isinf().tolist() == [True, True, False, True, False]
    assert made.isnan().tolist() == [False, False, True, False, False]
    assert str(made[4].item()) == "-0.0"
