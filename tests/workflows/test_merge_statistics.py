"""Statistics gathered on texts: what they are, by other means; and merges by them from end to end."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

import tercet
import tiny
import tiny_reranker
import tiny_sparse
from tercet.batch import Batch
from tercet.cli.main import main
from tercet.embedder.token_vectors import token_vectors
from tercet.errors import CheckpointError, InputError, OutputError, UnknownNameError
from tercet.layers.linear import Linear, torch_product
from tercet.training.model import open_trainable
from tercet.training.scores import scores
from tercet.workflows.fisher_information import fisher_information
from tercet.workflows.merge_statistics import merge_statistics
from tercet.workflows.statistics_texts import halves

STACK = (("pooling", {"modes": ("mean",)}), ("dense", {"out_features": 16}), "normalize")
TEXTS = [text for text in tiny.TEXTS if len(text) > 1]
PAIRS = [
    {"query": "the river", "pos": ["a bridge in paris"], "neg": ["read a csv", "list of values"]},
    {"query": "read a file", "pos": ["open(path)"], "neg": ["cat and dog"]},
    {"query": "star", "pos": ["moon and sun"], "neg": ["london"]},
]


@pytest.fixture
def stacks(tmp_path):
    """Two sentence-transformers folders, and texts beside them."""
    (tmp_path / "texts.txt").write_text("".join(f"{text}\n" for text in TEXTS))
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(one) + "\n" for one in PAIRS))
    options = {"layout": "sentence-transformers", "modules": STACK, "prompts": {"query": "find: "}}
    return [tiny.write_checkpoint(tmp_path / name, seed=seed, **options) for seed, name in enumerate("ab")]


def entering(folder: Path, texts: list[str]) -> dict[str, np.ndarray]:
    """What enters each linear layer of the encoder, one text at a time, in float64."""
    model = open_trainable(folder, dropout=0.0).eval()
    rows: dict[str, list[np.ndarray]] = {}

    def recorder(name: str):
        def product(x, weight, bias, activation=None, residual=None):
            rows.setdefault(name, []).append(x.detach().double().numpy())
            return torch_product(x, weight, bias, activation, residual)

        return product

    for name, target in model.encoder.names().items():
        owner = model.encoder.get_submodule(target.parameter.rpartition(".")[0])
        if isinstance(owner, Linear) and name.endswith(".weight"):
            owner.product = recorder(name)
    for text in texts:
        ids = model.tokenizer.encode([text], max_length=model.checkpoint.max_length).ids
        with torch.no_grad():
            model(Batch.from_ids(ids))
    return {name: np.concatenate(one) for name, one in rows.items()}


def metadata(path: Path) -> dict:
    length = int.from_bytes(path.read_bytes()[:8], "little")
    header = json.loads(path.read_bytes()[8 : 8 + length])
    return json.loads(header["__metadata__"]["tercet_merge_statistics"])


def test_gram_matrices_are_means_over_the_tokens_that_enter_each_layer(stacks, tmp_path):
    done = merge_statistics(
        stacks[0], tmp_path / "texts.txt", tmp_path / "a.safetensors", kinds="gram", token_budget=40
    )
    found, about = load_file(done.file), metadata(done.file)
    expected = entering(stacks[0], TEXTS)
    assert len(expected) == 12
    for name, rows in expected.items():
        key = f"encoder/{name}"
        gram = found[f"gram/{about['shared'].get(key, key)}"].numpy()
        np.testing.assert_allclose(gram, rows.T @ rows / len(rows), rtol=1e-4, atol=1e-5, err_msg=name)
    assert done.tokens == len(expected["encoder.layer.0.output.dense.weight"])
    assert done.texts == len(TEXTS)
    # query, key and value have one; then attention's output, up, down; and the Dense layer
    assert len(found) == 2 * 4 + 1
    vectors = [one.mean(0) for one in _token_vectors(stacks[0], TEXTS)]
    pooled = torch.stack(vectors).double()
    torch.testing.assert_close(
        found["gram/Dense/linear.weight"].double(), pooled.T @ pooled / len(pooled), rtol=1e-4, atol=1e-5
    )


def _token_vectors(folder: Path, texts: list[str]) -> list[torch.Tensor]:
    model = tercet.load(folder, precision="float32", device="cpu")
    found = token_vectors(model, texts).vectors
    bounds = found.offsets.tolist()
    return [found.vectors[a:b].double() for a, b in itertools.pairwise(bounds)]


def test_heads_of_bge_m3_have_gram_matrices_and_information_too(tmp_path):
    folder = tiny.write_checkpoint(tmp_path / "m3", "xlm-roberta", layout="bge-m3", colbert_dim=16)
    (tmp_path / "texts.txt").write_text("".join(f"{text}\n" for text in TEXTS))
    done = merge_statistics(folder, tmp_path / "texts.txt", tmp_path / "m3.safetensors")
    found = load_file(done.file)
    hidden = _token_vectors(folder, TEXTS)
    for name, rows in (
        ("sparse_linear.pt", torch.cat(hidden)),
        ("colbert_linear.pt", torch.cat([one[1:] for one in hidden])),
    ):
        torch.testing.assert_close(
            found[f"gram/{name}/weight"].double(), rows.T @ rows / len(rows), rtol=1e-4, atol=1e-5
        )
        assert found[f"fisher/{name}/weight"].max() > 0
        assert found[f"fisher/{name}/bias"].min() >= 0
    assert metadata(done.file)["outputs"] == ["dense", "sparse", "multivector"]


def exact_information(model, parameters, queries, passages, temperature):
    """By the definition: the expectation over every passage that every output may choose."""
    found = {name: torch.zeros_like(one) for name, one in parameters.items()}
    for head in model.outputs:
        for row, column in itertools.product(range(len(queries)), range(len(passages))):
            logits = scores(model(queries), model(passages), head, normalize=True) / temperature
            log = logits.log_softmax(1)[row, column]
            model.zero_grad()
            log.backward()
            for name, one in parameters.items():
                if one.grad is not None:
                    found[name] += log.detach().exp() * one.grad**2
    return {name: one / len(queries) for name, one in found.items()}


@pytest.mark.parametrize(("layout", "number"), [("sentence-transformers", 2), ("bge-m3", 1)])
def test_signs_give_the_fisher_information_of_the_choice_on_the_average(layout, number, tmp_path):
    folder = tiny.write_checkpoint(tmp_path / "model", "xlm-roberta", layout=layout, layers=1, hidden=16)
    model = open_trainable(folder, dropout=0.0).eval()
    parameters = {name: one for name, one in model.named_parameters() if one.requires_grad}
    ids = model.tokenizer.encode(["the cat", "a river", "paris and london", "read a file"], max_length=20).ids
    queries, passages = Batch.from_ids(ids[:number]), Batch.from_ids(ids[2:])
    expected = exact_information(model, parameters, queries, passages, 0.5)
    # the mean over all signs that there can be is exact
    cells = 2 * number * len(model.outputs)
    total = {name: torch.zeros_like(one, dtype=torch.float64) for name, one in parameters.items()}
    for pattern in itertools.product([-1, 1], repeat=cells):
        drawn = iter(pattern)

        def signs(rows, columns, drawn=drawn):
            return torch.tensor([[next(drawn) for _ in range(columns)] for _ in range(rows)])

        found, count = fisher_information(
            model, parameters, [(queries, passages)], temperature=0.5, token_budget=1000, signs=signs
        )
        assert count == number
        for name, one in found.items():
            total[name] += one / 2**cells
    largest = max(float(one.max()) for one in expected.values())
    assert largest > 0
    for name, one in expected.items():
        np.testing.assert_allclose(
            total[name].numpy(), one.numpy(), rtol=1e-3, atol=1e-5 * largest, err_msg=name
        )


def test_parts_of_a_token_budget_change_nothing(stacks, tmp_path):
    made = [
        load_file(
            merge_statistics(
                stacks[0], tmp_path / "pairs.jsonl", tmp_path / f"{budget}.safetensors", token_budget=budget
            ).file
        )
        for budget in (8, 4096)
    ]
    largest = max(float(one.max()) for one in made[0].values())
    for name, one in made[0].items():
        torch.testing.assert_close(one, made[1][name], rtol=1e-3, atol=1e-6 * largest)


def test_the_same_texts_and_seed_write_the_same_bytes(stacks, tmp_path):
    def made(name, **options):
        texts = tmp_path / "texts.txt"
        return merge_statistics(stacks[0], texts, tmp_path / name, **options).file.read_bytes()

    first = made("1.safetensors")
    assert first == made("2.safetensors")
    assert first != made("3.safetensors", seed=1)


def test_pairs_are_read_with_their_prompts_and_negatives(stacks, tmp_path):
    done = merge_statistics(stacks[0], tmp_path / "pairs.jsonl", tmp_path / "a.safetensors")
    assert done.pairs
    assert (done.queries, done.texts) == (3, 3 + 3 + 4)
    read = [text for one in PAIRS for text in ("find: " + one["query"], one["pos"][0], *one["neg"])]
    model = tercet.load(stacks[0], precision="float32", device="cpu")
    assert done.tokens == int(model.encode(read).num_tokens.sum())
    fewer = merge_statistics(stacks[0], tmp_path / "pairs.jsonl", tmp_path / "b.safetensors", max_texts=2)
    assert fewer.queries == 2


def test_prompts_are_left_out_of_the_pooling_where_the_model_leaves_them_out(tmp_path):
    options = {"layout": "sentence-transformers", "prompts": {"document": "find this: "}}
    pooling = ("pooling", {"modes": ("mean",), "include_prompt": False})
    dense = ("dense", {"out_features": 16})
    folder = tiny.write_checkpoint(tmp_path / "a", modules=(pooling, dense), **options)
    (tmp_path / "texts.txt").write_text("".join(f"{text}\n" for text in TEXTS))
    done = merge_statistics(folder, tmp_path / "texts.txt", tmp_path / "a.safetensors")
    found = load_file(done.file)["gram/Dense/linear.weight"].double()
    # the same encoder without the Dense layer gives what enters that
    bare = tiny.write_checkpoint(tmp_path / "bare", modules=(pooling,), **options)
    pooled = tercet.load(bare, precision="float32", device="cpu").encode_document(TEXTS).dense.double()
    torch.testing.assert_close(found, pooled.T @ pooled / len(pooled), rtol=1e-4, atol=1e-5)


@given(st.text(max_size=60))
def test_a_text_is_cut_in_two_that_are_the_whole(text):
    found = halves(text)
    if len(text.strip()) < 2:
        assert found is None
        return
    first, second = found
    assert first
    assert second
    assert "".join((first + second).split()) == "".join(text.split())


def test_a_text_is_cut_between_words_where_there_are_any():
    assert halves("the cat is on the bridge") == ("the cat is on", "the bridge")
    assert halves("東京は日本の首都です") == ("東京は日本", "の首都です")
    assert halves("a") is None


def recipe_of(tmp_path: Path, method: str, more: str = "") -> Path:
    models = "".join(
        f"  - {{model: {tmp_path / n}, parameters: {{statistics: {tmp_path / n}.safetensors}}}}\n"
        for n in "ab"
    )
    path = tmp_path / f"{method}.yml"
    path.write_text(f"merge_method: {method}\nmodels:\n{models}{more}")
    return path


def test_models_are_merged_by_what_the_command_gathered(stacks, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in "ab":
        assert main(["merge", "statistics", name, "texts.txt", f"{name}.safetensors", "--json"]) == 0
        captured = capsys.readouterr()
        assert json.loads(captured.out)["kinds"] == ["gram", "fisher"]
        assert f"{name}.safetensors:\nGram matrices of {len(TEXTS)} texts," in captured.err
        assert f"Fisher information of {len(TEXTS)} texts cut into halves." in captured.err
    for method in ("regmean", "fisher"):
        path = recipe_of(tmp_path, method)
        assert main(["merge", "check", str(path)]) == 0
        page = capsys.readouterr().out
        assert ("two Gram matrices of the widest layer" in page) is (method == "regmean")
        assert main(["merge", str(path), method]) == 0
        report = json.loads((tmp_path / method / "merge_report.json").read_text())
        assert all(len(one["statistics_sha256"]) == 64 for one in report["models"].values())
    models = [load_file(folder / "model.safetensors") for folder in stacks]
    grams = [load_file(tmp_path / f"{name}.safetensors") for name in "ab"]
    merged = load_file(tmp_path / "regmean" / "model.safetensors")
    layers = [name for name in grams[0] if name.startswith("gram/encoder/")]
    assert len(layers) == 8
    for layer in layers:
        name = layer.removeprefix("gram/encoder/")

        def distance(weight, name=name, layer=layer):
            both = zip(models, grams, strict=True)
            gaps = [((weight - m[name]).double(), g[layer].double()) for m, g in both]
            return sum(float(torch.trace(d @ g @ d.T)) for d, g in gaps)

        assert distance(merged[name]) < distance((models[0][name] + models[1][name]) / 2)
    information = load_file(tmp_path / "fisher" / "model.safetensors")
    name = "embeddings.LayerNorm.weight"
    shares = [one[f"fisher/encoder/{name}"].double() for one in grams]
    numbers = [one[name].double() for one in models]
    expected = (shares[0] * numbers[0] + shares[1] * numbers[1]) / (shares[0] + shares[1])
    torch.testing.assert_close(information[name].double(), expected, rtol=1e-4, atol=1e-5)


def test_words_that_no_text_has_matter_to_nothing(stacks, tmp_path):
    done = merge_statistics(stacks[0], tmp_path / "texts.txt", tmp_path / "a.safetensors", kinds=["fisher"])
    found = load_file(done.file)
    assert not any(name.startswith("gram/") for name in found)
    words = found["fisher/encoder/embeddings.word_embeddings.weight"]
    ids = {token for text in TEXTS for token in tokens_of_halves(stacks[0], text)}
    unused = [number for number in range(len(words)) if number not in ids]
    assert unused
    assert float(words[unused].max()) == 0
    assert bool((words[sorted(ids)].sum(1) > 0).all())


def tokens_of_halves(folder: Path, text: str) -> list[int]:
    model = open_trainable(folder)
    both = halves(text)
    return [
        token
        for part in (f"find: {both[0]}", both[1])
        for token in model.tokenizer.encode([part], max_length=66).ids[0]
    ]


def test_what_cannot_be_gathered_is_said_with_the_mend(stacks, tmp_path, capsys):
    texts, out = tmp_path / "texts.txt", tmp_path / "a.safetensors"
    with pytest.raises(UnknownNameError, match=r"'grams'\. Did you mean 'gram'"):
        merge_statistics(stacks[0], texts, out, kinds=["grams"])
    with pytest.raises(InputError, match="group_size is 1, expected a whole number from 2"):
        merge_statistics(stacks[0], texts, out, group_size=1)
    with pytest.raises(InputError, match="temperature is 0"):
        merge_statistics(stacks[0], texts, out, temperature=0)
    with pytest.raises(InputError, match=r"max_length is 67, .*at most 66"):
        merge_statistics(stacks[0], texts, out, max_length=67)
    (tmp_path / "one.txt").write_text("a single text\n")
    with pytest.raises(InputError, match=r"one passage alone is no choice.*--kinds gram"):
        merge_statistics(stacks[0], tmp_path / "one.txt", out)
    (tmp_path / "same.txt").write_text("alike alike\nalike alike\n")
    with pytest.raises(InputError, match="are all of them alike"):
        merge_statistics(stacks[0], tmp_path / "same.txt", out)
    with pytest.raises(OutputError, match=r"there is no folder .*Make it first"):
        merge_statistics(stacks[0], texts, tmp_path / "nowhere" / "a.safetensors")
    with pytest.raises(InputError, match="seed is -1"):
        merge_statistics(stacks[0], texts, out, seed=-1)
    with pytest.raises(InputError, match="no such file"):
        merge_statistics(stacks[0], tmp_path / "none.txt", out)
    (tmp_path / "bad.jsonl").write_text('{"query": "a", "pos": ["b"]}\n{"query": "a"}\n')
    with pytest.raises(InputError, match=r"bad.jsonl.*2"):
        merge_statistics(stacks[0], tmp_path / "bad.jsonl", out)
    reranker = tiny_reranker.write_reranker(tmp_path / "reranker")
    with pytest.raises(InputError, match=r"is a reranker.*such as linear"):
        merge_statistics(reranker, texts, out)
    splade = tiny_sparse.write_splade(tmp_path / "splade")
    with pytest.raises(CheckpointError, match=r"No statistics were gathered: .*no dense vectors"):
        merge_statistics(splade, texts, out)
    assert not out.exists()
    merge_statistics(stacks[0], texts, out, kinds="gram")
    with pytest.raises(OutputError, match=r"a.safetensors exists.*--overwrite"):
        merge_statistics(stacks[0], texts, out)
    assert main(["merge", "statistics", str(stacks[0]), str(texts), str(out)]) == 2
    assert "exists" in capsys.readouterr().err
    assert main(["merge", "statistics", str(stacks[0])]) == 2
    assert "tercet merge statistics MODEL TEXTS OUT.safetensors" in capsys.readouterr().err
    assert main(["merge", "a.yml", "out", "--group-size", "3"]) == 2
    assert "--group-size belongs to tercet merge statistics" in capsys.readouterr().err


def test_a_model_that_was_changed_needs_new_statistics(stacks, tmp_path):
    for folder in stacks:
        merge_statistics(folder, tmp_path / "texts.txt", tmp_path / f"{folder.name}.safetensors")
    path = recipe_of(tmp_path, "fisher")
    tiny.write_checkpoint(
        stacks[1], seed=5, layout="sentence-transformers", modules=STACK, prompts={"query": "find: "}
    )
    with pytest.raises(CheckpointError, match=r"b.safetensors was gathered with other weights"):
        tercet.merge(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
