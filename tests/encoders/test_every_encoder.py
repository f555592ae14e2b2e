"""What holds of every encoder, whatever it is called and whatever parts it has."""

from dataclasses import replace

import pytest
import torch

import tercet
import tiny
import tiny_decoders
from tercet.batch import Batch
from tercet.checkpoint.decoder_files import DECODERS
from tercet.checkpoint.encoder_files import ARCHITECTURES
from tercet.checkpoint.layout import open_checkpoint
from tercet.encoders import ENCODERS
from tercet.model import check_encoder, hidden_in_float32, load_encoder, position_limit
from tercet.precision.dtype import DType

# What `tiny.write_checkpoint` is given.
KINDS = {name: {"architecture": name} for name in ARCHITECTURES} | {
    "electra, narrow embeddings": {"architecture": "electra", "embedding": 12}
}
# What `tiny_decoders.write_decoder` is given.
KINDS |= {name: {"max_positions": 66, "model_max_length": 66} for name in DECODERS}


@pytest.fixture(params=KINDS)
def folder(request, tmp_path):
    write = tiny_decoders.write_decoder if request.param in DECODERS else tiny.write_checkpoint
    return write(tmp_path / "model", **KINDS[request.param])


def texts_of(lengths):
    return [[5 + (3 * place + length) % 60 for place in range(length)] for length in lengths]


def test_every_architecture_that_files_are_read_for_has_an_encoder():
    assert set(ARCHITECTURES) <= set(ENCODERS.names())


def test_a_text_embeds_the_same_alone_and_in_a_batch_up_to_the_longest(folder):
    checkpoint = open_checkpoint(folder)
    encoder = load_encoder(checkpoint, DType.FLOAT32)
    longest = position_limit(checkpoint)
    assert longest == encoder.max_tokens
    texts = texts_of([1, longest, 7, 7, 2, longest, 33])
    with torch.inference_mode():
        together = encoder(Batch.from_ids(texts)).split([len(ids) for ids in texts])
        for ids, rows in zip(texts, together, strict=True):
            alone = encoder(Batch.from_ids([ids]))
            assert bool(alone.isfinite().all())
            torch.testing.assert_close(alone, rows, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(together[1], together[5], rtol=1e-5, atol=1e-5)


def test_one_layer_in_memory_at_a_time_gives_what_the_whole_encoder_gives(folder):
    checkpoint = open_checkpoint(folder)
    batch = Batch.from_ids(texts_of([9, 1, 20]))
    with torch.inference_mode():
        whole = load_encoder(checkpoint, DType.FLOAT32)(batch)
    torch.testing.assert_close(hidden_in_float32(checkpoint, batch), whole, rtol=1e-5, atol=1e-5)


def test_fused_and_apart_are_the_same_and_use_every_tensor(folder):
    checkpoint = open_checkpoint(folder)
    batch = Batch.from_ids(texts_of([9, 1, 20]))
    found = []
    for fused in (True, False):
        module, names = check_encoder(checkpoint, fused=fused)
        assert names.keys() == checkpoint.tensors.keys()
        assert {target.parameter for target in names.values()} == {
            name for name, _ in module.named_parameters()
        }
        with torch.inference_mode():
            found.append(load_encoder(checkpoint, DType.FLOAT32, fused=fused)(batch))
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kept", [(0,), (1,), (0, 1)])
def test_any_layers_may_stay_in_float32(folder, kept):
    plan = tercet.plan(folder, precision="bfloat16", device="cpu", pooling="mean")
    texts = list(tiny.TEXTS)
    exact = tercet.load(folder, precision="float32", device="cpu", pooling="mean").encode(texts).dense
    model = tercet.load(folder, plan=replace(plan, float32_layers=kept), pooling="mean")
    found = model.encode(texts).dense
    drift = 1 - torch.nn.functional.cosine_similarity(found.double(), exact.double())
    assert 0 < float(drift.max()) < 1e-3


def test_the_plan_counts_every_number_of_the_encoder(folder):
    checkpoint = open_checkpoint(folder)
    footprint = checkpoint.footprint()
    module, _ = check_encoder(checkpoint)
    assert footprint.body_numbers == sum(parameter.numel() for parameter in module.parameters())
    plan = tercet.plan(folder, precision="float32", device="cpu")
    assert dict(plan.memory)["weights"] >= 4 * footprint.body_numbers
