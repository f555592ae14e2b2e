"""Reading: the right numbers, one tensor at a time, in little memory, from any thread and process."""

from __future__ import annotations

import json
import os
import pickle
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import tiny
from tercet.checkpoint.header import read_header
from tercet.checkpoint.layout import Checkpoint, open_checkpoint
from tercet.checkpoint.tensors import TensorReader
from tercet.errors import CheckpointError, PrecisionError
from tercet.precision.dtype import DType

FLOATS = [DType.FLOAT64, DType.FLOAT32, DType.BFLOAT16, DType.FLOAT16]
FILES = ["safetensors", "bin", "legacy-bin"]


@pytest.fixture(params=FILES)
def stored(request: pytest.FixtureRequest, tmp_path: Path) -> Checkpoint:
    return open_checkpoint(tiny.write_checkpoint(tmp_path / "model", "roberta", file=request.param))


def expected() -> dict[str, torch.Tensor]:
    return tiny.state_dict("roberta", tiny.tokenizer("roberta").get_vocab_size(), pooler=False)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_tensors_are_the_stored_ones_in_the_asked_format(stored: Checkpoint, dtype: DType) -> None:
    weights = expected()
    assert weights.keys() == stored.tensors.keys()
    for name, info in stored.tensors.items():
        found = stored.read(info, dtype)
        assert found.dtype == dtype.torch
        assert torch.equal(found, weights[name].to(dtype.torch))


def test_what_is_not_cast_is_a_view_of_the_file(tmp_path: Path) -> None:
    for file in ("safetensors", "bin"):
        checkpoint = open_checkpoint(tiny.write_checkpoint(tmp_path / file, "bert", file=file))
        info = next(iter(checkpoint.tensors.values()))
        twice = [checkpoint.read(info, DType.FLOAT32) for _ in range(2)]
        assert twice[0].data_ptr() == twice[1].data_ptr()


@pytest.mark.parametrize("file", FILES)
def test_writing_to_a_tensor_never_reaches_the_file(tmp_path: Path, file: str) -> None:
    folder = tiny.write_checkpoint(tmp_path / "model", "bert", file=file)  # type: ignore[arg-type]
    checkpoint = open_checkpoint(folder)
    before = [path.read_bytes() for path in checkpoint.files]
    for info in checkpoint.tensors.values():
        checkpoint.read(info, DType.FLOAT32).fill_(7)
    assert [path.read_bytes() for path in checkpoint.files] == before


def test_released_tensors_can_still_be_used_and_read_again(stored: Checkpoint) -> None:
    weights = expected()
    for name, info in stored.tensors.items():
        tensor = stored.read(info, DType.FLOAT32)
        stored.release(info)
        assert torch.equal(tensor, weights[name])
    stored.close()
    for name, info in stored.tensors.items():
        assert torch.equal(stored.read(info, DType.FLOAT16), weights[name].half())


@pytest.mark.parametrize("to", [DType.FLOAT16, DType.BFLOAT16], ids=str)
@pytest.mark.parametrize("file", FILES)
def test_a_number_beyond_the_format_is_an_error_that_names_the_tensor(
    tmp_path: Path, file: str, to: DType
) -> None:
    folder = tiny.write_checkpoint(tmp_path / "model", "bert", file="safetensors")
    path = folder / "model.safetensors"
    weights = {"embeddings.LayerNorm.weight": torch.tensor([1.0, torch.finfo(torch.float32).max, 2.0])}
    if file == "safetensors":
        save_file(weights, path)
    else:
        path = folder / "pytorch_model.bin"
        torch.save(weights, path, _use_new_zipfile_serialization=file == "bin")
        (folder / "model.safetensors").unlink()
    checkpoint = open_checkpoint(folder)
    info = checkpoint.tensors["embeddings.LayerNorm.weight"]
    with pytest.raises(
        PrecisionError, match=rf"{path.name}.*LayerNorm\.weight.*3\.4.*infinite in {to}.*float32"
    ):
        checkpoint.read(info, to)
    assert checkpoint.read(info, DType.FLOAT32)[1] == torch.finfo(torch.float32).max


def test_infinities_and_nans_that_were_stored_stay_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_file({"a": torch.tensor([float("inf"), -float("inf"), float("nan"), 1.0])}, path)
    found = TensorReader().read(read_header(path)["a"], DType.FLOAT16)
    assert found.isinf().tolist() == [True, True, False, False]
    assert found.isnan().tolist() == [False, False, True, False]


