"""Weights of models solved from examples, for embedders with all outputs and for rerankers."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch.nn import functional

import tercet
import tiny
import tiny_reranker
from tercet.compat import mix_models, mix_models_with_data
from tercet.errors import InputError, UnknownNameError
from tercet.merging.examples_recipe import ExamplesRecipe
from tercet.workflows.merge import merge
from tercet.workflows.merge_check import check_merge
from tercet.workflows.merge_weights import example_losses, weights_of

EXAMPLES = [
    {"query": "the river", "pos": ["a bridge in paris"], "neg": ["read a csv", "list of values", "the sun"]},
    {"query": "read a file", "pos": ["open(path)"], "neg": ["cat and dog", "red fish", "wait for the event"]},
    {"query": "star", "pos": ["moon and sun"], "neg": ["london", "a song"]},
]
WISH = ExamplesRecipe("", batch_size=2, negatives=2)


def dense_loss(folder: Path, examples, *, pooling: str | None = None) -> float:
    """By hand, for examples with no negative to choose."""
    model = tercet.load(folder, precision="float32", device="cpu", pooling=pooling)
    losses = []
    for start in range(0, len(examples), 2):
        batch = examples[start : start + 2]
        passages = [text for one in batch for text in (one["pos"][0], *one["neg"])]
        left, right = model.encode_query([one["query"] for one in batch]), model.encode_document(passages)
        scores = functional.normalize(left.dense) @ functional.normalize(right.dense).T / 0.05
        targets, reached = [], 0
        for one in batch:
            targets.append(reached)
            reached += 1 + len(one["neg"])
        losses.append(float(functional.cross_entropy(scores, torch.tensor(targets))))
    return sum(losses) / len(losses)


def two_negatives(example):
    return {**example, "neg": example["neg"][:2]}


@pytest.fixture
def stacks(tmp_path):
    options = {"layout": "sentence-transformers", "prompts": {"query": "query: "}}
    modules = (("pooling", {"modes": ("mean",)}), "normalize")
    return [
        tiny.write_checkpoint(tmp_path / name, seed=seed, modules=modules, **options)
        for seed, name in enumerate("ab")
    ]


def recipe(tmp_path: Path, folders, examples, *, more: str = "") -> Path:
    data = tmp_path / "examples.jsonl"
    data.write_text("".join(json.dumps(one) + "\n" for one in examples))
    models = "".join(f"  - model: {folder}\n" for folder in folders)
    path = tmp_path / "merge.yml"
    path.write_text(f"merge_method: lm_cocktail\nmodels:\n{models}examples: {{file: {data}{more}}}\n")
    return path


def test_the_loss_is_that_of_the_models_own_pooling_and_prompt(stacks):
    examples = [two_negatives(one) for one in EXAMPLES]
    for folder in stacks:
        assert example_losses(folder, examples, WISH) == pytest.approx(dense_loss(folder, examples), rel=1e-5)


def test_all_outputs_of_bge_m3_count(tmp_path):
    folder = tiny.write_checkpoint(tmp_path / "m3", "xlm-roberta", layout="bge-m3")
    examples = [two_negatives(one) for one in EXAMPLES]
    assert example_losses(folder, examples, WISH) > dense_loss(folder, examples) * 1.5


def test_a_reranker_has_the_cross_entropy_of_its_logits(tmp_path):
    folder = tiny_reranker.write_reranker(tmp_path / "reranker", scale=4.0)
    examples = [two_negatives(one) for one in EXAMPLES]
    model = tercet.load_reranker(folder, precision="float32", device="cpu")
    expected = []
    for one in examples:
        logits = model.score(
            [(one["query"], text) for text in (*one["pos"], *one["neg"])], activation="Identity"
        )
        expected.append(float(functional.cross_entropy(logits[None], torch.zeros(1, dtype=torch.int64))))
    assert example_losses(folder, examples, WISH) == pytest.approx(sum(expected) / 3, rel=1e-5)


def test_solved_weights_make_the_merge_and_stand_in_the_saved_recipe(stacks, tmp_path):
    examples = [two_negatives(one) for one in EXAMPLES]
    path = recipe(tmp_path, stacks, examples, more=", temperature: 0.5")
    done = merge(path, tmp_path / "out")
    losses = [dense_loss(folder, examples) for folder in stacks]
    expected = [math.exp(-loss / 0.5) for loss in losses]
    expected = [one / sum(expected) for one in expected]
    saved = (done.folder / "merge_recipe.yml").read_text()
    document = yaml.safe_load(saved)
    weights = [one["parameters"]["weight"] for one in document["models"]]
    assert weights == pytest.approx(expected, rel=1e-5)
    assert "examples" not in document
    assert "# Weights by 3 examples of examples.jsonl (sha256" in saved
    name = "encoder.layer.0.output.dense.weight"
    one, two, made = (load_file(f / "model.safetensors")[name] for f in (*stacks, done.folder))
    assert torch.equal(made, (weights[0] * one.double() + weights[1] * two.double()).float())
    again = merge(done.folder / "merge_recipe.yml", tmp_path / "again")
    assert (again.folder / "model.safetensors").read_bytes() == (
        done.folder / "model.safetensors"
    ).read_bytes()


def test_a_check_needs_no_weights(stacks, tmp_path):
    assert check_merge(recipe(tmp_path, stacks, EXAMPLES)).method == "lm_cocktail"


def test_a_check_says_what_is_wrong_with_the_examples(stacks, tmp_path):
    path = recipe(tmp_path, stacks, EXAMPLES)
    (tmp_path / "examples.jsonl").write_text('{"query": "a"}\n')
    with pytest.raises(InputError, match=r"examples\.jsonl, line 1"):
        check_merge(path)
    (tmp_path / "examples.jsonl").unlink()
    with pytest.raises(InputError, match=r"examples\.jsonl cannot be read.*Give JSON lines"):
        check_merge(path)


def test_weights_follow_losses_and_temperature():
    assert weights_of([1.0, 1.0], 5.0) == [0.5, 0.5]
    found = weights_of([1.0, 2.0], 0.5)
    assert found[0] / found[1] == pytest.approx(math.exp(2))
    assert sum(found) == pytest.approx(1)


def test_models_are_mixed_as_flagembedding_calls_it(stacks, tmp_path):
    names = [str(folder) for folder in stacks]
    made = mix_models(names, "encoder", [0.3, 0.7], str(tmp_path / "mixed"))
    assert made.encode(["a"]).dense.isfinite().all()
    name = "embeddings.LayerNorm.weight"
    one, two, found = (load_file(f / "model.safetensors")[name] for f in (*stacks, tmp_path / "mixed"))
    assert torch.equal(found, (0.3 * one.double() + 0.7 * two.double()).float())
    mix_models_with_data(
        names, "encoder", example_ata=EXAMPLES, neg_number=2, output_path=str(tmp_path / "by")
    )
    mix_models_with_data(
        names, model_type="encoder", example_data=EXAMPLES, output_path=str(tmp_path / "two")
    )
    assert (tmp_path / "by" / "modules.json").is_file()


def test_rerankers_are_mixed_with_data(tmp_path):
    names = [str(tiny_reranker.write_reranker(tmp_path / n, seed=seed)) for seed, n in enumerate("ab")]
    made = mix_models_with_data(names, "reranker", EXAMPLES, output_path=str(tmp_path / "out"))
    assert made.score([("a", "b")]).isfinite().all()


def test_what_cannot_be_mixed_is_said_with_the_mend(stacks, tmp_path):
    names, out = [str(folder) for folder in stacks], str(tmp_path / "out")
    with pytest.raises(InputError, match="1 in all"):
        mix_models(names, "encoder", [0.2, 0.2], out)
    with pytest.raises(InputError, match="output_path is needed"):
        mix_models(names, "encoder", [0.5, 0.5])
    with pytest.raises(InputError, match=r"model_type is 'decoder'.*tercet merge"):
        mix_models(names, "decoder", [0.5, 0.5], out)
    with pytest.raises(InputError, match=r"a is no reranker: pass model_type='encoder'"):
        mix_models(names, "reranker", [0.5, 0.5], out)
    reranker = str(tiny_reranker.write_reranker(tmp_path / "r"))
    with pytest.raises(InputError, match=r"r is a reranker: pass model_type='reranker', and models of one"):
        mix_models_with_data([names[0], reranker], "encoder", EXAMPLES, output_path=out)
    assert not (tmp_path / "out").exists()
    with pytest.raises(UnknownNameError, match="neg_number"):
        mix_models_with_data(names, "encoder", EXAMPLES, neg_numbr=3, output_path=out)
    with pytest.raises(InputError, match="temperature is 0"):
        mix_models_with_data(names, "encoder", EXAMPLES, temperature=0, output_path=out)


def test_examples_that_cannot_be_used_are_said_with_their_place(stacks, tmp_path):
    with pytest.raises(InputError, match=r"line 2.*'pos'"):
        merge(recipe(tmp_path, stacks, [EXAMPLES[0], {"query": "a", "neg": ["b"]}]), tmp_path / "out")
    with pytest.raises(UnknownNameError, match="Did you mean 'negatives'"):
        check_merge(recipe(tmp_path, stacks, EXAMPLES, more=", negative: 3"))
    with pytest.raises(InputError, match="batch_size is 0"):
        check_merge(recipe(tmp_path, stacks, EXAMPLES, more=", batch_size: 0"))
    path = recipe(tmp_path, stacks, EXAMPLES)
    path.write_text(path.read_text().replace("lm_cocktail", "linear"))
    with pytest.raises(InputError, match="not of linear"):
        check_merge(path)
    with pytest.raises(InputError, match="more examples, or negatives"):
        merge(recipe(tmp_path, stacks, [{"query": "a", "pos": ["b"]}]), tmp_path / "out")
    assert not (tmp_path / "out").exists()
