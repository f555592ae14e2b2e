from typing import Any

import pytest
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_tests.integration_tests import EmbeddingsIntegrationTests
from langchain_tests.unit_tests import EmbeddingsUnitTests

import tercet
from tercet.adapters import LangChainEmbeddings
from tercet.errors import InputError, UnknownNameError

TEXTS = ["the cat is on the bridge", "Paris is the city", ""]


class _Given:
    """The model for LangChain's own tests."""

    @pytest.fixture(autouse=True)
    def _folder(self, tiny_bert):
        type(self).folder = tiny_bert

    @property
    def embeddings_class(self) -> type[Embeddings]:
        return LangChainEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return {"model": self.folder, "precision": "float32"}


class TestUnit(_Given, EmbeddingsUnitTests):
    """LangChain's standard tests."""


class TestIntegration(_Given, EmbeddingsIntegrationTests):
    """LangChain's standard tests of what comes out."""


def test_vectors_are_those_of_the_embedder_with_its_prompts(prompted):
    model = LangChainEmbeddings(prompted, precision="float32")
    plain = tercet.load(prompted, precision="float32")
    assert isinstance(model, Embeddings)
    assert model.embed_documents(TEXTS) == plain.encode_document(TEXTS).dense.tolist()
    assert model.embed_query(TEXTS[1]) == plain.encode_query(TEXTS[1:2]).dense[0].tolist()
    assert model.embed_query(TEXTS[1]) != model.embed_documents(TEXTS)[1]
    assert model.embed_documents([]) == []
    other = LangChainEmbeddings(plain, query_prompt="", document_prompt="", dimensions=8)
    assert other.embedder is plain
    assert other.embed_query(TEXTS[0]) == other.embed_documents(TEXTS)[0]
    assert len(other.embed_query(TEXTS[0])) == 8


def test_a_store_finds_by_them(tiny_stack):
    store = InMemoryVectorStore(LangChainEmbeddings(tiny_stack))
    store.add_texts(TEXTS[:2])
    [found] = store.similarity_search(TEXTS[1], k=1)
    assert found.page_content == TEXTS[1]


def test_mistakes_are_told_when_it_is_made(tiny_bert):
    with pytest.raises(UnknownNameError, match="Did you mean 'precision'"):
        LangChainEmbeddings(tiny_bert, precison="float32")
    with pytest.raises(InputError, match="dimensions=99"):
        LangChainEmbeddings(tiny_bert, dimensions=99)
    with pytest.raises(InputError, match="precision decides how a model is loaded"):
        LangChainEmbeddings(tercet.load(tiny_bert), precision="float32")
