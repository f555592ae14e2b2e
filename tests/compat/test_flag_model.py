"""FlagModel and FlagAutoModel; what they give to the digit is in tests/twins."""

import pickle

import numpy as np
import pytest
import torch

import tercet
import tiny
from tercet.compat import BGEM3FlagModel, EmbedderModelClass, FlagAutoModel, FlagModel
from tercet.compat.flag_options import sixteen_bits
from tercet.errors import CheckpointError, InputError, TercetError

TEXTS = ["the cat is on the bridge", "", "Paris is the city of the river", "a long list " * 9]


@pytest.fixture(scope="module")
def model(tiny_bert):
    return FlagModel(str(tiny_bert), use_fp16=False, devices="cpu")


def named(folder, name, **settings):
    """A tiny checkpoint in a folder of a name."""
    return str(tiny.write_checkpoint(folder / name, **settings))


def test_one_text_gives_a_vector_and_several_give_rows_in_their_order(model):
    several = model.encode(TEXTS)
    assert several.shape == (4, 32)
    assert several.dtype == np.float32
    for text, row in zip(TEXTS, several, strict=True):
        one = model.encode(text)
        assert one.shape == (32,)
        np.testing.assert_allclose(one, row, rtol=0, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(several, axis=1), 1, rtol=0, atol=1e-6)
    assert model.encode([]).shape == (0, 32)


@pytest.mark.parametrize(
    ("method", "pooling"), [("cls", "cls"), ("mean", "mean"), ("last_token", "lasttoken")]
)
def test_the_vectors_are_those_of_the_embedder_with_that_pooling(tiny_bert, method, pooling):
    found = FlagModel(str(tiny_bert), False, use_fp16=False, devices="cpu", pooling_method=method).encode(
        TEXTS
    )
    ours = tercet.load(tiny_bert, precision="float32", device="cpu", pooling=pooling)
    np.testing.assert_array_equal(found, ours.encode(TEXTS).numpy().dense)


def test_without_a_pooling_method_the_checkpoint_says_it(tiny_stack):
    found = FlagModel(str(tiny_stack), use_fp16=False, devices="cpu", pooling_method=None).encode(TEXTS)
    ours = tercet.load(tiny_stack, precision="float32", device="cpu").encode(TEXTS)
    np.testing.assert_array_equal(found, ours.numpy().dense)


def test_prompts_of_the_checkpoint_are_not_put_before_a_text(tmp_path):
    saved = {"prompts": {"query": "search: "}, "default_prompt_name": "query"}
    stack = {"layout": "sentence-transformers", "modules": (("pooling", {"modes": ("cls",)}),)}
    told, plain = (named(tmp_path, n, **stack, **s) for n, s in (("told", saved), ("plain", {})))
    found = [FlagModel(path, use_fp16=False, devices="cpu").encode_queries(TEXTS) for path in (told, plain)]
    np.testing.assert_array_equal(*found)


def test_instructions_are_of_queries_and_of_passages(tiny_bert, model):
    told = FlagModel(
        str(tiny_bert),
        use_fp16=False,
        devices="cpu",
        query_instruction_for_retrieval="search: ",
        passage_instruction_for_retrieval="read",
        passage_instruction_format="{}\\n{}",
    )
    np.testing.assert_array_equal(told.encode(TEXTS), model.encode(TEXTS))
    np.testing.assert_array_equal(
        told.encode_queries(TEXTS), model.encode([f"search: {text}" for text in TEXTS])
    )
    np.testing.assert_array_equal(told.encode_corpus(TEXTS[0]), model.encode(f"read\n{TEXTS[0]}"))
    np.testing.assert_array_equal(
        model.encode(TEXTS, instruction="a", instruction_format="{1} {0}"),
        model.encode([f"{t} a" for t in TEXTS]),
    )


def test_lengths_are_of_queries_or_of_passages_and_a_call_may_say_another(tiny_bert, model):
    short = FlagModel(str(tiny_bert), use_fp16=False, devices="cpu", query_max_length=5, passage_max_length=9)
    long = TEXTS[3]
    for found, length in (
        (short.encode_queries(long), 5),
        (short.encode_corpus(long), 9),
        (short.encode(long), 9),
        (short.encode(long, None, 7), 7),
    ):
        np.testing.assert_array_equal(found, model.encode(long, max_length=length))
    assert np.abs(short.encode_queries(long) - short.encode_corpus(long)).max() > 1e-3


def test_tensors_come_where_they_are_asked_for(tiny_bert, model):
    found = model.encode(TEXTS, convert_to_numpy=False)
    assert isinstance(found, torch.Tensor)
    np.testing.assert_array_equal(found.numpy(), model.encode(TEXTS))
    tensors = FlagModel(str(tiny_bert), devices="cpu", convert_to_numpy=False)
    assert isinstance(tensors.encode_queries("a"), torch.Tensor)
    assert isinstance(tensors.encode_corpus("a", convert_to_numpy=True), np.ndarray)


