import errno
import json
import os
import stat
import tracemalloc
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tercet.embeddings import Embeddings, MultiVectors, SparseVectors
from tercet.errors import InputError, OutputError, PrecisionError
from tercet.storage.vectors import check_output, open_writer, read_vectors, stream_vectors

PROVENANCE = {"model": "tiny", "prompt": "« query » ", "max_length": 512, "plan": {"device": "cpu"}}
SUFFIXES = ("parquet", "npz", "jsonl")
VOCABULARY = 250_002
ALL = ("dense", "sparse", "multivector")


def some(
    texts: int,
    *,
    outputs: tuple[str, ...] = ALL,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    dim: int = 8,
    longest: int = 5,
) -> Embeddings:
    random = torch.Generator().manual_seed(seed)
    lengths = torch.randint(0, longest, (texts,), generator=random)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    entries = int(offsets[-1])
    ids = [torch.randperm(500, generator=random)[:length].sort().values * 500 for length in lengths.tolist()]
    sparse = SparseVectors(
        torch.cat([torch.zeros(0, dtype=torch.int64), *ids]),
        torch.rand(entries, generator=random).to(dtype) + 1e-3,
        offsets,
        VOCABULARY,
    )
    return Embeddings(
        dense=torch.randn(texts, dim, generator=random).to(dtype) if "dense" in outputs else None,
        sparse=sparse if "sparse" in outputs else None,
        multivector=MultiVectors(torch.randn(entries, 4, generator=random).to(dtype), offsets)
        if "multivector" in outputs
        else None,
        num_tokens=lengths + 2,
        truncated=torch.rand(texts, generator=random) < 0.5,
        recomputed=torch.rand(texts, generator=random) < 0.5,
    )


def same(left: Embeddings, right: Embeddings) -> bool:
    a, b = left.numpy(), right.numpy()
    fields: list[tuple[Any, Any]] = [
        (getattr(a, name), getattr(b, name)) for name in ("num_tokens", "truncated")
    ]
    fields += [(a.recomputed, b.recomputed), (a.dense, b.dense)]
    if a.sparse is not None and b.sparse is not None:
        names = ("token_ids", "weights", "offsets", "vocabulary")
        fields += [(getattr(a.sparse, name), getattr(b.sparse, name)) for name in names]
    if a.multivector is not None and b.multivector is not None:
        fields += [
            (a.multivector.vectors, b.multivector.vectors),
            (a.multivector.offsets, b.multivector.offsets),
        ]
    return left.outputs == right.outputs and all(
        np.array_equal(x, y) and getattr(x, "dtype", None) == getattr(y, "dtype", None) for x, y in fields
    )


def write(path: Path, parts: Iterable[Embeddings], **options: Any) -> None:
    with open_writer(str(path), provenance={}, **options) as writer:
        for part in parts:
            writer.write(part)


def hidden(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_is_written_is_read_back_to_the_last_bit(
    tmp_path: Path, suffix: str, dtype: torch.dtype
) -> None:
    path = str(tmp_path / f"v.{suffix}")
    parts = [
        some(3, seed=1, dtype=dtype),
        some(0, dtype=dtype),
        some(1, seed=2, dtype=dtype),
        some(40, dtype=dtype),
    ]
    with open_writer(path, provenance=PROVENANCE) as writer:
        for part in parts:
            writer.write(part)
    found, ids, provenance = read_vectors(path)
    assert same(found, Embeddings.concat(parts))
    assert ids == list(range(44))
    assert provenance == PROVENANCE
    assert hidden(tmp_path) == []


@pytest.mark.parametrize("outputs", [("dense",), ("sparse",), ("multivector",), ("dense", "sparse")])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_each_output_may_stand_alone(tmp_path: Path, suffix: str, outputs: tuple[str, ...]) -> None:
    path = str(tmp_path / f"v.{suffix}")
    with open_writer(path, provenance=PROVENANCE) as writer:
        writer.write(some(7, outputs=outputs))
    found, _, _ = read_vectors(path)
    assert found.outputs == outputs
    assert same(found, some(7, outputs=outputs))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=15)
