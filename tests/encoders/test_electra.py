import pytest
import torch
from safetensors.torch import load_file, save_file

import tercet
import tiny
from tercet.checkpoint.layout import open_checkpoint
from tercet.encoders import ENCODERS
from tercet.errors import CheckpointError
from tercet.model import check_encoder

CONFIG = {
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "vocab_size": 20,
    "max_position_embeddings": 12,
    "type_vocab_size": 2,
}


def test_embeddings_are_projected_only_where_their_width_is_another():
    narrow = ENCODERS["electra"]({**CONFIG, "embedding_size": 6}, "config.json")
    assert narrow.word.weight.shape == (20, 6)
    assert narrow.project.weight.shape == (8, 6)
    assert ENCODERS["electra"]({**CONFIG, "embedding_size": 8}, "config.json").project is None
    # what transformers takes where config.json says nothing
    assert ENCODERS["electra"](CONFIG, "config.json").word.weight.shape == (20, 128)


@pytest.mark.parametrize("width", [0, -1, "128", True, None, 1 << 31])
def test_a_width_of_embeddings_that_cannot_be_is_an_error_that_names_the_file(width):
    with pytest.raises(CheckpointError, match=r"folder/config.json: embedding_size is .*positive integer"):
        ENCODERS["electra"]({**CONFIG, "embedding_size": width}, "folder/config.json")


def test_a_projection_that_the_configuration_does_not_expect_is_an_error(tmp_path):
    folder = tiny.write_checkpoint(tmp_path, "electra", embedding=12, config={"embedding_size": 32})
    with pytest.raises(CheckpointError, match=r"'embeddings_project\.(weight|bias)' is not known"):
        check_encoder(open_checkpoint(folder))


@pytest.mark.parametrize("head", ["discriminator_predictions", "generator_predictions"])
def test_a_head_of_pre_training_changes_no_vector_and_is_named(tmp_path, head):
    plain = tiny.write_checkpoint(tmp_path / "plain", "electra", embedding=12)
    whole = tiny.write_checkpoint(tmp_path / "whole", "electra", embedding=12, prefix="electra.")
    tensors = load_file(whole / "model.safetensors")
    if head == "generator_predictions":
        tensors |= {
            f"{head}.dense.weight": torch.ones(12, 32),
            f"{head}.dense.bias": torch.ones(12),
            f"{head}.LayerNorm.weight": torch.ones(12),
            f"{head}.LayerNorm.bias": torch.ones(12),
            "generator_lm_head.bias": torch.ones(220),
        }
    else:
        tensors |= {f"{head}.dense.weight": torch.ones(32, 32), f"{head}.dense.bias": torch.ones(32)}
        tensors |= {f"{head}.dense_prediction.weight": torch.ones(1, 32)}
    save_file(tensors, whole / "model.safetensors")
    models = [tercet.load(folder, precision="float32", device="cpu") for folder in (plain, whole)]
    vectors = [model.encode(tiny.TEXTS).dense for model in models]
    assert torch.equal(*vectors)
    assert any(f"{head}.dense.weight" in note for note in models[1].checkpoint.notes)
