import math
import weakref

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

import tercet
import tiny
import tiny_sparse
from tercet.batch import Batch
from tercet.checkpoint.layout import open_checkpoint
from tercet.checkpoint.writer import save_checkpoint
from tercet.cli.main import main
from tercet.errors import CheckpointError, InputError
from tercet.modules.splade_pooling import SpladePooling, pool_at_once, pool_by_text
from tercet.precision.dtype import Precision
from tercet.precision.footprint import predict_memory
from tercet.storage.vectors import read_vectors

TEXTS = list(tiny.TEXTS)


def load(folder, **options):
    return tercet.load(folder, **{"precision": "float32", "device": "cpu", **options})


def module(vocabulary=50, hidden=8, dtype=torch.float32, seed=0, **options):
    """A head with random weights and, of (tokens, hidden), what it means written out plainly."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    dense, norm = (normal(hidden, hidden), normal(hidden)), (1 + 0.1 * normal(hidden), normal(hidden))
    matrix, bias = normal(vocabulary, hidden).to(dtype), normal(vocabulary) - 2
    return SpladePooling(dense, norm, matrix, bias, **options)


def plainly(splade, hidden, lengths):
    """(texts, vocabulary) in float64, all numbers at once, by sentence-transformers' own steps."""
    values = hidden.double() @ splade.dense_weight.double().T + splade.dense_bias.double()
    values = torch.nn.functional.gelu(values)
    weight, bias = splade.norm_weight.double(), splade.norm_bias.double()
    values = torch.nn.functional.layer_norm(values, (values.shape[1],), weight, bias, splade.epsilon)
    values = (values @ splade.matrix.double().T + splade.bias.double()).relu()
    for _ in range(splade.logs):
        values = values.log1p()
    parts = torch.split(values, list(lengths))
    return torch.stack([part.amax(0) if splade.strategy == "max" else part.sum(0) for part in parts])


def batch_of(lengths):
    return Batch.from_ids([[1] * length for length in lengths])


def dense(found):
    made = torch.zeros(len(found), found.vocabulary, dtype=found.weights.dtype)
    made[found.rows, found.token_ids] = found.weights
    return made


@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    rows=st.integers(1, 12),
    columns=st.integers(1, 60),
    strategy=st.sampled_from(["max", "sum"]),
    logs=st.integers(1, 2),
)
def test_blocks_of_any_size_give_what_all_numbers_at_once_give(lengths, rows, columns, strategy, logs):
    splade = module(strategy=strategy, logs=logs, rows=rows, columns=columns)
    hidden = torch.randn(sum(lengths), 8, generator=torch.Generator().manual_seed(1))
    found = splade(hidden, batch_of(lengths))
    torch.testing.assert_close(
        dense(found).double(), plainly(splade, hidden, lengths), rtol=1e-5, atol=1e-5 * max(lengths)
    )
    assert (found.weights > 0).all()


@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    rows=st.integers(1, 12),
    strategy=st.sampled_from(["max", "sum"]),
)
def test_text_by_text_and_at_once_pool_the_same(lengths, rows, strategy):
    values = torch.rand(sum(lengths), 5, generator=torch.Generator().manual_seed(2))
    batch, made = batch_of(lengths), []
    for pool in (pool_by_text, pool_at_once):
        pooled = torch.zeros(len(lengths), 5)
        for start in range(0, len(values), rows):
            pool(pooled, values[start : start + rows], batch, start, strategy)
        made.append(pooled)
    torch.testing.assert_close(made[0], made[1], rtol=1e-6, atol=0)
    parts = torch.split(values, lengths)
    expected = torch.stack([part.amax(0) if strategy == "max" else part.sum(0) for part in parts])
    torch.testing.assert_close(made[0], expected, rtol=1e-6, atol=0)


class _Held(TorchDispatchMode):
    """The most bytes that tensors made within held at one time."""

    def __init__(self):
        super().__init__()
        self.now = self.most = 0
        self._blocks = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(found):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor)
        return found

    def _count(self, tensor):
        storage = tensor.untyped_storage()
        block = storage.data_ptr()
        if block == 0 or storage.nbytes() == 0:
            return
        if block not in self._blocks:
            self._blocks[block] = [0, storage.nbytes()]
            self.now += storage.nbytes()
            self.most = max(self.most, self.now)
        self._blocks[block][0] += 1
        weakref.finalize(tensor, self._gone, block)

    def _gone(self, block):
        self._blocks[block][0] -= 1
        if self._blocks[block][0] == 0:
            self.now -= self._blocks.pop(block)[1]


