"""A folder given to a class that it is not for: the error names the one that it is for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import tiny
import tiny_reranker
import tiny_sparse
from tercet import compat
from tercet.errors import CheckpointError

STACK = (("pooling", {"modes": ("mean",)}), "normalize")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("folders")
    return {
        "SentenceTransformer": tiny.write_checkpoint(
            root / "dense", layout="sentence-transformers", modules=STACK
        ),
        "SparseEncoder": tiny_sparse.write_splade(root / "splade"),
        "CrossEncoder": tiny_reranker.write_reranker(root / "reranker"),
    }


CLASSES = ("SentenceTransformer", "SparseEncoder", "CrossEncoder")


@pytest.mark.parametrize("right", CLASSES)
@pytest.mark.parametrize("asked", CLASSES)
def test_a_class_names_the_one_that_a_folder_is_for(right, asked, folders):
    name = str(folders[right])
    if asked == right:
        getattr(compat, asked)(name, device="cpu")
        return
    with pytest.raises(CheckpointError, match=re.escape(name)) as caught:
        getattr(compat, asked)(name, device="cpu")
    assert str(caught.value).endswith(f" It is a {right}: open it with tercet.compat.{right}({name!r}).")


@pytest.mark.parametrize("asked", CLASSES)
def test_no_class_is_named_of_a_damaged_folder_or_of_none(asked, tmp_path):
    folder = tiny.write_checkpoint(tmp_path / "damaged", layout="sentence-transformers", modules=STACK)
    (folder / "model.safetensors").write_bytes(b"no weights")
    for name in (folder, tmp_path / "nowhere"):
        with pytest.raises(CheckpointError) as caught:
            getattr(compat, asked)(name, device="cpu")
        assert "open it with tercet.compat" not in str(caught.value)


def test_flag_model_refuses_what_makes_no_dense_vectors(tmp_path):
    folder = tiny_sparse.write_csr(tmp_path / "csr")
    with pytest.raises(CheckpointError, match=r"makes sparse vectors, and FlagModel dense ones\. Open it"):
        compat.FlagModel(str(folder), devices="cpu")
