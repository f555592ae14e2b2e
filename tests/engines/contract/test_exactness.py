"""An engine gives what the papers say: a plain float64 forward, the peers' recorded numbers, real texts."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import tiny
from engine_contract import distances
from recorder import cases
from reference_encoder import ReferenceEncoder
from tercet.batch import Batch

RECORDED = Path(__file__).parents[2] / "recorded"
PRIMES = (1, 2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61)

# Widths of a head, activations, depths; sizes that no register divides.
SHAPES = {
    "bert, heads of 16, gelu": dict(architecture="bert", hidden=32, heads=2),
    "xlm-roberta, heads of 16, three layers, silu": dict(
        architecture="xlm-roberta", hidden=64, heads=4, intermediate=128, layers=3, hidden_act="silu"
    ),
    "bert, heads of 32, gelu by tanh": dict(
        architecture="bert", hidden=64, heads=2, intermediate=256, hidden_act="gelu_new"
    ),
    "xlm-roberta, heads of 64, relu": dict(
        architecture="xlm-roberta", hidden=128, heads=2, intermediate=256, hidden_act="relu"
    ),
    "bert, one head of 128, one layer": dict(architecture="bert", hidden=128, heads=1, layers=1),
    "roberta, heads of 20, odd sizes, tanh": dict(
        architecture="roberta", hidden=40, heads=2, intermediate=52, hidden_act="tanh"
    ),
    "xlm-roberta stored in float16": dict(architecture="xlm-roberta", hidden=64, dtype="float16"),
    "distilbert, heads of 16": dict(architecture="distilbert", hidden=64, heads=4, intermediate=128),
    "distilbert stored in bfloat16": dict(architecture="distilbert", hidden=64, dtype="bfloat16"),
    "mpnet, heads of 16": dict(architecture="mpnet", hidden=64, heads=4, intermediate=128),
    "mpnet, heads of 20, odd sizes, three layers": dict(
        architecture="mpnet", hidden=40, heads=2, intermediate=52, layers=3
    ),
    "mpnet stored in bfloat16": dict(architecture="mpnet", hidden=64, dtype="bfloat16"),
    "electra, embeddings of 24 for layers of 64": dict(
        architecture="electra", hidden=64, heads=2, embedding=24, hidden_act="relu"
    ),
    "electra stored in float16": dict(architecture="electra", hidden=32, embedding=48, dtype="float16"),
}


def ids_of(lengths, seed=0):
    random = np.random.default_rng(seed)
    return [random.integers(2, 100, length).tolist() for length in lengths]


@pytest.fixture(scope="module", params=SHAPES)
def shape(request, tmp_path_factory):
    folder = tiny.write_checkpoint(tmp_path_factory.mktemp("shape"), **SHAPES[request.param])
    texts = ids_of(PRIMES)
    return folder, texts, ReferenceEncoder(folder).forward(texts)


def test_texts_of_one_token_and_of_prime_lengths_are_those_of_the_plain_float64_forward(subject, shape):
    folder, texts, exact = shape
    found = subject.open(folder).forward(Batch.from_ids(texts))
    assert str(found.dtype) == f"torch.{subject.scheme.compute}"
    assert max(distances(found, exact, PRIMES)) <= subject.from_exact


def test_token_types_are_honoured(subject, tmp_path):
    folder = tiny.write_checkpoint(tmp_path, "bert", hidden=64)
    texts = ids_of((9, 4))
    types = [[0, 0, 0, 1, 1, 1, 1, 1, 1], [1, 0, 0, 1]]
    packed = torch.tensor([*types[0], *types[1]])
    batch = Batch.from_ids(texts)
    engine = subject.open(folder)
    found = engine.forward(replace(batch, token_type_ids=packed))
    reference = ReferenceEncoder(folder)
    assert max(distances(found, reference.forward(texts, types), (9, 4))) <= subject.from_exact
    assert min(distances(found, reference.forward(texts), (9, 4))) > subject.from_exact
    zeros = engine.forward(replace(batch, token_type_ids=torch.zeros_like(packed)))
    assert max(distances(zeros, engine.forward(batch), (9, 4))) <= subject.alike


@pytest.fixture(scope="module", params=["xlm-roberta", "mpnet"])
def long_texts(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("long")
    tiny.write_checkpoint(folder, request.param, max_positions=8194, heads=2, layers=1)
    texts = ids_of((5, 8192, 3))
    return folder, texts, ReferenceEncoder(folder).forward(texts)


def test_a_text_of_8192_tokens_between_short_ones_is_that_of_the_plain_float64_forward(subject, long_texts):
    folder, texts, exact = long_texts
    found = subject.open(folder).forward(Batch.from_ids(texts))
    assert max(distances(found, exact, (5, 8192, 3))) <= subject.from_exact
    # of a long text's single tokens, too: the distance of a whole text would hide a few wrong rows
    assert max(distances(found, exact, [1] * len(exact))) <= 2 * subject.from_exact


@pytest.fixture(scope="module")
def transformers():
    with np.load(RECORDED / "transformers.npz") as arrays:
        return dict(arrays)


@pytest.mark.parametrize("name", cases.ENCODERS)
def test_hidden_vectors_are_those_that_transformers_gave(subject, name, transformers, tmp_path):
    folder = cases.write(tmp_path, name)
    lengths = transformers[f"{name}/lengths"].tolist()
    texts = [part.tolist() for part in np.split(transformers[f"{name}/ids"], np.cumsum(lengths)[:-1])]
    found = subject.open(folder).forward(Batch.from_ids(texts))
    assert max(distances(found, transformers[f"{name}/hidden"], lengths)) <= max(subject.from_exact, 3e-6)


@pytest.mark.parametrize("name", cases.ENCODERS)
def test_the_plain_float64_forward_itself_is_that_of_transformers(name, transformers, tmp_path):
    lengths = transformers[f"{name}/lengths"].tolist()
    texts = [part.tolist() for part in np.split(transformers[f"{name}/ids"], np.cumsum(lengths)[:-1])]
    exact = ReferenceEncoder(cases.write(tmp_path, name)).forward(texts)
    assert max(distances(torch.from_numpy(exact), transformers[f"{name}/hidden"], lengths)) <= 3e-6


@pytest.mark.minilm
def test_vectors_of_real_texts_drift_no_further_than_the_scheme_states(subject, minilm):
    texts = json.loads((RECORDED / "texts.json").read_text(encoding="utf-8"))[::8]
    with np.load(RECORDED / "minilm.npz") as arrays:
        theirs = torch.from_numpy(arrays["dense"][::8]).double()
    dense = subject.load(minilm).encode(texts).dense.double()
    drift = 1 - torch.nn.functional.cosine_similarity(dense, theirs)
    if subject.scheme.is_plain:
        assert drift.mean() <= 1e-7
        assert drift.max() <= 1e-6
        return
    stated = subject.measured.drift
    assert stated is not None, "a scheme that may lose something states how much"
    # stated of other texts than these: some of them lie further off
    assert drift.mean() <= 2 * stated.mean
    assert drift.max() <= 4 * stated.worst
