import json
import math

import pytest
import torch
from safetensors.torch import load_file, save_file

import tercet
import tiny
from tercet.batch import Batch
from tercet.checkpoint.layout import open_checkpoint
from tercet.errors import InputError, NonFiniteError
from tercet.evaluation.activation_ranges import LayerRange, activation_ranges
from tercet.evaluation.layer_drift import LayerDrift, LayerDrifts, layer_drift
from tercet.evaluation.samples import sample_batches
from tercet.model import load_encoder
from tercet.precision.dtype import DType

HALVES = (DType.FLOAT16, DType.BFLOAT16)


def write_with_overflow(folder, layer, layers=4, **settings):
    """A tiny BERT whose weights all fit float16, and whose activations leave it in one layer."""
    tiny.write_checkpoint(folder, "bert", layers=layers, **settings)
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors[f"encoder.layer.{layer}.intermediate.dense.weight"] *= 300.0
    tensors[f"encoder.layer.{layer}.output.dense.weight"] *= 3000.0
    save_file(tensors, path, metadata={"format": "pt"})
    return folder


def ranges(folder, texts=tiny.TEXTS, **options):
    checkpoint = open_checkpoint(folder)
    return activation_ranges(checkpoint, sample_batches(checkpoint, texts), **options)


def drifts(folder, dtype, reference=DType.FLOAT32):
    checkpoint = open_checkpoint(folder)
    encoders = [load_encoder(checkpoint, each) for each in (reference, dtype)]
    return layer_drift(*encoders, sample_batches(checkpoint, tiny.TEXTS, token_budget=40))


@pytest.mark.parametrize("layer", [0, 2, 3])
def test_a_planted_overflow_is_found_and_named_by_its_layer(layer, tmp_path):
    folder = write_with_overflow(tmp_path, layer)
    found = ranges(folder)
    unsafe = found.unsafe(DType.FLOAT16)
    assert [one.index for one in unsafe] == [layer]
    assert unsafe[0].where == "feed_forward.down"
    assert unsafe[0].sentence(HALVES).startswith(f"layer {layer}: ")
    assert unsafe[0].sentence(HALVES).endswith("> 65,504: float16 is unsafe here, bfloat16 is not")
    assert found.unsafe(DType.BFLOAT16) == found.unsafe(DType.FLOAT32) == ()
    # It is no false alarm: float16 does lose texts there, and bfloat16 does not.
    assert tercet.load(folder, precision="float16", device="cpu").encode(tiny.TEXTS).recomputed.any()
    assert not tercet.load(folder, precision="bfloat16", device="cpu").encode(tiny.TEXTS).recomputed.any()


@pytest.mark.parametrize("layer", [0, 2])
def test_a_planted_overflow_is_the_first_layer_whose_drift_dominates(layer, tmp_path):
    folder = write_with_overflow(tmp_path, layer)
    found = drifts(folder, DType.FLOAT16)
    dominant = found.dominant()
    assert dominant.index == layer
    assert dominant.own_lost > 0
    assert [one.lost > 0 for one in found.layers] == [False] * (layer + 1) + [True] * (4 - layer)
    assert [one.index for one in found.layers if one.own_lost] == [layer]
    assert drifts(folder, DType.BFLOAT16).layers[layer + 1].own_lost == 0


def test_without_an_overflow_nothing_is_unsafe_and_no_layer_dominates(tiny_bert):
    found = ranges(tiny_bert)
    assert [one.layer for one in found.layers] == ["embeddings", "layer 0", "layer 1"]
    assert found.unsafe(DType.FLOAT16) == ()
    assert "float16 and bfloat16 are safe here" in found.layers[0].sentence(HALVES)
    assert drifts(tiny_bert, DType.FLOAT16).dominant() is None


