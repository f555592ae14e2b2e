"""What users of sentence-transformers 6.2 still meet with text models, each as something that works here.

Each test says in its first line what happens there. What they meet in training or with audio is not of these
classes, and a module cannot be put behind a loaded model here.
"""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import static_models
import tercet
import tiny
import tiny_modules
import tiny_reranker
import tiny_sparse
from tercet.checkpoint.layout import open_checkpoint
from tercet.checkpoint.writer import save_checkpoint
from tercet.compat import CrossEncoder, SentenceTransformer
from tercet.errors import CheckpointError, InputError, PrecisionError
from tercet.kernels.native import library
from tercet.quantization import Quantizer

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
    """There: vectors come in the dtype of the file, and some names of a dtype are a ValueError."""
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
    """There: model[0].half(), or a module that comes later: 'mat1 and mat2 must have the same dtype'."""
    folder = stack(tmp_path, *STACK, "layer_norm", dtype=stored)
    exact = opened(folder, "float32").encode(TEXTS)
    model = opened(folder)
    model.encode(TEXTS)
    assert worst_drift(getattr(model, change)().encode(TEXTS), exact) < 5e-3


@pytest.mark.parametrize(("body", "head"), [("float16", "float32"), ("float32", "float16")])
def test_files_of_different_dtypes_embed_together_in_each_of_them(body, head, tmp_path):
    """There: a float32 Dense under a float16 encoder is rounded to float16 without a word."""
    dense = ("dense", {"dtype": head, "out_features": 16})
    folder = stack(tmp_path, "pooling", dense, "normalize", dtype=body)
    exact = opened(folder, "float32").encode(TEXTS)
    for dtype in (None, "checkpoint", "float16", "bfloat16"):
        assert worst_drift(opened(folder, dtype).encode(TEXTS), exact) < 5e-3


def test_an_overflow_of_float16_gives_no_nan(tmp_path):
    """There: rows that are not a number come back, and no error or warning says so."""
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
    """There: WordWeights makes float32 of float16, and the Dense behind it fails."""

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
    """There: a dtype in sentence_bert_config.json outranks the user's."""
    wilful = stack(
        tmp_path / "wilful", *STACK, model_args={key: "bfloat16"}, config={"torch_dtype": "float16"}
    )
    plain = stack(tmp_path / "plain", *STACK)
    model = opened(wilful, "float32", "torch_dtype")
    assert model.dtype == torch.float32
    np.testing.assert_array_equal(model.encode(TEXTS), opened(plain, "float32").encode(TEXTS))


def test_bfloat16_similarities_are_not_tied_by_rounding(tmp_path):
    """There: vectors are rounded to bfloat16 before they are compared."""
    model = opened(stack(tmp_path, *STACK), "bfloat16")
    vectors = model.encode(TEXTS, convert_to_tensor=True)
    scores = model.similarity(vectors, vectors)
    assert scores.dtype == torch.float32
    assert not torch.equal(scores, scores.bfloat16().float())


def test_a_reranker_is_refused_instead_of_losing_its_modules(tmp_path):
    """There: a warning, and every module behind the encoder is lost."""
    folder = stack(tmp_path, *STACK)
    path = folder / "config_sentence_transformers.json"
    settings = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps({**settings, "model_type": "CrossEncoder"}))
    with pytest.raises(CheckpointError, match="CrossEncoder"):
        opened(folder)


def test_texts_have_the_same_codes_in_any_company(tmp_path):
    """There: ranges are those of the call: three codes of four change with the company."""
    model = opened(stack(tmp_path, *STACK), "float32")
    model.quantizer = Quantizer.fit(model.encode(TEXTS, convert_to_tensor=True), "int8")
    together = model.encode(TEXTS, precision="int8")
    apart = np.stack([model.encode(text, precision="int8") for text in TEXTS])
    # A value on the edge between two bins may be rounded to either side by another batch.
    assert np.abs(together.astype(int) - apart).max() <= 1
    assert (together == apart).mean() > 0.99


