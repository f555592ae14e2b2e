"""CNN, LSTM, WordWeights and WeightedLayerPooling: invariants, and what is refused."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import tercet
from recorder import modules
from tercet.batch import Batch
from tercet.checkpoint.layout import open_checkpoint
from tercet.checkpoint.writer import save_checkpoint
from tercet.errors import CheckpointError
from tercet.layers.mixing import LayerMix, outcome
from tercet.layers.pooling import POOLING_MODES, pool_at_once, pool_by_text
from tercet.model import hidden_in_float32, load_encoder
from tercet.modules import Tokens
from tercet.modules.cnn import Cnn
from tercet.precision.dtype import DType
from tiny_modules import cnn, dropout, layer_pooling, lstm, normal, pooling, word_weights, write_stack

NAMES = [case.name for case in modules.STACKS]
STATES = {"config": {"output_hidden_states": True}, "layers": 3}


def load(folder, **options):
    return tercet.load(folder, **{"precision": "float32", "device": "cpu", **options})


def edit(path, **changes):
    data = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in data.items() if value is not None}))


@pytest.mark.parametrize("name", NAMES)
def test_a_text_embeds_the_same_alone_and_in_a_batch(name, tmp_path):
    model = load(modules.write(tmp_path / "model", name))
    together = model.encode(modules.TEXTS).numpy().dense
    backwards = model.encode(modules.TEXTS[::-1]).numpy().dense[::-1]
    alone = np.concatenate([model.encode([text]).numpy().dense for text in modules.TEXTS])
    np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(backwards, alone, rtol=1e-5, atol=1e-6)
    assert len(np.unique(alone.round(4), axis=0)) == len(alone)


@pytest.mark.parametrize("name", NAMES)
def test_a_saved_copy_embeds_the_same(name, tmp_path):
    folder = modules.write(tmp_path / "model", name)
    copy = save_checkpoint(open_checkpoint(folder), tmp_path / "copy")
    first, second = (load(place).encode(modules.TEXTS).numpy().dense for place in (folder, copy))
    np.testing.assert_array_equal(first, second)


def test_no_texts_give_no_vectors(tmp_path):
    folder = write_stack(tmp_path / "model", (cnn(6), lstm(4), word_weights(), pooling()))
    assert load(folder).encode([]).numpy().dense.shape == (0, 8)


def test_dropout_is_left_out_and_a_note_says_so(tmp_path):
    found = open_checkpoint(write_stack(tmp_path / "model", (pooling(), dropout())))
    assert [spec.kind for spec in found.modules] == ["pooling"]
    assert any("2_Dropout (Dropout) does nothing outside training" in note for note in found.notes)


def test_widths_behind_modules_over_tokens_are_known_without_a_weight(tmp_path):
    folder = write_stack(tmp_path / "model", (cnn(6, (1, 3)), lstm(5), word_weights(), pooling("cls", "max")))
    found = open_checkpoint(folder)
    assert found.dense_dim == found.footprint().dense_dim == load(folder).dimension == 20


def test_what_modules_over_tokens_hold_counts_in_the_memory_of_a_plan(tmp_path):
    def batch_bytes(name, parts):
        folder = write_stack(tmp_path / name, parts, **STATES)
        plan = tercet.plan(folder, precision="float32", device="cpu", token_budget=4096)
        return sum(count for what, count in plan.memory if "one batch of" in what)

    plain = batch_bytes("plain", (pooling(),))
    assert batch_bytes("layers", (layer_pooling(3, 1), pooling())) == plain + 4096 * 32 * 4
    assert batch_bytes("cnn", (cnn(400), pooling())) >= 4096 * (32 + 2 * 1200) * 4 > plain
    assert batch_bytes("lstm", (lstm(400), pooling())) >= 4096 * (32 + 6 * 800) * 4 > plain


def test_another_pooling_stands_where_the_checkpoints_stood(tmp_path):
    parts = (cnn(6), lstm(4))
    asked = load(write_stack(tmp_path / "mean", (*parts, pooling())), pooling="max")
    own = load(write_stack(tmp_path / "max", (*parts, pooling("max"))))
    texts = modules.TEXTS
    np.testing.assert_array_equal(asked.encode(texts).numpy().dense, own.encode(texts).numpy().dense)


@pytest.mark.parametrize("group", ["model_args", "config_args"])
def test_hidden_states_may_be_asked_for_beside_the_encoder(tmp_path, group):
    parts = (layer_pooling(3, 1), pooling())
    usual = load(write_stack(tmp_path / "usual", parts, **STATES))
    folder = write_stack(tmp_path / "beside", parts, layers=3)
    edit(folder / "sentence_bert_config.json", **{group: {"output_hidden_states": True}})
    found = load(folder).encode(modules.TEXTS).numpy().dense
    np.testing.assert_array_equal(found, usual.encode(modules.TEXTS).numpy().dense)


def test_a_layer_pooling_without_hidden_states_does_nothing_and_a_note_says_so(tmp_path):
    pooled = write_stack(tmp_path / "pooled", (layer_pooling(3, 1), pooling()), layers=3)
    plain = write_stack(tmp_path / "plain", (pooling(),), layers=3)
    assert any("1_WeightedLayerPooling" in note for note in open_checkpoint(pooled).notes)
    first, second = (load(folder).encode(modules.TEXTS).numpy().dense for folder in (pooled, plain))
    np.testing.assert_array_equal(first, second)


def test_the_mean_of_layers_is_that_of_all_states_and_keeps_one_sum(tmp_path):
    checkpoint = open_checkpoint(write_stack(tmp_path / "model", (layer_pooling(3, 1), pooling()), **STATES))
    batch = Batch.from_ids([[2, 8, 9, 3], [2, 3], [2, 10, 10, 11, 30, 3]])
    encoder = load_encoder(checkpoint, DType.FLOAT32)
    states = [encoder.embed(batch)]
    for _, layer in encoder.stages():
        states.append(layer(states[-1], batch))
    weights = torch.arange(3) * 0.4 - 0.3
    expected = (weights[:, None, None] * torch.stack(states[1:])).sum(0) / weights.sum()
    torch.testing.assert_close(encoder(batch), expected, rtol=1e-5, atol=1e-5)
    # texts that leave the range of the planned dtype are computed so, a layer at a time
    torch.testing.assert_close(hidden_in_float32(checkpoint, batch), expected, rtol=1e-5, atol=1e-5)


def test_states_in_a_half_format_are_added_up_in_float32():
    states = [torch.full((1, 1), 1.0, dtype=torch.bfloat16)] * 300
    found = outcome(states, LayerMix(0, (1.0,) * 300))
    assert found.dtype == torch.float32
    assert found.item() == 300.0  # a sum in bfloat16 stands still at 256
    assert states[0].item() == 1.0


@pytest.mark.parametrize("engine", ["int8", "float16"])
def test_every_engine_adds_up_the_layers(engine, tmp_path):
    folder = write_stack(tmp_path / "model", (layer_pooling(3, 0), pooling()), hidden=32, **STATES)
    exact, found = (
        load(folder, precision=name).encode(modules.TEXTS).numpy().dense for name in ("float32", engine)
    )
    apart = np.linalg.norm(found - exact, axis=1) / np.linalg.norm(exact, axis=1)
    last = load(write_stack(tmp_path / "last", (pooling(),), layers=3)).encode(modules.TEXTS).numpy().dense
    assert apart.max() < 0.05
    assert (np.linalg.norm(last - exact, axis=1) / np.linalg.norm(exact, axis=1)).min() > 0.3


@pytest.mark.parametrize("mode", POOLING_MODES)
@pytest.mark.parametrize("skip", [0, 2])
def test_sums_of_weights_divide_the_same_on_every_device(mode, skip):
    batch = Batch.from_ids([[1] * length for length in (3, 1, 5)])
    rows, sums = normal("rows", (9, 4)), torch.tensor([0.5, 0.0, 7.0])
    expected = pool_by_text(rows, batch, mode, torch.float32, skip, sums)
    torch.testing.assert_close(pool_at_once(rows, batch, mode, torch.float32, skip, sums), expected)


@pytest.mark.parametrize("kernels", [(1, 3, 5), (2, 4, 6)])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_a_convolution_is_torchs_of_each_text_alone(kernels, stride):
    lengths = (7, 1, 2, 12)
    rows = normal("tokens", (sum(lengths), 5))
    weights = [normal(f"kernel {size}", (4, 5, size)) for size in kernels]
    biases = [normal(f"bias {size}", (4,)) for size in kernels]
    batch = Batch.from_ids([[9] * length for length in lengths])
    found = Cnn(weights, biases, stride)(Tokens(rows, batch))
    texts = torch.split(found.vectors, list(found.batch.lengths))
    for text, part in zip(texts, torch.split(rows, list(lengths)), strict=True):
        if len(part) == 1 and kernels[0] == 2:
            assert text.shape == (1, 12)  # torch refuses a text that is shorter than the kernel
            continue
        convolved = [
            torch.nn.functional.conv1d(part.T[None], weight, bias, stride, (weight.shape[2] - 1) // 2)[0].T
            for weight, bias in zip(weights, biases, strict=True)
        ]
        torch.testing.assert_close(text, torch.cat(convolved, dim=1))


def test_words_beyond_the_list_have_the_weight_of_unknown_ones(tmp_path):
    folder = write_stack(tmp_path / "model", (word_weights(unknown=0.75), pooling()))
    short = write_stack(tmp_path / "short", (word_weights(unknown=0.75), pooling()))
    path = short / "1_WordWeights" / "config.json"
    edit(path, vocab=json.loads(path.read_text())["vocab"][:-1])
    config = folder / "1_WordWeights" / "config.json"
    settings = json.loads(config.read_text())
    last = settings["vocab"][-1]
    edit(config, word_weights={word: w for word, w in settings["word_weights"].items() if word != last})
    first, second = (load(place).encode(last).numpy().dense for place in (folder, short))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(
    ("part", "file", "changes", "says"),
    [
        (cnn(6), "cnn_config.json", {"dilation": 2}, "'dilation' is not known"),
        (cnn(6), "cnn_config.json", {"kernel_sizes": [1, 2, 3]}, "all odd or all even"),
        (cnn(6), "cnn_config.json", {"stride_sizes": [1, 2, 1]}, "Take one stride"),
        (cnn(6), "cnn_config.json", {"kernel_sizes": [1, 0, 3]}, "'kernel_sizes' is 0"),
        (cnn(6), "cnn_config.json", {"out_channels": 1 << 40}, "'out_channels' is 1099511627776"),
        (cnn(6), "cnn_config.json", {"in_embedding_dimension": 16}, r"\(6, 32, 1\).*config\.json says"),
        (lstm(6), "lstm_config.json", {"proj_size": 2}, "'proj_size' is not known"),
        (lstm(6), "lstm_config.json", {"num_layers": 2}, "the weights have no 'encoder.*_l1"),
        (lstm(6), "lstm_config.json", {"num_layers": 10**9}, "'num_layers' is 1000000000"),
        (lstm(6), "lstm_config.json", {"bidirectional": "yes"}, "'bidirectional' is 'yes'"),
        (lstm(6), "lstm_config.json", {"hidden_dim": None}, "'hidden_dim' is None"),
        (word_weights(), "config.json", {"vocab": []}, "'vocab' is no list of words"),
        (word_weights(), "config.json", {"word_weights": {"a": "much"}}, "must be finite numbers"),
        (word_weights(), "config.json", {"word_weights": {"a": 10**400}}, "must be finite numbers"),
        (word_weights(), "config.json", {"unknown_word_weight": 1e300}, "must be finite numbers"),
        (word_weights(), "config.json", {"lower": True}, "'lower' is not known"),
        (
            layer_pooling(3, 1),
            "config.json",
            {"layer_start": 4},
            "'layer_start' is 4, expected a number from 0",
        ),
        (layer_pooling(3, 1), "config.json", {"layer_start": -1}, "'layer_start' is -1"),
        (layer_pooling(3, 1), "config.json", {"embedding_dimension": 16}, "what comes before it is 32 wide"),
        (layer_pooling(2, 1), "config.json", {}, "num_hidden_layers is 2, the encoder has 3"),
    ],
)
def test_settings_that_cannot_be_are_refused(part, file, changes, says, tmp_path):
    folder = write_stack(tmp_path / "model", (part, pooling()), **STATES)
    [settings] = folder.glob(f"1_*/{file}")
    edit(settings, **changes)
    with pytest.raises(CheckpointError, match=says) as caught:
        open_checkpoint(folder)
    assert str(settings.parent) in str(caught.value)


def test_modules_over_tokens_behind_the_pooling_are_refused(tmp_path):
    folder = write_stack(tmp_path / "model", (pooling(), lstm(6)))
    with pytest.raises(CheckpointError, match=r"2_LSTM stands behind the pooling.*modules\.json"):
        open_checkpoint(folder)


def test_a_layer_pooling_that_would_undo_another_module_is_refused(tmp_path):
    folder = write_stack(tmp_path / "model", (cnn(32, (3,)), layer_pooling(3, 1), pooling()), **STATES)
    with pytest.raises(
        CheckpointError, match=r"2_WeightedLayerPooling.*1_CNN does would be lost. Move it up"
    ):
        open_checkpoint(folder)


@pytest.mark.parametrize("weights", [(1.0, -1.0, 0.0), (1.0, float("nan"), 0.0)])
def test_layer_weights_that_cannot_divide_are_refused(weights, tmp_path):
    folder = write_stack(tmp_path / "model", (layer_pooling(3, 1), pooling()), **STATES)
    path = folder / "1_WeightedLayerPooling" / "model.safetensors"
    assert list(load_file(path)) == ["layer_weights"]
    save_file({"layer_weights": torch.tensor(weights)}, path)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: 'layer_weights'.*add up to"):
        load(folder)
