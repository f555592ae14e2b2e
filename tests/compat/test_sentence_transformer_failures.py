"""What users of sentence-transformers' class still meet, each as something that works in the class here."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import tiny
import tiny_modules
from tercet.compat import SentenceTransformer
from tercet.errors import CheckpointError

TEXTS = list(tiny.TEXTS)
IDENTITY = "torch.nn.modules.linear.Identity"
STACK = ("pooling", ("dense", {"out_features": 16}), "normalize")


def stack(folder, *modules, **settings):
    return tiny.write_checkpoint(folder, "bert", layout="sentence-transformers", modules=modules, **settings)


def opened(folder, dtype=None, key="dtype"):
    return SentenceTransformer(
        str(folder), device="cpu", model_kwargs=None if dtype is None else {key: dtype}
    )


def worst_drift(found, expected):
    found, expected = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (found, expected))
    return float((1 - (found * expected).sum(axis=1)).max())


@pytest.mark.parametrize("stored", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize(
    "asked", [None, "auto", "checkpoint", torch.float32, "float16", "half", torch.bfloat16]
)
def test_every_dtype_of_every_checkpoint_gives_float32_vectors(stored, asked, tmp_path):
    folder = stack(tmp_path, *STACK, dtype=stored)
    exact = opened(folder, "float32").encode(TEXTS)
    for key in ("dtype", "torch_dtype"):
        found = opened(folder, asked, key).encode(TEXTS)
        assert found.dtype == np.float32
        assert worst_drift(found, exact) < 5e-3
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1.0, atol=1e-6)


@pytest.mark.parametrize("change", ["half", "bfloat16", "float"])
@pytest.mark.parametrize("stored", ["float32", "float16"])
def test_a_change_of_precision_leaves_no_module_behind(change, stored, tmp_path):
    folder = stack(tmp_path, *STACK, "layer_norm", dtype=stored)
    exact = opened(folder, "float32").encode(TEXTS)
    model = opened(folder)
    model.encode(TEXTS)
    assert worst_drift(getattr(model, change)().encode(TEXTS), exact) < 5e-3


@pytest.mark.parametrize(("body", "head"), [("float16", "float32"), ("float32", "float16")])
def test_files_of_different_dtypes_embed_together_in_each_of_them(body, head, tmp_path):
    dense = ("dense", {"dtype": head, "out_features": 16})
    folder = stack(tmp_path, "pooling", dense, "normalize", dtype=body)
    exact = opened(folder, "float32").encode(TEXTS)
    for dtype in (None, "checkpoint", "float16", "bfloat16"):
        assert worst_drift(opened(folder, dtype).encode(TEXTS), exact) < 5e-3


def test_an_overflow_of_float16_gives_no_nan(tmp_path):
    folder = stack(
        tmp_path,
        "pooling",
        ("dense", {"scale": 1e6, "activation_function": IDENTITY}),
        "normalize",
        dtype="float32",
    )
    found = opened(folder, "float16").encode(TEXTS)
    assert np.isfinite(found).all()
    assert worst_drift(found, opened(folder, "float32").encode(TEXTS)) < 1e-3


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", None])
@pytest.mark.parametrize("stored", ["float32", "float16"])
def test_word_weights_and_a_dense_layer_embed_together_in_half_precision(dtype, stored, tmp_path):
    def dense(folder, width, stored, old_keys):
        settings = {"in_features": width, "out_features": 16, "bias": False, "activation_function": IDENTITY}
        (folder / "config.json").write_text(json.dumps(settings))
        weight = tiny_modules.normal("dense", (16, width)).to(getattr(torch, stored))
        save_file({"linear.weight": weight}, folder / "model.safetensors", metadata={"format": "pt"})
        return "Dense", 16

    parts = [tiny_modules.word_weights(), tiny_modules.pooling("mean"), dense]
    folder = tiny_modules.write_stack(tmp_path, parts, dtype=stored, architecture="bert")
    exact = opened(folder, "float32").encode(TEXTS)
    assert worst_drift(opened(folder, dtype).encode(TEXTS), exact) < 5e-3


@pytest.mark.parametrize("key", ["dtype", "torch_dtype"])
def test_the_repository_does_not_overrule_the_user(key, tmp_path):
    wilful = stack(
        tmp_path / "wilful", *STACK, model_args={key: "bfloat16"}, config={"torch_dtype": "float16"}
    )
    plain = stack(tmp_path / "plain", *STACK)
    model = opened(wilful, "float32", "torch_dtype")
    assert model.dtype == torch.float32
    np.testing.assert_array_equal(model.encode(TEXTS), opened(plain, "float32").encode(TEXTS))


def test_bfloat16_similarities_are_not_tied_by_rounding(tmp_path):
    model = opened(stack(tmp_path, *STACK), "bfloat16")
    vectors = model.encode(TEXTS, convert_to_tensor=True)
    scores = model.similarity(vectors, vectors)
    assert scores.dtype == torch.float32
    assert not torch.equal(scores, scores.bfloat16().float())


def test_a_reranker_is_refused_instead_of_losing_its_modules(tmp_path):
    folder = stack(tmp_path, *STACK)
    path = folder / "config_sentence_transformers.json"
    settings = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps({**settings, "model_type": "CrossEncoder"}))
    with pytest.raises(CheckpointError, match="CrossEncoder"):
        opened(folder)


def test_texts_have_the_same_codes_in_any_company(tmp_path):
    from tercet.quantization import Quantizer

    model = opened(stack(tmp_path, *STACK), "float32")
    model.quantizer = Quantizer.fit(model.encode(TEXTS, convert_to_tensor=True), "int8")
    together = model.encode(TEXTS, precision="int8")
    apart = np.stack([model.encode(text, precision="int8") for text in TEXTS])
    # A value on the edge between two bins may be rounded to either side by another batch.
    assert np.abs(together.astype(int) - apart).max() <= 1
    assert (together == apart).mean() > 0.99
