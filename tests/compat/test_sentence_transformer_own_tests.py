"""What sentence-transformers' own public tests of SentenceTransformer hold of encoding, in our words."""

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

import static_models
import tiny
import tiny_modules
from tercet.checkpoint.layout import open_checkpoint
from tercet.checkpoint.writer import save_checkpoint
from tercet.compat import SentenceTransformer
from tercet.quantization import Quantizer

pytestmark = pytest.mark.compat

SENTENCES = [
    "Hello Word, a test sentence",
    "Here comes another sentence",
    "My final sentence",
    "Sentences",
    "Sentence five five five five five five five",
]
RECIPES = ["How to bake a chocolate cake", "Symptoms of the flu"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A stack that averages tokens and does not normalise, as the model of those tests."""
    made = tmp_path_factory.mktemp("own") / "model"
    return tiny.write_checkpoint(made, "bert", layout="sentence-transformers", modules=("pooling",))


@pytest.fixture
def model(folder):
    return opened(folder)


def opened(folder, **options):
    return SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": "float32"}, **options)


def test_token_embeddings_are_as_many_as_tokens(model):
    found = model.encode(SENTENCES, output_value="token_embeddings", batch_size=2)
    assert len(found) == len(SENTENCES)
    for text, rows in zip(SENTENCES, found, strict=True):
        assert len(model.tokenizer.encode([text], max_length=66).ids[0]) == len(rows)


def test_one_sentence_and_lists_of_them(model):
    alone, listed = model.encode(SENTENCES[0]), model.encode(SENTENCES[:1])
    assert (alone.shape, listed.shape) == ((32,), (1, 32))
    assert model.encode(SENTENCES[:3]).shape == (3, 32)
    np.testing.assert_allclose(alone, listed[0], atol=1e-6)


def test_normalised_vectors_have_unit_length(model):
    found = model.encode(SENTENCES[:3], normalize_embeddings=True)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1.0, atol=1e-6)
    assert np.abs(np.linalg.norm(model.encode(SENTENCES[:3]), axis=1) - 1).max() > 1e-2


@pytest.mark.parametrize("prompt", ["query: ", "query:", "query:   "])
def test_prompts_by_text_and_by_name(prompt, folder):
    model = opened(folder, prompts={"query": prompt})
    plain = model.encode(RECIPES)
    expected = model.encode([f"query: {text}" for text in RECIPES])
    assert not np.array_equal(plain, expected)
    for options in ({"prompt": prompt}, {"prompt_name": "query"}, {"prompt": prompt, "prompt_name": "query"}):
        np.testing.assert_array_equal(model.encode(RECIPES, **options), expected)
    with pytest.raises(ValueError, match="query"):
        model.encode(RECIPES, prompt_name="invalid_prompt_name")


def test_prompts_and_their_default_are_saved_with_a_model(folder, tmp_path):
    with pytest.raises(ValueError, match="invalid_prompt_name"):
        opened(folder, prompts={"query": "query: "}, default_prompt_name="invalid_prompt_name")
    saved = tiny.write_checkpoint(
        tmp_path,
        "bert",
        layout="sentence-transformers",
        prompts={"query": "query: "},
        default_prompt_name="query",
    )
    model = opened(saved)
    assert model.prompts["query"] == "query: "
    assert model.default_prompt_name == "query"
    np.testing.assert_array_equal(model.encode(RECIPES), model.encode(RECIPES, prompt_name="query"))


def test_a_normalize_module_needs_no_folder(tmp_path):
    folder = tiny.write_checkpoint(tmp_path, "bert", layout="sentence-transformers")
    for place in (folder / "2_Normalize").iterdir():
        place.unlink()
    (folder / "2_Normalize").rmdir()
    np.testing.assert_allclose(np.linalg.norm(opened(folder).encode(SENTENCES), axis=1), 1.0, atol=1e-6)


def test_other_choices_of_transformers_are_taken(folder):
    options = {"attn_implementation": "eager", "low_cpu_mem_usage": False}
    model = SentenceTransformer(str(folder), device="cpu", model_kwargs=options)
    assert model.encode(SENTENCES).shape == (5, 32)


@pytest.mark.parametrize("tensor", [True, False])
@pytest.mark.parametrize("array", [True, False])
@pytest.mark.parametrize(
    ("precision", "expected"),
    [
        ("float32", "float32"),
        ("int8", "int8"),
        ("uint8", "uint8"),
        ("binary", "int8"),
        ("ubinary", "uint8"),
    ],
)
def test_each_form_of_each_precision_has_its_dtype(precision, expected, array, tensor, model):
    model.quantizer = Quantizer.fit(model.encode(tiny.TEXTS, convert_to_tensor=True), "int8")
    found = model.encode(SENTENCES[:2], convert_to_tensor=tensor, convert_to_numpy=array, precision=precision)
    assert type(found) is (torch.Tensor if tensor else np.ndarray if array else list)
    is_array = array and not tensor
    assert found[0].dtype == (np.dtype(expected) if is_array else getattr(torch, expected))


@pytest.mark.parametrize("texts", ["Single sentence", ["One sentence", "Another sentence"]])
@pytest.mark.parametrize("tensor", [True, False])
@pytest.mark.parametrize("normalised", [True, False])
@pytest.mark.parametrize("output_value", ["sentence_embedding", None])
def test_vectors_are_cut_by_whatever_says_so(texts, tensor, normalised, output_value, folder):
    whole = opened(folder).encode(texts, convert_to_tensor=True)

    def check(model, dimensions):
        found = model.encode(
            texts, output_value=output_value, convert_to_tensor=tensor, normalize_embeddings=normalised
        )
        if output_value is None:
            several = found if isinstance(found, list) else [found]
            found = torch.stack([one["sentence_embedding"] for one in several])
            found = found[0] if isinstance(texts, str) else found
        found = torch.as_tensor(found)
        assert model.get_sentence_embedding_dimension() == dimensions
        expected = whole[..., :dimensions]
        if normalised:
            expected = normalize(expected, dim=-1)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)

    check(opened(folder), 32)
    model = opened(folder, truncate_dim=8)
    check(model, 8)
    model.truncate_dim = 16
    check(model, 16)
    with model.truncate_sentence_embeddings(4):
        check(model, 4)
    check(model, 16)
    model.truncate_dim = 64
    check(model, 32)


@pytest.mark.parametrize("name", ["cosine", "dot", "euclidean", "manhattan"])
def test_each_similarity_finds_a_sentence_nearest_to_itself(name, folder):
    model = opened(folder, similarity_fn_name=name)
    embeddings = model.encode(SENTENCES, normalize_embeddings=True)
    scores = model.similarity(embeddings, embeddings)
    assert scores.shape == (5, 5)
    own = 1.0 if name in ("cosine", "dot") else 0.0
    np.testing.assert_allclose(scores.diagonal(), own, atol=2e-3)
    assert torch.equal(scores.argmax(dim=1), torch.arange(5))
    pairs = model.similarity_pairwise(embeddings[:4:2], embeddings[1:4:2])
    torch.testing.assert_close(pairs, torch.stack([scores[0, 1], scores[2, 3]]), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    "parts",
    [
        (tiny_modules.pooling(), tiny_modules.dense("d", 16)),
        (tiny_modules.cnn(8), tiny_modules.pooling()),
        (tiny_modules.lstm(8), tiny_modules.pooling()),
        (tiny_modules.layer_pooling(2, 1), tiny_modules.pooling()),
    ],
    ids=["Dense", "CNN", "LSTM", "WeightedLayerPooling"],
)
def test_a_stack_embeds_as_before_when_it_was_saved_and_loaded(parts, tmp_path):
    config = {"output_hidden_states": True}
    folder = tiny_modules.write_stack(tmp_path / "model", parts, config=config)
    copy = save_checkpoint(open_checkpoint(folder), tmp_path / "copy")
    assert not list(copy.rglob("pytorch_model.bin"))
    found, again = (opened(place).encode("Hello, World!") for place in (folder, copy))
    np.testing.assert_array_equal(found, again)


def test_a_table_of_model2vec_has_no_longest_text(tmp_path):
    folder = static_models.write_static(tmp_path, names="model2vec", path=".", modules=())
    model = SentenceTransformer(str(folder), device="cpu")
    assert model.get_sentence_embedding_dimension() == static_models.WIDTH
    assert model.max_seq_length == math.inf or model.max_seq_length >= 10**6
    embeddings = model.encode(["It's so sunny outside!", "The sun is shining outside!"])
    assert embeddings.shape == (2, static_models.WIDTH)
    assert model.similarity(embeddings[0], embeddings[1]).shape == (1, 1)


def test_float16_files_are_loaded_by_auto(tmp_path):
    folder = tiny.write_checkpoint(tmp_path, "bert", layout="sentence-transformers", dtype="float16")
    model = SentenceTransformer(str(folder), device="cpu", model_kwargs={"torch_dtype": "auto"})
    assert bool(model.encode(["Hello there!"], convert_to_tensor=True).isfinite().all())


@pytest.mark.parametrize("architecture", ["bert", "roberta", "xlm-roberta", "mpnet", "distilbert"])
def test_safetensors_and_torchs_files_give_the_same_vectors(architecture, tmp_path):
    found = [
        opened(
            tiny.write_checkpoint(tmp_path / kind, architecture, layout="sentence-transformers", file=kind)
        ).encode(SENTENCES)
        for kind in ("safetensors", "bin")
    ]
    np.testing.assert_array_equal(*found)
