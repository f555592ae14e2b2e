"""Models that are a table alone: StaticEmbedding and model2vec, from folder to vector."""

from __future__ import annotations

import json
import logging
import pickle
import re
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import static_models
import tercet
import tiny
from static_models import WIDTH, write_static
from tercet.checkpoint.layout import open_checkpoint
from tercet.cli.main import main
from tercet.errors import CheckpointError, InputError, NonFiniteError, PrecisionError
from tercet.planner import make_plan
from tercet.precision.dtype import DType
from tercet.storage.vectors import read_vectors

TEXTS = list(tiny.TEXTS)
FORMATS = ("float64", "float32", "bfloat16", "float16", "float8_e4m3fn", "float8_e5m2", "int8")


def load(folder, precision="auto", **options):
    return tercet.load(folder, precision=precision, device="cpu", **options)


def mean_of_rows(rows, texts=TEXTS, architecture="bert", length=None):
    """(texts, width) in float64: what a StaticEmbedding is, of a table with a row for each token."""
    tokenizer = tiny.tokenizer(architecture)
    ids = [tokenizer.encode(text, add_special_tokens=False).ids[:length] for text in texts]
    return torch.stack([rows[text].mean(0) if text else torch.zeros(rows.shape[1]).double() for text in ids])


def folded(folder, path="0_StaticEmbedding"):
    """The table with a row for each token, in float64."""
    tensors = load_file(folder / path / "model.safetensors")
    rows = tensors["embedding.weight" if "embedding.weight" in tensors else "embeddings"].double()
    if "mapping" in tensors:
        rows = rows[tensors["mapping"]]
    return rows * tensors["weights"].double()[:, None] if "weights" in tensors else rows


def assert_close(found, expected, atol=1e-5):
    """Judged at the size of the largest number."""
    scale = max(1.0, float(expected.abs().max()))
    torch.testing.assert_close(found.double() / scale, expected / scale, rtol=0, atol=atol)


@pytest.mark.parametrize("precision", ["auto", "checkpoint", "float64", "float32"])
@pytest.mark.parametrize("dtype", FORMATS)
def test_a_text_is_the_mean_of_its_rows_in_whatever_format_they_are_stored(dtype, precision, tmp_path):
    folder = write_static(tmp_path, dtype=dtype, modules=())
    found = load(folder, precision).encode(TEXTS).dense
    assert_close(found, mean_of_rows(folded(folder)), 4e-3 if precision == "checkpoint" else 1e-6)


@pytest.mark.parametrize(("precision", "drift"), [("float16", 1e-6), ("bfloat16", 3e-5)])
@pytest.mark.parametrize("dtype", FORMATS)
def test_rows_in_half_formats_drift_by_their_own_rounding_alone(dtype, precision, drift, tmp_path):
    folder = write_static(tmp_path, dtype=dtype, modules=())
    model = load(folder, precision)
    assert model.plan.precision.compute is DType.parse(precision)
    expected = mean_of_rows(folded(folder))
    cosine = torch.nn.functional.cosine_similarity(model.encode(TEXTS).dense.double(), expected)
    assert float((1 - cosine[1:]).max()) <= drift


@pytest.mark.parametrize("weights", [None, "float64", "float32", "float16"])
@pytest.mark.parametrize("rows", [None, 40])
@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_a_model2vec_folder_is_read_with_its_mapping_and_weights(dtype, rows, weights, tmp_path):
    folder = write_static(
        tmp_path, names="model2vec", path=".", dtype=dtype, rows=rows, weights=weights, modules=()
    )
    found = load(folder).encode(TEXTS).dense
    assert_close(found, mean_of_rows(folded(folder, ".")), 1e-6)


@pytest.mark.parametrize("normalize", [True, False, None])
def test_a_model2vec_folder_without_modules_json_is_read_by_its_config(normalize, tmp_path):
    settings = {} if normalize is None else {"normalize": normalize}
    folder = write_static(tmp_path, names="model2vec", path=".", modules_json=False, config=settings)
    model = load(folder)
    assert model.checkpoint.layout == "model2vec"
    assert model.max_length == 512
    expected = mean_of_rows(folded(folder, "."))
    if normalize:
        expected = torch.nn.functional.normalize(expected)
    assert_close(model.encode(TEXTS).dense, expected, 1e-6)


