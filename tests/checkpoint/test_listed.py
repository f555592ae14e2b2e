"""Weights that a JSON file lists by token, in files that are not as they should be."""

import json

import pytest

import tiny_routes
from tercet.checkpoint.layout import open_checkpoint
from tercet.errors import CheckpointError


@pytest.mark.parametrize("weight", [10**400, 1e300, float("nan"), float("inf"), True, None, "1", [1]])
def test_a_weight_that_is_no_number_is_refused_with_its_file_and_token(tmp_path, weight):
    path = tiny_routes.write_token_weights(tmp_path, listed=True) / "idf.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "the": weight}))
    with pytest.raises(CheckpointError, match=r"the weight of 'the' is .*expected a number") as caught:
        open_checkpoint(tmp_path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"model": {"vocab": [[["a"], 1.0]]}, "added_tokens": [{"content": ["a"], "id": []}]},
        {"added_tokens": [{"content": "a"}]},
        {"model": {"vocab": {"a": 5}}, "added_tokens": []},
        {"model": 5, "added_tokens": 5},
    ],
)
def test_a_vocabulary_without_ids_is_refused_with_its_file(tmp_path, changes):
    path = tiny_routes.write_token_weights(tmp_path, listed=True) / "tokenizer.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(CheckpointError, match="not a list of tokens with ids") as caught:
        open_checkpoint(tmp_path)
    assert str(path) in str(caught.value)