@pytest.mark.parametrize("strategy", ["max", "sum"])
def test_no_number_for_each_token_and_word_is_ever_held(strategy):
    hidden_size, vocabulary, texts, length, rows, columns = 16, 6000, 20, 60, 64, 256
    splade = module(vocabulary, hidden_size, torch.float16, strategy=strategy, rows=rows, columns=columns)
    splade.bias -= 100  # hardly a word gets a weight, so that the result itself takes no memory
    hidden = torch.randn(texts * length, hidden_size)
    with torch.no_grad(), _Held() as held:
        splade(hidden, batch_of([length] * texts))
    stated = 4 * (
        texts * length * hidden_size  # the hidden vectors behind the first layer
        + rows * columns + columns * hidden_size + texts * columns
    )  # fmt: skip
    # Masks, indices and short results beside what is stated.
    assert 0.5 * stated < held.most < 2 * stated
    assert held.most < 4 * texts * length * vocabulary / 50


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_tied_matrix_is_mapped_and_never_cast_whole(tmp_path, dtype):
    model = load(tiny_sparse.write_splade(tmp_path, dtype=dtype))
    matrix = model._heads.sparse.matrix
    assert matrix.dtype == getattr(torch, dtype)
    info = model.checkpoint.tensors["embeddings.word_embeddings.weight"]
    assert model.checkpoint.module("splade_pooling").tensors["decoder.weight"] is info
    assert torch.equal(matrix, model.checkpoint.stored(info))
    assert {
        parameter.dtype for name, parameter in model._heads.named_parameters() if "matrix" not in name
    } == {torch.float32}


# What a body in 16 bits may change of the weights, relative to a text's largest one.
DRIFT = {"float16": 0.01, "bfloat16": 0.08}


@pytest.mark.parametrize("asked", ["float16", "bfloat16"])
@pytest.mark.parametrize("stored", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("strategy", ["max", "sum"])
def test_a_body_in_16_bits_stays_within_its_drift_and_gives_float32(tmp_path, stored, asked, strategy):
    folder = tiny_sparse.write_splade(tmp_path, dtype=stored, strategy=strategy)
    expected = dense(load(folder).encode(TEXTS).sparse)
    found = dense(load(folder, precision=asked).encode(TEXTS).sparse)
    assert found.dtype == torch.float32
    largest = expected.amax(dim=1, keepdim=True)
    assert float(((found - expected) / largest).abs().max()) < DRIFT[asked]


@pytest.mark.parametrize("strategy", ["max", "sum"])
@pytest.mark.parametrize("architecture", ["bert", "distilbert", "roberta", "xlm-roberta"])
def test_a_text_has_the_same_weights_alone_and_in_a_batch(tmp_path, architecture, strategy):
    model = load(tiny_sparse.write_splade(tmp_path, architecture, strategy=strategy))
    together = dense(model.encode(TEXTS).sparse)
    alone = torch.cat([dense(model.encode(text).sparse) for text in TEXTS])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)
    # A long text among them would lower the maximum of none.
    backwards = dense(model.encode(TEXTS[::-1]).sparse).flip(0)
    torch.testing.assert_close(together, backwards, rtol=1e-5, atol=1e-5)


def test_chunk_size_bounds_the_rows_of_a_block_and_changes_no_weight(tmp_path):
    folder = tiny_sparse.write_splade(tmp_path)
    expected = dense(load(folder).encode(TEXTS).sparse)
    settings = folder / "1_SpladePooling" / "config.json"
    settings.write_text('{"pooling_strategy": "max", "activation_function": "relu", "chunk_size": 3}')
    model = load(folder)
    assert model._heads.sparse.rows == 3
    torch.testing.assert_close(dense(model.encode(TEXTS).sparse), expected, rtol=1e-5, atol=1e-5)