@pytest.mark.parametrize(("settings", "length"), [({"max_length": 7}, 7), ({"max_length": None}, 10**9)])
def test_a_model2vec_folder_without_modules_json_says_where_texts_are_cut(settings, length, tmp_path):
    folder = write_static(tmp_path, names="model2vec", path=".", modules_json=False, config=settings)
    assert load(folder).max_length == length


def test_no_text_is_cut_unless_the_tokenizer_says_so(tmp_path):
    folder = write_static(tmp_path / "whole", modules=())
    long = "the cat " * 5000
    found = load(folder).encode([long, "a"])
    assert found.num_tokens.tolist() == [10_000, 1]
    assert not found.truncated.any()
    assert_close(found.dense, mean_of_rows(folded(folder), [long, "a"]), 1e-6)
    cutting = load(write_static(tmp_path / "cut", modules=(), truncation=5))
    assert cutting.max_length == 5
    cut = cutting.encode(TEXTS)
    assert cut.num_tokens.max() == 5
    assert_close(cut.dense, mean_of_rows(folded(folder), length=5), 1e-6)
    assert_close(cutting.encode(TEXTS, max_length=9).dense, mean_of_rows(folded(folder), length=9), 1e-6)


def test_the_end_of_a_prompted_text_is_cut_as_of_any(tmp_path):
    settings = {"prompts": {"query": "search query: ", "document": ""}, "default_prompt_name": "query"}
    model = load(write_static(tmp_path, modules=(), sentence_config=settings))
    prompted = [f"search query: {text}" for text in TEXTS]
    expected = model.encode(prompted, prompt="").dense
    assert torch.equal(model.encode(TEXTS).dense, expected)
    assert torch.equal(model.encode_query(TEXTS).dense, expected)
    assert torch.equal(model.encode_document(TEXTS).dense, model.encode(TEXTS, prompt="").dense)


def test_an_empty_text_is_a_vector_of_zeros_and_stays_one_when_normalised(tmp_path):
    for number, modules in enumerate([(), ("normalize",)]):
        model = load(write_static(tmp_path / str(number), modules=modules))
        for texts in ([""], ["", "a", ""], ["", ""]):
            found = model.encode(texts)
            empty = [i for i, text in enumerate(texts) if not text]
            assert not found.dense[empty].any()
            assert found.num_tokens[empty].sum() == 0
    assert model.encode([]).dense.shape == (0, WIDTH)


@pytest.fixture(scope="module")
def small_batches(tmp_path_factory):
    return load(write_static(tmp_path_factory.mktemp("static")), token_budget=16)


@given(st.lists(st.text(max_size=30), min_size=1, max_size=9))
def test_a_text_embeds_the_same_alone_and_in_a_batch(small_batches, texts):
    model = small_batches
    together = model.encode(texts).dense
    assert all(
        torch.equal(model.encode([text]).dense[0], row) for text, row in zip(texts, together, strict=True)
    )


@pytest.mark.parametrize("file", ["safetensors", "bin", "legacy-bin"])
@pytest.mark.parametrize("path", ["", ".", "0_StaticEmbedding"])
@pytest.mark.parametrize("architecture", ["bert", "roberta", "xlm-roberta"])
def test_any_file_in_any_place_with_any_tokenizer(file, path, architecture, tmp_path):
    write_static(tmp_path, file=file, path=path, architecture=architecture, modules=())
    rows = static_models.table(tiny.tokenizer(architecture).get_vocab_size()).double()
    assert_close(load(tmp_path).encode(TEXTS).dense, mean_of_rows(rows, architecture=architecture), 1e-6)


@pytest.mark.parametrize("dense_dtype", ["float32", "float16"])
@pytest.mark.parametrize("precision", ["auto", "checkpoint", "float16", "bfloat16", "float32"])
@pytest.mark.parametrize("dtype", FORMATS)
def test_modules_behind_a_table_of_any_format_compute_in_float32(dtype, precision, dense_dtype, tmp_path):
    folder = write_static(tmp_path, dtype=dtype, modules=("dense", "normalize"), dense_dtype=dense_dtype)
    model = load(folder, precision)
    assert model.dimension == 8
    found = model.encode(TEXTS).dense
    assert found.dtype == torch.float32
    expected = load(folder, "float64").encode(TEXTS).dense
    assert float((1 - torch.nn.functional.cosine_similarity(found, expected)).max()) <= 1e-3


