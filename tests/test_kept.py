"""What is kept in the cache folder, counted and removed."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import torch

from tercet import kept
from tercet.cache import cache_folder, write_json
from tercet.engines.weight_cache import Block, write_blocks
from tercet.errors import OutputError, UnknownNameError


@pytest.fixture(autouse=True)
def _own_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def fill() -> None:
    """A note of each kind, as Tercet writes it."""
    assert write_json("probe-0123.json", {"key": 1})
    assert write_json("weights.json", {})
    assert write_blocks({"weights": "a"}, [("w", Block({}, torch.zeros(1000, dtype=torch.uint8)))], 1000)
    assert write_json("ab.json", {"report": "{}"}, folder=cache_folder() / "evaluations")
    assert write_json("cd.json", {}, folder=cache_folder() / "audits" / "deep")
    (cache_folder() / "models" / "some").mkdir(parents=True)
    (cache_folder() / "models" / "some" / "config.json").write_text("{}")
    (cache_folder() / ".probe-0123.json.x7").write_text("half")
    (cache_folder() / "notes").write_text("of another program")


def test_nothing_is_kept_before_anything_was_written() -> None:
    assert [(one.kind, one.places, one.files, one.bytes) for one in kept.kept()] == [
        ("probes", (), 0, 0),
        ("weights", (), 0, 0),
        ("models", (), 0, 0),
        ("results", (), 0, 0),
    ]
    assert not cache_folder().exists()


def test_every_file_is_counted_once_with_its_bytes() -> None:
    fill()
    counts = {one.kind: one.files for one in kept.kept()}
    assert counts == {"probes": 2, "weights": 2, "models": 1, "results": 2}
    ours = [path for path in cache_folder().rglob("*") if path.is_file() and path.name != "notes"]
    assert sum(one.bytes for one in kept.kept()) == sum(path.stat().st_size for path in ours)


@pytest.mark.parametrize("kind", kept.KINDS)
def test_clearing_a_kind_removes_it_and_nothing_else(kind: str) -> None:
    fill()
    before = {one.kind: one for one in kept.kept()}
    assert kept.clear(kind) == before[kind]
    after = {one.kind: one for one in kept.kept()}
    assert (after[kind].places, after[kind].files) == ((), 0)
    assert {name: one for name, one in after.items() if name != kind} == {
        name: one for name, one in before.items() if name != kind
    }
    assert (cache_folder() / "notes").is_file()
    assert kept.clear(kind).files == 0


def test_a_link_is_removed_and_what_it_leads_to_stays(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").write_text("a")
    cache_folder().mkdir(parents=True)
    (cache_folder() / "evaluations").symlink_to(elsewhere)
    (cache_folder() / "weights").mkdir()
    (cache_folder() / "weights" / "link").symlink_to(elsewhere)
    kept.clear("results")
    kept.clear("weights")
    assert (elsewhere / "precious").read_text() == "a"
    assert list(cache_folder().iterdir()) == []


def test_an_unknown_kind_is_refused_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"kind 'probe'.*'probes'"):
        kept.clear("probe")


def test_what_cannot_be_removed_is_named_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    fill()

    def forbidden(path: Path, missing_ok: bool = False) -> None:
        raise PermissionError(13, os.strerror(13))

    monkeypatch.setattr(Path, "unlink", forbidden)
    where = re.escape(str(cache_folder() / "weights"))
    with pytest.raises(
        OutputError, match=rf"{where}.* cannot be removed: Permission denied\. Remove it by hand"
    ):
        kept.clear("weights")
