from dataclasses import replace

import pytest
import torch

import tiny
from tercet.batch import Batch
from tercet.checkpoint.layout import open_checkpoint
from tercet.encoders import ENCODERS
from tercet.encoders.mpnet import RelativeBias
from tercet.errors import CheckpointError
from tercet.model import load_encoder
from tercet.precision.dtype import DType, Precision
from tercet.precision.footprint import predict_memory

CONFIG = {
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "vocab_size": 20,
    "max_position_embeddings": 12,
}


def test_near_keys_have_a_row_each_and_far_ones_share_rows_on_either_side():
    bias = RelativeBias(32, 1)
    bias.table.weight.data = torch.arange(32.0)[:, None]
    rows = dict(zip(range(-600, 601), bias(600)[0].int().tolist(), strict=True))
    assert [rows[-distance] for distance in range(9)] == list(range(9))
    assert [rows[distance] for distance in range(1, 9)] == list(range(17, 25))
    # where a row begins: 8 * 16 ** (step / 8), rounded up; 16, 32 and 64 are met exactly
    begins = {8: 8, 12: 9, 16: 10, 23: 11, 32: 12, 46: 13, 64: 14, 91: 15}
    for begin, row in begins.items():
        assert (rows[-begin], rows[begin]) == (row, 16 + row)
        assert rows[1 - begin] == row - 1
    assert {rows[-distance] for distance in range(91, 601)} == {15}
    assert {rows[distance] for distance in range(91, 601)} == {31}


def test_all_layers_share_one_bias_and_none_of_them_owns_it():
    encoder = ENCODERS["mpnet"](CONFIG, "config.json")
    owned = [name for name, _ in encoder.named_parameters() if "relative" in name or "bias.table" in name]
    assert owned == ["relative.table.weight"]
    assert all(layer._bias[0] is encoder.relative for layer in encoder.layers)


def test_the_order_of_tokens_tells_through_the_bias_alone(tmp_path):
    encoder = load_encoder(open_checkpoint(tiny.write_checkpoint(tmp_path, "mpnet")), DType.FLOAT32)
    encoder.position.weight.data.zero_()
    first, second = (encoder(Batch.from_ids([ids])).mean(dim=0) for ids in ([5, 6, 7, 8], [8, 6, 7, 5]))
    assert float((first - second).norm() / first.norm()) > 0.01
    encoder.relative.table.weight.data.zero_()
    first, second = (encoder(Batch.from_ids([ids])).mean(dim=0) for ids in ([5, 6, 7, 8], [8, 6, 7, 5]))
    torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-5)


def test_positions_begin_behind_the_padding_whatever_the_configuration_calls_it():
    assert ENCODERS["mpnet"](CONFIG, "config.json").max_tokens == 10
    assert ENCODERS["mpnet"]({**CONFIG, "pad_token_id": 5}, "config.json").max_tokens == 10


@pytest.mark.parametrize("kinds", [16, 0, "32", None, True])
def test_a_number_of_buckets_that_distances_do_not_fit_is_an_error(kinds):
    with pytest.raises(CheckpointError, match=r"folder/config\.json: relative_attention_num_buckets is .*32"):
        ENCODERS["mpnet"]({**CONFIG, "relative_attention_num_buckets": kinds}, "folder/config.json")


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_on_a_gpu_the_plan_counts_what_is_written_out_for_each_pair_of_tokens(tmp_path, device):
    footprint = open_checkpoint(tiny.write_checkpoint(tmp_path, "mpnet", max_positions=514)).footprint()
    assert footprint.biased
    half = Precision.parse("float16")
    found, plain = (
        dict(predict_memory(each, half, device=device, tokens=2048, outputs=("dense",), process_bytes=0))
        for each in (footprint, replace(footprint, biased=False))
    )
    bias = found.pop("attention with a bias, in padded blocks", 0)
    assert found == plain
    # three of 2048 * 512 pairs of each of four heads, and five rows of 32 numbers a token
    assert bias == (0 if device == "cpu" else 3 * 2048 * 512 * 4 * 2 + 5 * 2048 * 32 * 2)


def test_on_a_cpu_the_plan_counts_what_torchs_attention_makes_beside_kernels_of_our_own(tmp_path):
    footprint = open_checkpoint(tiny.write_checkpoint(tmp_path, "mpnet")).footprint()
    single = Precision.parse("float32")
    options = dict(device="cpu", tokens=2048, outputs=("dense",), process_bytes=0)
    found = dict(predict_memory(footprint, single, keeps_memory=True, **options))
    assert found.pop("attention with a bias, which is torch's") == 3 * 2048 * 32 * 4
    assert found == dict(
        predict_memory(replace(footprint, biased=False), single, keeps_memory=True, **options)
    )
    assert not any("bias" in what for what, _ in predict_memory(footprint, single, **options))
