import asyncio
import copy
import pickle

import pytest
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.schema import TextNode
from pydantic import ValidationError

import tercet
from tercet.adapters import LlamaIndexEmbedding
from tercet.errors import PrecisionError

TEXTS = ["the cat is on the bridge", "Paris is the city", ""]


@pytest.fixture(scope="module")
def model(prompted):
    return LlamaIndexEmbedding(model_name=str(prompted), precision="float32")


def test_vectors_are_those_of_the_embedder_with_its_prompts(model, prompted):
    plain = tercet.load(prompted, precision="float32")
    assert isinstance(model, BaseEmbedding)
    query, documents = plain.encode_query(TEXTS[1:2]), plain.encode_document(TEXTS)
    assert model.get_query_embedding(TEXTS[1]) == query.dense[0].tolist()
    assert model.get_text_embedding_batch(TEXTS) == documents.dense.tolist()
    assert model.get_text_embedding(TEXTS[0]) == pytest.approx(documents.dense[0].tolist(), abs=1e-6)
    assert asyncio.run(model.aget_query_embedding(TEXTS[1])) == query.dense[0].tolist()
    assert asyncio.run(model.aget_text_embedding(TEXTS[0])) == model.get_text_embedding(TEXTS[0])
    assert asyncio.run(model.aget_text_embedding_batch(TEXTS)) == documents.dense.tolist()


def test_every_option_comes_back_from_what_is_saved(prompted):
    options = {
        "model_name": str(prompted),
        "precision": "float32",
        "max_length": 16,
        "query_prompt": "a ",
        "document_prompt": "",
        "dimensions": 8,
        "normalize": True,
        "embed_batch_size": 3,
    }
    model = LlamaIndexEmbedding(**options)
    saved = model.to_dict()
    assert {name: saved[name] for name in options} == options
    vector = model.get_query_embedding(TEXTS[0])
    assert len(vector) == 8
    for again in (
        LlamaIndexEmbedding.from_dict(saved),
        LlamaIndexEmbedding.from_json(model.to_json()),
        pickle.loads(pickle.dumps(model)),
        copy.deepcopy(model),
        model.model_copy(),
    ):
        assert again.get_query_embedding(TEXTS[0]) == vector
        assert again.to_dict() == saved


def test_a_pipeline_embeds_nodes(model):
    nodes = [TextNode(text=text, metadata={"title": "T"}) for text in TEXTS[:2]]
    found = IngestionPipeline(transformations=[model]).run(nodes=nodes)
    assert [node.embedding for node in found] == model.get_text_embedding_batch(
        ["title: T\n\n" + text for text in TEXTS[:2]]
    )


def test_mistakes_are_told_when_it_is_made(prompted):
    with pytest.raises(ValidationError, match="precison"):
        LlamaIndexEmbedding(model_name=str(prompted), precison="float32")
    with pytest.raises(ValidationError, match="dimensions=99"):
        LlamaIndexEmbedding(model_name=str(prompted), dimensions=99)
    with pytest.raises(PrecisionError, match="'quick' is not a precision"):
        LlamaIndexEmbedding(model_name=str(prompted), precision="quick")
