"""The packaged MiniLM with heads: put together once, from links, into a folder that every loader reads."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

import tercet
from tercet.cache import cache_folder
from tercet.checkpoint import packaged
from tercet.checkpoint.layout import open_checkpoint
from tercet.checkpoint.source import find
from tercet.errors import OutputError, SourceError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return cache_folder()


def test_the_packaged_model_with_heads_makes_all_three_outputs() -> None:
    model = tercet.load("tercet-minilm", precision="float32", device="cpu")
    assert model.outputs == ("dense", "sparse", "multivector")
    found = model.encode(["Wings in a slipstream."], outputs=model.outputs)
    assert found.dense is not None
    assert found.sparse is not None
    assert found.multivector is not None
    plain = tercet.load("minilm", precision="float32", device="cpu").encode(["Wings in a slipstream."])
    assert plain.dense is not None
    torch.testing.assert_close(found.dense, plain.dense, rtol=0, atol=1e-6)
    weights = found.sparse.tokens(model.tokenizer)[0]
    # What it was trained for: a word of the matter weighs more than one that is in every text.
    assert max(weights, key=lambda token: weights[token]) not in ("in", "a", ".")
    assert found.multivector.dim <= 96


def test_it_is_put_together_once_and_the_weights_are_links(cache: Path, minilm: Path) -> None:
    first = find("tercet-minilm").folder
    assert first.parent == cache / "models"
    before = {path: path.stat().st_mtime_ns for path in first.rglob("*")}
    assert find("tercet-minilm").folder == first
    assert {path: path.stat().st_mtime_ns for path in first.rglob("*")} == before
    assert [path.name for path in (cache / "models").iterdir()] == [first.name]  # nothing half made is left
    assert (first / "model.safetensors").read_bytes()[:64] == (minilm / "model.safetensors").read_bytes()[:64]


def test_where_links_cannot_be_files_are_copied(minilm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise OSError("Invalid cross-device link")

    monkeypatch.setattr(os, "link", refused)
    folder = find("tercet-minilm").folder
    assert (folder / "model.safetensors").stat().st_ino != (minilm / "model.safetensors").stat().st_ino
    assert open_checkpoint(folder).layout == "bge-m3"


def test_the_composed_folder_has_a_card_and_a_tokenizer_that_names_its_ends(tmp_path: Path) -> None:
    folder = packaged.compose("tercet-minilm", tmp_path / "new" / "model")
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        said = json.loads((folder / name).read_text(encoding="utf-8"))
        assert (said["bos_token"], said["eos_token"]) == ("[CLS]", "[SEP]")
    assert "sparse_linear.pt" in (folder / "README.md").read_text(encoding="utf-8")
    size = sum(path.stat().st_size for path in packaged.COMPOSED["tercet-minilm"][1].iterdir())
    assert size < 1_000_000


def test_a_folder_that_is_there_and_an_unknown_model_are_errors_with_their_mend(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"there already\. Name a new folder"):
        packaged.compose("tercet-minilm", tmp_path)
    with pytest.raises(SourceError, match=r"no composed model 'minilm'\. Known: tercet-minilm"):
        packaged.compose("minilm", tmp_path / "model")


def test_a_cache_that_cannot_be_written_is_an_error_that_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(SourceError, match=r"cannot be written.*XDG_CACHE_HOME"):
        find("tercet-minilm")
