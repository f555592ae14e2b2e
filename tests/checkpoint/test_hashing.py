"""Hashes of weights: computed once, remembered by place, size and time."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

import tiny
from tercet import cache
from tercet.checkpoint.hashing import hash_file
from tercet.checkpoint.layout import open_checkpoint
from tercet.errors import CheckpointError


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(cache.sys, "platform", "linux")


def test_a_hash_is_computed_once_and_again_when_the_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "w.bin"
    path.write_bytes(b"one")
    digest = hashlib.sha256(b"one").hexdigest()
    assert hash_file(path) == digest
    with monkeypatch.context() as patch:
        patch.setattr(hashlib, "file_digest", lambda *_: pytest.fail("computed again"))
        assert hash_file(path) == digest
    path.write_bytes(b"two")
    os.utime(path, ns=(1, 1))
    assert hash_file(path) == hashlib.sha256(b"two").hexdigest()


def test_a_file_replaced_by_one_of_the_same_size_and_time_is_hashed_anew(tmp_path: Path) -> None:
    path = tmp_path / "w.bin"
    for content in (b"one", b"two"):
        path.unlink(missing_ok=True)
        path.write_bytes(content)
        os.utime(path, ns=(0, 0))
        assert hash_file(path) == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize(
    "damage", ["[]", "{", '{"PATH": 3}', '{"PATH": {"size": 3, "mtime_ns": 1, "ctime_ns": 1, "sha256": "x"}}']
)
def test_a_damaged_memory_is_forgotten(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "w.bin"
    path.write_bytes(b"one")
    os.utime(path, ns=(1, 1))
    memory = cache.cache_folder() / "weights.json"
    memory.parent.mkdir(parents=True)
    memory.write_text(damage.replace("PATH", str(path)))
    assert hash_file(path) == hashlib.sha256(b"one").hexdigest()


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"w\.bin cannot be read"):
        hash_file(tmp_path / "w.bin")


def test_the_same_weights_have_the_same_hash_wherever_they_are(tmp_path: Path) -> None:
    stack = ("pooling", "dense", "normalize")
    hashes = [
        open_checkpoint(
            tiny.write_checkpoint(tmp_path / name, layout="sentence-transformers", modules=stack, seed=seed)
        ).weights_hash()
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    assert hashes[0] == hashes[1] != hashes[2]


def test_a_head_counts_as_weights(tmp_path: Path) -> None:
    both = open_checkpoint(tiny.write_checkpoint(tmp_path / "a", "xlm-roberta", layout="bge-m3"))
    one = open_checkpoint(
        tiny.write_checkpoint(tmp_path / "b", "xlm-roberta", layout="bge-m3", m3_heads=("sparse",))
    )
    assert both.weights_hash() != one.weights_hash()
    assert [path.name for path in both.weight_files()] == [
        "model.safetensors",
        "sparse_linear.pt",
        "colbert_linear.pt",
    ]
