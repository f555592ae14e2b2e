"""Writing: the library's own bytes, whole or not at all, and the same again after a round trip."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

import tercet
import tiny
from recorder import late_cases, word_cases
from tercet.checkpoint.header import SAFETENSORS_DTYPES
from tercet.checkpoint.layout import open_checkpoint
from tercet.checkpoint.writer import save_checkpoint, write_aside, write_tensors
from tercet.errors import InputError, OutputError, PrecisionError
from tercet.precision.dtype import DType

STACK = (
    ("pooling", {"modes": ("cls", "mean")}),
    ("dense", {"out_features": 16, "dtype": "float32"}),
    "normalize",
)


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def plan_of(tensors: dict[str, Tensor]) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {name: (str(t.dtype).removeprefix("torch."), tuple(t.shape)) for name, t in tensors.items()}


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shapes=st.dictionaries(
        st.text(min_size=1, max_size=6).filter(lambda name: name != "__metadata__" and name.isprintable()),
        st.tuples(
            st.sampled_from([ours for ours, _ in SAFETENSORS_DTYPES.values()]),
            st.lists(st.integers(0, 4), max_size=3),
        ),
        min_size=1,
        max_size=6,
    ),
    data=st.data(),
)
def test_the_bytes_are_those_of_the_safetensors_library(
    tmp_path: Path, shapes: Any, data: st.DataObject
) -> None:
    tensors = {
        name: torch.randint(0, 2, shape).to(getattr(torch, dtype)) for name, (dtype, shape) in shapes.items()
    }
    save_file(tensors, tmp_path / "theirs.safetensors", metadata={"format": "pt"})
    order = data.draw(st.permutations(sorted(tensors)))
    (path,) = write_tensors(tmp_path, plan_of(tensors), ((name, tensors[name]) for name in order))
    assert path.read_bytes() == (tmp_path / "theirs.safetensors").read_bytes()


def test_shards_hold_everything_within_their_size(tmp_path: Path) -> None:
    tensors = {f"layer.{n}": torch.full((10 + n,), float(n)) for n in range(12)} | {"huge": torch.ones(100)}
    paths = write_tensors(tmp_path, plan_of(tensors), tensors.items(), max_shard_bytes=150)
    assert len(paths) > 3
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"] == {"total_size": sum(t.nbytes for t in tensors.values())}
    found = {name: tensor for path in paths for name, tensor in load_file(path).items()}
    assert found.keys() == tensors.keys() == index["weight_map"].keys()
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)
    assert all(sum(t.nbytes for t in load_file(p).values()) <= 150 or len(load_file(p)) == 1 for p in paths)


@pytest.mark.parametrize(
    ("came", "says"),
    [
        ({}, "'a' was planned and never came"),
        ({"a": torch.ones(3)}, r"'a' came as \('float32', \(3,\)\)"),
        ({"a": torch.ones(2).half()}, r"'a' came as \('float16', \(2,\)\)"),
        ({"b": torch.ones(2)}, r"'b' came as .* planned was None"),
    ],
)
def test_tensors_that_were_not_planned_so_are_refused(
    tmp_path: Path, came: dict[str, Tensor], says: str
) -> None:
    with pytest.raises(OutputError, match=says):
        write_tensors(tmp_path, {"a": ("float32", (2,))}, came.items())


@pytest.mark.parametrize("layout", ["huggingface", "sentence-transformers", "bge-m3"])
@pytest.mark.parametrize("file", ["safetensors", "bin", "legacy-bin"])
@pytest.mark.parametrize("dtype", [None, DType.FLOAT16, DType.BFLOAT16], ids=str)
@pytest.mark.parametrize("max_bytes", [5_000_000_000, 30_000])
def test_save_load_save_is_identical(
    tmp_path: Path, layout: Any, file: Any, dtype: DType | None, max_bytes: int
) -> None:
    folder = tiny.write_checkpoint(
        tmp_path / "0",
        "xlm-roberta",
        layout=layout,
        file=file,
        modules=STACK,
        position_ids=True,
        prefix="roberta.",
    )
    first, second = tmp_path / "1", tmp_path / "2"
    save_checkpoint(open_checkpoint(folder), first, dtype, max_shard_bytes=max_bytes)
    save_checkpoint(open_checkpoint(first), second, dtype, max_shard_bytes=max_bytes)
    assert tree(first) == tree(second)
    before, after = open_checkpoint(folder), open_checkpoint(first)
    read_as = dtype or DType.FLOAT32
    for name, info in before.tensors.items():
        assert torch.equal(before.read(info, read_as), after.read(after.tensors[name], read_as))
    assert after.ignored.keys() == before.ignored.keys()
    assert [(m.kind, m.config) for m in after.modules] == [(m.kind, m.config) for m in before.modules]
    assert after.max_length == before.max_length


@pytest.mark.parametrize("layout", ["huggingface", "sentence-transformers", "bge-m3"])
def test_a_safetensors_checkpoint_saved_as_stored_is_the_same_folder(tmp_path: Path, layout: Any) -> None:
    folder = tiny.write_checkpoint(tmp_path / "0", "xlm-roberta", layout=layout, modules=STACK)
    assert tree(save_checkpoint(open_checkpoint(folder), tmp_path / "1")) == tree(folder)


def test_config_json_says_the_dtype_of_the_bytes(tmp_path: Path) -> None:
    folder = tiny.write_checkpoint(tmp_path / "0", "xlm-roberta", layout="bge-m3", position_ids=True)
    found = open_checkpoint(save_checkpoint(open_checkpoint(folder), tmp_path / "half", DType.FLOAT16))
    assert found.config["torch_dtype"] == "float16"
    assert found.footprint().stored.keys() == {"float16"}
    assert found.ignored["embeddings.position_ids"].dtype == "int64"

    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "torch_dtype": "float16", "dtype": "bfloat16"}))
    found = open_checkpoint(save_checkpoint(open_checkpoint(folder), tmp_path / "as-stored"))
    assert (found.config["torch_dtype"], found.config["dtype"]) == ("float32", "float32")


def test_a_folder_with_files_is_never_written_over(tiny_bert: Path, tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(OutputError, match="is not an empty folder"):
        save_checkpoint(open_checkpoint(tiny_bert), tmp_path)
    assert tree(tmp_path) == {"precious.txt": b"mine"}
    (tmp_path / "empty").mkdir()
    assert tree(save_checkpoint(open_checkpoint(tiny_bert), tmp_path / "empty"))


def test_a_full_disk_leaves_nothing(tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = open_checkpoint(tiny_bert)
    read = type(checkpoint).stored
    calls = iter(range(1000))

    def fails_later(self: Any, info: Any) -> Tensor:
        if next(calls) == 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        return read(self, info)

    monkeypatch.setattr(type(checkpoint), "stored", fails_later)
    with pytest.raises(
        OutputError, match=r"copy cannot be written: No space left on device. Free some space"
    ):
        save_checkpoint(checkpoint, tmp_path / "copy")
    assert list(tmp_path.iterdir()) == []


def test_whatever_interrupts_leaves_nothing(tmp_path: Path) -> None:
    def interrupted() -> Iterator[tuple[str, Tensor]]:
        yield "a", torch.ones(2)
        raise KeyboardInterrupt

    plan = {"a": ("float32", (2,)), "b": ("float32", (2,))}
    with pytest.raises(KeyboardInterrupt), write_aside(tmp_path / "new" / "model") as aside:
        write_tensors(aside, plan, interrupted())
    assert list((tmp_path / "new").iterdir()) == []


def test_weights_beyond_the_format_stop_the_save(tmp_path: Path) -> None:
    folder = tiny.write_checkpoint(
        tmp_path / "0", "bert", layout="sentence-transformers", modules=("pooling", ("dense", {"scale": 1e8}))
    )
    with pytest.raises(PrecisionError, match=r"2_Dense.*'linear\.(weight|bias)'.*infinite in float16"):
        save_checkpoint(open_checkpoint(folder), tmp_path / "1", DType.FLOAT16)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0"]


def test_a_pooling_that_the_files_do_not_say_is_not_lost_silently(tiny_bert: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"opened with pooling='cls'.*Open it without pooling="):
        save_checkpoint(open_checkpoint(tiny_bert, pooling="cls"), tmp_path / "copy")


@pytest.mark.parametrize(
    ("write", "name"),
    [
        (word_cases.write, "weighted words, short"),
        (late_cases.write, "colbert"),
        (late_cases.write, "pylate"),
        (late_cases.write, "multi-vector, fewer of a document"),
    ],
)
def test_a_copy_of_words_or_of_late_interaction_embeds_as_the_original(tmp_path, write, name):
    folder = write(tmp_path / "model", name)
    copy = save_checkpoint(open_checkpoint(folder), tmp_path / "copy")
    texts = ["the cat is on the bridge, and reads a csv file", "wait for several coroutines " * 9]
    expected, found = (
        tercet.load(path, precision="float32", device="cpu").encode_query(texts) for path in (folder, copy)
    )
    assert found.outputs == expected.outputs
    assert found.num_tokens.tolist() == expected.num_tokens.tolist()
    for ours, theirs in ((found.dense, expected.dense), (found.multivector, expected.multivector)):
        if theirs is not None:
            torch.testing.assert_close(getattr(ours, "vectors", ours), getattr(theirs, "vectors", theirs))


def test_what_is_replaced_comes_back_when_the_new_folder_cannot_take_its_place(tmp_path, monkeypatch):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "before").write_text("kept")
    rename = Path.rename

    def stopped(self, target):
        if self.name.endswith(".part"):
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", stopped)
    with pytest.raises(KeyboardInterrupt), write_aside(folder, overwrite=True) as aside:
        (aside / "after").write_text("new")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert (folder / "before").read_text() == "kept"
