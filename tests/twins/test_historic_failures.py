"""What users of the peers have met, each as something that works."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import tercet
import tiny
from tercet.errors import NonFiniteError, PrecisionError
from tercet.precision.dtype import DType

TEXTS = list(tiny.TEXTS)
# What half precision may cost on these tiny random models, in 1 - cosine; of real models, audits tell.
DRIFT = {"float16": 1e-4, "bfloat16": 5e-3}


def stack(folder, *modules, **settings):
    return tiny.write_checkpoint(folder, "bert", layout="sentence-transformers", modules=modules, **settings)


def load(folder, precision="float32", **options):
    return tercet.load(folder, precision=precision, device="cpu", **options)


def worst_drift(found, expected):
    cosine = torch.nn.functional.cosine_similarity(found.dense.double(), expected.dense.double())
    return float((1 - cosine).max())


@pytest.mark.parametrize("precision", ["auto", "checkpoint", "float16", "float32", "bfloat16"])
def test_a_float16_checkpoint_embeds_on_a_cpu(precision, tmp_path):
    folder = stack(tmp_path, "pooling", "normalize", dtype="float16")
    found = load(folder, precision).encode(TEXTS)
    assert found.dense.dtype == torch.float32
    assert worst_drift(found, load(folder).encode(TEXTS)) <= DRIFT.get(precision, DRIFT["float16"])
    assert not found.recomputed.any()


@pytest.mark.parametrize("precision", ["auto", "checkpoint", "float16", "float32", "bfloat16", "float64"])
@pytest.mark.parametrize(
    ("body", "head"), [("float16", "float32"), ("float32", "float16"), ("bfloat16", "float32")]
)
def test_a_body_and_a_dense_file_of_different_dtypes_embed_together(body, head, precision, tmp_path):
    dense = ("dense", {"dtype": head, "out_features": 16})
    folder = stack(tmp_path, "pooling", dense, "layer_norm", "normalize", dtype=body)
    found = load(folder, precision).encode(TEXTS)
    assert worst_drift(found, load(folder).encode(TEXTS)) <= DRIFT["bfloat16"]


def test_a_float32_dense_file_under_a_float16_body_keeps_its_float32_weights(tmp_path):
    dense = ("dense", {"dtype": "float32", "activation_function": "torch.nn.modules.linear.Identity"})
    folder = stack(tmp_path, "pooling", dense, dtype="float16")
    model = load(folder, "float16")
    assert model.plan.precision.heads == DType.FLOAT32
    exact = load_file(folder / "2_Dense" / "model.safetensors")
    pooled = load(stack(tmp_path / "bare", "pooling", dtype="float16"), "float16").encode(TEXTS).dense
    expected = torch.nn.functional.linear(pooled, exact["linear.weight"], exact["linear.bias"])
    torch.testing.assert_close(model.encode(TEXTS).dense, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("options", [{"precision": "bfloat16"}, {"output_dtype": "bfloat16"}])
def test_bfloat16_goes_to_numpy(options, tiny_m3):
    outputs = ("dense", "sparse", "multivector")
    found = load(tiny_m3, **options).encode(TEXTS, outputs=outputs)
    arrays = found.numpy()
    for values in (arrays.dense, arrays.sparse.weights, arrays.multivector.vectors):
        assert values.dtype == np.float32
        assert np.isfinite(values).all()
    assert worst_drift(found, load(tiny_m3).encode(TEXTS)) <= DRIFT["bfloat16"]


@pytest.mark.parametrize("key", ["dtype", "torch_dtype"])
def test_the_users_dtype_wins_over_the_one_in_the_repository(key, tmp_path):
    plain = stack(tmp_path / "plain", "pooling")
    wilful = stack(
        tmp_path / "wilful", "pooling", model_args={key: "bfloat16"}, config={"torch_dtype": "float16"}
    )
    model = load(wilful)
    assert str(model.plan.precision.compute) == str(model.plan.precision.weights) == "float32"
    assert torch.equal(model.encode(TEXTS).dense, load(plain).encode(TEXTS).dense)


def test_precision_is_changed_by_loading_again_and_both_go_on_working(tmp_path):
    folder = stack(tmp_path, "pooling", ("dense", {"out_features": 16}), "normalize")
    single, half = load(folder), load(folder, "float16")
    first = single.encode(TEXTS), half.encode(TEXTS)
    for _ in range(2):
        assert torch.equal(single.encode(TEXTS).dense, first[0].dense)
        assert torch.equal(half.encode(TEXTS).dense, first[1].dense)
    assert 0 < worst_drift(*first) <= DRIFT["float16"]
    for swap in ("half", "float", "to", "bfloat16"):
        assert not hasattr(single, swap), (
            "a loaded model has one precision; a swap would leave its parts at odds"
        )


def test_a_dense_layer_that_overflows_float16_gives_unit_vectors(tmp_path):
    dense = ("dense", {"scale": 1e6, "activation_function": "torch.nn.modules.linear.Identity"})
    folder = stack(tmp_path, "pooling", dense, "normalize")
    found = load(folder, "float16").encode(TEXTS)
    assert bool(found.dense.isfinite().all())
    torch.testing.assert_close(found.dense.norm(dim=1), torch.ones(len(TEXTS)), rtol=0, atol=1e-6)
    assert worst_drift(found, load(folder).encode(TEXTS)) <= DRIFT["float16"]


def test_a_vector_too_large_for_the_output_dtype_is_an_error_that_names_the_text(tmp_path):
    dense = ("dense", {"scale": 1e6, "activation_function": "torch.nn.modules.linear.Identity"})
    model = load(stack(tmp_path, "pooling", dense), output_dtype="float16")
    with pytest.raises(NonFiniteError, match=r"text 0 .*float16.*output_dtype='float32'"):
        model.encode(TEXTS)


def scaled_body(folder, factor):
    """The folder, its feed-forward so large that float16 overflows inside; LayerNorm brings it back."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors = {n: t * factor if "intermediate.dense" in n else t for n, t in tensors.items()}
    save_file(tensors, path, metadata={"format": "pt"})
    return folder


