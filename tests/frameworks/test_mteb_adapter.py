import mteb
import numpy as np
import pytest
from mteb.mocks import mock_tasks
from mteb.models import ModelMeta
from mteb.models.abs_encoder import AbsEncoder
from mteb.models.models_protocols import EncoderProtocol
from mteb.types import PromptType
from torch.utils.data import DataLoader

import tercet
from tercet.adapters import MTEBEncoder
from tercet.errors import InputError, UnknownNameError

TEXTS = ["the cat is on the bridge", "Paris is the city", "a"]


def inputs(**columns):
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return DataLoader(
        rows, batch_size=2, collate_fn=lambda part: {name: [row[name] for row in part] for name in part[0]}
    )


def encoded(model, task, prompt_type=None, **options):
    return model.encode(
        inputs(text=TEXTS),
        task_metadata=task.metadata,
        hf_split="test",
        hf_subset="default",
        prompt_type=prompt_type,
        **options,
    )


def test_each_prompt_has_its_texts(prompted):
    plain = tercet.load(prompted, precision="float32")
    retrieval, similarity = mock_tasks.MockRetrievalTask(), mock_tasks.MockSTSTask()
    prompts = {"Retrieval-query": "one ", "MockRetrievalTask-document": "two ", "STS": "three "}
    with pytest.warns(UserWarning, match="Task name MockRetrievalTask is not valid"):
        model = MTEBEncoder(prompted, precision="float32", prompts=prompts)
    assert isinstance(model, EncoderProtocol)
    for task, kind, prompt in (
        (retrieval, PromptType.query, "one "),
        (retrieval, PromptType.document, "two "),
        (similarity, None, "three "),
        (mock_tasks.MockClassificationTask(), None, ""),
        (mock_tasks.MockRerankingTask(), PromptType.query, "which "),  # the checkpoint's own
        (mock_tasks.MockRerankingTask(), PromptType.document, "the "),
    ):
        found = encoded(model, task, kind, batch_size=2, show_progress_bar=False)
        np.testing.assert_array_equal(found, plain.encode(TEXTS, prompt=prompt).numpy().dense)


@pytest.mark.parametrize(
    "task", ["Retrieval", "STS", "Classification", "PairClassification", "Reranking", "BitextMining"]
)
def test_mtebs_tasks_score_it_as_they_score_the_same_vectors_otherwise(tiny_stack, task):
    """The reference is the smallest encoder that MTEB's documentation shows, over the same vectors."""

    class Plain(AbsEncoder):
        def __init__(self):
            self.model, self.mteb_model_meta = None, ModelMeta.create_empty()
            self.embedder = tercet.load(tiny_stack, precision="float32")

        def encode(self, inputs, **_):
            return self.embedder.encode([text for part in inputs for text in part["text"]]).numpy().dense

    make = getattr(mock_tasks, f"Mock{task}Task")
    model = MTEBEncoder(tiny_stack, precision="float32")
    [found] = mteb.evaluate(model, make(), cache=None).task_results
    [wanted] = mteb.evaluate(Plain(), make(), cache=None).task_results
    assert found.get_score() == pytest.approx(wanted.get_score(), abs=1e-6)
    assert np.isfinite(found.get_score())


def test_results_are_filed_by_name_and_precision(prompted):
    meta = MTEBEncoder(prompted, precision="float32").mteb_model_meta
    assert (meta.name, meta.embed_dim, meta.max_tokens) == ("local/stack", 32, 66)
    assert meta.experiment_kwargs is None
    assert meta.similarity_fn_name == "dot"
    meta = MTEBEncoder(prompted, precision="bf16", dimensions=8).mteb_model_meta
    assert meta.experiment_kwargs == {"precision": "bfloat16", "dimensions": 8}
    assert meta.embed_dim == 8
    assert ModelMeta.model_validate(meta.model_dump()).name == "local/stack"


def test_mteb_loads_it_itself_and_again_as_it_was(prompted):
    meta = MTEBEncoder(prompted, precision="bf16").mteb_model_meta.model_copy(
        update={"name": str(prompted), "revision": None}
    )
    model = meta.load_model(device="cpu")
    assert isinstance(model, MTEBEncoder)
    assert model.model.plan.scheme.label == "bfloat16"


def test_mistakes_name_what_is_meant(prompted):
    with pytest.raises(InputError, match="Pass a dict of MTEB's names"):
        MTEBEncoder(prompted, prompts={"query": 3})
    with pytest.raises(UnknownNameError, match="Did you mean 'dimensions'"):
        MTEBEncoder(prompted, dimension=8)
    with pytest.raises(InputError, match="dimensions=99"):
        MTEBEncoder(prompted, dimensions=99)
    model, task = MTEBEncoder(prompted), mock_tasks.MockSTSTask()
    with pytest.raises(InputError, match="would quantise vectors"):
        encoded(model, task, precision="int8")
    with pytest.raises(InputError, match="has inputs of image and no text"):
        model.encode(inputs(image=TEXTS), task_metadata=task.metadata, hf_split="test", hf_subset="default")
