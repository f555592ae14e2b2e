"""Decoders that make vectors, against transformers' hidden states and sentence-transformers' vectors."""

import numpy as np
import pytest
import torch

import tercet
from recorder import decoder_cases
from tercet.batch import Batch
from tercet.compat import SentenceTransformer
from tercet.engines import ENGINES

TEXTS = list(decoder_cases.TEXTS)
# The largest distance of a row to the one in float32, in lengths of that row; two or three random layers.
DRIFT = {"float16": 5e-3, "bfloat16": 4e-2}


@pytest.fixture(scope="module")
def peer(recorded):
    return recorded("decoders")


@pytest.mark.parametrize("name", decoder_cases.BODIES)
def test_hidden_states_of_a_decoder_are_those_of_transformers(name, peer, tmp_path):
    folder = decoder_cases.write_body(tmp_path, name)
    model = tercet.load(folder, precision="float32", device="cpu")
    encoded = model.tokenizer.encode([text for text in TEXTS if text], max_length=model.max_length)
    assert encoded.lengths == peer[f"{name}/lengths"].tolist()
    assert np.concatenate(encoded.ids).tolist() == peer[f"{name}/ids"].tolist()

    engine = ENGINES[model.plan.scheme.engine].open(model.checkpoint, model.plan)
    hidden = engine.forward(Batch.from_ids(encoded.ids)).numpy()[:: decoder_cases.EVERY]
    np.testing.assert_allclose(hidden, peer[f"{name}/hidden"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", decoder_cases.EMBEDDERS)
def test_a_decoder_embeds_as_in_sentence_transformers(name, peer, tmp_path):
    model = tercet.load(decoder_cases.write_embedder(tmp_path, name), precision="float32", device="cpu")
    for task, encode in (("query", model.encode_query), ("document", model.encode_document)):
        np.testing.assert_allclose(encode(TEXTS).dense.numpy(), peer[f"{name}/{task}"], rtol=1e-5, atol=1e-5)
    assert np.abs(peer[f"{name}/query"] - peer[f"{name}/document"]).max() > 0.1


@pytest.mark.parametrize("name", decoder_cases.EMBEDDERS)
def test_the_drop_in_class_takes_a_decoder(name, peer, tmp_path):
    folder = decoder_cases.write_embedder(tmp_path, name)
    model = SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": "float32"})
    np.testing.assert_allclose(model.encode_query(TEXTS), peer[f"{name}/query"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("stored", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("asked", ["float16", "bfloat16"])
def test_a_decoder_in_half_precision_stays_within_its_drift(asked, stored, tmp_path):
    folder = decoder_cases.tiny_decoders.write_embedder(tmp_path, dtype=stored, layers=3)
    exact, found = (
        tercet.load(folder, precision=precision, device="cpu").encode(TEXTS).dense
        for precision in ("float32", asked)
    )
    assert found.dtype == torch.float32
    moved = torch.linalg.vector_norm(found - exact, dim=1)  # of rows of unit length
    assert 0 < float(moved.max()) <= DRIFT[asked]


def test_every_recorded_decoder_is_compared(peer):
    assert {key.rpartition("/")[0] for key in peer} == {*decoder_cases.BODIES, *decoder_cases.EMBEDDERS}
