"""Packed weights on disk, mapped into memory: a second start neither reads nor packs the weights again.

A file: 8 bytes of magic; the blocks, each at a multiple of 64 bytes; the index as JSON; the trailer. The
trailer comes last, so that a file that was cut off has none:

    offset of the index, its length (8 bytes each, little-endian) · its SHA-256 (32 bytes) · the magic again

The index has the key (what the blocks were made of), and of each block its name, fields, offset, length and
CRC-32, which is checked at each start: some gigabytes a second, where vectors would be wrong without a word.
Files lie in the user's cache folder. When one is written, those that were not used for the longest time go
until all together take no more than 16 GiB; none is written to a disk that it would leave less than 2 GiB of.
Deleting the folder costs a second at the next start and nothing else.
"""

from __future__ import annotations

__all__ = ["Block", "folder", "map_blocks", "place_of", "write_blocks"]

import hashlib
import json
import logging
import mmap
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import time
from typing import Any, BinaryIO

import torch
from torch import Tensor

from tercet.cache import cache_folder

logger = logging.getLogger(__name__)

_MAGIC = b"TERCETW2"
_TRAILER_BYTES = 8 + 8 + 32 + len(_MAGIC)
_ALIGNMENT = 64
_MOST_INDEX_BYTES = 16 << 20
_MOST_BYTES = 16 << 30  # of all files together
_LEAVE_FREE_BYTES = 2 << 30  # of the disk
_STALE_SECONDS = 24 * 3600.0  # a file that was begun longer ago belongs to a process that died


@dataclass(frozen=True, slots=True)
class Block:
    """One packed weight.

    Attributes:
        fields: plain values that describe it, as JSON has them.
        data: (bytes,) uint8; its address is a multiple of 64 where it was mapped.
    """

    fields: Mapping[str, Any]
    data: Tensor


def folder() -> Path:
    """Where all files lie, whether it is there yet or not."""
    return cache_folder() / "weights"


def place_of(key: Mapping[str, Any]) -> Path:
    """The file for what `key` names, whether it is there yet or not."""
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
    return folder() / f"{digest}.packed"


def map_blocks(key: Mapping[str, Any]) -> dict[str, Block] | None:
    """The blocks that were written for `key`, mapped; None where there are none.

    A damaged file is removed, so that it is written anew.
    """
    path = place_of(key)
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            index = _index(file, size)
            # Copy on write: torch may hold it as a writable tensor, the file stays as it is.
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        if index["key"] != json.loads(json.dumps(key)):
            raise _DamagedError("its index has another key")
        found = {entry["name"]: _block(entry, mapped, index["end"]) for entry in index["blocks"]}
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:  # too many files are open, no right to read it: it may be whole all the same
        logger.info("%s cannot be read, and its weights are packed: %s", path, error)
        return None
    except (ValueError, TypeError, KeyError, RecursionError, _DamagedError) as error:
        logger.warning("%s is damaged and is made anew: %s", path, error)
        _remove(path)
        return None
    with suppress(OSError):  # a read-only cache serves as well
        os.utime(path)
    return found


def write_blocks(key: Mapping[str, Any], blocks: Iterable[tuple[str, Block]], expected_bytes: int) -> bool:
    """Write the blocks for `key`, each as it comes; aside first and then renamed.

    Args:
        key: JSON-safe; everything that the blocks depend on.
        blocks: name -> block; none of them is held.
        expected_bytes: about what they take together, to refuse before the work where the disk is too full.

    Returns:
        Whether it was written: a cache on a full or read-only disk costs time, never an answer.
    """
    path = place_of(key)
    aside: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(path.parent).free
        if free - expected_bytes < _LEAVE_FREE_BYTES:
            logger.info("%s: not written, %d bytes are free on that disk", path, free)
            return False
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".part")
        aside = Path(name)
        with os.fdopen(descriptor, "wb") as file:
            _write(file, key, blocks)
            file.flush()
            # Before the rename: after a crash there must not be a whole name for half a file.
            os.fsync(file.fileno())
        os.replace(aside, path)
    except OSError as error:
        logger.info("%s could not be written: %s", path, error)
        return False
    finally:
        if aside is not None:
            _remove(aside)
    with suppress(OSError):  # another process may tidy up at the same time
        _make_room(path)
    return True


