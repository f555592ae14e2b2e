"""Torch's own files: headers without weights, nothing but tensors, sizes bounded before they are believed."""

from __future__ import annotations

import os
import pickle
import zipfile
from io import BytesIO
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tiny
from tercet.checkpoint.torch_file import load_torch_file, read_remote_header, read_torch_header, torch_format
from tercet.errors import CheckpointError


class RunsCode:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch /tmp/must-not-exist",)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_header_has_names_dtypes_and_shapes(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "w.bin"
    weights = {
        "a": torch.ones(2, 3, dtype=torch.float16),
        "b": torch.arange(4),
        "c": torch.nn.Parameter(torch.ones(1)),
    }
    torch.save(weights, path, _use_new_zipfile_serialization=zipped)
    assert torch_format(path) == ("torch" if zipped else "torch-legacy")
    found = read_torch_header(path)
    assert [(i.name, i.dtype, i.shape) for i in found.values()] == [
        ("a", "float16", (2, 3)),
        ("b", "int64", (4,)),
        ("c", "float32", (1,)),
    ]


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "w.bin"
    torch.save({"a": RunsCode()}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(
        CheckpointError, match=r"w\.bin holds more than tensors and is refused(?!.*weights_only).*safetensors"
    ):
        read_torch_header(path)
    assert not Path("/tmp/must-not-exist").exists()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ([torch.ones(1)], "holds a list, expected tensors by name"),
        ({"a": 3}, "'a' is an int, expected tensors by name alone"),
        ({"state_dict": {"a": torch.ones(1)}}, "Save the model's state dict itself"),
        ({1: torch.ones(1)}, "expected tensors by name alone"),
        ({"a": torch.ones(2).to_sparse()}, "layout torch.sparse_coo, which is not read"),
        ({"a": torch.ones(2, dtype=torch.complex64)}, "'a' is a complex64 tensor"),
        ({"a": torch.ones(1).expand(1000)}, "claims more numbers than the file's"),
    ],
)
def test_anything_but_plain_tensors_by_name_is_refused(tmp_path: Path, content: object, says: str) -> None:
    path = tmp_path / "w.bin"
    torch.save(content, path)
    with pytest.raises(CheckpointError) as caught:
        read_torch_header(path)
    assert says in str(caught.value)
    assert str(path) in str(caught.value)


def rezip(path: Path, method: int = zipfile.ZIP_STORED, extra: tuple[str, bytes] | None = None) -> None:
    """The same records, stored or compressed another way."""
    with zipfile.ZipFile(path) as old:
        records = [(info.filename, old.read(info)) for info in old.infolist()]
    with zipfile.ZipFile(path, "w", method) as new:
        for name, data in [*records, *([extra] if extra else [])]:
            new.writestr(name, data)


def test_a_compressed_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.bin"
    torch.save({"a": torch.zeros(100_000)}, path)
    rezip(path, zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match=r"is compressed, which torch\.save never does"):
        read_torch_header(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_records_of_one_name_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.bin"
    torch.save({"a": torch.zeros(10)}, path)
    rezip(path, extra=("w/data/0", b"\0" * 40))
    with pytest.raises(CheckpointError, match="records overlap"):
        read_torch_header(path)


def test_a_storage_that_claims_more_than_the_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.bin"
    torch.save({"a": torch.zeros(1_000_000)}, path)
    with zipfile.ZipFile(path) as archive:
        records = [(info.filename, archive.read(info)) for info in archive.infolist()]
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in records:
            archive.writestr(name, b"\0" * 4 if name.endswith("data/0") else data)
    with pytest.raises(CheckpointError, match="claims more numbers than the file's"):
        read_torch_header(path)


@pytest.mark.parametrize("zipped", [True, False])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_file_cut_anywhere_is_refused(tmp_path: Path, zipped: bool, data: st.DataObject) -> None:
    buffer = BytesIO()
    torch.save({"a": torch.ones(300)}, buffer, _use_new_zipfile_serialization=zipped)
    whole = buffer.getvalue()
    path = tmp_path / "w.bin"
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(CheckpointError, match=r"w\.bin"):
        load_torch_file(path, "cpu")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    start=st.sampled_from(
        [b"", b"PK\x03\x04", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", b"\x80\x02}q\x00."]
    ),
    content=st.binary(max_size=200),
)
def test_random_bytes_raise_only_a_checkpoint_error(tmp_path: Path, start: bytes, content: bytes) -> None:
    path = tmp_path / "w.bin"
    path.write_bytes(start + content)
    with pytest.raises(CheckpointError, match=r"w\.bin"):
        read_torch_header(path)


def test_other_files_are_named_for_what_they_are(tmp_path: Path) -> None:
    path = tmp_path / "w.bin"
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(CheckpointError, match="git lfs pull"):
        torch_format(path)
    path.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(CheckpointError, match=r"not a file of torch\.save"):
        torch_format(path)
    with pytest.raises(CheckpointError, match="is missing"):
        torch_format(tmp_path / "none.bin")


class Counting(BytesIO):
    """A file that counts what is read of it, as the hub would send it."""

    fetched = 0

    def read(self, size: int | None = -1, /) -> bytes:
        found = super().read(size)
        self.fetched += len(found)
        return found


def test_a_remote_header_needs_a_small_part_of_the_file(tmp_path: Path) -> None:
    folder = tiny.write_checkpoint(
        tmp_path, "roberta", file="bin", hidden=256, intermediate=1024, dtype="float16"
    )
    path = folder / "pytorch_model.bin"
    remote = Counting(path.read_bytes())
    found = read_remote_header(remote, path.stat().st_size, Path("pytorch_model.bin"))
    assert found is not None
    assert {n: (i.dtype, i.shape) for n, i in found.items()} == {
        n: (i.dtype, i.shape) for n, i in read_torch_header(path).items()
    }
    assert {info.file for info in found.values()} == {Path("pytorch_model.bin")}
    assert remote.fetched < path.stat().st_size / 20


def test_a_remote_file_in_the_old_format_has_no_header(tmp_path: Path) -> None:
    path = tiny.write_checkpoint(tmp_path, "bert", file="legacy-bin") / "pytorch_model.bin"
    assert read_remote_header(BytesIO(path.read_bytes()), path.stat().st_size, path) is None