@given(
    names=st.lists(
        st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8), min_size=1, max_size=4
    )
)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_any_ids_and_texts_come_back(tmp_path: Path, suffix: str, names: list[str]) -> None:
    path = str(tmp_path / f"v.{suffix}")
    with open_writer(path, provenance={}, keep_text=True, overwrite=True) as writer:
        for row, name in enumerate(names):
            writer.write(some(1, seed=row), ids=[name], texts=[name[::-1]])
    _, parts = stream_vectors(path)
    rows = list(parts)
    assert [id for part in rows for id in part.ids] == names
    assert [text for part in rows for text in part.texts or []] == [name[::-1] for name in names]


@pytest.mark.parametrize("suffix", ["parquet", "npz"])
def test_a_file_of_no_text_still_says_its_outputs_and_widths(tmp_path: Path, suffix: str) -> None:
    path = str(tmp_path / f"v.{suffix}")
    with open_writer(path, provenance=PROVENANCE) as writer:
        writer.write(some(0))
    found, ids, provenance = read_vectors(path)
    assert (len(found), ids, provenance) == (0, [], PROVENANCE)
    assert found.dense is not None
    assert found.dense.shape == (0, 8)
    assert found.outputs == ALL


def test_json_lines_of_no_text_are_an_empty_file(tmp_path: Path) -> None:
    with open_writer(str(tmp_path / "v.jsonl"), provenance=PROVENANCE) as writer:
        writer.write(some(0))
    assert (tmp_path / "v.jsonl").read_bytes() == b""


def test_parquet_has_the_types_the_encodings_and_the_provenance(tmp_path: Path) -> None:
    path = tmp_path / "v.parquet"
    with open_writer(str(path), provenance=PROVENANCE, keep_text=True) as writer:
        writer.write(some(9, dtype=torch.float16), texts=list("abcdefghi"))
    file = pq.ParquetFile(path)
    types = {field.name: str(field.type) for field in file.schema_arrow}
    assert types == {
        "id": "int64",
        "text": "large_string",
        "num_tokens": "int32",
        "truncated": "bool",
        "recomputed": "bool",
        "dense": "fixed_size_list<element: halffloat>[8]",
        "sparse": "struct<indices: list<element: uint32>, values: list<element: halffloat>>",
        "multivector": "list<element: fixed_size_list<element: halffloat>[4]>",
    }
    stored = json.loads(file.schema_arrow.metadata[b"tercet"])
    assert stored["model"] == "tiny"
    assert stored["file"] == {
        "version": 1,
        "outputs": list(ALL),
        "dtype": "float16",
        "vocabulary": VOCABULARY,
    }
    group = file.metadata.row_group(0)
    columns = {group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)}
    assert {column.compression for column in columns.values()} == {"ZSTD"}
    for leaf in ("dense.list.element", "sparse.values.list.element", "multivector.list.element.list.element"):
        assert "BYTE_STREAM_SPLIT" in columns[leaf].encodings
        assert not columns[leaf].has_dictionary_page


def test_row_groups_are_bounded_in_bytes_however_the_parts_come(tmp_path: Path) -> None:
    path = tmp_path / "v.parquet"
    bound = 64 * 2**10
    with open_writer(str(path), provenance={}, row_group_bytes=bound) as writer:
        for part in (some(1, dim=64), some(2000, dim=64), some(3, dim=64)):
            writer.write(part)
    metadata = pq.ParquetFile(path).metadata
    sizes = [metadata.row_group(i).num_rows * (64 * 4 + 64) for i in range(metadata.num_row_groups)]
    assert metadata.num_rows == 2004
    assert max(sizes) <= bound
    assert len(sizes) < 2 * sum(sizes) / bound + 2


