import gc
import itertools
import json
import logging
import os
import pickle
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tercet
import tiny
from tercet.checkpoint.writer import save_checkpoint
from tercet.embeddings import Embeddings
from tercet.errors import CheckpointError, InputError, SourceError, UnknownNameError

TEXTS = list(tiny.TEXTS)
ALL = ("dense", "sparse", "multivector")


def load(folder, **options):
    return tercet.load(folder, **{"precision": "float32", "device": "cpu", **options})


@pytest.fixture(scope="module")
def m3(tiny_m3):
    return load(tiny_m3)


@pytest.fixture(scope="module", params=["bert stack", "roberta", "m3", "m3 in small batches"])
def any_model(request, tmp_path_factory):
    """(model, all its outputs, what rounding may cost)."""
    folder = tmp_path_factory.mktemp("any")
    if request.param == "bert stack":
        modules = (
            ("pooling", {"modes": ("cls", "max", "mean")}),
            ("dense", {"out_features": 16}),
            "normalize",
        )
        tiny.write_checkpoint(folder, "bert", layout="sentence-transformers", modules=modules)
        return load(folder), ("dense",), 1e-6
    if request.param == "roberta":
        # not normalised, so the vectors are several units long
        tiny.write_checkpoint(folder, "roberta", layout="sentence-transformers", modules=("pooling",))
        return load(folder), ("dense",), 1e-5
    tiny.write_checkpoint(folder, "xlm-roberta", layout="bge-m3", file="bin")
    return load(folder, token_budget=7 if "small" in request.param else None), ALL, 1e-6


# --- a text's vectors depend on nothing but the text ----------------------------------------------


def test_a_text_embeds_the_same_alone_and_in_a_batch(any_model):
    model, outputs, atol = any_model
    together = model.encode(TEXTS, outputs=outputs)
    alone = Embeddings.concat([model.encode([text], outputs=outputs) for text in TEXTS])
    assert alone.allclose(together, atol=atol)


def test_order_in_is_order_out(any_model):
    model, outputs, atol = any_model
    order = [3, 7, 0, 5, 1, 6, 2, 4]
    shuffled = model.encode([TEXTS[i] for i in order], outputs=outputs)
    assert shuffled.allclose(model.encode(TEXTS, outputs=outputs)[order], atol=atol)


def test_the_same_call_gives_the_same_bits(any_model):
    model, outputs, _ = any_model
    assert model.encode(TEXTS, outputs=outputs).allclose(model.encode(TEXTS, outputs=outputs), atol=0)


def test_an_output_is_the_same_whatever_else_is_asked_for(m3):
    together = m3.encode(TEXTS, outputs=ALL)
    assert torch.equal(m3.encode(TEXTS).dense, together.dense)
    assert m3.encode(TEXTS, outputs="sparse").sparse.allclose(together.sparse, atol=0)
    late = m3.encode(TEXTS, outputs=("multivector", "dense"))
    assert late.multivector.allclose(together.multivector, atol=0)
    assert late.outputs == ("dense", "multivector")


@settings(max_examples=25)
@given(texts=st.lists(st.text(max_size=30), min_size=1, max_size=5))
def test_any_texts_embed_to_finite_unit_vectors_alone_as_in_a_batch(m3, texts):
    if any("\ud800" <= character <= "\udfff" for text in texts for character in text):
        with pytest.raises(InputError, match="Unicode"):
            m3.encode(texts, outputs=ALL)
        return
    found = m3.encode(texts, outputs=ALL)
    assert bool(found.dense.isfinite().all())
    assert torch.allclose(found.dense.norm(dim=1), torch.ones(len(texts)), atol=1e-5)
    assert torch.allclose(
        found.multivector.vectors.norm(dim=1), torch.ones(len(found.multivector.vectors)), atol=1e-5
    )
    assert bool((found.sparse.weights > 0).all())
    assert m3.encode(texts[-1:], outputs=ALL).allclose(found[-1], atol=1e-5)


def test_a_stream_gives_what_encode_gives(any_model):
    model, outputs, _ = any_model
    parts = list(model.stream(iter(TEXTS), outputs=outputs))
    assert Embeddings.concat(parts).allclose(model.encode(TEXTS, outputs=outputs), atol=0)


# --- saved and loaded -----------------------------------------------------------------------------


def test_a_plan_saved_loaded_and_saved_again_is_the_same_file_and_gives_the_same_vectors(
    m3, tiny_m3, tmp_path
):
    m3.plan.save(tmp_path / "one.json")
    again = tercet.load(tiny_m3, plan=tmp_path / "one.json")
    again.plan.save(tmp_path / "two.json")
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()
    assert again.encode(TEXTS, outputs=ALL).allclose(m3.encode(TEXTS, outputs=ALL), atol=0)


