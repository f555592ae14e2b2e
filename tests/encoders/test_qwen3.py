import pytest
import torch
from safetensors.torch import load_file, save_file

import tercet
import tiny
import tiny_decoders
from tercet.batch import Batch
from tercet.checkpoint.layout import open_checkpoint
from tercet.engines import ENGINES
from tercet.errors import CheckpointError, PrecisionError
from tercet.layers.linear import onednn_product, set_product
from tercet.model import load_encoder
from tercet.planner import capability, capability_for
from tercet.precision.dtype import DType

TEXTS = list(tiny.TEXTS)


@pytest.fixture
def folder(tmp_path):
    return tiny_decoders.write_embedder(tmp_path / "model", layers=3)


def test_a_token_sees_those_before_it_and_none_behind(folder):
    encoder = load_encoder(open_checkpoint(folder), DType.FLOAT32)
    ids = [5 + place for place in range(20)]
    with torch.inference_mode():
        whole, cut = (encoder(Batch.from_ids([one])) for one in (ids, [*ids[:12], 3]))
    torch.testing.assert_close(whole[:12], cut[:12], rtol=1e-5, atol=1e-5)
    assert float((whole[12] - cut[12]).abs().max()) > 0.1


def test_places_are_told_apart_by_their_distance_alone(folder):
    encoder = load_encoder(open_checkpoint(folder), DType.FLOAT32)
    batch = Batch.from_ids([[7, 9, 9, 11, 7]])
    moved = Batch(batch.token_ids, batch.position_ids + 100, batch.cu_seqlens, batch.lengths)
    with torch.inference_mode():
        here, there = encoder(batch), encoder(moved)
    torch.testing.assert_close(here, there, rtol=1e-4, atol=1e-4)
    assert float((here[1] - here[2]).abs().max()) > 0.1  # the same token in two places


def test_the_width_of_heads_is_not_bound_to_that_of_the_model(tmp_path):
    folder = tiny_decoders.write_embedder(tmp_path, hidden=24, heads=5, key_heads=1, head_width=6)
    assert tercet.load(folder, precision="float32", device="cpu").encode(TEXTS).dense.shape == (
        len(TEXTS),
        24,
    )


def test_products_of_other_engines_give_the_same_without_a_bias(folder):
    encoder = load_encoder(open_checkpoint(folder), DType.FLOAT32)
    batch = Batch.from_ids([[5, 6, 7], [8]])
    with torch.inference_mode():
        plain = encoder(batch)
        set_product(encoder, onednn_product)
        torch.testing.assert_close(encoder(batch), plain, rtol=1e-5, atol=1e-5)


def test_the_size_of_batches_changes_no_vector(folder):
    one, many = (
        tercet.load(folder, precision="float32", device="cpu", token_budget=budget).encode(TEXTS).dense
        for budget in (16, 4096)
    )
    torch.testing.assert_close(one, many, rtol=1e-5, atol=1e-5)


def test_engines_without_decoders_say_so_in_the_plan(folder):
    here = capability_for(open_checkpoint(folder), capability("cpu"))
    for scheme, found in here.schemes.items():
        if scheme.engine != "torch_packed":
            assert not found.runs
    assert {scheme.engine for scheme, found in here.schemes.items() if found.runs} == {"torch_packed"}
    plan = tercet.plan(folder, device="cpu")
    assert plan.scheme.engine == "torch_packed"
    assert "onednn) does not run on cpu: this engine has encoders alone, and qwen3 is a decoder" in " ".join(
        plan.reasons
    )
    with pytest.raises(
        PrecisionError, match=r"int8.*encoders alone, and qwen3 is a decoder.*Ask for what runs"
    ):
        tercet.load(folder, precision="int8", device="cpu")


def test_a_plan_of_an_encoder_is_not_replayed_for_a_decoder(folder, tmp_path):
    other = tercet.plan(tiny.write_checkpoint(tmp_path / "bert"), precision="int8", device="cpu")
    with pytest.raises(PrecisionError, match=r"and this engine has encoders alone.*Make the plan anew"):
        tercet.load(folder, plan=other)


def test_no_drift_is_stated_of_a_decoder_so_auto_stays_exact(folder):
    here = capability_for(open_checkpoint(folder), capability("cpu"))
    assert all(found.drift is None for scheme, found in here.schemes.items() if not scheme.is_plain)
    assert tercet.plan(folder, device="cpu").scheme.dtype is DType.FLOAT32
    assert tercet.plan(folder, device="cpu", precision="checkpoint").scheme.dtype is DType.FLOAT32


