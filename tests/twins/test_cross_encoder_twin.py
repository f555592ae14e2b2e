import numpy as np
import pytest
import torch

from recorder import rerankers
from tercet.compat import CrossEncoder


@pytest.fixture(scope="module")
def peer(recorded):
    return recorded("rerankers")


@pytest.mark.parametrize("name", rerankers.CROSS_ENCODERS)
def test_predict_and_rank_answer_as_sentence_transformers(name, peer, tmp_path):
    case = rerankers.CROSS_ENCODERS[name]
    folder = rerankers.write(tmp_path, name)
    pairs = [list(pair) for pair in rerankers.PAIRS]
    for length in rerankers.LENGTHS:
        model = CrossEncoder(
            str(folder), device="cpu", max_length=length, model_kwargs={"dtype": torch.float32}
        )
        found = model.predict(pairs, show_progress_bar=False, **case.predict)
        logits = model.predict(
            pairs, **{**case.predict, "apply_softmax": False}, activation_fn=torch.nn.Identity()
        )
        for ours, theirs in ((found, peer[f"{name}/{length}"]), (logits, peer[f"{name}/{length}/logits"])):
            assert ours.shape == theirs.shape
            assert ours.dtype == theirs.dtype
            np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-5)
    if model.num_labels == 1:
        model = CrossEncoder(str(folder), device="cpu", model_kwargs={"dtype": "float32"})
        query, documents = rerankers.RANKED
        ranked = model.rank(query, list(documents), top_k=3, show_progress_bar=False)
        np.testing.assert_allclose(
            [(one["corpus_id"], one["score"]) for one in ranked], peer[f"{name}/rank"], rtol=1e-6, atol=1e-5
        )
