import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny
from in_two import in_two
from tercet.checkpoint.layout import open_checkpoint
from tercet.errors import InputError
from tercet.precision.dtype import DType
from tercet.training.trainer import train
from two_shards import train_shards

LOSSES = [{"name": "info_nce", "head": head} for head in ("dense", "sparse", "multivector")]


def recipe(base: Path, folder: str, **changes: Any) -> dict[str, Any]:
    return {
        "model": str(base),
        "output": {"folder": folder},
        "data": [{"path": "data.jsonl", "group_size": 1}],
        "losses": LOSSES,
        "batch": {"texts": 3, "forward_tokens": 12, "negatives_across_devices": True},
        "optimizer": {"learning_rate": 1e-3, "max_gradient_norm": 0.5},
        "epochs": 3,
        "dropout": 0.0,
        "precision": "float32",
        **changes,
    }


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model in a new current folder, beside texts of very different lengths."""
    monkeypatch.chdir(tmp_path)
    lines = [{"query": f"the {'cat ' * row}{row}", "pos": [f"{'dog ' * (2 * row)}bird"]} for row in range(6)]
    Path("data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tiny.write_checkpoint(
        tmp_path / "m3", "xlm-roberta", layout="bge-m3", heads_dtype="float32", layers=2
    )


def weights(folder: str) -> dict[str, torch.Tensor]:
    checkpoint = open_checkpoint(Path(folder))
    found = {name: checkpoint.read(info, DType.FLOAT32).clone() for name, info in checkpoint.tensors.items()}
    for file in ("sparse_linear.pt", "colbert_linear.pt"):
        found |= {
            f"{file}/{name}": one for name, one in torch.load(Path(folder, file), weights_only=True).items()
        }
    checkpoint.close()
    return found


def figures(folder: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(f"{folder}.run/scalars.jsonl").read_text().splitlines()]


def same(one: str, other: str) -> None:
    mine, theirs = weights(one), weights(other)
    for name in [name for name in mine if name.endswith("key.bias")]:
        # Softmax does not see it: its gradient is rounding, which Adam makes as long as any.
        del mine[name], theirs[name]
    torch.testing.assert_close(mine, theirs, rtol=0, atol=2e-5)
    for line, other_line in zip(figures(one)[-1:], figures(other)[-1:], strict=True):
        assert line["step"] == other_line["step"]
        for name in ("loss", "gradient_norm"):
            assert line[name] == pytest.approx(other_line[name], rel=1e-4)


def test_two_processes_that_hold_half_of_it_each_reach_the_weights_of_one_that_holds_all(base: Path) -> None:
    whole = recipe(base, "one", batch={"texts": 6, "forward_tokens": 12})
    train(whole, device="cpu")
    shared = {**recipe(base, "parts"), "shard": True}
    plain = {**shared, "output": {"folder": "plain"}, "gradient_checkpointing": True}
    plain["batch"] = {"texts": 3, "negatives_across_devices": True}
    first = {**shared, "output": {"folder": "first"}, "epochs": 1, "optimizer": {**whole["optimizer"]}}
    first["optimizer"] |= {"schedule": "constant", "warmup": 0.0}
    unbroken = {**first, "output": {"folder": "unbroken"}, "epochs": 3}
    runs = [(shared, False), (plain, False), (first, False), (unbroken, False)]
    in_two(train_shards, runs)
    same("parts", "one")
    same("plain", "one")
    held = [json.loads(Path(f"held-{rank}.json").read_text())[0] for rank in range(2)]
    total = sum(one["weights"] for one in held)
    # A row that cannot be halved lies in the first process.
    assert all(0.4 * total < one["weights"] < 0.6 * total for one in held)
    assert sum(one["moments"] for one in held) == 2 * total
    assert all(0.4 < one["moments"] / (2 * total) < 0.6 for one in held)

    Path("store").unlink(missing_ok=True)
    state = torch.load(Path("first.run/step-00000001/state.pt"), weights_only=True)
    assert sum(one.numel() for one in state["model"].values()) >= total
    shutil.copytree("first.run", "sharded.run")
    shutil.copytree("first.run", "unsharded.run")
    # It goes on sharded, and unsharded.
    on = {**unbroken, "output": {"folder": "sharded"}}
    in_two(train_shards, [(on, True), ({**on, "output": {"folder": "unsharded"}, "shard": False}, True)])
    same("sharded", "unbroken")
    same("unsharded", "unbroken")


def test_heads_that_learn_in_one_process_alone_and_batches_that_accumulate_keep_step(base: Path) -> None:
    Path("labelled.jsonl").write_text(
        "".join(
            json.dumps({"sentence1": f"cat {row}", "sentence2": "dog " * row + "bird", "score": row / 4})
            + "\n"
            for row in range(4)
        )
    )
    asked = recipe(base, "whole")
    asked |= {"data": [{"path": "data.jsonl", "group_size": 1}, {"path": "labelled.jsonl"}], "steps": 3}
    asked["losses"] = [{"name": "info_nce", "head": "sparse"}, {"name": "cosent", "head": "dense"}]
    asked["batch"] = {"texts": 2, "forward_tokens": 12, "accumulate": 2}
    asked["validation"] = None
    del asked["epochs"]
    runs = []
    for name, changes in {"ways": {}, "ways_plain": {"forward_tokens": None}}.items():
        for shard in (False, True):
            batch = {**asked["batch"], **changes}
            folder = f"{name}_{shard}"
            runs.append(({**asked, "output": {"folder": folder}, "batch": batch, "shard": shard}, False))
    in_two(train_shards, runs)
    same("ways_True", "ways_False")
    same("ways_plain_True", "ways_plain_False")


def test_the_command_started_by_torchrun_leaves_all_processes_at_once_and_reports_once(base: Path) -> None:
    asked = {**recipe(base, "by_command"), "shard": True, "steps": 2}
    del asked["epochs"]
    Path("recipe.yaml").write_text(json.dumps(asked))  # which is YAML, too
    command = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", "-m", "tercet"]
    done = subprocess.run(
        [sys.executable, *command, "train", "recipe.yaml", "--device", "cpu"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("by_command: 2 steps, loss") == 1
    assert Path("by_command/colbert_linear.pt").is_file()


def test_one_process_and_float16_are_refused_where_weights_shall_be_shared(base: Path) -> None:
    with pytest.raises(InputError, match=r"shard is true, and there is one process.*torchrun"):
        train({**recipe(base, "out", batch={"texts": 2}), "shard": True}, device="cpu")
    with pytest.raises(InputError, match=r"shard and precision: float16.*Take bfloat16 or float32"):
        train({**recipe(base, "out", precision="float16"), "shard": True}, device="cpu")