def test_a_checkpoint_saved_loaded_and_saved_again_is_the_same_files_and_gives_the_same_vectors(
    any_model, tmp_path
):
    model, outputs, atol = any_model
    save_checkpoint(model.checkpoint, tmp_path / "one")
    again = tercet.load(tmp_path / "one", plan=model.plan)
    save_checkpoint(again.checkpoint, tmp_path / "two")
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*"))
    assert files == sorted(path.relative_to(tmp_path / "two") for path in (tmp_path / "two").rglob("*"))
    for file in files:
        if (tmp_path / "one" / file).is_file():
            assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes(), file
    assert again.encode(TEXTS, outputs=outputs).allclose(model.encode(TEXTS, outputs=outputs), atol=atol)


def test_a_model_loaded_twice_gives_the_same_bits(m3, tiny_m3):
    assert load(tiny_m3).encode(TEXTS, outputs=ALL).allclose(m3.encode(TEXTS, outputs=ALL), atol=0)


def test_an_embedder_survives_pickle_without_its_weights(any_model):
    model, outputs, _ = any_model
    pickled = pickle.dumps(model)
    assert len(pickled) < 100_000
    again = pickle.loads(pickled)
    assert again.plan == model.plan
    assert again.max_length == model.max_length
    assert again.encode(TEXTS, outputs=outputs).allclose(model.encode(TEXTS, outputs=outputs), atol=0)


def test_options_of_load_survive_pickle(tiny_m3):
    model = load(tiny_m3, max_length=9, prompts={"query": "search: "}, output_dtype="float16")
    again = pickle.loads(pickle.dumps(model))
    found, expected = again.encode_query(TEXTS), model.encode_query(TEXTS)
    assert again.max_length == 9
    assert found.dense.dtype == torch.float16
    assert found.allclose(expected, atol=0)


# --- odd input ------------------------------------------------------------------------------------


def test_no_texts_have_no_vectors_of_the_right_width(any_model):
    model, outputs, _ = any_model
    for nothing in ([], (), iter([])):
        found = model.encode(nothing, outputs=outputs)
        assert found.dense.shape == (0, model.dimension)
        assert found.outputs == outputs
        assert found.num_tokens.tolist() == []
    assert list(model.stream([])) == []
    if "sparse" in outputs:
        assert found.sparse.csr().shape[0] == 0
        assert found.multivector.vectors.shape == (0, 32)


def test_no_texts_have_no_vectors_of_as_many_dimensions_as_were_asked_for(m3):
    found = m3.encode([], outputs=ALL, dimensions=5)
    assert found.dense.shape == (0, 5)
    assert found.multivector.vectors.shape == (0, 5)


def test_the_empty_text_has_its_special_tokens_alone(m3):
    found = m3.encode([""], outputs=ALL)
    assert found.num_tokens.tolist() == [2]
    assert found.sparse.to_dicts() == [{}]
    assert found.multivector.lengths.tolist() == [1]
    assert found.dense.norm().item() == pytest.approx(1)


def test_one_text_is_a_list_of_one(m3):
    assert m3.encode("a red bird").allclose(m3.encode(["a red bird"]), atol=0)
    assert len(list(m3.stream("a red bird"))) == 1


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["a", None], "text 1 is of type NoneType"),
        (["a", "b", 3.5], r"text 2 is of type float \('3.5'\)"),
        ([b"bytes"], "text 0 is of type bytes"),
        ([["nested"]], "text 0 is of type list"),
        (5, "texts is of type int. Pass a list of strings"),
        (None, "texts is of type NoneType"),
        (b"bytes", "texts is of type bytes. Decode it first"),
        ({"a", "b"}, "texts is a set: which vector belongs to which text"),
        ({"a": 1}, "texts is a dict"),
        (["é", "\ud800"], "text 1 is not valid Unicode"),
    ],
)
def test_what_is_no_text_is_an_error_that_names_it(m3, texts, message):
    with pytest.raises(InputError, match=message):
        m3.encode(texts)
    with pytest.raises(InputError, match=message):
        list(m3.stream(texts))