def test_a_sparse_model_makes_sparse_vectors_and_nothing_else(tmp_path):
    model = load(tiny_sparse.write_splade(tmp_path))
    assert model.outputs == ("sparse",)
    assert model.dimension == 0
    found = model.encode(TEXTS)
    assert found.outputs == ("sparse",)
    assert len(found) == len(TEXTS)
    assert model.encode([]).sparse.vocabulary == found.sparse.vocabulary
    with pytest.raises(CheckpointError, match=r"no dense output.* It makes: sparse"):
        model.encode("a", outputs="dense")
    with pytest.raises(CheckpointError, match=r"no dense output.* It makes: sparse"):
        load(tmp_path, outputs="dense")


@pytest.mark.parametrize("batch_tokens", [4, 64])
def test_batches_of_any_size_are_gathered(tmp_path, batch_tokens):
    folder = tiny_sparse.write_splade(tmp_path)
    expected = load(folder).encode(TEXTS).sparse
    found = load(folder, token_budget=batch_tokens).encode(TEXTS).sparse
    assert found.allclose(expected, rtol=1e-5, atol=1e-5)


def test_only_the_largest_weights_are_kept_where_that_is_asked_for(tmp_path):
    model = load(tiny_sparse.write_splade(tmp_path, max_active_dims=9))
    usual = model.encode(TEXTS).sparse
    assert usual.lengths.tolist() == [9] * len(TEXTS)
    asked = model.encode(TEXTS, max_active_dims=4).sparse
    assert asked.lengths.tolist() == [4] * len(TEXTS)
    assert asked.allclose(usual.top(4))
    assert model.provenance()["max_active_dims"] == 9
    assert model.provenance(max_active_dims=4)["max_active_dims"] == 4
    for role in (model.encode_query, model.encode_document):
        assert role(TEXTS, max_active_dims=2).sparse.lengths.tolist() == [2] * len(TEXTS)
    assert next(iter(model.stream(TEXTS, max_active_dims=2))).sparse.lengths[0] == 2
    for wrong in (0, -1, True, 1.5, "4"):
        with pytest.raises(InputError, match=r"max_active_dims is .* must be a positive integer"):
            model.encode(TEXTS, max_active_dims=wrong)


def test_a_plain_folder_is_dense_until_splade_is_asked_for(tmp_path):
    folder = tiny_sparse.write_splade(tmp_path, plain=True)
    usual = load(folder)
    assert usual.outputs == ("dense",)
    assert any("pooling='splade'" in note for note in usual.checkpoint.notes)
    asked = load(folder, pooling="splade")
    assert asked.outputs == ("sparse",)
    assert not any("assumed" in note or "Not used" in note for note in asked.checkpoint.notes)
    summed = load(folder, pooling="splade-sum").encode(TEXTS).sparse
    assert (dense(summed) >= dense(asked.encode(TEXTS).sparse) - 1e-5).all()


def test_a_splade_folder_gives_dense_vectors_where_their_pooling_is_asked_for(tmp_path):
    folder = tiny_sparse.write_splade(tmp_path / "splade")
    plain = tiny_sparse.write_splade(tmp_path / "plain", plain=True)
    found, expected = load(folder, pooling="mean"), load(plain, pooling="mean")
    assert found.outputs == ("dense",)
    assert found.encode(TEXTS).allclose(expected.encode(TEXTS))


def test_a_nan_of_the_head_is_refused_and_not_left_out(tmp_path):
    folder = tiny_sparse.write_splade(tmp_path)
    model = load(folder)
    model._heads.sparse.bias[7] = math.nan
    with pytest.raises(tercet.errors.NonFiniteError, match="text 0 gives a value that is not finite"):
        model.encode("a")


@pytest.mark.parametrize(
    ("missing", "told"),
    [
        ("cls.predictions.bias", r"no cls\.predictions\.decoder\.bias"),
        ("cls.predictions.transform.dense.weight", r"no cls\.predictions\.transform\.dense\.weight"),
        ("cls.predictions.transform.LayerNorm.bias", r"no cls\.predictions\.transform\.LayerNorm\.bias"),
    ],
)
def test_a_head_that_is_not_whole_is_refused_by_the_tensors_that_lack(tmp_path, missing, told):
    folder = tiny_sparse.write_splade(tmp_path, without=missing)
    with pytest.raises(CheckpointError, match=told + r"\..*pooling='mean'"):
        open_checkpoint(folder)