def test_dimensions_normalising_pickling_and_provenance_work_as_of_any_model(tmp_path):
    model = load(write_static(tmp_path))
    found = model.encode(TEXTS)
    again = pickle.loads(pickle.dumps(model))
    assert torch.equal(again.encode(TEXTS).dense, found.dense)
    short = model.encode(TEXTS, dimensions=8).dense
    torch.testing.assert_close(short, torch.nn.functional.normalize(found.dense[:, :8]), rtol=0, atol=1e-6)
    told = model.provenance()
    assert told["architecture"] == "static"
    assert [module["kind"] for module in told["modules"]] == ["pooling", "normalize"]
    json.dumps(told)


def test_a_row_that_leaves_the_range_of_float16_is_taken_in_float32_and_flagged(tmp_path):
    folder = write_static(tmp_path, names="model2vec", path=".", weights="float32")
    tensors = load_file(folder / "model.safetensors")
    tensors["weights"] *= 1e6
    save_file(tensors, folder / "model.safetensors")
    found = load(folder, "float16").encode(TEXTS)
    assert found.recomputed.tolist() == [bool(text) for text in TEXTS]
    torch.testing.assert_close(found.dense, load(folder).encode(TEXTS).dense, rtol=0, atol=1e-6)
    tensors["weights"] *= float("inf")
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(NonFiniteError, match=r"text 1 .*Fetch the model again"):
        load(folder).encode(TEXTS)


@pytest.mark.parametrize("precision", ["int8", "int8-fast"])
def test_a_way_to_multiply_is_refused_where_nothing_is_multiplied(precision, tmp_path):
    folder = write_static(tmp_path)
    with pytest.raises(PrecisionError, match=rf"precision {precision}: .*nothing is multiplied.*'auto'"):
        load(folder, precision)


def test_auto_keeps_to_float32_whatever_loss_is_welcome(tmp_path):
    folder = write_static(tmp_path, dtype="float16")
    for tolerance in (None, 0.0, 0.5):
        assert load(folder, tolerance=tolerance).plan.precision.compute is DType.FLOAT32


def test_the_commands_take_a_table_as_any_model(tmp_path, capsys):
    folder = write_static(tmp_path / "model", names="model2vec", path=".", dtype="int8")
    texts = tmp_path / "in.txt"
    texts.write_text("the cat\n\nred and blue\n")
    assert main(["embed", str(texts), "-o", str(tmp_path / "out.npz"), "-m", str(folder)]) == 0
    found, _, provenance = read_vectors(str(tmp_path / "out.npz"))
    assert torch.equal(found.dense, load(folder).encode(["the cat", "", "red and blue"]).dense)
    assert provenance["architecture"] == "static"
    capsys.readouterr()
    assert main(["plan", str(folder), "--device", "cpu"]) == 0
    assert "multiplies nothing" in " ".join(capsys.readouterr().out.split())
    assert main(["plan", str(folder), "--device", "cpu", "--precision", "int8"]) == 2
    assert "nothing is multiplied" in " ".join(capsys.readouterr().err.split())


def test_a_plan_says_that_the_table_stays_in_its_file(tmp_path):
    plan = make_plan(open_checkpoint(write_static(tmp_path, dtype="int8")), device="cpu")
    assert plan.precision.compute is DType.FLOAT32
    page = " ".join(plan.page().split())
    assert "multiplies nothing" in page
    assert "in int8; where the file can be mapped, only the rows of tokens that come are read" in page
    assert "No length is too long" in page
    assert "Matrix products" not in page
    footprint = open_checkpoint(tmp_path).footprint()
    assert footprint.table_bytes == footprint.vocabulary * WIDTH
    assert footprint.body_numbers == footprint.layers == footprint.max_tokens == 0