def test_a_text_that_leaves_float16_is_computed_again(tmp_path, caplog):
    # What the net adds leaves the format's range, and the norm behind it would bring it back.
    path = tiny_decoders.write_embedder(tmp_path) / "model.safetensors"
    tensors = load_file(path)
    for part in ("gate", "up", "down"):
        tensors[f"layers.0.mlp.{part}_proj.weight"] *= 60
    save_file(tensors, path)
    exact = tercet.load(tmp_path, precision="float32", device="cpu").encode(TEXTS).dense
    found = tercet.load(tmp_path, precision="float16", device="cpu").encode(TEXTS)
    again = found.recomputed
    assert bool(again.any())
    assert "left the range of float16" in caplog.text
    torch.testing.assert_close(found.dense[again], exact[again], rtol=1e-4, atol=1e-4)


def test_a_language_model_alone_gives_the_vector_of_its_last_token(tmp_path):
    folder = tiny_decoders.write_decoder(tmp_path, prefix="model.", lm_head=True, tied=False)
    model = tercet.load(folder, precision="float32", device="cpu")
    assert any("last token's vector" in note for note in model.checkpoint.notes)
    assert any("lm_head.weight" in note for note in model.checkpoint.notes)
    last = tercet.load(folder, precision="float32", device="cpu", pooling="lasttoken")
    assert torch.equal(model.encode(TEXTS).dense, last.encode(TEXTS).dense)


def test_the_plan_counts_the_layers_as_they_are(folder):
    footprint = open_checkpoint(folder).footprint()
    linear = sum(info.numbers for name, info in open_checkpoint(folder).tensors.items() if "proj" in name)
    assert footprint.linear_numbers == linear
    assert footprint.fused_numbers == 0
    wide, narrow = (tercet.plan(folder, precision=one, device="cpu") for one in ("float32", "bfloat16"))
    named = [dict(plan.memory) for plan in (wide, narrow)]
    assert named[0]["weights"] == 2 * named[1]["weights"] == 4 * footprint.body_numbers
    again = named[1]["a layer in float32, for texts that leave the range"]
    assert again >= 4 * linear // footprint.layers


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"head_dim": 0}, "'head_dim' is 0, expected a positive number"),
        ({"head_dim": 15}, "head_dim 15 is odd"),
        ({"num_key_value_heads": 3}, "num_attention_heads 4 is not a multiple of num_key_value_heads 3"),
        ({"num_attention_heads": "4"}, "'num_attention_heads' is '4'"),
        ({"rms_norm_eps": "small"}, "'rms_norm_eps' is 'small'"),
        ({"attention_bias": 1}, "'attention_bias' is 1, expected true or false"),
        ({"rope_theta": -1}, "'rope_theta' is -1"),
        (
            {"rope_scaling": {"type": "yarn", "factor": 4.0}},
            "rope_scaling asks for rotary positions of type 'yarn'",
        ),
        (
            {"rope_parameters": {"rope_type": "linear", "factor": 2.0}},
            "of type 'linear'.*sentence-transformers",
        ),
        ({"rope_parameters": "default"}, "'rope_parameters' is 'default', expected a JSON object"),
        ({"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}, "back through a window"),
        ({"layer_types": ["full_attention", "sliding_attention", "full_attention"]}, "back through a window"),
        ({"is_causal": False}, "attention in both directions"),
        ({"use_bidirectional_attention": True}, "attention in both directions"),
        ({"hidden_act": "snake"}, "hidden_act 'snake' is not known"),
        ({"hidden_act": 0}, "hidden_act '0' is not known"),
        ({"head_dim": 8}, "q_proj.weight' is .*config.json makes it"),
    ],
)
def test_a_setting_that_would_change_what_comes_out_is_refused_by_its_name(changes, says, tmp_path):
    folder = tiny_decoders.write_embedder(tmp_path, layers=3, config=changes)
    with pytest.raises(CheckpointError, match=f"config.json.*{says}|{says}"):
        tercet.load(folder, precision="float32", device="cpu")


def test_a_window_that_no_layer_uses_changes_nothing(tmp_path):
    settings = {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 2}
    folder = tiny_decoders.write_embedder(tmp_path, layers=2, config=settings)
    assert tercet.load(folder, precision="float32", device="cpu").encode(["a"]).dense.shape == (1, 32)


def test_texts_that_would_go_through_a_chat_template_are_refused(folder):
    entry = {"method": "forward", "method_output_name": "last_hidden_state"}
    (folder / "sentence_bert_config.json").write_text(
        '{"modality_config": {"text": %s, "message": %s}}'.replace("%s", str(entry).replace("'", '"'))
    )
    with pytest.raises(CheckpointError, match=r"sentence_bert_config.json: modality_config has 'message'"):
        tercet.load(folder)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_text_without_a_token_is_zeros_alone_too(precision, tmp_path):
    folder = tiny_decoders.write_embedder(tmp_path, ends=False)
    model = tercet.load(folder, precision=precision, device="cpu")
    found = model.encode([""])
    assert found.num_tokens.tolist() == [0]
    assert not bool(found.dense.any())
    assert torch.equal(model.encode(["", ""]).dense, torch.zeros(2, 32))


def test_every_engine_can_be_asked_what_it_lacks():
    for name in ENGINES.names():
        assert ENGINES[name].lacks("bert") is None