def test_a_huge_text_is_cut_flagged_and_equal_to_its_beginning(m3, caplog):
    huge = "red bird " * 200_000
    with caplog.at_level(logging.WARNING):
        found = m3.encode(["a cat", huge], outputs=ALL)
    assert found.truncated.tolist() == [False, True]
    assert found.num_tokens.tolist()[1] == m3.max_length == 64
    assert "1 of 2 texts were longer than 64 tokens" in caplog.text
    beginning = m3.encode(["red bird " * 60], outputs=ALL)
    assert found[1].allclose(beginning, atol=1e-6)


def test_a_huge_text_without_a_space_is_cut_too(m3):
    found = m3.encode(["x" * 1_000_000])
    assert found.truncated.tolist() == [True]
    assert found.num_tokens.tolist() == [64]


def test_token_counts_and_truncation_are_those_of_the_tokenizer(m3):
    whole = [len(ids) for ids in m3.tokenizer.encode(TEXTS, max_length=10_000).ids]
    found = m3.encode(TEXTS, max_length=10)
    assert found.num_tokens.tolist() == [min(length, 10) for length in whole]
    assert found.truncated.tolist() == [length > 10 for length in whole]
    assert not m3.encode(TEXTS[:2]).truncated.any()


def test_a_text_of_just_the_right_length_is_not_truncated(m3):
    text = "cat dog bird"
    tokens = m3.encode([text]).num_tokens.item()
    assert m3.encode([text], max_length=tokens, on_truncate="error").truncated.tolist() == [False]
    assert m3.encode([text], max_length=tokens - 1).truncated.tolist() == [True]


def test_truncation_as_an_error_names_the_text_and_the_mend(m3):
    with pytest.raises(
        InputError, match=r"text 2 \('The cat is on the bridge\.'\) is longer than 5 tokens\. Split it"
    ):
        m3.encode(TEXTS, max_length=5, on_truncate="error")


def test_truncation_as_an_error_counts_texts_of_the_whole_stream(m3):
    texts = itertools.chain(["a"] * 3000, ["cat " * 100])
    with pytest.raises(InputError, match="text 3000 "):
        list(m3.stream(texts, on_truncate="error"))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda model, folder: model.encode(["a"], output=("dense",)),
            r"encode\(\) has no keyword 'output'. Did you mean 'outputs'",
        ),
        (lambda model, folder: model.encode(["a"], batch_size=3), "no keyword 'batch_size'"),
        (lambda model, folder: model.encode_query(["a"], promt="x"), "Did you mean 'prompt'"),
        (lambda model, folder: model.stream(["a"], max_len=3), "Did you mean 'max_length'"),
        (lambda model, folder: model.score(["a"], ["b"], weight=1), "Did you mean 'weights'"),
        (lambda model, folder: tercet.load(folder, precison="float32"), "Did you mean 'precision'"),
        (lambda model, folder: tercet.load(folder, devices="cpu"), "Did you mean 'device'"),
    ],
)
def test_an_unknown_keyword_is_refused_with_the_nearest_name(m3, tiny_m3, call, message):
    with pytest.raises(UnknownNameError, match=message):
        call(m3, tiny_m3)
    with pytest.raises(TypeError):
        call(m3, tiny_m3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"outputs": ()}, "outputs is empty"),
        ({"outputs": "colbert"}, "no output 'colbert'"),
        ({"dimensions": 33}, "dimensions=33.*have 32"),
        ({"dimensions": 0}, "Pass 1 to 32"),
        ({"max_length": 2}, "leaves no room"),
        ({"max_length": 0}, "positive integer"),
        ({"prompt_name": "qery"}, "no prompt named 'qery'"),
        ({"prompt": 3}, "must be a string"),
        ({"on_truncate": "raise"}, "on_truncate is 'raise'"),
        ({"outputs": 3}, "outputs is 3. Pass one or several"),
        ({"outputs": ["dense", 3]}, "Pass one or several of 'dense'"),
        ({"prompt_name": 3}, "prompt_name is of type int"),
        ({"normalize": "no"}, "normalize is 'no', it must be True, False or None"),
    ],
)
def test_an_option_that_cannot_be_is_refused(m3, options, message):
    with pytest.raises(InputError, match=message):
        m3.encode(["a"], **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompts": "query: "}, "prompts is of type str. Pass a dict"),
        ({"prompts": {"query": 3}}, "prompts: 'query' -> 3 must both be strings"),
        ({"pooling": 3}, "pooling=3: give a word"),
        ({"outputs": 3}, "outputs is 3"),
        ({"plan": 3, "precision": "auto", "device": None}, "plan is of type int"),
    ],
)
def test_an_option_of_load_that_cannot_be_is_refused(tiny_m3, options, message):
    with pytest.raises(InputError, match=message):
        load(tiny_m3, **options)