def test_npz_is_plain_numpy_and_its_sparse_part_is_csr(tmp_path: Path) -> None:
    from scipy.sparse import csr_array

    path = tmp_path / "v.npz"
    wanted = some(6)
    with open_writer(str(path), provenance=PROVENANCE) as writer:
        writer.write(wanted[:2], ids=["a", "long name"])
        writer.write(wanted[2:], ids=["c", "d", "e", "f"])
    with np.load(path, allow_pickle=False) as archive:
        assert archive["id"].tolist() == ["a", "long name", "c", "d", "e", "f"]
        assert json.loads(archive["provenance"].item())["model"] == "tiny"
        matrix = csr_array(
            (archive["sparse_data"], archive["sparse_indices"], archive["sparse_indptr"]),
            shape=tuple(archive["sparse_shape"]),
        )
    assert wanted.sparse is not None
    assert (matrix != wanted.sparse.to_scipy()).nnz == 0


def test_json_lines_are_strict_json_with_no_more_digits_than_needed(tmp_path: Path) -> None:
    path = tmp_path / "v.jsonl"
    row = some(1, outputs=("dense",))
    dense = torch.tensor([[0.1, -1e-30, 3.0, 1e20]])
    with open_writer(str(path), provenance=PROVENANCE) as writer:
        writer.write(
            Embeddings(dense, None, None, row.num_tokens, row.truncated, row.recomputed), ids=['a"b']
        )
    assert '"id": "a\\"b"' in path.read_text()
    assert '"dense": [0.1, -1e-30, 3.0, 1e+20]' in path.read_text()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_bfloat16_is_refused_with_the_mend(tmp_path: Path, suffix: str) -> None:
    path = str(tmp_path / f"v.{suffix}")
    with (
        pytest.raises(PrecisionError, match="--output-dtype float32"),
        open_writer(path, provenance={}) as writer,
    ):
        writer.write(some(2, dtype=torch.bfloat16))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit, InputError])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_error_leaves_nothing_and_touches_no_older_file(
    tmp_path: Path, suffix: str, stop: type[BaseException]
) -> None:
    path = tmp_path / f"v.{suffix}"
    path.write_bytes(b"older")

    def parts() -> Iterator[Embeddings]:
        yield some(50)
        raise stop

    with pytest.raises(stop):
        write(path, parts(), overwrite=True, row_group_bytes=1000)
    assert [found.name for found in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == b"older"


class Full:
    """A file on a disk that is full after some bytes."""

    def __init__(self, file: Any, room: int) -> None:
        self.file, self.room = file, room

    def write(self, data: Any) -> int:
        self.room -= len(memoryview(data).cast("B"))
        if self.room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return int(self.file.write(data))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


@pytest.mark.parametrize("room", [0, 100, 20_000])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_full_disk_is_one_error_with_the_mend_and_leaves_nothing(
    tmp_path: Path, suffix: str, room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Path.open
    monkeypatch.setattr(Path, "open", lambda *a, **k: Full(whole(*a, **k), room))
    path = tmp_path / f"v.{suffix}"
    with pytest.raises(OutputError, match=r"No space left on device.*free some space") as caught:
        write(path, [some(100, seed=seed) for seed in range(20)], row_group_bytes=10_000)
    assert str(path) in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_at_the_last_sync_is_an_error_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with (
        pytest.raises(OutputError, match="No space left"),
        open_writer(str(tmp_path / "v.jsonl"), provenance={}) as w,
    ):
        w.write(some(2))
    assert list(tmp_path.iterdir()) == []


def test_bad_places_for_an_output_are_found_before_any_work(tmp_path: Path) -> None:
    def refused(name: str, **options: Any) -> str:
        with pytest.raises(OutputError) as caught:
            check_output(str(tmp_path / name), **options)
        return str(caught.value)

    (tmp_path / "in.jsonl").write_text("{}")
    (tmp_path / "folder.npz").mkdir()
    os.mkfifo(tmp_path / "pipe.jsonl")
    assert "mkdir -p" in refused("missing/v.parquet")
    assert "is a folder" in refused("folder.npz")
    assert "Use one of .parquet, .npz, .jsonl" in refused("v.pickle")
    assert "is there already" in refused("in.jsonl")
    assert "--overwrite" in refused("in.jsonl")
    assert "is the input itself" in refused("in.jsonl", input=str(tmp_path / "in.jsonl"), overwrite=True)
    assert "not a regular file" in refused("pipe.jsonl", overwrite=True)
    assert check_output(str(tmp_path / "in.jsonl"), overwrite=True) == "jsonl"
    assert check_output("-") == "jsonl"


def test_a_folder_that_may_not_be_written_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(OutputError, match="may not be written to"):
        check_output(str(tmp_path / "v.npz"))


def test_a_link_keeps_pointing_where_it_pointed(tmp_path: Path) -> None:
    (tmp_path / "real.jsonl").write_text("older")
    (tmp_path / "link.jsonl").symlink_to("real.jsonl")
    with open_writer(str(tmp_path / "link.jsonl"), provenance={}, overwrite=True) as writer:
        writer.write(some(1))
    assert (tmp_path / "link.jsonl").is_symlink()
    assert (tmp_path / "real.jsonl").read_text().startswith('{"provenance"')


def test_the_file_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    with open_writer(str(tmp_path / "v.parquet"), provenance={}) as writer:
        writer.write(some(1))
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "v.parquet")}
    assert len(modes) == 1