def test_integers_are_never_read_as_floats(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_file({"a": torch.tensor([1, 2])}, path)
    info = read_header(path)["a"]
    with pytest.raises(CheckpointError, match=r"m\.safetensors: 'a' is stored as int64"):
        TensorReader().read(info, DType.FLOAT32)
    assert TensorReader().stored(info).tolist() == [1, 2]


def test_float8_is_read_as_wider_floats(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    values = torch.tensor([0.5, -2.0, 448.0])
    save_file({"a": values.to(torch.float8_e4m3fn)}, path)
    assert torch.equal(TensorReader().read(read_header(path)["a"], DType.FLOAT32), values)


def test_a_tensor_at_an_odd_place_is_read_too(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    header = json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    header += b" " * ((1 - len(header)) % 4)
    path.write_bytes(struct.pack("<Q", len(header)) + header + struct.pack("<2f", 1.5, -3.0))
    info = read_header(path)["a"]
    assert info.offset is not None
    assert info.offset % 4
    assert TensorReader().read(info, DType.FLOAT32).tolist() == [1.5, -3.0]


@pytest.mark.parametrize("file", FILES)
def test_a_file_that_changed_since_its_header_was_read_is_an_error(tmp_path: Path, file: str) -> None:
    folder = tiny.write_checkpoint(tmp_path / "model", "bert", file=file)  # type: ignore[arg-type]
    checkpoint = open_checkpoint(folder)
    if file == "safetensors":
        path = folder / "model.safetensors"
        path.write_bytes(path.read_bytes()[:4096])
    else:
        path = folder / "pytorch_model.bin"
        torch.save({"other": torch.ones(1)}, path, _use_new_zipfile_serialization=file == "bin")
    last = max(checkpoint.tensors.values(), key=lambda info: info.offset or 0)
    with pytest.raises(CheckpointError, match=rf"{path.name}.*changed while in use"):
        checkpoint.read(last, DType.FLOAT32)


def test_a_removed_file_is_an_error(tiny_bert: Path) -> None:
    info = next(iter(open_checkpoint(tiny_bert).tensors.values()))
    with pytest.raises(CheckpointError, match="cannot be mapped"):
        TensorReader().read(replace(info, file=tiny_bert / "gone.safetensors"), DType.FLOAT32)


def test_threads_may_read_at_once(stored: Checkpoint) -> None:
    weights = expected()

    def read_all(_: int) -> bool:
        return all(
            torch.equal(stored.read(i, DType.FLOAT16), weights[n].half()) for n, i in stored.tensors.items()
        )

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read_all, range(16)))


def test_a_checkpoint_survives_pickle(stored: Checkpoint) -> None:
    info = stored.tensors["embeddings.LayerNorm.weight"]
    before = stored.read(info, DType.FLOAT32)
    again = pickle.loads(pickle.dumps(stored))
    assert again == stored
    assert torch.equal(again.read(info, DType.FLOAT32), before)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this platform")
@pytest.mark.filterwarnings("ignore:This process")
def test_a_child_of_fork_reads_even_if_a_thread_held_the_lock(stored: Checkpoint) -> None:
    info = stored.tensors["embeddings.LayerNorm.weight"]
    stored.read(info, DType.FLOAT32)
    with stored._reader._lock:
        child = os.fork()
        if child == 0:
            ok = torch.equal(stored.read(info, DType.FLOAT32), expected()["embeddings.LayerNorm.weight"])
            os._exit(0 if ok else 1)
        assert os.waitpid(child, 0)[1] == 0


PEAK = """
import sys
from tercet.checkpoint.layout import open_checkpoint
from tercet.precision.dtype import DType

def kib(key):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(key))

checkpoint = open_checkpoint(sys.argv[1])
dtype = DType.parse(sys.argv[2])
small = next(info for info in checkpoint.tensors.values() if info.numbers < 10_000)
checkpoint.read(small, dtype)  # what the first cast of a process allocates is not the checkpoint's
before = kib("VmHWM")
held = [checkpoint.read(info, dtype) for info in checkpoint.tensors.values()]
largest = max(info.num_bytes for info in checkpoint.tensors.values())
print(kib("VmHWM") - before, sum(tensor.nbytes for tensor in held) // 1024, largest // 1024)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="VmHWM is Linux's")
@pytest.mark.parametrize("file", ["safetensors", "bin"])
def test_a_cast_load_peaks_at_the_planned_model_plus_less_than_one_tensor(tmp_path: Path, file: str) -> None:
    folder = tiny.write_checkpoint(
        tmp_path / "model",
        "bert",
        file=file,  # type: ignore[arg-type]
        hidden=768,
        layers=3,
        intermediate=6144,
        heads=8,
        pooler=False,
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PEAK, str(folder), "float16"], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    peak, model, largest = map(int, done.stdout.split())
    assert model > 60 * 1024
    assert peak < model + largest + 8 * 1024