def test_an_untied_head_without_its_matrix_is_refused(tmp_path):
    folder = tiny_sparse.write_splade(tmp_path, config={"tie_word_embeddings": False})
    with pytest.raises(CheckpointError, match=r"no cls\.predictions\.decoder\.weight"):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ('{"pooling_strategy": "mx"}', "pooling_strategy is 'mx'.*max"),
        ('{"activation_function": "gelu"}', "activation_function is 'gelu'.*relu"),
        ('{"chunk_size": "all"}', "'chunk_size' is 'all'"),
        ('{"k": 3}', "the setting 'k' is not known"),
    ],
)
def test_a_setting_that_is_not_known_is_refused(tmp_path, settings, told):
    folder = tiny_sparse.write_splade(tmp_path)
    (folder / "1_SpladePooling" / "config.json").write_text(settings)
    with pytest.raises(CheckpointError, match=f"config.json.*{told}"):
        open_checkpoint(folder)


def test_an_encoder_of_hidden_vectors_before_splade_is_refused(tmp_path):
    folder = tiny_sparse.write_splade(tmp_path)
    (folder / "sentence_bert_config.json").write_text('{"transformer_task": "feature-extraction"}')
    with pytest.raises(CheckpointError, match=r"'transformer_task' is 'feature-extraction'.*'fill-mask'"):
        open_checkpoint(folder)
    assert open_checkpoint(folder, pooling="splade").outputs == ("sparse",)


def test_a_plan_counts_the_matrix_once_where_it_is_the_encoders_own(tmp_path):
    def parts(footprint, precision):
        found = predict_memory(
            footprint,
            Precision.parse(precision),
            device="cpu",
            tokens=64,
            outputs=("sparse",),
            process_bytes=0,
        )
        return dict(found)

    words = "the masked-language head's matrix"
    tied = open_checkpoint(tiny_sparse.write_splade(tmp_path / "tied")).footprint()
    own = open_checkpoint(tiny_sparse.write_splade(tmp_path / "own", untied=True)).footprint()
    assert tied.outputs == ("sparse",)
    assert tied.word_matrix_bytes == own.word_matrix_bytes == 4 * 32 * tied.vocabulary
    assert words not in parts(tied, "float32")
    assert parts(tied, "bfloat16")[words] == parts(own, "float32")[words] == tied.word_matrix_bytes
    assert sum(own.stored.values()) == sum(tied.stored.values()) + 32 * tied.vocabulary


def test_a_file_of_texts_is_embedded_by_the_command(tmp_path):
    folder = tiny_sparse.write_splade(tmp_path / "model")
    texts, out = tmp_path / "texts.txt", tmp_path / "vectors.npz"
    texts.write_text("the cat\na river\n", encoding="utf-8")
    arguments = ["embed", texts, "-o", out, "--model", folder, "--outputs", "sparse", "--device", "cpu"]
    assert main([*map(str, arguments), "--precision", "float32"]) == 0
    stored, _, provenance = read_vectors(str(out))
    assert stored.sparse.allclose(load(folder).encode(["the cat", "a river"]).sparse)
    assert provenance["modules"][0]["kind"] == "splade_pooling"


def test_what_stands_beside_splades_pooling_is_refused(tmp_path):
    folder = tiny.write_checkpoint(tmp_path, layout="sentence-transformers")
    with pytest.raises(CheckpointError, match=r"2_Normalize stands beside SPLADE's pooling"):
        open_checkpoint(folder, pooling="splade")


def test_a_folder_of_a_sparse_encoder_without_a_sparse_module_is_refused(tmp_path):
    folder = tiny_sparse.write_splade(tmp_path, plain=True)
    (folder / "config_sentence_transformers.json").write_text('{"model_type": "SparseEncoder"}')
    with pytest.raises(CheckpointError, match=r"this is a SparseEncoder.*pooling='splade'"):
        open_checkpoint(folder)
    assert open_checkpoint(folder, pooling="splade").outputs == ("sparse",)


@pytest.mark.parametrize("untied", [False, True])
def test_a_saved_copy_has_the_head_in_the_encoders_file(tmp_path, untied):
    folder = tiny_sparse.write_splade(tmp_path / "model", untied=untied)
    copy = save_checkpoint(open_checkpoint(folder), tmp_path / "copy")
    assert sorted(path.name for path in (copy / "1_SpladePooling").iterdir()) == ["config.json"]
    found, expected = load(copy).encode(TEXTS).sparse, load(folder).encode(TEXTS).sparse
    assert found.allclose(expected, atol=0)
