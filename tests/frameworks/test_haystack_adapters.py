import asyncio

import pytest
from haystack import Document, Pipeline
from haystack.components.retrievers.in_memory import InMemoryEmbeddingRetriever
from haystack.document_stores.in_memory import InMemoryDocumentStore

import tercet
from tercet.adapters import (
    HaystackDocumentEmbedder,
    HaystackSparseDocumentEmbedder,
    HaystackSparseTextEmbedder,
    HaystackTextEmbedder,
)
from tercet.errors import CheckpointError, InputError, UnknownNameError

TEXTS = ["the cat is on the bridge", "Paris is the city", None]
ALL = [
    HaystackTextEmbedder,
    HaystackDocumentEmbedder,
    HaystackSparseTextEmbedder,
    HaystackSparseDocumentEmbedder,
]


def documents():
    return [Document(content=text, meta={"title": "a list", "page": 3}) for text in TEXTS]


def test_dense_vectors_are_those_of_the_embedder_with_its_prompts(prompted):
    text = HaystackTextEmbedder(prompted, precision="float32")
    several = HaystackDocumentEmbedder(str(prompted), precision="float32")
    plain = tercet.load(prompted, precision="float32")
    assert text.run(TEXTS[0]) == {"embedding": plain.encode_query(TEXTS[:1]).dense[0].tolist()}
    given = documents()
    found = several.run(given)["documents"]
    wanted = plain.encode_document([text or "" for text in TEXTS]).dense.tolist()
    assert [one.embedding for one in found] == wanted
    assert [one.id for one in found] == [one.id for one in given]
    assert [one.embedding for one in given] == [None] * 3
    assert several.run([]) == {"documents": []}
    assert text.embedder is several.embedder
    assert asyncio.run(text.run_async(TEXTS[0])) == text.run(TEXTS[0])
    assert asyncio.run(several.run_async(given))["documents"] == found


def test_sparse_weights_are_those_of_the_embedder(tiny_m3):
    text = HaystackSparseTextEmbedder(tiny_m3, precision="float32")
    several = HaystackSparseDocumentEmbedder(tiny_m3, precision="float32", max_active_dims=2)
    plain = tercet.load(tiny_m3, precision="float32")
    found = text.run(TEXTS[0])["sparse_embedding"]
    wanted = plain.encode_query(TEXTS[:1], outputs="sparse").sparse
    assert found.to_dict() == {"indices": wanted.token_ids.tolist(), "values": wanted.weights.tolist()}
    ranked = sorted(zip(found.values, found.indices, strict=True), reverse=True)
    [first, *_] = several.run(documents())["documents"]
    assert first.sparse_embedding.indices == sorted(index for _, index in ranked[:2])
    assert asyncio.run(several.run_async(documents()))["documents"][0] == first
    assert asyncio.run(text.run_async(TEXTS[0]))["sparse_embedding"] == found


def test_chosen_meta_stands_before_the_content(prompted):
    model = HaystackDocumentEmbedder(
        prompted, meta_fields_to_embed=["title", "page", "none"], embedding_separator=" | "
    )
    found = model.run(documents())["documents"]
    plain = HaystackDocumentEmbedder(prompted).run(
        [Document(content=f"a list | 3 | {text or ''}") for text in TEXTS]
    )
    assert [one.embedding for one in found] == [one.embedding for one in plain["documents"]]


def test_a_saved_pipeline_runs_again(tiny_stack):
    store = InMemoryDocumentStore()
    store.write_documents(HaystackDocumentEmbedder(tiny_stack).run(documents()[:2])["documents"])
    pipeline = Pipeline()
    pipeline.add_component("embedder", HaystackTextEmbedder(tiny_stack, dimensions=8))
    pipeline.add_component("retriever", InMemoryEmbeddingRetriever(store, top_k=1))
    again = Pipeline.loads(
        pipeline.dumps(), allowed_modules=["tercet.adapters.haystack_embedders", "haystack.*"]
    )
    component = again.get_component("embedder")
    assert type(component) is HaystackTextEmbedder
    assert component.to_dict() == pipeline.get_component("embedder").to_dict()
    assert len(again.run({"embedder": {"text": "a"}, "retriever": {"query_embedding": [0.0] * 16}})) == 2


def test_a_pipeline_finds_by_them(tiny_stack):
    store = InMemoryDocumentStore(embedding_similarity_function="cosine")
    store.write_documents(HaystackDocumentEmbedder(tiny_stack).run(documents()[:2])["documents"])
    pipeline = Pipeline()
    pipeline.add_component("embedder", HaystackTextEmbedder(tiny_stack))
    pipeline.add_component("retriever", InMemoryEmbeddingRetriever(store, top_k=1))
    pipeline.connect("embedder.embedding", "retriever.query_embedding")
    [found] = pipeline.run({"embedder": {"text": TEXTS[1]}})["retriever"]["documents"]
    assert found.content == TEXTS[1]


@pytest.mark.parametrize("kind", ALL)
def test_what_is_saved_is_what_was_asked_for_and_no_model_is_loaded_for_it(kind):
    model = kind("/no/such/folder", precision="int8", max_length=9, prompt="a ")
    saved = model.to_dict()
    assert saved["type"] == f"tercet.adapters.haystack_embedders.{kind.__name__}"
    assert saved["init_parameters"]["precision"] == "int8"
    again = kind.from_dict(saved)
    assert again.to_dict() == saved
    with pytest.raises(CheckpointError, match="There is no folder /no/such/folder"):
        again.warm_up()


def test_mistakes_name_what_is_meant(tiny_bert):
    with pytest.raises(UnknownNameError, match="Did you mean 'precision'"):
        HaystackTextEmbedder(tiny_bert, precison="float32")
    with pytest.raises(InputError, match="only a name can be"):
        HaystackTextEmbedder(tercet.load(tiny_bert))
    with pytest.raises(InputError, match="For a list of Documents there is HaystackDocumentEmbedder"):
        HaystackTextEmbedder(tiny_bert).run(documents())
    with pytest.raises(InputError, match="For one string there is HaystackSparseTextEmbedder"):
        HaystackSparseDocumentEmbedder(tiny_bert).run("a")
    with pytest.raises(CheckpointError, match="makes no sparse vectors but dense"):
        HaystackSparseTextEmbedder(tiny_bert).warm_up()
    with pytest.raises(InputError, match="meta_fields_to_embed is the string 'title'"):
        HaystackDocumentEmbedder(tiny_bert, meta_fields_to_embed="title")