def test_counts_that_do_not_agree_and_writers_never_written_to_are_errors(tmp_path: Path) -> None:
    path = str(tmp_path / "v.parquet")
    with (
        pytest.raises(InputError, match="1 ids for 2 embeddings"),
        open_writer(path, provenance={}) as writer,
    ):
        writer.write(some(2), ids=["a"])
    with (
        pytest.raises(InputError, match="pass texts="),
        open_writer(path, provenance={}, keep_text=True) as writer,
    ):
        writer.write(some(2))
    with pytest.raises(InputError, match="nothing was written"), open_writer(path, provenance={}):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_files_that_tercet_did_not_write_are_refused_by_name(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"v.{suffix}"
    path.write_bytes(b'{"a": 1}\n')
    with pytest.raises(InputError, match=rf"v\.{suffix}"):
        read_vectors(str(path))
    with pytest.raises(InputError, match="no such file"):
        read_vectors(str(tmp_path / "missing.npz"))
    pq.write_table(pa.table({"a": [1]}), tmp_path / "w.parquet")
    np.savez(tmp_path / "w.npz", a=np.zeros(3))
    (tmp_path / "w.jsonl").write_text('{"provenance": {"file": {"version": 99}}}\n')
    with pytest.raises(InputError, match=r"provenance|version 99"):
        read_vectors(str(tmp_path / f"w.{suffix}"))


def test_a_file_cut_short_is_refused_by_name(tmp_path: Path) -> None:
    for suffix in SUFFIXES:
        path = tmp_path / f"v.{suffix}"
        with open_writer(str(path), provenance={}) as writer:
            writer.write(some(300))
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(InputError, match=rf"v\.{suffix}"):
            read_vectors(str(path))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_writing_ten_times_the_rows_takes_no_more_memory(tmp_path: Path, suffix: str) -> None:
    part = some(200, dim=64 if suffix == "jsonl" else 256, longest=12)

    def peak(parts: int) -> int:
        path = str(tmp_path / f"{parts}.{suffix}")
        most = 0
        before = pa.total_allocated_bytes()
        tracemalloc.start()
        with open_writer(path, provenance={}, row_group_bytes=2**20) as writer:
            for _ in range(parts):
                writer.write(part)
                most = max(most, pa.total_allocated_bytes() - before)
        _, python = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return python + most

    peak(1)
    few, many = (2, 20) if suffix == "jsonl" else (10, 100)
    assert peak(many) < peak(few) + 1_500_000


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_reading_goes_part_by_part(tmp_path: Path, suffix: str) -> None:
    path = str(tmp_path / f"v.{suffix}")
    with open_writer(path, provenance={}, row_group_bytes=10_000) as writer:
        writer.write(some(1000))
    _, parts = stream_vectors(path)
    lengths = [len(part.embeddings) for part in parts]
    assert len(lengths) > 3
    assert sum(lengths) == 1000


def test_the_modules_of_storage_import_no_torch_before_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    import subprocess
    import sys

    code = (
        "import sys, tercet.storage.texts, tercet.storage.vectors; "
        "assert not {'torch', 'pyarrow', 'numpy'} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
