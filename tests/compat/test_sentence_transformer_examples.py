"""sentence-transformers' own public examples of encoding, in our words, by one changed import line."""

import numpy as np
import pytest
import torch

import tiny
from tercet.compat import SentenceTransformer
from tercet.quantization import Quantizer

pytestmark = pytest.mark.compat

WEATHER = ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."]
MOVIES = ["The new movie is awesome", "The cat sits outside", "A man is playing guitar"]
OTHERS = ["The dog plays in the garden", "The new movie is so great", "A woman watches TV"]


@pytest.fixture(scope="module")
def model(minilm):
    return SentenceTransformer(str(minilm), device="cpu", model_kwargs={"torch_dtype": torch.float32})


@pytest.fixture
def prompted(tmp_path):
    folder = tiny.write_checkpoint(tmp_path, "bert", layout="sentence-transformers")
    return SentenceTransformer(
        str(folder),
        device="cpu",
        model_kwargs={"dtype": "float32"},
        prompts={"query": "Represent this question: ", "clustering": "Find the topic: "},
        default_prompt_name="clustering",
    )


@pytest.mark.minilm
def test_three_sentences_are_as_alike_as_their_quickstart_prints(model):
    embeddings = model.encode(WEATHER)
    assert embeddings.shape == (3, 384)
    printed = torch.tensor([[1.0, 0.6660, 0.1046], [0.6660, 1.0, 0.1411], [0.1046, 0.1411, 1.0]])
    torch.testing.assert_close(model.similarity(embeddings, embeddings), printed, rtol=0, atol=6e-5)


@pytest.mark.minilm
def test_two_lists_are_as_alike_as_their_page_on_similarity_prints(model):
    found = model.similarity(model.encode(MOVIES), model.encode(OTHERS))
    printed = torch.tensor([[0.0543, 0.8939, -0.0502], [0.2838, -0.0029, 0.1310], [0.2277, -0.0136, -0.0327]])
    torch.testing.assert_close(found, printed, rtol=0, atol=6e-5)
    pairs = model.similarity_pairwise(model.encode(MOVIES), model.encode(OTHERS))
    torch.testing.assert_close(pairs, printed.diagonal(), rtol=0, atol=6e-5)


@pytest.mark.minilm
def test_dot_products_of_unit_vectors_are_cosines_and_distances_rank_alike(model):
    embeddings = model.encode(WEATHER)
    cosine = model.similarity(embeddings, embeddings)
    rankings = {}
    try:
        for name in ("dot", "euclidean", "manhattan"):
            model.similarity_fn_name = name
            rankings[name] = model.similarity(embeddings, embeddings)
    finally:
        model.similarity_fn_name = "cosine"
    torch.testing.assert_close(rankings["dot"], cosine, rtol=0, atol=1e-6)
    torch.testing.assert_close(
        rankings["euclidean"], -(2 - 2 * cosine).clamp(min=0).sqrt(), rtol=0, atol=1e-3
    )
    for found in rankings.values():
        assert torch.equal(found.argsort(dim=1), cosine.argsort(dim=1))


@pytest.mark.minilm
def test_a_query_finds_its_passage(model):
    passages = [
        "Venus is often called Earth's twin because of its similar size and proximity.",
        "Mars, known for its reddish appearance, is often referred to as the Red Planet.",
        "Saturn, famous for its rings, is sometimes mistaken for the Red Planet.",
    ]
    query = model.encode_query("Which planet is known as the Red Planet?")
    scores = model.similarity(query, model.encode_document(passages))
    assert scores.shape == (1, 3)
    assert int(scores.argmax()) == 1


@pytest.mark.minilm
def test_the_order_of_texts_does_not_depend_on_their_lengths(model):
    texts = ["a " * length for length in (40, 2, 90, 1, 7)]
    several = model.encode(texts)
    for text, vector in zip(texts, several, strict=True):
        np.testing.assert_allclose(model.encode(text), vector, atol=1e-6)


@pytest.mark.minilm
def test_token_embeddings_have_the_length_of_each_text(model):
    rows = model.encode(WEATHER, output_value="token_embeddings")
    assert [tuple(row.shape) for row in rows] == [(8, 384), (9, 384), (8, 384)]


@pytest.mark.minilm
def test_lengths_and_widths_are_those_of_the_model(model):
    assert model.get_embedding_dimension() == model.get_sentence_embedding_dimension() == 384
    assert model.max_seq_length == 256
    assert model.device.type == "cpu"
    assert model.dtype == torch.float32


