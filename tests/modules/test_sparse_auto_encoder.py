"""SparseAutoEncoder (CSR): a pooled vector as a few features."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tercet
import tiny
import tiny_sparse
from tercet.checkpoint.layout import open_checkpoint
from tercet.checkpoint.writer import save_checkpoint
from tercet.cli.main import main
from tercet.errors import CheckpointError, NonFiniteError
from tercet.modules.sparse_auto_encoder import SparseAutoEncoder
from tercet.storage.vectors import read_vectors

TEXTS = list(tiny.TEXTS)
# Largest distance of a row of all features to that of float32, in lengths of the row.
DRIFT = {"float32": 1e-5, "float16": 5e-3, "bfloat16": 4e-2}


def load(folder, **options):
    return tercet.load(folder, **{"precision": "float32", "device": "cpu", **options})


def edit(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def dense(found):
    made = torch.zeros(len(found), found.vocabulary, dtype=found.weights.dtype)
    made[found.rows, found.token_ids] = found.weights
    return made


def module(width=6, features=20, k=4, standardize=False, seed=0):
    generator = torch.Generator().manual_seed(seed)
    weight, bias, shift = (
        torch.randn(*shape, generator=generator) for shape in ((features, width), (features,), (width,))
    )
    return SparseAutoEncoder(weight, bias, shift, k=k, standardize=standardize)


@given(
    texts=st.integers(0, 700),
    k=st.one_of(st.none(), st.integers(1, 30)),
    standardize=st.booleans(),
    seed=st.integers(0, 5),
)
def test_the_largest_features_above_zero_are_kept(texts, k, standardize, seed):
    encoder = module(standardize=standardize, seed=seed)
    vectors = torch.randn(texts, 6, generator=torch.Generator().manual_seed(seed)).double()
    found = dense(encoder.double()(vectors, k))
    rows = vectors
    if standardize:
        centred = rows.numpy() - rows.numpy().mean(1, keepdims=True)
        rows = torch.from_numpy(centred / (centred.std(1, ddof=1, keepdims=True) + 1e-5))
    expected = ((rows - encoder.shift) @ encoder.weight.T + encoder.bias).numpy()
    for text, row in enumerate(expected):
        kept = np.argsort(-row)[: k or 4]
        wanted = np.zeros(20)
        wanted[kept] = np.maximum(row[kept], 0)
        np.testing.assert_allclose(found[text], wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("normalize", [True, False])
def test_a_text_has_the_same_features_alone_in_a_batch_in_a_stream_and_from_a_copy(tmp_path, normalize):
    folder = tiny_sparse.write_csr(tmp_path / "model", normalize=normalize)
    model = load(folder)
    assert (model.outputs, model.dimension) == (("sparse",), 0)
    together = model.encode(TEXTS).sparse
    assert together.vocabulary == 48
    assert together.lengths.tolist() == [8] * len(TEXTS)
    alone = torch.cat([dense(model.encode(text).sparse) for text in TEXTS])
    torch.testing.assert_close(dense(together), alone, rtol=1e-5, atol=1e-5)
    small = load(folder, token_budget=8)
    streamed = torch.cat([dense(part.sparse) for part in small.stream(TEXTS)])
    torch.testing.assert_close(dense(together), streamed, rtol=1e-5, atol=1e-5)
    copy = load(save_checkpoint(open_checkpoint(folder), tmp_path / "copy"))
    torch.testing.assert_close(dense(together), dense(copy.encode(TEXTS).sparse), rtol=0, atol=0)
    assert model.encode([]).sparse.vocabulary == 48


def test_the_matrix_is_read_under_either_of_its_names(tmp_path):
    from safetensors.torch import load_file, save_file

    folder = tiny_sparse.write_csr(tmp_path)
    expected = dense(load(folder).encode(TEXTS).sparse)
    path = folder / "2_SparseAutoEncoder" / "model.safetensors"
    tensors = load_file(path)
    tensors["encoder.weight"] = tensors.pop("decoder.linear.weight")
    save_file(tensors, path)
    torch.testing.assert_close(dense(load(folder).encode(TEXTS).sparse), expected, rtol=0, atol=0)
    assert open_checkpoint(folder).footprint().head_numbers == 48 * 32 + 48 + 32


@pytest.mark.parametrize("stored", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("asked", DRIFT)
def test_half_precision_stays_within_its_drift(tmp_path, stored, asked):
    folder = tiny_sparse.write_csr(tmp_path, dtype=stored)
    # All features: with a few of them, two that are almost the same may change places.
    options = {"max_active_dims": 48}
    expected = dense(load(folder).encode(TEXTS, **options).sparse)
    found = dense(load(folder, precision=asked).encode(TEXTS, **options).sparse)
    assert found.dtype == torch.float32
    distance = (found - expected).norm(dim=1) / expected.norm(dim=1)
    assert distance.max() <= DRIFT[asked]
    if asked != "float32":
        assert distance.max() > 0


def test_a_normalize_before_it_is_done_and_another_pooling_leaves_it(tmp_path):
    folder = tiny_sparse.write_csr(tmp_path / "model")
    other = load(folder, pooling="cls")
    assert other.outputs == ("sparse",)
    assert not other.encode(TEXTS).sparse.allclose(load(folder).encode(TEXTS).sparse)
    entries = json.loads((folder / "modules.json").read_text())
    unit = "sentence_transformers.sentence_transformer.modules.normalize.Normalize"
    entries.insert(2, {"idx": 9, "name": "9", "path": "9_Normalize", "type": unit})
    (folder / "modules.json").write_text(json.dumps(entries))
    model = load(folder)
    way = model._heads.usual
    vectors = tercet.load(
        tiny.write_checkpoint(tmp_path / "plain", "bert"), precision="float32", device="cpu"
    )
    unit_vectors = torch.from_numpy(vectors.encode(TEXTS, normalize=True).numpy().dense)
    expected = dense(way.sparse(unit_vectors))
    torch.testing.assert_close(dense(model.encode(TEXTS).sparse), expected, rtol=1e-5, atol=1e-5)


def test_a_nan_of_the_module_is_refused_and_not_left_out(tmp_path):
    model = load(tiny_sparse.write_csr(tmp_path))
    model._heads.sparse.bias[7] = math.nan
    with pytest.raises(NonFiniteError, match="text 0 gives a value that is not finite"):
        model.encode("a")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"input_dim": 31}, r"'decoder.linear.weight' is \(48, 32\).*makes it \(48, 31\)"),
        ({"hidden_dim": 0}, "'hidden_dim' is 0, expected a positive number"),
        ({"k": "8"}, "'k' is '8', expected a positive number"),
        ({"normalize": 1}, "'normalize' is 1, expected true or false"),
        ({"top": 3}, "the setting 'top' is not known"),
    ],
)
def test_settings_that_cannot_be_are_refused(tmp_path, changes, told):
    folder = tiny_sparse.write_csr(tmp_path)
    edit(folder / "2_SparseAutoEncoder" / "config.json", **changes)
    with pytest.raises(CheckpointError, match=told) as caught:
        open_checkpoint(folder)
    assert "2_SparseAutoEncoder" in str(caught.value)


def test_the_command_embeds_by_what_the_model_has_where_nothing_is_asked_for(tmp_path, capsys):
    texts, out = tmp_path / "texts.txt", tmp_path / "vectors.npz"
    texts.write_text("\n".join(text for text in TEXTS if text.strip()) + "\n", encoding="utf-8")
    for write, width in ((tiny_sparse.write_csr, 48), (tiny_sparse.write_splade, None)):
        folder = write(tmp_path / write.__name__)
        options = ["--model", str(folder), "--device", "cpu", "--precision", "float32", "--overwrite"]
        assert main(["embed", str(texts), "-o", str(out), *options]) == 0
        found, _, _ = read_vectors(str(out))
        assert found.outputs == ("sparse",)
        assert width in (None, found.sparse.vocabulary)
        assert main(["embed", str(texts), "-o", str(out), "--outputs", "dense", *options]) == 2
        assert "no dense output" in capsys.readouterr().err


def test_a_module_behind_it_and_one_without_a_pooling_are_refused(tmp_path):
    folder = tiny_sparse.write_csr(tmp_path)
    path = folder / "modules.json"
    first, pooling, last = json.loads(path.read_text())
    path.write_text(json.dumps([first, last, pooling]))
    with pytest.raises(CheckpointError, match=r"no pooling follows|1_Pooling stands behind"):
        open_checkpoint(folder)
    unit = {**last, "path": "9_Normalize", "type": "sentence_transformers.models.Normalize"}
    path.write_text(json.dumps([first, pooling, last, unit]))
    with pytest.raises(CheckpointError, match="9_Normalize stands behind 2_SparseAutoEncoder"):
        open_checkpoint(folder)