@pytest.mark.parametrize("asked", [None, "float32", "float16", "bfloat16"])
@pytest.mark.parametrize(("query", "document"), [("float32", "float16"), ("float16", "float32")])
def test_routes_of_different_dtypes_share_what_stands_behind_them(query, document, asked, tmp_path):
    """There: the dtype of the first route is that of all, and the other route always dies."""
    routes = {
        "query": (stored_in(query, tiny_modules.dense("query", 16)),),
        "document": (stored_in(document, tiny_modules.dense("document", 16)),),
    }
    parts = (tiny_modules.pooling(), tiny_modules.router(routes), tiny_modules.dense("shared", 8))
    folder = tiny_modules.write_stack(tmp_path, parts, dtype="float16")
    model, exact = opened(folder, asked), opened(folder, "float32")
    for method in ("encode_query", "encode_document"):
        found = getattr(model, method)(TEXTS)
        assert found.shape == (len(TEXTS), 8)
        assert worst_drift(found, getattr(exact, method)(TEXTS)) < 5e-3


def stored_in(dtype, part):
    """The part, its weights in a dtype of its own."""
    return lambda folder, width, _, old_keys: part(folder, width, dtype, old_keys)


@pytest.mark.parametrize("options", [{}, {"trust_remote_code": True}])
def test_a_module_of_somebody_elses_is_refused_before_it_can_promote_anything(options, tmp_path):
    """There: it is run, and a mask in float32 or a buffer rounded to float16 spoils what follows."""
    folder = stack(tmp_path, "pooling", ("their_package.MaskPooling", {"width": 32}), "normalize")
    with pytest.raises((CheckpointError, InputError), match=r"[Nn]o code of a checkpoint|never run here"):
        SentenceTransformer(str(folder), device="cpu", **options)


@pytest.mark.parametrize("asked", [None, "auto", "float32", torch.float16, "bfloat16"])
@pytest.mark.parametrize("stored", ["int8", "float16", "float8_e4m3fn"])
@pytest.mark.parametrize("modules", [(), ("dense",)], ids=["alone", "and a Dense"])
def test_a_table_in_eight_or_sixteen_bits_embeds_whatever_is_asked_for(stored, modules, asked, tmp_path):
    """There: 'Only Tensors of floating point ... can require gradients', whatever dtype is asked for."""
    folder = static_models.write_static(tmp_path, dtype=stored, modules=modules)
    found, exact = (opened(folder, dtype).encode(TEXTS[1:]) for dtype in (asked, "float32"))
    assert found.dtype == np.float32
    assert worst_drift(found, exact) < 1e-4


def test_rows_of_a_table_are_in_the_dtype_that_is_asked_for(tmp_path):
    """There: a dtype is ignored for every StaticEmbedding."""
    folder = static_models.write_static(tmp_path, dtype="float32", modules=())
    exact, rounded, plain = (opened(folder, dtype) for dtype in ("float32", "bfloat16", None))
    assert (exact.dtype, rounded.dtype) == (torch.float32, torch.bfloat16)
    np.testing.assert_array_equal(exact.encode(TEXTS), plain.encode(TEXTS))
    assert 1e-4 < np.abs(exact.encode(TEXTS) - rounded.encode(TEXTS)).max() < 1e-2


@pytest.mark.skipif(library() is None, reason="int8 is computed by the native kernels")
@pytest.mark.parametrize("asked", ["int8", "int8-fast"])
@pytest.mark.parametrize("stored", ["float32", "float16", "bfloat16"])
def test_int8_is_a_way_to_compute_and_the_model_is_saved_as_it_was(stored, asked, tmp_path):
    """There: torch's quantize_dynamic fails on a float16 model, and a quantised one cannot be saved."""
    folder = stack(tmp_path / "model", *STACK, dtype=stored)
    model, exact = opened(folder, asked), opened(folder, "float32")
    found = model.encode(TEXTS)
    assert 0 < worst_drift(found, exact.encode(TEXTS)) < 5e-2
    copy = save_checkpoint(open_checkpoint(folder), tmp_path / "copy")
    for name, tensor in load_file(copy / "model.safetensors").items():
        assert tensor.dtype == getattr(torch, stored), name
    np.testing.assert_array_equal(opened(copy, asked).encode(TEXTS), found)


@pytest.mark.parametrize("asked", ["float8_e4m3fn", "int4"])
def test_a_dtype_that_nothing_here_computes_in_is_one_error_with_those_that_are(asked, tmp_path):
    """There: "couldn't find storage object Float8_e4m3fnStorage"."""
    folder = stack(tmp_path, *STACK)
    with pytest.raises((PrecisionError, InputError), match="float16"):
        opened(folder, asked).encode(TEXTS)


