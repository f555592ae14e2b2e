"""Small JSON notes in the user's cache folder."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tercet.cache import cache_folder, read_json, write_json


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    assert write_json("a.json", {"x": [1, 2.5, None]}, folder=tmp_path / "new")
    assert read_json("a.json", folder=tmp_path / "new") == {"x": [1, 2.5, None]}
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.json"]


@pytest.mark.parametrize("damage", [b"", b"{", b"\xff\xfe\x00", b"[" * 100_000])
def test_a_missing_or_damaged_file_is_forgotten(tmp_path: Path, damage: bytes) -> None:
    assert read_json("a.json", folder=tmp_path) is None
    (tmp_path / "a.json").write_bytes(damage)
    assert read_json("a.json", folder=tmp_path) is None


def test_a_folder_that_cannot_be_written_costs_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    assert not write_json("a.json", 1, folder=tmp_path / "file")
    assert read_json("a.json", folder=tmp_path / "file") is None


@pytest.mark.skipif(sys.platform in ("darwin", "win32"), reason="the XDG convention is Linux's")
def test_the_folder_follows_the_platforms_convention(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "tercet"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_folder() == Path.home() / ".cache" / "tercet"
