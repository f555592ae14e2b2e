import pytest
import torch

import tiny
from tercet.batch import Batch
from tercet.checkpoint.layout import open_checkpoint
from tercet.encoders import ENCODERS
from tercet.errors import CheckpointError, UnknownNameError
from tercet.model import load_encoder, position_limit
from tercet.precision.dtype import DType

CONFIG = {
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "vocab_size": 20,
    "max_position_embeddings": 12,
    "type_vocab_size": 2,
    "pad_token_id": 1,
}


def test_a_bert_has_positions_for_the_whole_table_and_a_roberta_for_what_lies_behind_padding():
    assert ENCODERS["bert"](CONFIG, "config.json").max_tokens == 12
    assert ENCODERS["roberta"](CONFIG, "config.json").max_tokens == 10
    assert ENCODERS["xlm-roberta"]({**CONFIG, "pad_token_id": 0}, "config.json").max_tokens == 11


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": 9}, "hidden_size 9 is not a multiple of num_attention_heads 2"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0, it must be a positive integer"),
        ({"vocab_size": "many"}, "vocab_size is 'many'"),
        ({"hidden_act": "gelo"}, "hidden_act 'gelo' is not known. Did you mean 'gelu'"),
        ({"intermediate_size": None}, "intermediate_size is None"),
    ],
)
def test_a_size_that_cannot_be_is_an_error_that_names_the_file(change, message):
    with pytest.raises(CheckpointError, match=f"folder/config.json: {message}"):
        ENCODERS["bert"]({**CONFIG, **change}, "folder/config.json")


def test_an_unknown_architecture_is_answered_with_those_that_are_known():
    with pytest.raises(UnknownNameError, match="bert"):
        ENCODERS["berd"]


@pytest.mark.parametrize("architecture", ["bert", "roberta", "xlm-roberta"])
def test_every_position_of_the_table_can_be_used_and_the_first_too(tmp_path, architecture):
    checkpoint = open_checkpoint(tiny.write_checkpoint(tmp_path / "model", architecture))
    encoder = load_encoder(checkpoint, DType.FLOAT32)
    longest = position_limit(checkpoint)
    hidden = encoder(Batch.from_ids([[5] * longest, [6]]))
    assert hidden.shape == (longest + 1, 32)
    assert torch.isfinite(hidden).all()


def test_token_types_that_are_given_are_used(tmp_path):
    checkpoint = open_checkpoint(tiny.write_checkpoint(tmp_path / "model", "bert"))
    encoder = load_encoder(checkpoint, DType.FLOAT32)
    batch = Batch.from_ids([[5, 6, 7]])
    plain = encoder(batch)
    zeros = Batch(
        batch.token_ids,
        batch.position_ids,
        batch.cu_seqlens,
        batch.lengths,
        torch.zeros(3, dtype=torch.int64),
    )
    ones = Batch(
        batch.token_ids, batch.position_ids, batch.cu_seqlens, batch.lengths, torch.ones(3, dtype=torch.int64)
    )
    torch.testing.assert_close(encoder(zeros), plain)
    assert not torch.allclose(encoder(ones), plain, atol=1e-3)