def resident_bytes(file):
    """Bytes of a mapped file that are in this process's memory."""
    found, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            inside = line.endswith(str(file))
        elif inside and line.startswith("Rss:"):
            found += int(line.split()[1]) * 1024
    return found


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="Linux alone tells what is resident")
def test_only_the_rows_that_are_touched_are_read(tmp_path):
    folder = write_static(tmp_path, path=".", modules=())
    file = folder / "model.safetensors"
    tokenizer = tiny.tokenizer("bert")
    rows = torch.randint(-127, 128, (tokenizer.get_vocab_size(), 1 << 18), dtype=torch.int8)
    save_file({"embedding.weight": rows}, file)
    model = load(folder, "float32")
    # The kernel may map some megabytes around each page that is touched.
    quarter = file.stat().st_size / 4
    assert resident_bytes(file) < quarter
    expected = rows[tokenizer.encode("the cat", add_special_tokens=False).ids].double().mean(0, keepdim=True)
    assert_close(model.encode(["the cat"]).dense, expected, 1e-6)
    assert 0 < resident_bytes(file) < quarter


def faulty(tmp_path, change, **options):
    """The folder with other tensors."""
    folder = write_static(tmp_path, path=".", **options)
    tensors = change(load_file(folder / "model.safetensors"))
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: {"weight": t["embeddings"]}, r"neither 'embedding.weight' nor 'embeddings', but weight"),
        (lambda t: t | {"embedding.weight": t["embeddings"].clone()}, r"both 'embedding.weight' and"),
        (lambda t: t | {"embeddings": t["embeddings"][0]}, r"'embeddings' is \(24,\).*must be a table"),
        (lambda t: t | {"embeddings": t["embeddings"].long()}, r"in int64; .*floating-point numbers or int8"),
        (lambda t: t | {"mapping": t["mapping"].double()}, r"'mapping' is .* in float64; .*int64 or int32"),
        (lambda t: t | {"weights": t["weights"][:5]}, r"'weights' is \(5,\).*for each of"),
    ],
)
def test_a_file_that_is_no_table_is_refused_by_its_header(change, message, tmp_path):
    folder = faulty(tmp_path, change, names="model2vec", rows=40, weights="float32")
    with pytest.raises(CheckpointError, match=rf"model\.safetensors.*{message}"):
        open_checkpoint(folder)


@pytest.mark.parametrize("row", [-1, 40])
def test_a_mapping_to_rows_that_are_not_there_is_refused_on_loading(row, tmp_path):
    def broken(tensors):
        tensors["mapping"][3] = row
        return tensors

    folder = faulty(tmp_path, broken, names="model2vec", rows=40)
    with pytest.raises(CheckpointError, match=r"'mapping' names rows .*there are 40.*fetch the model again"):
        load(folder)


def test_a_table_of_fewer_rows_than_tokens_is_refused(tmp_path):
    folder = faulty(tmp_path, lambda t: {"embedding.weight": t["embedding.weight"][:30]})
    with pytest.raises(CheckpointError, match="the model has 30 embeddings"):
        load(folder)


def test_a_missing_tokenizer_and_a_pooling_of_ones_own_are_refused(tmp_path):
    folder = write_static(tmp_path)
    with pytest.raises(InputError, match=r"pooling='max'.*is the mean.*Leave pooling out"):
        load(folder, pooling="max")
    (folder / "0_StaticEmbedding" / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"tokenizer\.json is missing.*copy the tokenizer"):
        load(folder)


def test_truncation_that_keeps_the_end_of_a_text_is_refused(tmp_path):
    folder = write_static(tmp_path, truncation=9, path=".")
    found = json.loads((folder / "tokenizer.json").read_text())
    found["truncation"]["direction"] = "Left"
    (folder / "tokenizer.json").write_text(json.dumps(found))
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: 'truncation' cuts the beginning"):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"normalize": "yes"}, "'normalize' is 'yes'"), ({"max_length": 0}, "'max_length' is 0")],
)
def test_a_setting_of_model2vec_that_cannot_be_is_refused(settings, message, tmp_path):
    folder = write_static(tmp_path, names="model2vec", path=".", modules_json=False, config=settings)
    with pytest.raises(CheckpointError, match=rf"config\.json: {message}"):
        open_checkpoint(folder)


def test_a_long_text_that_is_cut_is_told_of(tmp_path, caplog):
    model = load(write_static(tmp_path, truncation=4))
    with caplog.at_level(logging.WARNING):
        found = model.encode(TEXTS)
    assert found.truncated.sum() == (found.num_tokens == 4).sum() > 0
    assert "longer than 4 tokens" in caplog.text
