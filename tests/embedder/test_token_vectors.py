import pytest
import torch
from safetensors.torch import load_file, save_file

import tercet
import tiny
from tercet.embedder.token_vectors import token_vectors
from tercet.errors import InputError

TEXTS = list(tiny.TEXTS)


def loaded(folder, **options):
    return tercet.load(folder, **{"precision": "float32", "device": "cpu", "pooling": "mean", **options})


def test_their_mean_is_the_dense_vector_of_mean_pooling(tiny_bert):
    model = loaded(tiny_bert)
    found = token_vectors(model, TEXTS)
    embedded = model.encode(TEXTS)
    assert [len(ids) for ids in found.ids] == found.vectors.lengths.tolist() == embedded.num_tokens.tolist()
    means = torch.stack([one.vectors.mean(dim=0) for one in found.vectors])
    torch.testing.assert_close(means, embedded.dense, rtol=0, atol=1e-5)


def test_small_batches_a_prompt_and_a_length_change_what_they_should(tiny_bert):
    model = loaded(tiny_bert)
    whole, small = token_vectors(model, TEXTS), token_vectors(loaded(tiny_bert, token_budget=70), TEXTS)
    assert whole.vectors.allclose(small.vectors, atol=1e-5)
    short = token_vectors(model, ["red " * 50], prompt="blue ", max_length=7)
    assert short.vectors.lengths.tolist() == [7]
    assert short.ids == model.tokenizer.encode(["blue " + "red " * 50], max_length=7).ids


def test_of_no_texts_come_no_vectors_of_the_right_width(tiny_bert):
    found = token_vectors(loaded(tiny_bert), [])
    assert found.ids == []
    assert found.vectors.vectors.shape == (0, 32)


def test_what_leaves_the_range_of_the_dtype_is_computed_in_float32(tmp_path):
    folder = tiny.write_checkpoint(tmp_path, "bert")
    path = folder / "model.safetensors"
    tensors = load_file(path)
    save_file(
        {name: tensor * 4e4 if "intermediate.dense" in name else tensor for name, tensor in tensors.items()},
        path,
        metadata={"format": "pt"},
    )
    half, exact = (token_vectors(loaded(folder, precision=name), TEXTS) for name in ("float16", "float32"))
    assert half.vectors.vectors.dtype == torch.float32
    assert half.vectors.allclose(exact.vectors, atol=1e-5)


def test_a_text_that_is_none_is_refused_by_its_number(tiny_bert):
    with pytest.raises(InputError, match="text 1 is of type int"):
        token_vectors(loaded(tiny_bert), ["a", 3])
