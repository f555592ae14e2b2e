"""A text's vectors depend on the text alone: not on its neighbours, their number or their order."""

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tercet
import tiny
from engine_contract import distances
from tercet.batch import Batch
from tercet.checkpoint.writer import save_checkpoint
from tercet.embeddings import Embeddings

TEXTS = list(tiny.TEXTS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wide")
    return tiny.write_checkpoint(folder, "bert", hidden=64, heads=2, intermediate=256, hidden_act="gelu_new")


@pytest.fixture(scope="module")
def engine(subject, folder):
    return subject.open(folder)


@pytest.fixture(scope="module")
def model(subject, tiny_m3):
    return subject.load(tiny_m3)


def ids_of(lengths, seed=0):
    random = np.random.default_rng(seed)
    return [random.integers(2, 100, length).tolist() for length in lengths]


def assert_alike(subject, one, other, lengths):
    if subject.same_bits:
        assert torch.equal(one, other)
    else:
        assert max(distances(one, other, lengths)) <= subject.alike


@pytest.mark.parametrize("architecture", ["distilbert", "electra", "mpnet"])
def test_whatever_the_encoder_a_text_is_the_same_alone_and_beside_others(subject, architecture, tmp_path):
    engine = subject.open(tiny.write_checkpoint(tmp_path, architecture, hidden=64, heads=2))
    lengths = [64, 1, 7, 7, 30, 64, 2]
    texts = ids_of(lengths)
    for ids, rows in zip(texts, engine.forward(Batch.from_ids(texts)).split(lengths), strict=True):
        # not to the bit: attention with a bias is torch's, which promises none
        assert max(distances(engine.forward(Batch.from_ids([ids])), rows, [len(ids)])) <= subject.alike


@settings(max_examples=12)
@given(lengths=st.lists(st.integers(1, 66), min_size=1, max_size=9), seed=st.integers(0, 99))
def test_hidden_vectors_of_a_text_are_the_same_alone_and_beside_any_others(subject, engine, lengths, seed):
    texts = ids_of(lengths, seed)
    together = engine.forward(Batch.from_ids(texts))
    alone = torch.cat([engine.forward(Batch.from_ids([ids])) for ids in texts])
    assert_alike(subject, together, alone, lengths)
    backwards = engine.forward(Batch.from_ids(texts[::-1])).split(lengths[::-1])
    assert_alike(subject, torch.cat(backwards[::-1]), together, lengths)


def test_hidden_vectors_beside_hundreds_of_texts_are_those_of_the_text_alone(subject, engine):
    texts = ids_of([n % 29 + 1 for n in range(300)])
    lengths = [len(ids) for ids in texts]
    together = engine.forward(Batch.from_ids(texts)).split(lengths)
    for place in (0, 7, 150, 299):
        alone = engine.forward(Batch.from_ids([texts[place]]))
        assert_alike(subject, together[place], alone, lengths[place : place + 1])


def test_equal_texts_have_equal_vectors(subject, engine, model):
    text = ids_of([23])[0]
    hidden = engine.forward(Batch.from_ids([text, [5, 6], text, text[:11], text])).split([23, 2, 23, 11, 23])
    for place in (2, 4):
        assert_alike(subject, hidden[place], hidden[0], [23])
    found = model.encode([TEXTS[3], TEXTS[4], TEXTS[3]] * 5).dense.view(5, 3, -1)
    torch.testing.assert_close(found, found[:1].expand_as(found), rtol=0, atol=subject.alike_out)
    torch.testing.assert_close(found[:, 0], found[:, 2], rtol=0, atol=subject.alike_out)


def test_hidden_vectors_stay_as_they_are_while_the_next_batch_is_computed(engine):
    first = engine.forward(Batch.from_ids(ids_of([17, 3])))
    kept = first.clone()
    engine.forward(Batch.from_ids(ids_of([17, 3], seed=1)))
    assert torch.equal(first, kept)


def test_a_batch_is_left_as_it_was(engine):
    batch = Batch.from_ids(ids_of([5, 60, 2]))
    copies = [x.clone() for x in (batch.token_ids, batch.position_ids, batch.cu_seqlens)]
    engine.forward(batch)
    for found, copy in zip((batch.token_ids, batch.position_ids, batch.cu_seqlens), copies, strict=True):
        assert torch.equal(found, copy)


def test_a_text_embeds_the_same_alone_and_in_a_batch(subject, model):
    together = model.encode(TEXTS, outputs=model.outputs)
    alone = Embeddings.concat([model.encode([text], outputs=model.outputs) for text in TEXTS])
    assert alone.allclose(together, atol=subject.alike_out)
    assert together.recomputed.tolist() == [False] * len(TEXTS)


def test_order_in_is_order_out(subject, model):
    order = [3, 7, 0, 5, 1, 6, 2, 4]
    shuffled = model.encode([TEXTS[i] for i in order], outputs=model.outputs)
    expected = model.encode(TEXTS, outputs=model.outputs)
    assert shuffled.allclose(expected[order], atol=subject.alike_out)
    assert not shuffled.allclose(expected, atol=subject.alike_out)


def test_small_batches_give_what_large_ones_give(subject, model, tiny_m3):
    small = subject.load(tiny_m3, token_budget=7)
    found = small.encode(TEXTS * 2, outputs=model.outputs)
    assert found.allclose(model.encode(TEXTS * 2, outputs=model.outputs), atol=subject.alike_out)


def test_the_same_call_gives_the_same_bits_and_a_stream_the_same_as_one_call(model):
    first = model.encode(TEXTS, outputs=model.outputs)
    assert model.encode(TEXTS, outputs=model.outputs).allclose(first, atol=0)
    assert Embeddings.concat(list(model.stream(iter(TEXTS), outputs=model.outputs))).allclose(first, atol=0)


def test_no_texts_have_no_vectors_of_the_right_width(model):
    for nothing in ([], iter([])):
        found = model.encode(nothing, outputs=model.outputs)
        assert found.dense.shape == (0, 32)
        assert found.multivector.vectors.shape == (0, 32)
        assert len(found.sparse) == 0
        assert found.num_tokens.tolist() == []
    assert list(model.stream([])) == []


def test_the_empty_text_has_a_vector_alone_and_among_others(subject, model):
    alone = model.encode([""], outputs=model.outputs)
    assert alone.num_tokens.tolist() == [2]
    assert alone.sparse.to_dicts() == [{}]
    assert alone.dense.norm().item() == pytest.approx(1)
    among = model.encode(["a cat", "", "wait for it " * 9, ""], outputs=model.outputs)
    for place in (1, 3):
        assert among[place].allclose(alone, atol=subject.alike_out)


# --- loaded again ---------------------------------------------------------------------------------


def test_a_model_loaded_twice_gives_the_same_bits(model, tiny_m3):
    again = tercet.load(tiny_m3, plan=model.plan)
    expected = model.encode(TEXTS, outputs=model.outputs)
    assert again.encode(TEXTS, outputs=model.outputs).allclose(expected, atol=0)


def test_a_checkpoint_saved_elsewhere_gives_the_same_vectors(subject, model, tmp_path):
    save_checkpoint(model.checkpoint, tmp_path / "again")
    again = tercet.load(tmp_path / "again", plan=model.plan)
    expected = model.encode(TEXTS, outputs=model.outputs)
    assert again.encode(TEXTS, outputs=model.outputs).allclose(expected, atol=subject.alike_out)


def test_other_weights_in_the_same_folder_give_other_vectors(subject, tmp_path):
    def saved(seed):
        tiny.write_checkpoint(tmp_path, "bert", layout="sentence-transformers", seed=seed)
        return subject.load(tmp_path).encode(TEXTS)

    first, second = saved(1), saved(2)
    assert not second.allclose(first, atol=0.1)
    assert saved(1).allclose(first, atol=subject.alike_out)


def test_a_plan_saved_as_a_file_gives_the_same_bits(model, tiny_m3, tmp_path):
    model.plan.save(tmp_path / "plan.json")
    again = tercet.load(tiny_m3, plan=tmp_path / "plan.json")
    assert again.plan == model.plan
    expected = model.encode(TEXTS, outputs=model.outputs)
    assert again.encode(TEXTS, outputs=model.outputs).allclose(expected, atol=0)


def test_a_model_survives_pickle_without_its_weights(model):
    pickled = pickle.dumps(model)
    assert len(pickled) < 100_000
    expected = model.encode(TEXTS, outputs=model.outputs)
    assert pickle.loads(pickled).encode(TEXTS, outputs=model.outputs).allclose(expected, atol=0)