def test_a_model_is_a_folder_or_a_name():
    with pytest.raises(SourceError, match="a model of type NoneType: give an existing folder"):
        load(None)


def test_one_output_may_be_asked_for_by_its_name(tiny_m3):
    assert load(tiny_m3, outputs="sparse").encode(["a"], outputs="sparse").outputs == ("sparse",)


@pytest.mark.parametrize(
    "option", [{"precision": "float16"}, {"device": "cpu"}, {"token_budget": 8}, {"output_dtype": "float16"}]
)
def test_what_a_plan_decides_is_not_asked_for_beside_it(m3, tiny_m3, option):
    with pytest.raises(InputError, match=f"{next(iter(option))} and plan were both given"):
        tercet.load(tiny_m3, plan=m3.plan, **option)


def test_an_output_without_its_head_is_an_error_that_names_the_file(tiny_bert):
    model = load(tiny_bert, pooling="mean")
    with pytest.raises(CheckpointError, match=r"sparse_linear\.pt"):
        model.encode(["a"], outputs=("sparse",))
    with pytest.raises(CheckpointError, match=r"colbert_linear\.pt"):
        load(tiny_bert, pooling="mean", outputs=("multivector",))


# --- prompts and dimensions -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def prompted(tmp_path_factory):
    prompts = {"query": "search query: ", "passage": "passage: ", "other": "other: "}
    folder = tmp_path_factory.mktemp("prompted")
    tiny.write_checkpoint(
        folder, "bert", layout="sentence-transformers", prompts=prompts, default_prompt_name="other"
    )
    return load(folder, prompts={"mine": "mine: "})


def test_the_prompt_goes_before_its_name_and_the_name_before_the_default(prompted):
    def with_text(prompt):
        return prompted.encode([prompt + text for text in TEXTS], prompt="")

    assert prompted.encode(TEXTS, prompt="x: ", prompt_name="query").allclose(with_text("x: "))
    assert prompted.encode(TEXTS, prompt_name="query").allclose(with_text("search query: "))
    assert prompted.encode(TEXTS).allclose(with_text("other: "))
    assert prompted.encode(TEXTS, prompt_name="mine").allclose(with_text("mine: "))
    assert prompted.encode_query(TEXTS).allclose(with_text("search query: "))
    assert prompted.encode_document(TEXTS).allclose(with_text("passage: "))
    assert prompted.encode_document(TEXTS, prompt="").allclose(with_text(""))
    assert not prompted.encode(TEXTS).allclose(with_text(""))


def test_fewer_dimensions_are_the_first_ones_at_unit_length(m3):
    whole, short = m3.encode(TEXTS, outputs=ALL), m3.encode(TEXTS, outputs=ALL, dimensions=8)
    for long_rows, short_rows in (
        (whole.dense, short.dense),
        (whole.multivector.vectors, short.multivector.vectors),
    ):
        expected = torch.nn.functional.normalize(long_rows[:, :8], dim=1)
        torch.testing.assert_close(short_rows, expected, rtol=0, atol=1e-6)
    assert short.sparse.allclose(whole.sparse, atol=0)


# --- streams --------------------------------------------------------------------------------------


def test_a_generator_is_read_by_windows_and_never_to_its_end_ahead(m3):
    read = 0

    def endless():
        nonlocal read
        for number in itertools.count():
            read += 1
            yield f"cat {number}"

    stream = m3.stream(endless())
    done = 0
    while done < 3000:
        done += len(next(stream))
        assert read <= done + 1024
    stream.close()


def test_nothing_is_read_before_the_first_batch_is_asked_for(m3):
    read = []
    stream = m3.stream(text for text in TEXTS if not read.append(text))
    assert read == []
    next(stream)
    assert read == TEXTS


def test_huge_texts_make_small_windows(m3):
    read = 0

    def huge():
        nonlocal read
        for _ in range(100):
            read += 1
            yield "cat " * 200_000

    stream = m3.stream(huge())
    next(stream)
    assert read <= 4
    stream.close()


def test_a_stream_closed_early_lets_go_of_its_source_and_leaves_the_model_usable(m3):
    closed = []

    def source():
        try:
            while True:
                yield "a cat"
        finally:
            closed.append(True)

    before = threading.active_count()
    stream = m3.stream(source())
    next(stream)
    stream.close()
    del stream
    gc.collect()
    assert closed == [True]
    assert threading.active_count() == before
    assert len(m3.encode(TEXTS)) == len(TEXTS)


