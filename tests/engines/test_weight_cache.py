"""Packed weights on disk: what comes back, what is refused, what makes room."""

from __future__ import annotations

import logging
import os
import shutil
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tercet.engines import weight_cache
from tercet.engines.weight_cache import Block, map_blocks, place_of, write_blocks

KEY = {"weights": "0" * 64, "scheme": "int8", "layout": 1}


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "tercet" / "weights"


def data(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(256, (count,), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


BLOCKS = [
    ("layers.0", Block({"out": 3, "level": "avx2"}, data(1000))),
    ("layers.1", Block({"out": 5, "level": "avx2"}, data(1, 1))),
    ("empty", Block({"kept": "float32"}, data(0))),
    ("last", Block({}, data(64, 2))),
]


def write(key: dict[str, object] = KEY, count: int | None = None) -> Path:
    assert write_blocks(key, iter(BLOCKS[:count]), 2000)
    return place_of(key)


def test_blocks_come_back_as_they_were_aligned_and_mapped(own_cache: Path) -> None:
    path = write()
    assert [file.name for file in own_cache.iterdir()] == [path.name]
    found = map_blocks(KEY)
    assert found is not None
    assert list(found) == [name for name, _ in BLOCKS]
    for name, block in BLOCKS:
        assert found[name].fields == block.fields
        assert torch.equal(found[name].data, block.data)
        assert not block.data.numel() or found[name].data.data_ptr() % 64 == 0
    # what is written to a mapped block never reaches the file
    found["layers.0"].data.fill_(7)
    again = map_blocks(KEY)
    assert again is not None
    assert torch.equal(again["layers.0"].data, BLOCKS[0][1].data)


def test_what_was_never_written_is_not_there(own_cache: Path) -> None:
    assert map_blocks(KEY) is None
    write()
    assert map_blocks({**KEY, "layout": 2}) is None
    assert map_blocks({**KEY, "scheme": "float16"}) is None


def test_mapped_blocks_outlive_their_file() -> None:
    path = write()
    found = map_blocks(KEY)
    path.unlink()
    assert found is not None
    assert torch.equal(found["layers.0"].data, BLOCKS[0][1].data)


@pytest.mark.parametrize("size", [0, 7, 8, 63, 64, 1063, 1064, 1065, -57, -56, -1])
def test_a_file_that_was_cut_off_is_removed_and_made_anew(
    size: int, caplog: pytest.LogCaptureFixture
) -> None:
    path = write()
    whole = path.read_bytes()
    path.write_bytes(whole[:size])
    with caplog.at_level(logging.WARNING):
        assert map_blocks(KEY) is None
    assert f"{path} is damaged and is made anew" in caplog.text
    assert not path.exists()
    assert write().read_bytes() == whole
    assert map_blocks(KEY) is not None


def test_a_file_that_cannot_be_read_now_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    path = write()

    def refused(*_: object, **__: object) -> None:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(weight_cache.mmap, "mmap", refused)
        assert map_blocks(KEY) is None
    assert path.is_file()
    assert map_blocks(KEY) is not None


def test_no_cache_folder_can_be_where_a_file_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert map_blocks(KEY) is None
    assert not write_blocks(KEY, iter(BLOCKS), 2000)
    assert "damaged" not in caplog.text


def test_no_flipped_bit_of_index_or_trailer_is_believed() -> None:
    path = write()
    whole = path.read_bytes()
    begin = int.from_bytes(whole[-56:-48], "little")
    for place in range(begin, len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        assert map_blocks(KEY) is None, place


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("offset", 65),
        ("offset", -64),
        ("offset", 1 << 40),
        ("offset", "64"),
        ("bytes", -1),
        ("bytes", 1 << 40),
        ("bytes", True),
        ("fields", []),
    ],
)
def test_an_index_whose_numbers_leave_the_file_is_refused(
    monkeypatch: pytest.MonkeyPatch, entry: str, value: object
) -> None:
    import json

    whole = json.dumps

    # An index that is wrong and yet sealed: what a version with a mistake would write.
    def spoilt(made: dict[str, object], **options: bool) -> str:
        if isinstance(made.get("blocks"), list):
            made["blocks"][0][entry] = value  # type: ignore[index]
        return whole(made, **options)

    with monkeypatch.context() as patch:
        patch.setattr(weight_cache.json, "dumps", spoilt)
        path = write()
    assert map_blocks(KEY) is None
    assert not path.exists()


def test_the_file_of_another_key_under_this_name_is_refused() -> None:
    other = write({**KEY, "layout": 2})
    shutil.copy(other, place_of(KEY))
    assert map_blocks(KEY) is None
    assert not place_of(KEY).exists()


def test_work_that_fails_in_the_middle_leaves_nothing(own_cache: Path) -> None:
    def broken() -> Iterator[tuple[str, Block]]:
        yield BLOCKS[0]
        raise ValueError("a weight is damaged")

    with pytest.raises(ValueError, match="a weight is damaged"):
        write_blocks(KEY, broken(), 10)
    assert list(own_cache.iterdir()) == []


def test_a_folder_that_cannot_be_written_costs_time_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert not write_blocks(KEY, iter(BLOCKS), 10)
    assert map_blocks(KEY) is None


def test_a_disk_without_room_is_left_alone_before_anything_is_packed(
    monkeypatch: pytest.MonkeyPatch, own_cache: Path
) -> None:
    usage = namedtuple("usage", "total used free")(10, 0, (2 << 30) + 999)
    monkeypatch.setattr(weight_cache.shutil, "disk_usage", lambda folder: usage)

    def never() -> Iterator[tuple[str, Block]]:
        raise AssertionError("packed in vain")
        yield

    assert not write_blocks(KEY, never(), 1000)
    assert write_blocks(KEY, iter(BLOCKS), 999)


def test_what_was_not_used_for_the_longest_time_makes_room(
    monkeypatch: pytest.MonkeyPatch, own_cache: Path
) -> None:
    keys = [{**KEY, "layout": number} for number in range(4)]
    paths = [write(key) for key in keys]
    for age, path in zip((400, 300, 200, 100), paths, strict=True):
        os.utime(path, (path.stat().st_mtime - age,) * 2)
    assert map_blocks(keys[0]) is not None  # the oldest, but used just now
    monkeypatch.setattr(weight_cache, "_MOST_BYTES", 3 * paths[0].stat().st_size + 1)
    newest = write({**KEY, "layout": 9})
    assert set(own_cache.iterdir()) == {newest, paths[0], paths[3]}


def test_what_a_dead_process_left_behind_is_removed_after_a_day(own_cache: Path) -> None:
    write()
    old, young = own_cache / ".old.part", own_cache / ".young.part"
    for path in (old, young):
        path.write_bytes(b"x")
    os.utime(old, (old.stat().st_mtime - 90_000,) * 2)
    write({**KEY, "layout": 2})
    assert not old.exists()
    assert young.exists()


def test_bytes_that_changed_on_disk_are_found_and_made_anew(caplog):
    key = {"weights": "changed"}
    data = torch.arange(1000, dtype=torch.int64).to(torch.uint8)
    assert weight_cache.write_blocks(key, [("layer", weight_cache.Block({}, data))], len(data))
    place = weight_cache.place_of(key)
    content = bytearray(place.read_bytes())
    content[64 + 500] ^= 1
    place.write_bytes(content)
    assert weight_cache.map_blocks(key) is None
    assert "the bytes of 'layer' are not those that were written" in caplog.text
    assert not place.exists()
