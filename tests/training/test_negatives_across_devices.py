"""Two processes with gloo against one process with the whole batch."""

import pytest
import torch

from in_two import in_two
from two_processes import QUERIES, losses, mixed, targets, work


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gloo")
    in_two(work, str(folder))
    return torch.load(folder / "found.pt", weights_only=True)


@pytest.mark.parametrize("name", ["m3", "kl_div", "masked", "rows"])
def test_value_and_averaged_gradient_are_those_of_the_whole_batch(name, found):
    factors = torch.ones(2, 3, requires_grad=True)
    value = losses()[name](*mixed(factors), targets(name, 0, QUERIES, across=False)).value
    value.backward()
    expected = torch.cat([value.detach()[None], factors.grad.flatten()])
    torch.testing.assert_close(found[name], expected, rtol=1e-5, atol=1e-6)
    # the gradient is more than rounding, on the queries' side and on the passages'
    kind = 1 if name == "masked" else 0
    assert (expected[1:].view(2, 3)[:, kind].abs() > 1e-3).all()


def test_processes_with_other_group_sizes_are_an_error(found):
    assert "groups of other sizes" in found["message"]
    assert "(2, 4), (3, 3)" in found["message"]
