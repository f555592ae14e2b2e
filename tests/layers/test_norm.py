import pytest
import torch
from torch import nn
from torch.nn import functional

from tercet.layers.calling import direct
from tercet.layers.norm import LayerNorm, unit_rows


@pytest.mark.parametrize("rows", [0, 1, 7])
def test_unit_rows_are_torchs_bit_for_bit(rows):
    vectors = torch.randn(rows, 384, generator=torch.Generator().manual_seed(rows))
    assert torch.equal(unit_rows(vectors), functional.normalize(vectors, dim=1))


def test_a_zero_row_stays_zero_and_the_vectors_given_stay_as_they_are():
    vectors = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
    assert unit_rows(vectors).tolist() == [[0, 0], pytest.approx([0.6, 0.8])]
    assert vectors.tolist() == [[0, 0], [3, 4]]


def test_the_norm_is_torchs_bit_for_bit():
    ours, theirs = LayerNorm(16, eps=1e-3), nn.LayerNorm(16, eps=1e-3)
    for norm in (ours, theirs):
        norm.load_state_dict({"weight": torch.arange(16.0), "bias": torch.ones(16)})
    x = torch.randn(5, 16)
    assert torch.equal(ours(x), theirs(x))


def test_without_gradients_rows_may_lie_in_any_way_and_what_does_not_fit_is_refused():
    norm, rows = LayerNorm(16), torch.randn(16, 5)
    with torch.no_grad():
        assert torch.allclose(norm(rows.t()), norm(rows.t().contiguous()), rtol=0, atol=1e-6)
        with pytest.raises(RuntimeError, match="normalized_shape"):
            norm(torch.randn(5, 24))
        with pytest.raises(RuntimeError, match="dtype"):
            norm.to(torch.bfloat16)(torch.randn(5, 16))


def test_a_module_called_directly_gives_the_same_and_its_hooks_are_heard():
    module, x, heard = nn.Linear(3, 2), torch.randn(4, 3), []
    assert torch.equal(direct(module)(x), module(x))
    handles = [
        module.register_forward_pre_hook(lambda *_: heard.append("before")),
        module.register_forward_hook(lambda *_: heard.append("behind")),
    ]
    assert torch.equal(direct(module)(x), module.forward(x))
    assert heard == ["before", "behind"]
    for handle in handles:
        handle.remove()
    direct(module)(x)
    assert len(heard) == 2