def test_an_error_of_the_source_comes_through_as_it_is(m3):
    def source():
        yield "a cat"
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        list(m3.stream(source()))


def test_batches_of_a_stream_keep_the_token_budget(tiny_m3):
    model = load(tiny_m3, token_budget=20)
    for part in model.stream(TEXTS * 3):
        assert len(part) == 1 or part.num_tokens.sum() <= 20


# --- threads and processes ------------------------------------------------------------------------


def test_several_threads_may_call_one_embedder(any_model):
    model, outputs, atol = any_model
    jobs = [TEXTS[i:] + TEXTS[:i] for i in range(len(TEXTS))] * 3
    expected = [model.encode(texts, outputs=outputs) for texts in jobs]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda texts: model.encode(texts, outputs=outputs), jobs))
    for one, other in zip(found, expected, strict=True):
        assert one.allclose(other, atol=atol)


def test_threads_may_ask_for_different_lengths_and_prompts_at_once(m3):
    lengths = [5, 9, 20, 64] * 5
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda n: m3.encode(TEXTS, max_length=n, prompt="cat " * (n % 4)), lengths))
    for length, one in zip(lengths, found, strict=True):
        assert one.num_tokens.max() <= length
        assert one.allclose(m3.encode(TEXTS, max_length=length, prompt="cat " * (length % 4)), atol=1e-6)


# --- what is told ---------------------------------------------------------------------------------


def test_provenance_is_json_and_names_what_decides_a_value(m3):
    told = json.loads(json.dumps(m3.provenance(outputs=ALL, prompt="x: ", dimensions=8)))
    assert told["prompt"] == "x: "
    assert told["dimensions"] == 8
    assert told["outputs"] == list(ALL)
    assert told["precision"]["compute"] == "float32"
    assert len(told["weights_sha256"]) == 64
    assert told["max_length"] == 64


def test_scores_of_pairs_are_the_diagonal_of_all_against_all(m3):
    queries, documents = TEXTS[3:6], TEXTS[4:7]
    matrix = m3.score(queries, documents)
    pairs = m3.score(queries, documents, pairwise=True)
    assert matrix.combined.shape == (3, 3)
    assert torch.allclose(pairs.combined, matrix.combined.diagonal(), atol=1e-5)
    assert list(pairs.to_dict()) == ["colbert", "sparse", "dense", "sparse+dense", "colbert+sparse+dense"]


def test_a_model_shows_its_name_outputs_and_scheme(m3, tiny_m3):
    assert repr(m3).startswith(f"<Embedder {Path(tiny_m3)}: dense, sparse, multivector; float32")


def test_the_dimension_is_the_width_of_the_dense_vectors_whatever_the_checkpoint_cuts(tmp_path):
    for cut, wanted in ((None, 32), (8, 8), (99, 32)):
        folder = tiny.write_checkpoint(
            tmp_path / str(cut), "bert", layout="sentence-transformers", truncate_dim=cut
        )
        model = load(folder)
        assert model.dimension == wanted
        assert model.encode(["cat"]).dense.shape == (1, wanted)
        assert model.encode([]).dense.shape == (0, wanted)


def test_a_model_loaded_in_a_forked_child_computes_with_one_thread_too(tiny_m3):
    code = f"""
import os, sys, torch, tercet, logging
torch.set_num_threads(2)
tercet.load({str(tiny_m3)!r}, precision="float32", device="cpu").encode(["cat " * 50] * 50)
child = os.fork()
if child == 0:
    logging.basicConfig(level="WARNING")
    found = tercet.load({str(tiny_m3)!r}, precision="float32", device="cpu").encode(["cat " * 50] * 50)
    os._exit(0 if torch.get_num_threads() == 1 and len(found) == 50 else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "was forked from one that used several threads" in done.stderr


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("tercet.probe('cpu', refresh=True)", "tercet.load(folder, precision='float16', device='cpu')"),
        ("carried = pickle.dumps(tercet.load(folder, precision='float16'))", "pickle.loads(carried)"),
        ("tercet.probe('cpu', refresh=True)", "tercet.probe('cpu', refresh=True)"),
    ],
)
def test_whatever_a_forked_child_begins_with_computes_with_one_thread(tiny_m3, tmp_path, before, after):
    code = f"""
import os, pickle, sys, torch, tercet
folder = {str(tiny_m3)!r}
torch.set_num_threads(2)
{before}
torch.randn(600, 600) @ torch.randn(600, 600)
child = os.fork()
if child == 0:
    {after}
    os._exit(0 if torch.get_num_threads() == 1 else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