def test_the_largest_activations_are_those_of_a_forward_by_hand(tiny_bert):
    weights = load_file(tiny_bert / "model.safetensors")
    checkpoint = open_checkpoint(tiny_bert)
    largest = []

    def keep(values):
        largest[-1] = max(largest[-1], float(values.abs().max()))
        return values

    def linear(values, name):
        return keep(
            torch.nn.functional.linear(keep(values), weights[f"{name}.weight"], weights[f"{name}.bias"])
        )

    def norm(values, name):
        weight, bias = weights[f"{name}.LayerNorm.weight"], weights[f"{name}.LayerNorm.bias"]
        return torch.nn.functional.layer_norm(keep(values), (32,), weight, bias, 1e-12)

    (batch,) = sample_batches(checkpoint, [tiny.TEXTS[5]])
    words, positions, types = (weights[f"embeddings.{name}_embeddings.weight"] for name in _TABLES)
    hidden = words[batch.token_ids] + positions[: batch.num_tokens] + types[0]
    hidden = torch.nn.functional.layer_norm(
        hidden, (32,), weights["embeddings.LayerNorm.weight"], weights["embeddings.LayerNorm.bias"], 1e-12
    )
    largest.append(float(hidden.abs().max()))
    for layer in range(2):
        start = f"encoder.layer.{layer}"
        largest.append(0.0)
        query, key, value = (
            linear(hidden, f"{start}.attention.self.{name}").view(-1, 4, 8).transpose(0, 1)
            for name in ("query", "key", "value")
        )
        mixed = torch.softmax(query @ key.transpose(1, 2) / 8**0.5, dim=2) @ value
        mixed = linear(mixed.transpose(0, 1).reshape(-1, 32), f"{start}.attention.output.dense")
        hidden = norm(mixed + hidden, f"{start}.attention.output")
        inner = torch.nn.functional.gelu(linear(hidden, f"{start}.intermediate.dense"))
        hidden = keep(norm(linear(inner, f"{start}.output.dense") + hidden, f"{start}.output"))
    found = activation_ranges(checkpoint, [batch])
    assert [one.largest for one in found.layers] == pytest.approx(largest, rel=1e-5)


_TABLES = ("word", "position", "token_type")


def test_a_product_is_seen_before_its_activation_hides_it(tmp_path):
    folder = tiny.write_checkpoint(tmp_path, "bert", hidden_act="relu")
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors["encoder.layer.1.intermediate.dense.bias"][:] = -1e5
    save_file(tensors, path, metadata={"format": "pt"})
    found = ranges(folder).layers[2]
    assert found.where == "feed_forward.up"
    assert found.largest == pytest.approx(1e5, rel=1e-3)


def test_the_text_that_has_the_largest_activation_is_named_in_any_packing(tmp_path):
    checkpoint = open_checkpoint(write_with_overflow(tmp_path, 1, layers=2))
    alone = []
    for text in tiny.TEXTS:
        found = activation_ranges(checkpoint, sample_batches(checkpoint, [text])).layers[2]
        alone.append(found.largest)
    for budget in (1, 20, 4096):
        batches = sample_batches(checkpoint, tiny.TEXTS, token_budget=budget)
        found = activation_ranges(checkpoint, batches)
        layer = found.layers[2]
        assert layer.largest == pytest.approx(max(alone), rel=1e-5)
        assert alone[layer.text] == pytest.approx(max(alone), rel=1e-5)
        assert found.texts == len(tiny.TEXTS)
        assert found.tokens == sum(batch.num_tokens for batch in batches)


def test_a_dense_module_behind_the_encoder_is_named_by_its_place(tmp_path):
    dense = ("dense", {"out_features": 16, "scale": 1e6})
    folder = tiny.write_checkpoint(
        tmp_path, layout="sentence-transformers", modules=("pooling", dense, "normalize")
    )
    unsafe = ranges(folder).unsafe(DType.FLOAT16)
    assert [one.layer for one in unsafe] == ["2_Dense"]
    assert unsafe[0].index is None
    assert unsafe[0].text < len(tiny.TEXTS)


def test_heads_over_tokens_are_looked_at(tiny_m3):
    found = ranges(tiny_m3)
    assert [one.layer for one in found.layers][-2:] == ["sparse_linear.pt", "colbert_linear.pt"]
    assert all(one.largest > 0 for one in found.layers)
    assert json.loads(json.dumps(found.to_json()))["dtype"] == "float32"


def test_weights_that_overflow_float32_too_are_an_error_with_layer_and_text(tmp_path):
    folder = tiny.write_checkpoint(tmp_path, "bert")
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors["encoder.layer.1.attention.output.dense.bias"][3] = torch.inf
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(NonFiniteError, match=r"text 0 .* at attention_out of layer 1, in float32 too"):
        ranges(folder)


