import re

import pytest
import torch

import tercet
import tiny
from tercet.batch import Batch
from tercet.checkpoint.layout import open_checkpoint
from tercet.encoders import ENCODERS
from tercet.errors import CheckpointError
from tercet.model import check_encoder, load_encoder
from tercet.precision.dtype import DType


def test_token_types_change_nothing_since_there_are_none(tmp_path):
    encoder = load_encoder(open_checkpoint(tiny.write_checkpoint(tmp_path, "distilbert")), DType.FLOAT32)
    batch = Batch.from_ids([[5, 6, 7]])
    ones = Batch(batch.token_ids, batch.position_ids, batch.cu_seqlens, batch.lengths, torch.ones(3).long())
    assert torch.equal(encoder(ones), encoder(batch))


def test_its_sizes_are_read_under_its_own_names(tmp_path):
    folder = tiny.write_checkpoint(tmp_path, "distilbert", hidden=24, heads=2, layers=3, intermediate=40)
    footprint = open_checkpoint(folder).footprint()
    found = (footprint.hidden, footprint.attention_heads, footprint.layers, footprint.intermediate)
    assert found == (24, 2, 3, 40)
    assert tercet.load(folder, device="cpu", precision="float32").encode(["a cat"]).dense.shape == (1, 24)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"dim": None}, "'dim' is None, expected a positive number"),
        ({"n_layers": "2"}, "'n_layers' is '2'"),
        ({"hidden_dim": -1}, "'hidden_dim' is -1"),
        ({"n_heads": 5}, "dim 32 is not a multiple of n_heads 5"),
        ({"max_position_embeddings": None}, "'max_position_embeddings' is None"),
    ],
)
def test_a_size_that_cannot_be_is_named_as_its_file_names_it(tmp_path, change, says):
    folder = tiny.write_checkpoint(tmp_path, "distilbert", config=change)
    with pytest.raises(CheckpointError, match=rf"config\.json: {re.escape(says)}"):
        open_checkpoint(folder)


def test_its_norms_have_an_epsilon_of_their_own_whatever_the_configuration_says():
    config = {
        "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
        "vocab_size": 20, "max_position_embeddings": 12, "layer_norm_eps": 0.1,
    }  # fmt: skip
    encoder = ENCODERS["distilbert"](config, "config.json")
    assert encoder.norm.eps == encoder.layers[0].output_norm.eps == 1e-12


def test_a_missing_tensor_is_named_as_the_file_would_name_it(tmp_path):
    folder = tiny.write_checkpoint(tmp_path, "distilbert", layers=1)
    config = (folder / "config.json").read_text().replace('"n_layers": 1', '"n_layers": 2')
    (folder / "config.json").write_text(config)
    with pytest.raises(
        CheckpointError, match=r"distilbert encoder: 'transformer\.layer\.1\.attention\.q_lin"
    ):
        check_encoder(open_checkpoint(folder))
