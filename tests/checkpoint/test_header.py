"""Safetensors headers: believed only as far as they agree with themselves and with the file."""

from __future__ import annotations

import json
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

import tiny
from tercet.checkpoint.header import SAFETENSORS_DTYPES, parse_safetensors, read_header
from tercet.errors import CheckpointError

ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def write(path: Path, header: Any, data: bytes = b"\0" * 8) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def test_every_dtype_and_shape_of_the_library_is_read(tmp_path: Path) -> None:
    tensors = {
        name: torch.zeros((2, 3) if name != "F32" else (), dtype=getattr(torch, ours))
        for name, (ours, _) in SAFETENSORS_DTYPES.items()
    }
    tensors["empty"] = torch.zeros(0, 4)
    save_file(tensors, tmp_path / "model.safetensors")
    found = read_header(tmp_path / "model.safetensors")
    assert {name: (info.dtype, info.shape) for name, info in found.items()} == {
        name: (str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))
        for name, tensor in tensors.items()
    }
    assert all(info.num_bytes == tensors[name].nbytes for name, info in found.items())


def test_offsets_are_places_in_the_file(tmp_path: Path) -> None:
    save_file({"a": torch.arange(4.0), "b": torch.tensor([7, 9])}, tmp_path / "m.safetensors")
    found = read_header(tmp_path / "m.safetensors")["b"]
    data = (tmp_path / "m.safetensors").read_bytes()
    assert found.offset is not None
    assert struct.unpack("<2q", data[found.offset : found.offset + 16]) == (7, 9)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "announce a header of 0 bytes"),
        (b"\x01\x02", "has 2"),
        (struct.pack("<Q", 2**63) + b"{}", "announce a header of 9,223,372,036,854,775,808 bytes"),
        (struct.pack("<Q", 100) + b"{}", "announce a header of 100 bytes, the file has 10"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Run 'git lfs pull'"),
    ],
)
def test_a_file_that_is_no_safetensors_is_named_with_what_it_announces(
    tmp_path: Path, content: bytes, says: str
) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        read_header(path)
    assert str(path) in str(caught.value)
    assert says in str(caught.value)


def test_a_header_above_the_limit_is_not_read_even_if_the_file_is_as_large(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 1 << 30))
        file.truncate(2 << 30)  # a hole: takes no space
    with pytest.raises(CheckpointError, match=r"header of 1,073,741,824 bytes"):
        read_header(path)


@pytest.mark.parametrize(
    ("header", "says"),
    [
        (b"{", "header is not what the format says"),
        (b"[" * 20_000, "header is not what the format says"),
        ([], "not a JSON object"),
        (b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, "a": {}}', "'a' is there twice"),
        ({"a": 1}, "entry of tensor 'a'"),
        ({"a": {**ENTRY, "dtype": "F31"}}, "unknown dtype 'F31'"),
        ({"a": {**ENTRY, "dtype": []}}, "unknown dtype"),
        ({"a": {**ENTRY, "shape": [-2]}}, "no valid shape"),
        ({"a": {**ENTRY, "shape": [True, 2]}}, "no valid shape"),
        ({"a": {**ENTRY, "shape": [2.0]}}, "no valid shape"),
        ({"a": {**ENTRY, "shape": [10**30, 10**30]}}, "has 8 bytes, its shape"),
        ({"a": {**ENTRY, "shape": [3]}}, "needs 12"),
        ({"a": {**ENTRY, "data_offsets": [8, 0]}}, "no valid data_offsets"),
        ({"a": {**ENTRY, "data_offsets": [-8, 0]}}, "no valid data_offsets"),
        ({"a": {**ENTRY, "data_offsets": [0]}}, "no valid data_offsets"),
        ({"a": ENTRY, "b": ENTRY}, "the one before it ends at"),
        ({"a": {**ENTRY, "data_offsets": [4, 12]}}, "begins at byte"),
        ({"a": {**ENTRY, "shape": [4], "data_offsets": [0, 16]}}, "it is cut off"),
        ({"a": {**ENTRY, "shape": [1], "data_offsets": [0, 4]}}, "bytes follow that belong to no tensor"),
    ],
)
def test_a_header_that_contradicts_itself_is_refused(tmp_path: Path, header: Any, says: str) -> None:
    path = write(tmp_path / "model.safetensors", header)
    with pytest.raises(CheckpointError) as caught:
        read_header(path)
    assert says in str(caught.value)
    assert str(path) in str(caught.value)
    assert "Fetch or write the file again" in str(caught.value)


def test_a_truncated_checkpoint_is_refused_wherever_it_was_cut(tiny_bert: Path, tmp_path: Path) -> None:
    whole = (tiny_bert / "model.safetensors").read_bytes()
    for length in (0, 7, 8, 100, len(whole) // 2, len(whole) - 1):
        (tmp_path / "model.safetensors").write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            read_header(tmp_path / "model.safetensors")


def test_a_missing_file_and_a_folder_in_its_place_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is missing"):
        read_header(tmp_path / "none.safetensors")
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_header(tmp_path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
TENSOR = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from([*SAFETENSORS_DTYPES, "F31", 3]),
        "shape": st.lists(st.integers(-1, 5), max_size=3) | JSON,
        "data_offsets": st.lists(st.integers(-1, 64), min_size=2, max_size=2) | JSON,
    }
)


@settings(deadline=None)
@given(header=st.dictionaries(st.text(max_size=4), TENSOR | JSON, max_size=4), size=st.integers(0, 200))
def test_any_header_is_read_soundly_or_refused(header: Any, size: int) -> None:
    text = json.dumps(header).encode()
    try:
        found = parse_safetensors(Path("m.safetensors"), text, 8 + len(text) + size)
    except CheckpointError:
        return
    reached = 8 + len(text)
    for info in found.values():
        assert info.offset == reached
        reached += info.num_bytes
    assert reached == 8 + len(text) + size


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=64), length=st.none() | st.integers(0, 64))
def test_random_bytes_raise_nothing_but_a_checkpoint_error(
    tmp_path: Path, content: bytes, length: int | None
) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content if length is None else struct.pack("<Q", length) + content)
    with suppress(CheckpointError):  # {} is a sound header
        read_header(path)


def test_headers_agree_with_the_library_on_a_whole_checkpoint(tiny_bert: Path) -> None:
    weights = tiny.state_dict("bert", tiny.tokenizer("bert").get_vocab_size())
    found = read_header(tiny_bert / "model.safetensors")
    assert {name: info.shape for name, info in found.items()} == {
        n: tuple(w.shape) for n, w in weights.items()
    }