def test_no_texts_and_no_tokens_are_refused(tiny_bert):
    checkpoint = open_checkpoint(tiny_bert)
    with pytest.raises(InputError, match="There are no texts"):
        sample_batches(checkpoint, [])
    with pytest.raises(InputError, match="no tokens to look at"):
        activation_ranges(checkpoint, [])
    encoder = load_encoder(checkpoint, DType.FLOAT32)
    with pytest.raises(InputError, match="no tokens to compare"):
        layer_drift(encoder, encoder, [Batch.from_ids([])])
    other = load_encoder(open_checkpoint(tiny_bert), DType.FLOAT32)
    del other.layers[1]
    with pytest.raises(InputError, match="have 2 and 1 layers"):
        layer_drift(encoder, other, sample_batches(checkpoint, ["a"]))


@pytest.mark.parametrize(
    ("largest", "sentence"),
    [
        (71_204.0, "layer 17: 71,204 > 65,504: float16 is unsafe here, bfloat16 is not"),
        (65_504.0, "layer 17: at most 65,504: float16 and bfloat16 are safe here"),
        (3.4e38, "layer 17: 3.4e+38 > 3.39e+38: float16 and bfloat16 are unsafe here"),
        (2.25, "layer 17: at most 2.25: float16 and bfloat16 are safe here"),
    ],
)
def test_a_layers_sentence_says_what_it_means_for_each_format(largest, sentence):
    assert LayerRange("layer 17", 17, largest, "feed_forward.down", 0).sentence(HALVES) == sentence


def test_an_encoder_against_itself_has_no_drift_in_any_layer(tiny_bert):
    found = drifts(tiny_bert, DType.FLOAT32)
    assert [(one.own_worst, one.worst, one.lost) for one in found.layers] == [(0.0, 0.0, 0)] * 3
    assert found.dominant() is None
    assert found.to_json()[1]["layer"] == "layer 0"


def test_drift_comes_together_and_is_small_in_float32_and_larger_in_narrower_formats(tiny_bert):
    worst = [drifts(tiny_bert, dtype, DType.FLOAT64).layers[-1].worst for dtype in (DType.FLOAT32, *HALVES)]
    assert 0.0 < worst[0] < 1e-11 < worst[1] < 1e-5 < worst[2] < 1e-2
    layers = drifts(tiny_bert, DType.BFLOAT16).layers
    # The embeddings are given nothing, so all that they have is their own.
    assert (layers[0].own_mean, layers[0].own_worst) == (layers[0].mean, layers[0].worst)
    assert layers[-1].mean > layers[-1].own_mean


def test_a_layer_computed_more_coarsely_than_the_others_dominates(tmp_path):
    checkpoint = open_checkpoint(tiny.write_checkpoint(tmp_path, "bert", layers=4))
    reference, coarse = (load_encoder(checkpoint, DType.FLOAT32) for _ in range(2))
    for stage, keep in enumerate((2**-16, 2**-16, 2**-5, 2**-16)):
        for parameter in coarse.layers[stage].parameters():
            parameter.copy_(torch.round(parameter / keep) * keep)
    found = layer_drift(reference, coarse, sample_batches(checkpoint, tiny.TEXTS))
    assert found.dominant().index == 2
    # What it lost is carried on, and is not blamed on the layer behind it.
    assert found.layers[4].mean > 100 * found.layers[4].own_mean


def drift(own, own_lost=0):
    return LayerDrift("layer", 0, own, own, own, own, own_lost, own_lost, 9)


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ([1.0, 1.0, 1.0], None),
        ([1.0, 1.0, 4.1, 9.0], 2),
        ([1.0, 4.0, 1.0], None),
        ([5.0, 1.0], 0),
        ([0.0, 0.0, 1e-9], 2),
        ([3.0], None),
    ],
)
def test_a_layer_dominates_that_stands_out_from_the_median(own, expected):
    layers = tuple(map(drift, own))
    found = LayerDrifts(layers).dominant()
    assert found is (None if expected is None else layers[expected])


def test_a_layer_that_loses_tokens_dominates_whatever_the_others_drift():
    layers = (drift(1.0), drift(0.0, own_lost=1), drift(1.0))
    assert LayerDrifts(layers).dominant() is layers[1]
    assert LayerDrifts((drift(0.0, own_lost=2),)).dominant().own_lost == 2
    for factor in (0.0, math.nan):
        with pytest.raises(InputError, match="factor is"):
            LayerDrifts(layers).dominant(factor)