def _write(file: BinaryIO, key: Mapping[str, Any], blocks: Iterable[tuple[str, Block]]) -> None:
    file.write(_MAGIC)
    entries = []
    for name, block in blocks:
        data = block.data.contiguous()
        offset = _align(file)
        file.write(data.numpy().data)
        place = {"offset": offset, "bytes": len(data), "crc32": zlib.crc32(data.numpy().data)}
        entries.append({"name": name, "fields": dict(block.fields), **place})
    offset = _align(file)
    text = json.dumps({"key": dict(key), "blocks": entries}).encode()
    file.write(text)
    file.write(offset.to_bytes(8, "little") + len(text).to_bytes(8, "little"))
    file.write(hashlib.sha256(text).digest() + _MAGIC)


def _align(file: BinaryIO) -> int:
    """Fill up to the next multiple of 64, and give where that is."""
    offset = -(-file.tell() // _ALIGNMENT) * _ALIGNMENT
    file.write(bytes(offset - file.tell()))
    return offset


class _DamagedError(Exception):
    """A file that is not what `write_blocks` writes."""


def _index(file: BinaryIO, size: int) -> dict[str, Any]:
    """The index, with "end": where the blocks end."""
    if size < len(_MAGIC) + _TRAILER_BYTES:
        raise _DamagedError(f"it has {size} bytes")
    file.seek(size - _TRAILER_BYTES)
    trailer = file.read(_TRAILER_BYTES)
    offset, length = int.from_bytes(trailer[:8], "little"), int.from_bytes(trailer[8:16], "little")
    if trailer[-len(_MAGIC) :] != _MAGIC:
        raise _DamagedError("it is cut off, or was written by another version")
    if length > _MOST_INDEX_BYTES or offset + length + _TRAILER_BYTES != size:
        raise _DamagedError(f"its trailer puts {length} bytes of index at byte {offset}, the file has {size}")
    file.seek(offset)
    text = file.read(length)
    if hashlib.sha256(text).digest() != trailer[16:48]:
        raise _DamagedError("its index is not the one that was written")
    index = json.loads(text)
    if not isinstance(index, dict) or not isinstance(index.get("blocks"), list):
        raise _DamagedError("its index is no list of blocks")
    return {**index, "end": offset}


def _block(entry: Mapping[str, Any], mapped: mmap.mmap, end: int) -> Block:
    offset, length = entry["offset"], entry["bytes"]
    if type(offset) is not int or type(length) is not int or not isinstance(entry["fields"], dict):
        raise _DamagedError(f"the entry of {entry['name']!r} is not what it should be")
    if offset % _ALIGNMENT or not len(_MAGIC) <= offset <= offset + length <= end:
        raise _DamagedError(
            f"{entry['name']!r} lies at byte {offset}, of {length} bytes; blocks end at {end}"
        )
    with memoryview(mapped) as whole, whole[offset : offset + length] as part:
        if zlib.crc32(part) != entry["crc32"]:
            raise _DamagedError(f"the bytes of {entry['name']!r} are not those that were written")
    if not length:
        return Block(entry["fields"], torch.empty(0, dtype=torch.uint8))
    return Block(entry["fields"], torch.frombuffer(mapped, dtype=torch.uint8, count=length, offset=offset))


def _make_room(newest: Path) -> None:
    """Remove what was not used for the longest time, and what dead processes left behind."""
    files = []
    for path in newest.parent.iterdir():
        try:
            status = path.stat()
        except OSError:  # another process removed it
            continue
        if path.suffix == ".part" and time() - status.st_mtime > _STALE_SECONDS:
            _remove(path)
        elif path.suffix == ".packed" and path != newest:
            files.append((status.st_mtime, status.st_size, path))
    kept = newest.stat().st_size
    for _, size, path in sorted(files, reverse=True):
        kept += size
        if kept > _MOST_BYTES:
            logger.info("%s is removed: it was not used for the longest time", path)
            _remove(path)


def _remove(path: Path) -> None:
    with suppress(OSError):  # gone already, or in use where that forbids it
        path.unlink(missing_ok=True)
