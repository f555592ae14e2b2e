"""Merges across vocabularies beside mergekit's: the same tokens, and the same row for each of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from recorder import vocabularies
from recorder.vocabularies import CASES, CUT
from tercet.workflows.merge import merge

TABLES = {"embedding": "model.embed_tokens.weight", "head": "lm_head.weight"}
UNIONS = [case for case in CASES if "union" in case.text]


@pytest.fixture(scope="module")
def peer(recorded):
    return recorded("vocabularies")


def merged(tmp_path: Path, case) -> tuple[dict[str, Path], Path]:
    folders = vocabularies.write(tmp_path, case)
    (tmp_path / "merge.yml").write_text(case.recipe(folders))
    return folders, merge(tmp_path / "merge.yml", tmp_path / "out", try_out=False).folder


def tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_token_has_the_row_that_mergekit_gives_it(case, peer, tmp_path):
    _, out = merged(tmp_path, case)
    vocabulary, tensors = tokenizer(out).get_vocab(), load_file(out / "model.safetensors")
    tokens = peer[f"{case.name}/tokens"].tolist()
    assert set(vocabulary) == set(tokens)
    order = [vocabulary[token] for token in tokens]  # theirs are numbered otherwise
    for key, name in TABLES.items():
        expected = peer[f"{case.name}/{key}"]
        # mergekit adds up in float32, and we round once
        np.testing.assert_allclose(tensors[name][order], expected[: len(tokens)], rtol=1e-5, atol=1e-6)
        assert (len(tensors[name]) == len(expected)) == case.same_rows
        if case.same_rows:
            np.testing.assert_allclose(
                tensors[name][len(tokens) :], expected[len(tokens) :], rtol=1e-5, atol=1e-6
            )
    assert json.loads((out / "config.json").read_text())["vocab_size"] == len(tensors[TABLES["head"]])


def test_one_vocabulary_keeps_rows_beyond_it_which_mergekit_cuts_off(peer, tmp_path):
    [case] = [case for case in CASES if not case.same_rows]
    folders, out = merged(tmp_path, case)
    rows = {
        len(load_file(folder / "model.safetensors")[TABLES["head"]]) for folder in (*folders.values(), out)
    }
    assert rows == {len(peer[f"{case.name}/tokens"]) + 5}


@pytest.mark.parametrize("case", UNIONS, ids=lambda case: case.name)
def test_a_union_keeps_the_first_models_numbers(case, peer, tmp_path):
    folders, out = merged(tmp_path, case)
    made, first = tokenizer(out).get_vocab(), tokenizer(next(iter(folders.values()))).get_vocab()
    assert {token: made[token] for token in first} == first
    assert sorted(made.values()) == list(range(len(made)))


def test_pieces_stay_pieces_where_mergekit_adds_words_that_are_cut_out_of_others(peer, tmp_path):
    case = CASES[0]
    folders, out = merged(tmp_path, case)
    first, second, made = (tokenizer(folder).encode(CUT).tokens for folder in (*folders.values(), out))
    assert first == ["bus", "u", "n", "river", "s", "u", "n"]
    assert second == ["bu", "sun", "r", "i", "v", "e", "r", "sun"]
    assert made == ["bus", "u", "n", "river", "sun"]
    assert peer[f"{case.name}/cut"].tolist() == ["bu", "sun", "river", "sun"]