@pytest.mark.parametrize("stored", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("output", ["float32", "bfloat16"])
def test_weights_of_a_sparse_model_in_bfloat16_go_to_numpy_and_into_json(stored, output, tmp_path):
    """There: 'Got unsupported ScalarType BFloat16', and no way around it."""
    folder = tiny_sparse.write_splade(tmp_path, dtype=stored)
    model = tercet.load(folder, precision="bfloat16", device="cpu", output_dtype=output)
    found = model.encode(TEXTS).sparse
    assert found.numpy().weights.dtype == np.float32
    assert json.loads(json.dumps(found.to_dicts()[2]))


def test_scores_of_a_half_precise_reranker_are_not_tied_by_rounding(tmp_path):
    """There: logits are subtracted or rounded in bfloat16, and different pairs score the same."""
    folder = tiny_reranker.write_reranker(tmp_path, "bert", scale=8.0)
    model = CrossEncoder(str(folder), device="cpu", model_kwargs={"dtype": "bfloat16"})
    pairs = [(first, second) for first in tiny.WORDS[:12] for second in tiny.WORDS[12:24]]
    scores = model.predict(pairs, activation_fn=torch.nn.Identity(), convert_to_tensor=True)
    assert scores.dtype == torch.float32
    assert len(scores.unique()) == len(pairs) > len(scores.bfloat16().unique())


def test_a_reranker_that_overflows_float16_gives_no_nan(tmp_path):
    """There: scores that are not a number."""
    folder = tiny_reranker.write_reranker(tmp_path, "bert", scale=1e6)
    half, exact = (
        CrossEncoder(str(folder), device="cpu", model_kwargs={"dtype": dtype})
        for dtype in ("float16", "float32")
    )
    pairs = [(text, "the river") for text in TEXTS]
    found = half.predict(pairs, activation_fn=torch.nn.Identity())
    expected = exact.predict(pairs, activation_fn=torch.nn.Identity())
    assert np.isfinite(found).all()
    assert np.abs(expected).max() > 65504
    np.testing.assert_allclose(found, expected, atol=0.02 * np.abs(expected).max())


def test_precision_float32_of_a_float16_model_is_float32(tmp_path):
    """There: float16, whatever `precision` says."""
    model = opened(stack(tmp_path, *STACK, dtype="float16"), "float16")
    assert model.encode(TEXTS, precision="float32").dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(model.encode(TEXTS), axis=1), 1.0, atol=1e-6)


def test_the_company_of_a_text_changes_no_digit_that_counts(tmp_path):
    """There: batches of another size change a float16 vector by 3e-4, a bfloat16 one by 2e-3."""
    folder = stack(tmp_path, *STACK)
    for dtype in ("float32", "float16", "bfloat16"):
        model = opened(folder, dtype)
        alone = np.stack([model.encode(text) for text in TEXTS])
        np.testing.assert_allclose(model.encode(TEXTS), alone, rtol=0, atol=2e-6)


@pytest.mark.parametrize("dtype", [None, "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("part", [tiny_modules.lstm(8), tiny_modules.cnn(6)], ids=["LSTM", "CNN"])
def test_modules_over_tokens_embed_a_text_alone_as_in_a_batch(part, dtype, tmp_path):
    """There: LSTM behind a Transformer is a KeyError, and CNN reads the padding of a batch."""
    model = opened(tiny_modules.write_stack(tmp_path, (part, tiny_modules.pooling())), dtype)
    alone = np.stack([model.encode(text) for text in TEXTS])
    np.testing.assert_allclose(model.encode(TEXTS), alone, rtol=1e-5, atol=1e-5)


def test_texts_that_were_cut_are_told_of(tmp_path, caplog):
    """There: cut without a word."""
    opened(stack(tmp_path, *STACK), "float32").encode(["the cat " * 200, "a"])
    assert "1 of" in caplog.text or "1 text" in caplog.text


def test_a_shortened_saved_length_keeps_within_the_position_table(tmp_path):
    """There: an IndexError of XLM-RoBERTa, whose table begins at the third row."""
    folder = tiny.write_checkpoint(
        tmp_path, "xlm-roberta", layout="sentence-transformers", model_max_length=-1
    )
    model = opened(folder, "float32")
    assert model.max_seq_length == 64
    assert np.isfinite(model.encode("the cat " * 200)).all()