@pytest.mark.minilm
@pytest.mark.parametrize("dimensions", [64, 256, 384, 512])
def test_vectors_are_truncated_to_the_dimensions_asked_for(dimensions, minilm, model):
    short = SentenceTransformer(
        str(minilm), device="cpu", truncate_dim=dimensions, model_kwargs={"dtype": "float32"}
    )
    expected = model.encode(WEATHER)[:, :dimensions]
    assert short.get_embedding_dimension() == expected.shape[1] == min(dimensions, 384)
    np.testing.assert_allclose(short.encode(WEATHER), expected, atol=1e-6)
    with model.truncate_embeddings(dimensions):
        np.testing.assert_allclose(model.encode(WEATHER), expected, atol=1e-6)
    assert model.truncate_dim is None


@pytest.mark.minilm
@pytest.mark.parametrize(
    ("precision", "dtype", "width"),
    [("binary", np.int8, 48), ("ubinary", np.uint8, 48), ("float32", np.float32, 384)],
)
def test_vectors_are_stored_in_fewer_bits(precision, dtype, width, model):
    found = model.encode(WEATHER, precision=precision)
    assert found.dtype == dtype
    assert found.shape == (3, width)


@pytest.mark.minilm
@pytest.mark.parametrize("precision", ["int8", "uint8"])
def test_vectors_are_stored_in_bytes_after_a_calibration(precision, model, monkeypatch):
    sample = model.encode(MOVIES + OTHERS + WEATHER, convert_to_tensor=True)
    monkeypatch.setattr(model, "quantizer", Quantizer.fit(sample, "int8"))
    found = model.encode(WEATHER, precision=precision)
    assert found.dtype == np.dtype(precision)
    assert found.shape == (3, 384)


@pytest.mark.minilm
@pytest.mark.parametrize("normalised", [True, False])
@pytest.mark.parametrize("outcome", ["numpy", "tensor", "list"])
def test_every_form_of_the_result_holds_the_same_numbers(normalised, outcome, model):
    options = {"numpy": {}, "tensor": {"convert_to_tensor": True}, "list": {"convert_to_numpy": False}}[
        outcome
    ]
    found = model.encode(WEATHER, normalize_embeddings=normalised, **options)
    assert type(found) is {"numpy": np.ndarray, "tensor": torch.Tensor, "list": list}[outcome]
    stacked = np.stack([np.asarray(row) for row in found])
    np.testing.assert_allclose(stacked, model.encode(WEATHER), atol=1e-6)


@pytest.mark.minilm
@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_no_vector_depends_on_the_batch_size(batch_size, model):
    np.testing.assert_array_equal(model.encode(WEATHER, batch_size=batch_size), model.encode(WEATHER))


def test_a_prompt_is_text_before_the_text(prompted):
    text = "how do I read a file"
    plain = prompted.encode(f"Represent this question: {text}", prompt="")
    for found in (
        prompted.encode(text, prompt_name="query"),
        prompted.encode(text, prompt="Represent this question: "),
        prompted.encode_query(text),
    ):
        np.testing.assert_allclose(found, plain, atol=1e-6)


def test_the_default_prompt_stands_where_no_other_is_named(prompted):
    found = prompted.encode(["red", "blue"])
    np.testing.assert_allclose(found, prompted.encode(["red", "blue"], prompt="Find the topic: "), atol=1e-6)
    assert np.abs(found - prompted.encode(["red", "blue"], prompt="")).max() > 1e-3


def test_a_prompt_that_nobody_knows_is_a_value_error(prompted, tmp_path):
    with pytest.raises(ValueError, match="topic"):
        prompted.encode("red", prompt_name="topic")
    with pytest.raises(ValueError, match="topic"):
        SentenceTransformer(str(tmp_path), device="cpu", default_prompt_name="topic")


def test_prompts_may_be_set_on_a_model(prompted):
    prompted.prompts["topic"] = "red "
    prompted.default_prompt_name = None
    np.testing.assert_allclose(
        prompted.encode("blue", prompt_name="topic"), prompted.encode("red blue"), atol=1e-6
    )


def test_prompts_are_left_out_of_the_pooling_where_the_model_says_so(tmp_path):
    texts = list(tiny.TEXTS[:3])
    pooled, left_out = (
        SentenceTransformer(
            str(
                tiny.write_checkpoint(
                    tmp_path / str(included),
                    "bert",
                    layout="sentence-transformers",
                    modules=(("pooling", {"include_prompt": included}),),
                )
            ),
            device="cpu",
            model_kwargs={"dtype": "float32"},
        )
        for included in (True, False)
    )
    np.testing.assert_allclose(pooled.encode(texts), left_out.encode(texts), atol=1e-6)
    difference = pooled.encode(texts, prompt="red blue ") - left_out.encode(texts, prompt="red blue ")
    assert np.abs(difference).max() > 1e-3
