"""`tercet merge` stopped in the middle, in a process of its own: by Ctrl-C, by a scheduler, and killed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

import tiny
from tercet.cli.main import main

RECIPE = "merge_method: linear\nmodels: [{model: %s}, {model: %s}]\nparameters: {weight: 0.5}\n"
TABLE, HIDDEN = "embeddings.word_embeddings.weight", 32
# A thousand million bytes, of which none is on the disk: zeros in a hole of the file, read after the layers.
ROWS = 1_000_000_000 // (4 * HIDDEN)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate("abcd"):
        tiny.write_checkpoint(
            tmp_path / name,
            layout="sentence-transformers",
            seed=number,
            hidden=HIDDEN,
            shards=1 + number // 2,
        )
    for name in "cd":
        enlarge(tmp_path / name)
    (tmp_path / "small.yml").write_text(RECIPE % ("a", "b"))
    (tmp_path / "large.yml").write_text(RECIPE % ("c", "d"))
    (tmp_path / "documents.yml").write_text(f"name: both\n{RECIPE % ('c', 'd')}---\n{RECIPE % ('both', 'd')}")
    return tmp_path


def enlarge(folder: Path) -> None:
    """The table of tokens in a file of its own, with far more rows."""
    index = folder / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    shard = folder / content["weight_map"][TABLE]
    save_file({name: one for name, one in load_file(shard).items() if name != TABLE}, shard)
    content["weight_map"][TABLE] = "table.safetensors"
    index.write_text(json.dumps(content))
    size = 4 * HIDDEN * ROWS
    entry = {"dtype": "F32", "shape": [ROWS, HIDDEN], "data_offsets": [0, size]}
    header = json.dumps({TABLE: entry}).encode()
    header += b" " * (-len(header) % 8)
    with (folder / "table.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(file.tell() + size)


@contextmanager
def midway(here: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """The command in its own process, once it has weights in a hidden folder."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tercet", "merge", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        # A shell's background job ignores Ctrl-C, and its children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        while not any(path.stat().st_size for path in here.glob(".out.*.part/**/model.safetensors")):
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=0.02)
            assert process.poll() is None, process.stderr.read()
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize(
    ("number", "code", "recipe"),
    [
        (signal.SIGTERM, 143, "large.yml"),
        (signal.SIGINT, 130, "documents.yml"),
    ],
)
def test_a_merge_that_is_stopped_leaves_nothing_and_no_traceback(number, code, recipe, here):
    before = names(here)
    with midway(here, recipe, "out") as process:
        process.send_signal(number)
        assert process.wait(timeout=120) == code
        said = process.stderr.read().decode()
    assert said == ("tercet merge: stopped.\n" if number == signal.SIGINT else "")
    assert names(here) == before


def test_a_folder_to_be_replaced_is_untouched_when_the_merge_is_stopped(here):
    assert main(["merge", "small.yml", "out", "--no-try"]) == 0
    before, listed = contents(here / "out"), names(here)
    with midway(here, "large.yml", "out", "--overwrite") as process:
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=120) == 130
    assert contents(here / "out") == before
    assert names(here) == listed


def test_what_a_killed_merge_leaves_is_hidden_by_a_known_name_and_goes_with_the_next(here, caplog):
    before = names(here)
    with midway(here, "documents.yml", "out") as process:
        # while it runs, another merge to the same name takes nothing away from it
        assert main(["merge", "small.yml", "out", "--no-try"]) == 0
        process.kill()
        assert process.wait(timeout=120) == -signal.SIGKILL
    [left] = here.glob(".out.*.part")
    assert names(here) == sorted([*before, "out", left.name])
    finished = contents(here / "out")
    caplog.clear()
    assert main(["merge", "small.yml", "out", "--overwrite", "--no-try"]) == 0
    assert caplog.messages == [f"removed {left.relative_to(here)}, which a run that was killed had left"]
    assert names(here) == sorted([*before, "out"])
    assert contents(here / "out").keys() == finished.keys()
