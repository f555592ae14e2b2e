"""What FlagEmbedding's classes do with 16 bits on an accelerator, with the CPU in its place."""

import numpy as np
import pytest
import torch

import tiny
from tercet.compat import BGEM3FlagModel, FlagModel
from tercet.errors import NonFiniteError

TEXTS = ["the cat is on the bridge", "Paris is the city of the river", "a long list " * 9, "sun"]
STORED = ("float32", "float16", "bfloat16")
# Largest 1 - cosine to float32 of these tiny random models.
DRIFT = {torch.float16: 1e-4, torch.bfloat16: 5e-3}
# Of lexical weights, which are dot products with vectors that are not normalised.
WEIGHTS = {torch.float16: 1e-2, torch.bfloat16: 1e-1}
ALL = {"return_dense": True, "return_sparse": True, "return_colbert_vecs": True}


@pytest.fixture(params=DRIFT, ids=str)
def half(request, monkeypatch):
    """A 16-bit format that the flags ask for by name, as they do on an accelerator."""

    def asked(device, *, use_fp16, use_bf16):
        return request.param if use_fp16 or use_bf16 else None

    for module in ("flag_options", "flag_model", "bge_m3"):
        monkeypatch.setattr(f"tercet.compat.{module}.sixteen_bits", asked)
    return request.param


def drift(found, exact):
    """The largest 1 - cosine of rows, in float64."""
    found, exact = (np.atleast_2d(np.asarray(rows, dtype=np.float64)) for rows in (found, exact))
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(exact, axis=1)
    return float((1 - (found * exact).sum(axis=1) / lengths).max())


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_dense_vectors_are_in_the_format_that_flagembedding_gives(half, stored, pooling, tmp_path):
    folder = str(tiny.write_checkpoint(tmp_path, "bert", dtype=stored))
    options = {"devices": "cpu", "pooling_method": pooling}
    exact = FlagModel(folder, use_fp16=False, **options).encode(TEXTS)
    model = FlagModel(folder, **options)
    assert model.embedder.plan.precision.compute.torch is half
    found, tensor = model.encode(TEXTS), model.encode(TEXTS, convert_to_numpy=False)
    # Averages over tokens are float32 there, and NumPy has no bfloat16.
    assert found.dtype == (np.float16 if half is torch.float16 and pooling == "cls" else np.float32)
    assert tensor.dtype is (half if pooling == "cls" else torch.float32)
    assert exact.dtype == np.float32
    assert 0 < drift(found, exact) <= DRIFT[half]
    assert drift(tensor.float().numpy(), exact) <= DRIFT[half]


@pytest.mark.parametrize("stored", STORED)
def test_of_three_outputs_only_the_dense_one_is_in_half_precision(half, stored, tmp_path):
    folder = str(tiny.write_checkpoint(tmp_path, "xlm-roberta", layout="bge-m3", dtype=stored, file="bin"))
    exact = BGEM3FlagModel(folder, use_fp16=False, devices="cpu").encode(TEXTS, **ALL)
    found = BGEM3FlagModel(folder, devices="cpu").encode(TEXTS, **ALL)
    assert found["dense_vecs"].dtype == (np.float16 if half is torch.float16 else np.float32)
    assert 0 < drift(found["dense_vecs"], exact["dense_vecs"]) <= DRIFT[half]
    for rows, right in zip(found["colbert_vecs"], exact["colbert_vecs"], strict=True):
        assert rows.dtype == np.float32
        assert drift(rows, right) <= DRIFT[half]
    for weights, right in zip(found["lexical_weights"], exact["lexical_weights"], strict=True):
        for token in {*weights, *right}:
            assert weights.get(token, 0.0) == pytest.approx(right.get(token, 0.0), abs=WEIGHTS[half])
    assert any(exact["lexical_weights"])


def test_a_vector_too_large_for_half_precision_is_an_error_and_not_infinite(half, tmp_path, monkeypatch):
    model = FlagModel(str(tiny.write_checkpoint(tmp_path, "bert")), False, devices="cpu")
    encode = model.embedder.encode

    def enlarged(*args, **kwargs):
        found = encode(*args, **kwargs)
        found.dense.mul_(1e6)
        return found

    monkeypatch.setattr(model.embedder, "encode", enlarged)
    if half is torch.float16:
        with pytest.raises(NonFiniteError, match="does not fit"):
            model.encode(TEXTS)
    else:
        assert np.isfinite(model.encode(TEXTS)).all()
