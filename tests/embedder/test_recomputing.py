import pytest
import torch

from tercet.batch import Batch
from tercet.checkpoint.layout import open_checkpoint
from tercet.embedder.recomputing import not_finite, recomputed
from tercet.engines.tensor_cores import FLOAT8, TF32
from tercet.errors import NonFiniteError
from tercet.model import hidden_in_float32
from tercet.precision.dtype import DType
from tercet.precision.scheme import Scheme

FLOAT32 = Scheme(DType.FLOAT32, DType.FLOAT32, None, "torch_packed")
INT8 = Scheme(DType.INT8, DType.FLOAT32, None, "onednn", None, DType.FLOAT32)


@pytest.fixture
def overflowed(tiny_bert):
    """A checkpoint, a batch of three texts, its hidden vectors in float32, and those with a bad number."""
    checkpoint, batch = open_checkpoint(tiny_bert), Batch.from_ids([[2, 8, 3], [2, 9, 10, 3], [2, 3]])
    exact = hidden_in_float32(checkpoint, batch)
    hidden = exact + 0.25
    hidden[4, 7] = float("inf")
    return checkpoint, batch, exact, hidden


@pytest.mark.parametrize("scheme", [TF32, FLOAT8, INT8], ids=str)
def test_whatever_rounds_its_operands_is_computed_again(overflowed, scheme):
    checkpoint, batch, exact, hidden = overflowed
    hidden = hidden.to(scheme.compute.torch)
    bad = not_finite(hidden, batch)
    assert bad == [1]
    found = recomputed(hidden, batch, bad, checkpoint=checkpoint, scheme=scheme, first=0)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found[3:7], exact[3:7])
    assert torch.equal(found[:3], hidden[:3].float())
    assert torch.equal(found[7:], hidden[7:].float())


def test_float32_is_not_computed_again_in_float32(overflowed):
    checkpoint, batch, _, hidden = overflowed
    with pytest.raises(NonFiniteError, match="text 6 gives values that are not finite, in float32 too"):
        recomputed(hidden, batch, [1], checkpoint=checkpoint, scheme=FLOAT32, first=5)