def test_truncated_vectors_are_those_cut_and_normalised_again(tiny_bert, model):
    found = FlagModel(str(tiny_bert), use_fp16=False, devices="cpu", truncate_dim=8).encode(TEXTS)
    cut = model.encode(TEXTS)[:, :8]
    np.testing.assert_allclose(found, cut / np.linalg.norm(cut, axis=1, keepdims=True), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("device", "flags", "expected"),
    [
        ("cpu", (True, False), None),
        ("cpu", (True, True), None),
        ("cuda:0", (False, False), None),
        ("cuda:0", (True, False), torch.float16),
        ("cuda:1", (True, True), torch.bfloat16),
        ("mps", (False, True), torch.bfloat16),
    ],
)
def test_sixteen_bits_are_asked_for_by_name_on_accelerators_alone(device, flags, expected):
    assert sixteen_bits(device, use_fp16=flags[0], use_bf16=flags[1]) is expected


def test_a_reranker_is_no_embedder_and_the_error_says_so(tmp_path):
    folder = tiny.write_checkpoint(tmp_path, "bert")
    _as_classifier(folder)
    with pytest.raises(CheckpointError, match="reranker"):
        FlagModel(str(folder), devices="cpu")


def _as_classifier(folder):
    """Adds a classifier to the weights of a folder."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    tensors |= {"classifier.weight": torch.zeros(1, 32), "classifier.bias": torch.zeros(1)}
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize(
    "name", ["bge-small-en-v1.5", "bge-small-en-v1.5/", "bge-small-en-v1.5/checkpoint-9"]
)
def test_a_published_model_is_known_by_the_name_of_its_folder(tmp_path, name):
    path = named(tmp_path, name) + ("/" if name.endswith("/") else "")
    model = FlagAutoModel.from_finetuned(path, use_fp16=False, devices="cpu")
    assert type(model) is FlagModel
    assert model.pooling_method == "cls"
    np.testing.assert_array_equal(
        model.encode(TEXTS), FlagModel(path, use_fp16=False, devices="cpu").encode(TEXTS)
    )


def test_a_model_whose_tokens_are_averaged_is_known_too_and_its_template(tmp_path):
    model = FlagAutoModel.from_finetuned(named(tmp_path, "multilingual-e5-large-instruct"), devices="cpu")
    assert (model.pooling_method, model.query_instruction_format) == ("mean", "Instruct: {}\nQuery: {}")


def test_a_fine_tuned_folder_of_any_name_is_known_by_what_it_holds(tmp_path, tiny_m3, tiny_stack):
    m3 = FlagAutoModel.from_finetuned(str(tiny_m3), devices="cpu", return_sparse=True)
    assert type(m3) is BGEM3FlagModel
    assert m3.encode("the cat")["lexical_weights"]
    stack = FlagAutoModel.from_finetuned(str(tiny_stack), use_fp16=False, devices="cpu")
    assert type(stack) is FlagModel
    assert stack.encode("a").shape == (16,)


@pytest.mark.parametrize("kind", ["encoder-only-base", EmbedderModelClass.ENCODER_ONLY_BASE])
def test_a_class_may_be_named_and_then_pools_the_first_token(tiny_bert, model, kind):
    found = FlagAutoModel.from_finetuned(str(tiny_bert), kind, use_fp16=False, devices="cpu")
    np.testing.assert_array_equal(found.encode(TEXTS), model.encode(TEXTS))


def test_options_of_the_other_class_are_refused(tiny_bert):
    with pytest.raises(TypeError, match="return_sparse"):
        FlagAutoModel.from_finetuned(str(tiny_bert), "encoder-only-base", devices="cpu", return_sparse=True)


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("bge-en-icl", None, "decoder-only"),
        ("model", "decoder-only-icl", "decoder-only-icl"),
        ("model", "encoder-only-m4", "Did you mean 'encoder-only-m3'"),
        ("nowhere", None, "nowhere"),
    ],
)
def test_what_cannot_be_loaded_is_refused_with_its_name(tmp_path, name, kind, message):
    path = str(tmp_path / name)
    if name != "nowhere":
        named(tmp_path, name)
    with pytest.raises(TercetError, match=message):
        FlagAutoModel.from_finetuned(path, kind)


def test_the_automatic_class_makes_no_objects_of_its_own():
    with pytest.raises(InputError, match="from_finetuned"):
        FlagAutoModel()


def test_a_keyword_that_is_not_there_is_refused_with_the_nearest(tiny_bert, model):
    for call in (
        lambda: FlagModel(str(tiny_bert), device="cpu"),
        lambda: FlagAutoModel.from_finetuned(str(tiny_bert), device="cpu"),
    ):
        with pytest.raises(TypeError, match="Did you mean 'devices'") as caught:
            call()
        assert " cls," not in str(caught.value)
    with pytest.raises(TypeError, match="Did you mean 'max_length'"):
        model.encode("a", max_len=7)


def test_a_code_of_the_checkpoint_is_not_run_and_this_is_said(tiny_bert, caplog):
    caplog.set_level("INFO", logger="tercet")
    FlagModel(str(tiny_bert), devices="cpu", trust_remote_code=True)
    assert "no code of a checkpoint is run" in caplog.text


def test_an_object_can_be_pickled(model):
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).encode(TEXTS), model.encode(TEXTS))
