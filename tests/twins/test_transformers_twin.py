import numpy as np
import pytest
import torch

import tercet
from recorder import cases
from tercet.batch import Batch
from tercet.engines import ENGINES


@pytest.fixture(scope="module")
def peer(recorded):
    return recorded("transformers")


@pytest.mark.parametrize("name", cases.ENCODERS)
def test_hidden_states_are_those_of_transformers(name, peer, tmp_path):
    model = tercet.load(cases.write(tmp_path, name), precision="float32", device="cpu", pooling="mean")
    lengths = peer[f"{name}/lengths"].tolist()
    encoded = model.tokenizer.encode(cases.TEXTS, max_length=model.max_length)
    assert [len(ids) for ids in encoded.ids] == lengths
    assert np.concatenate(encoded.ids).tolist() == peer[f"{name}/ids"].tolist()

    engine = ENGINES[model.plan.scheme.engine].open(model.checkpoint, model.plan)
    with torch.no_grad():
        hidden = engine.forward(Batch.from_ids(encoded.ids))
    np.testing.assert_allclose(hidden.numpy(), peer[f"{name}/hidden"], rtol=0, atol=1e-5)