def test_a_body_that_overflows_is_computed_again_in_float32_and_flagged(tmp_path, caplog):
    folder = scaled_body(tiny.write_checkpoint(tmp_path, "xlm-roberta", layout="bge-m3"), 4e4)
    outputs = ("dense", "sparse", "multivector")
    found = load(folder, "float16").encode(TEXTS, outputs=outputs)
    assert bool(found.recomputed.all())
    assert f"{len(TEXTS)} texts left the range of float16" in caplog.text
    assert found.allclose(load(folder).encode(TEXTS, outputs=outputs), atol=1e-5)


def test_weights_that_float16_cannot_hold_are_refused_before_anything_is_embedded(tmp_path):
    folder = scaled_body(tiny.write_checkpoint(tmp_path, "bert"), 1e6)
    with pytest.raises(
        PrecisionError, match=r"model\.safetensors: 'encoder\.layer.*Load this model in bfloat16"
    ):
        load(folder, "float16", pooling="mean")
    assert bool(load(folder, "float32", pooling="mean").encode(TEXTS).dense.isfinite().all())


def test_a_model_that_is_not_finite_even_in_float32_names_the_text_and_the_folder(tmp_path):
    folder = scaled_body(tiny.write_checkpoint(tmp_path, "bert"), float("inf"))
    # By torch; kernels of our own refuse such weights when they pack them.
    for precision in ("float16", "float64"):
        with pytest.raises(NonFiniteError, match=rf"text 0 .*{tmp_path.name}.*Fetch the model again"):
            load(folder, precision, pooling="mean").encode(TEXTS)


def test_lexical_weights_of_a_half_model_are_numbers_that_json_takes(tiny_m3):
    found = load(tiny_m3, "float16", output_dtype="float16").encode(TEXTS, outputs=("sparse",))
    assert json.loads(json.dumps(found.sparse.to_dicts()[4]))
