"""Models with routes from the hub: every file of every route, and no other."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest

import tercet
from fake_hub import REPO
from recorder import bag_cases, own_encoders, word_cases
from tercet.checkpoint import hub
from tercet.checkpoint.layout import open_checkpoint
from tercet.checkpoint.source import find
from tiny_modules import dense, normalize, pooling, router, write_stack

BEHIND = {"query": (dense("query", 16), normalize()), "document": (dense("document", 16),)}
WORDS = {"query": partial(word_cases.write, name="mean of words"), "document": own_encoders._bert()}
COUNTS = {**WORDS, "document": partial(bag_cases.write, name="dense, normalize")}
MODELS = {
    **{name: case.make for name, case in own_encoders.CASES.items()},
    "routes behind one encoder": partial(write_stack, parts=(pooling(), router(BEHIND))),
    "Asym": partial(write_stack, parts=(pooling(), router(BEHIND)), old_keys=True),
    "words and an encoder": partial(own_encoders.tiny_routes.join, models=WORDS),
    "words and counts of words": partial(own_encoders.tiny_routes.join, models=COUNTS),
}
# What else lies beside the weights of models on the hub: other formats, other precisions, pages.
CLUTTER = (
    "onnx/model.onnx",
    "onnx/config.json",
    "openvino/openvino_model.xml",
    "pytorch_model.bin",
    "model.fp16.safetensors",
    "tf_model.h5",
    "README.md",
)


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def weights(folder: Path) -> set[str]:
    return {name for name in files(folder) if name.endswith(".safetensors")}


def vectors(model):
    """By each task that the model knows, the dense vectors or the weights of tokens."""
    routes = model.checkpoint.routes
    tasks = () if routes is None else ("query", "document")
    usual = () if routes is not None and routes.default is None else (None,)
    encode = partial(model.encode, own_encoders.TEXTS)
    made = {task: encode(task=task) for task in (*usual, *tasks)}
    return {
        task: (found.sparse.weights if found.dense is None else found.dense).numpy()
        for task, found in made.items()
    }


@pytest.mark.parametrize("name", MODELS)
def test_a_routed_model_is_loaded_from_the_hub_with_every_file_it_needs_and_no_other(name, one_model):
    folder = one_model.files
    MODELS[name](folder)
    needed, expected = files(folder), vectors(tercet.load(folder, precision="float32", device="cpu"))
    for place in {path.parent for path in folder.rglob("*.safetensors")}:
        for clutter in CLUTTER:
            (place / clutter).parent.mkdir(exist_ok=True)
            (place / clutter).write_text("{}")
    load = partial(tercet.load, REPO, precision="float32", device="cpu", cache_folder=one_model.cache)
    model = load()
    assert set(one_model.fetched) == needed
    for loaded in (model, load(local_files_only=True)):
        found = vectors(loaded)
        assert found.keys() == expected.keys()
        for task, rows in found.items():
            np.testing.assert_array_equal(rows, expected[task])


@pytest.mark.parametrize("name", MODELS)
def test_a_plan_of_a_routed_model_fetches_the_headers_of_every_route_and_no_weights(
    name, one_model, monkeypatch
):
    MODELS[name](one_model.files)
    monkeypatch.setattr(hub, "_SMALL", 0)
    planned = open_checkpoint(find(REPO, cache_folder=one_model.cache, headers_only=True)).footprint()
    assert set(one_model.headers) == weights(one_model.files)
    assert set(one_model.fetched) == files(one_model.files) - weights(one_model.files)
    here = open_checkpoint(one_model.files).footprint()
    for ours, theirs in ((here, planned), *zip(here.others.values(), planned.others.values(), strict=True)):
        assert ours.stored == theirs.stored
        assert (ours.body_numbers, ours.head_numbers) == (theirs.body_numbers, theirs.head_numbers)
