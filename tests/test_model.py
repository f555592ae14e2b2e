import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import tiny
from tercet.batch import Batch
from tercet.checkpoint.layout import open_checkpoint
from tercet.errors import CheckpointError, InputError
from tercet.heads import HeadOptions, Heads
from tercet.model import check_encoder, hidden_in_float32, load_encoder, position_limit
from tercet.precision.dtype import DType

IDS = [[2, 8, 9, 3], [2, 3], [2, 10, 10, 11, 30, 3]]


@pytest.fixture
def copied(tiny_bert, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny_bert, folder)
    return folder


def change_weights(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_missing_tensor_a_strange_one_and_a_wrong_shape_are_all_named_at_once(copied):
    def change(tensors):
        name = next(name for name in tensors if name.endswith("layer.1.output.dense.bias"))
        del tensors[name]
        name = next(name for name in tensors if name.endswith("layer.0.output.dense.bias"))
        tensors[name] = torch.zeros(7)
        tensors[name.replace("output.dense.bias", "output.adapter.bias")] = torch.zeros(3)

    change_weights(copied, change)
    with pytest.raises(CheckpointError) as caught:
        check_encoder(open_checkpoint(copied))
    message = str(caught.value)
    assert str(copied) in message
    assert "'encoder.layer.1.output.dense.bias' is missing" in message
    assert "'encoder.layer.0.output.adapter.bias' is not known" in message
    assert "'encoder.layer.0.output.dense.bias' is (7,)" in message
    assert "config.json makes it (32,)" in message


def test_a_config_of_another_size_is_found_without_reading_a_weight(copied):
    config = json.loads((copied / "config.json").read_text(encoding="utf-8"))
    config["intermediate_size"] = 48
    (copied / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"intermediate\.dense.*makes it \(48, 32\)"):
        check_encoder(open_checkpoint(copied))


@pytest.mark.parametrize("stored", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("asked", ["float32", "float16", "bfloat16", "float64"])
@pytest.mark.parametrize("file", ["safetensors", "bin"])
def test_every_parameter_has_the_dtype_asked_for_whatever_is_stored(tmp_path, stored, asked, file):
    folder = tiny.write_checkpoint(tmp_path / "model", "bert", dtype=stored, file=file)
    encoder = load_encoder(open_checkpoint(folder), DType.parse(asked))
    assert {parameter.dtype for parameter in encoder.parameters()} == {DType.parse(asked).torch}
    assert not any(parameter.is_meta or parameter.requires_grad for parameter in encoder.parameters())


def test_one_layer_at_a_time_in_float32_is_the_whole_model_in_float32(tmp_path):
    for stored in ("float32", "float16"):
        folder = tiny.write_checkpoint(tmp_path / stored, "xlm-roberta", dtype=stored)
        checkpoint = open_checkpoint(folder)
        batch = Batch.from_ids(IDS)
        with torch.no_grad():  # with gradients, other kernels compute
            whole = load_encoder(checkpoint, DType.FLOAT32)(batch)
        torch.testing.assert_close(hidden_in_float32(checkpoint, batch), whole, rtol=0, atol=0)


def test_a_prefix_loads_only_what_is_below_it(tiny_bert):
    encoder = load_encoder(open_checkpoint(tiny_bert), DType.FLOAT32, prefix="layers.1.")
    loaded = {name for name, parameter in encoder.named_parameters() if not parameter.is_meta}
    assert loaded == {name for name, _ in encoder.named_parameters() if name.startswith("layers.1.")}


@pytest.fixture(scope="module")
def m3(tmp_path_factory):
    folder = tiny.write_checkpoint(tmp_path_factory.mktemp("heads") / "m3", "xlm-roberta", layout="bge-m3")
    return open_checkpoint(folder)


@pytest.fixture(scope="module")
def heads(m3):
    return Heads.open(m3, DType.FLOAT32, frozenset({0, 1, 2, 3}))


def hidden_of(batch, seed=0):
    return torch.randn(batch.num_tokens, 32, generator=torch.Generator().manual_seed(seed))


def test_dense_is_the_first_token_of_each_text_of_unit_length(heads):
    batch = Batch.from_ids(IDS)
    hidden = hidden_of(batch)
    dense, sparse, multivector = heads(hidden, batch, HeadOptions(("dense",)))
    torch.testing.assert_close(dense, torch.nn.functional.normalize(hidden[[0, 4, 6]], dim=1))
    assert sparse is None
    assert multivector is None


def test_lexical_weights_are_relu_of_the_head_without_special_tokens_with_the_largest_of_repeats(heads):
    batch = Batch.from_ids(IDS)
    hidden = hidden_of(batch)
    scores = (hidden @ heads.sparse.matrix[0] + heads.sparse.bias).relu()
    _, sparse, _ = heads(hidden, batch, HeadOptions(("sparse",)))
    wanted = []
    for text, rows in zip(IDS, scores.split(batch.lengths), strict=True):
        found = {}
        for token, weight in zip(text, rows.tolist(), strict=True):
            if token not in (0, 1, 2, 3) and weight > 0:
                found[token] = max(found.get(token, 0.0), weight)
        wanted.append({token: pytest.approx(weight, abs=1e-6) for token, weight in sorted(found.items())})
    assert sparse.to_dicts() == wanted
    assert any(wanted)
    assert sparse.vocabulary == heads.vocabulary


def test_late_interaction_leaves_out_the_first_token_and_keeps_the_last(heads):
    batch = Batch.from_ids(IDS)
    hidden = hidden_of(batch)
    _, _, multivector = heads(hidden, batch, HeadOptions(("multivector",)))
    assert multivector.lengths.tolist() == [3, 1, 5]
    wanted = hidden[1:4] @ heads.multivector.matrix.T + heads.multivector.bias
    torch.testing.assert_close(multivector.rows(0), torch.nn.functional.normalize(wanted, dim=1))


def test_dimensions_cut_dense_and_late_interaction_and_renormalise(heads):
    batch = Batch.from_ids(IDS)
    hidden = hidden_of(batch)
    dense, _, multivector = heads(hidden, batch, HeadOptions(("dense", "multivector"), dimensions=5))
    torch.testing.assert_close(dense, torch.nn.functional.normalize(hidden[[0, 4, 6]][:, :5], dim=1))
    assert multivector.vectors.shape[1] == 5
    torch.testing.assert_close(multivector.vectors.norm(dim=1), torch.ones(9))


def test_normalize_false_leaves_dense_and_late_interaction_as_they_are(heads):
    batch = Batch.from_ids(IDS)
    hidden = hidden_of(batch)
    dense, _, multivector = heads(hidden, batch, HeadOptions(("dense", "multivector"), normalize=False))
    torch.testing.assert_close(dense, hidden[[0, 4, 6]])
    torch.testing.assert_close(
        multivector.rows(1), hidden[5:6] @ heads.multivector.matrix.T + heads.multivector.bias
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_heads_work_in_float32_on_a_half_precision_body(heads, dtype):
    batch = Batch.from_ids(IDS)
    hidden = hidden_of(batch).to(dtype)
    everything = HeadOptions(("dense", "sparse", "multivector"))
    for half, full in zip(
        heads(hidden, batch, everything), heads(hidden.float(), batch, everything), strict=True
    ):
        values = [getattr(x, "weights", getattr(x, "vectors", x)) for x in (half, full)]
        assert values[0].dtype == torch.float32
        torch.testing.assert_close(values[0], values[1], rtol=0, atol=0)


def test_no_texts_go_through_every_head(heads):
    batch = Batch.from_ids([])
    dense, sparse, multivector = heads(
        torch.empty(0, 32), batch, HeadOptions(("dense", "sparse", "multivector"))
    )
    assert dense.shape == (0, 32)
    assert len(sparse) == len(multivector) == 0


def test_a_head_that_is_not_there_is_an_error_that_names_its_file(tiny_bert):
    heads = Heads.open(open_checkpoint(tiny_bert), DType.FLOAT32, frozenset())
    assert heads.outputs == ("dense",)
    with pytest.raises(CheckpointError, match=r"no sparse output, since there is no sparse_linear\.pt"):
        heads.check(HeadOptions(("dense", "sparse")), "model")
    with pytest.raises(InputError, match="no output 'lexical'"):
        heads.check(HeadOptions(("lexical",)), "model")
    with pytest.raises(InputError, match=r"dimensions=33: the dense vectors of model have 32. Pass 1 to 32"):
        heads.check(HeadOptions(("dense",), dimensions=33), "model")


def test_a_head_of_the_wrong_size_names_its_file_and_shapes(tmp_path):
    folder = tiny.write_checkpoint(tmp_path / "m3", "xlm-roberta", layout="bge-m3")
    torch.save({"weight": torch.zeros(1, 48), "bias": torch.zeros(1)}, folder / "sparse_linear.pt")
    with pytest.raises(CheckpointError, match=r"sparse_linear\.pt.* is \(1, 48\).*hidden size is 32"):
        Heads.open(open_checkpoint(folder), DType.FLOAT32, frozenset())


def test_a_dense_layer_of_another_width_names_its_folder(tmp_path):
    modules = ("pooling", ("dense", {"out_features": 16}), "normalize")
    folder = tiny.write_checkpoint(
        tmp_path / "stack", "bert", layout="sentence-transformers", modules=modules
    )
    weights = next(folder.glob("*_Dense/*.safetensors"))
    tensors = load_file(weights)
    tensors["linear.weight"] = torch.zeros(16, 31)
    save_file(tensors, weights)
    with pytest.raises(CheckpointError, match=r"2_Dense.*'linear\.weight' is \(16, 31\)"):
        Heads.open(open_checkpoint(folder), DType.FLOAT32, frozenset())


def test_more_layers_than_tensors_are_refused_before_they_are_built(tmp_path):
    tiny.write_checkpoint(tmp_path, "bert")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 10**9}))
    checkpoint = open_checkpoint(tmp_path)
    for build in (check_encoder, position_limit):
        with pytest.raises(CheckpointError, match=r"config\.json says 1,000,000,000 layers"):
            build(checkpoint)


def test_the_checkpoints_truncate_dim_is_of_its_dense_vectors_alone(tmp_path):
    folder = tiny.write_checkpoint(
        tmp_path / "m3", "xlm-roberta", layout="bge-m3", colbert_dim=4, truncate_dim=8
    )
    heads = Heads.open(open_checkpoint(folder), DType.FLOAT32, frozenset())
    batch = Batch.from_ids(IDS)
    options = HeadOptions(("dense", "multivector"))
    heads.check(options, "model")
    dense, _, multivector = heads(hidden_of(batch), batch, options)
    assert dense.shape == (3, 8)
    assert multivector.vectors.shape[1] == 4
    torch.testing.assert_close(dense.norm(dim=1), torch.ones(3))
