"""Merges three full-size models and their base by Tercet and by mergekit, in turns: time, memory, error.

    make merges                          # XLM-RoBERTa-large, ties of three and the base; 7 GB of disk
    make merges MERGES="--layers 2"      # a short form
    make merges MERGES=--write           # puts the table into docs/merging.md
    python benchmarks/merge.py --mergekit /path/to/env   # an environment that has mergekit

Weights are random: the base from a normal distribution of width 0.04, each tuned model the base plus 0.001 of
another, all in float16. Both read the same files by the same recipe and write float16. mergekit 0.1.5 finds
the tensors of XLM-RoBERTa by their names; it is told `dtype: float32`, without which it rounds in between.
Each run is a process of its own, begun when the machine is quiet and what was written lies on the disk: its
seconds, its processor's seconds, and the most memory that it held, by the system's account; and what share of
the processors others took meanwhile. The error is that of two matrices against the same merge in float64,
without entries that lie on the threshold of a model: of equal ones in float16 there are many, and which of
them are kept is each program's choice.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open

import environments
import machine
import quiet
from engines import ROOT
from tercet.checkpoint.writer import open_tensors
from tercet.merging.streaming import merge_tensors

ENVIRONMENT = ".venv-bench-mergekit"
REQUIREMENTS = environments.REQUIREMENTS / "mergekit.txt"
BUILD = ROOT / "build" / "bench" / "merge"
TUNED = ("a", "b", "c")
WEIGHTS, DENSITY = (0.5, 0.3, 0.2), 0.5
PAGE = ROOT / "docs" / "merging.md"
MARKS = ("<!-- make merges -->\n", "<!-- end -->\n")
PATIENCE_SECONDS = 60.0
CHECKED = ("encoder.layer.0.intermediate.dense.weight", "embeddings.position_embeddings.weight")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--vocabulary", type=int, default=250_002)
    parser.add_argument("--rounds", type=int, default=2, help="of each, in turns; the faster one counts")
    parser.add_argument("--mergekit", type=Path, help="an environment; one is made where this is left out")
    parser.add_argument("--only", choices=("tercet", "mergekit"), help="one of them alone")
    parser.add_argument("--folder", type=Path, default=BUILD)
    parser.add_argument("--write", action="store_true", help=f"the table into {PAGE.name}")
    asked = parser.parse_args()
    if asked.mergekit is None and asked.only != "tercet":
        environments.prepare(ENVIRONMENT, REQUIREMENTS)
    peer = asked.mergekit or ROOT / ENVIRONMENT
    folder: Path = asked.folder
    make_models(folder, layers=asked.layers, hidden=asked.hidden, vocabulary=asked.vocabulary)
    recipe = folder / "ties.yml"
    recipe.write_text(recipe_of(folder), encoding="utf-8")
    commands = {
        "tercet": [sys.executable, "-m", "tercet", "merge", str(recipe), "OUT", "--no-try"],
        "mergekit": [str(peer / "bin" / "mergekit-yaml"), str(recipe), "OUT", "--quiet"],
    }
    found: dict[str, dict[str, Any]] = {}
    for _ in range(asked.rounds):
        for name, command in commands.items():
            if asked.only in (None, name):
                again = measured(command, folder / f"out-{name}")
                before = found.get(name, again)
                found[name] = min(before, again, key=lambda run: run["seconds"])
                found[name]["peak_mib"] = max(before["peak_mib"], again["peak_mib"])
    for name, row in found.items():
        row.update(errors(folder, folder / f"out-{name}"))
        print(
            f"{name:9} {row['seconds']:7.1f} s  {row['peak_mib']:7,.0f} MiB at most  relative error "
            f"{row['relative_error']:.3e}  delta error {row['delta_error']:.3e}",
            file=sys.stderr,
        )
    sizes = {key: getattr(asked, key) for key in ("layers", "hidden", "vocabulary", "rounds")}
    made: dict[str, Any] = {"machine": machine.machine(), "versions": {**pins(), "torch": torch.__version__}}
    made |= {**sizes, "found": found}
    text = json.dumps(made, indent=1) + "\n"
    (folder / "merge.json").write_text(text, encoding="utf-8")
    if asked.write:
        PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8"), table(made)), encoding="utf-8")
    print(text, end="")


def pins() -> dict[str, str]:
    """Package -> version of mergekit's environment, by its requirements."""
    lines = REQUIREMENTS.read_text(encoding="utf-8").splitlines()
    return dict(line.split("==", 1) for line in lines if "==" in line)


def table(made: Mapping[str, Any]) -> str:
    """What was found, in Markdown."""
    numbers = sum(
        int(np.prod(shape)) for _, shape in shapes_of(made["layers"], made["hidden"], made["vocabulary"])
    )
    here, versions = made["machine"], made["versions"]
    packages = ", ".join(f"{name} {versions[name]}" for name in ("mergekit", "torch", "numpy", "safetensors"))
    rows = [
        f"| {name} | {run['seconds']:,.1f} | {run['cpu_seconds']:,.1f} | {run['peak_mib']:,.0f} "
        f"| {run['relative_error']:.2e} | {run['delta_error']:.2e} | {run['others']:.1%} |\n"
        for name, run in made["found"].items()
    ]
    heads = (
        "", "seconds", "processor seconds", "peak RSS, MiB", "relative error", "delta error", "others' share"
    )  # fmt: skip
    runs = "one run each" if made["rounds"] == 1 else f"the fastest of {made['rounds']} runs each, in turns"
    lines = (
        f"ties of three models and their base, {numbers / 1e6:,.0f} million numbers each, float16 on disk",
        f"and in the result; {runs}.",
        f"{here['cpu']} ({here['model']}), {here['cores']} cores, {here['memory_gib']} GiB,",
        f"{here['system']}, Python {here['python']}; {packages}.",
        "",
        f"| {' | '.join(heads)} |",
        "|---" * len(heads) + "|",
    )
    return "\n".join(lines) + "\n" + "".join(rows)


def with_table(page: str, text: str) -> str:
    """The page with its table in place of the old one."""
    before, start, rest = page.partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    if not start or not end:
        raise SystemExit(f"{PAGE} has no lines {MARKS[0].strip()} and {MARKS[1].strip()} to write between.")
    return before + start + text + end + after


def recipe_of(folder: Path) -> str:
    """ties of three models and their base, as both programs read it."""
    models = "".join(
        f"  - model: {folder / name}\n    parameters: {{weight: {weight}, density: {DENSITY}}}\n"
        for name, weight in zip(TUNED, WEIGHTS, strict=True)
    )
    return (
        f"merge_method: ties\nbase_model: {folder / 'base'}\nmodels:\n{models}"
        "dtype: float32\nout_dtype: float16\n"
    )


def make_models(folder: Path, *, layers: int, hidden: int, vocabulary: int) -> None:
    """The base and three models beside it, unless they are there in this size."""
    shapes = dict(shapes_of(layers, hidden, vocabulary))
    wanted = json.dumps({name: list(shape) for name, shape in shapes.items()})
    stamp = folder / ".made"
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted:
        return
    stamp.unlink(missing_ok=True)
    config = {
        "architectures": ["XLMRobertaModel"],
        "model_type": "xlm-roberta",
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": max(1, hidden // 64),
        "intermediate_size": 4 * hidden,
        "hidden_act": "gelu",
        "max_position_embeddings": 514,
        "type_vocab_size": 1,
        "layer_norm_eps": 1e-5,
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "torch_dtype": "float16",
    }
    for number, name in enumerate(("base", *TUNED)):
        place = folder / name
        place.mkdir(parents=True, exist_ok=True)
        (place / "config.json").write_text(json.dumps(config), encoding="utf-8")
        plan = {key: ("float16", shape) for key, shape in shapes.items()}
        with open_tensors(place, plan) as (write, _):
            for position, (key, shape) in enumerate(shapes.items()):
                for first, numbers in _numbers(position, number, int(np.prod(shape))):
                    write(key, first, numbers)
    stamp.write_text(wanted, encoding="utf-8")


def shapes_of(layers: int, hidden: int, vocabulary: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of XLM-RoBERTa without its pooler."""
    for name, rows in (("word", vocabulary), ("position", 514), ("token_type", 1)):
        yield f"embeddings.{name}_embeddings.weight", (rows, hidden)
    norms = ["embeddings.LayerNorm"]
    for layer in range(layers):
        start = f"encoder.layer.{layer}"
        norms += [f"{start}.attention.output.LayerNorm", f"{start}.output.LayerNorm"]
        for part, out, into in (
            ("attention.self.query", 1, 1),
            ("attention.self.key", 1, 1),
            ("attention.self.value", 1, 1),
            ("attention.output.dense", 1, 1),
            ("intermediate.dense", 4, 1),
            ("output.dense", 1, 4),
        ):
            yield f"{start}.{part}.weight", (out * hidden, into * hidden)
            yield f"{start}.{part}.bias", (out * hidden,)
    for name in norms:
        yield f"{name}.weight", (hidden,)
        yield f"{name}.bias", (hidden,)


def _numbers(tensor: int, model: int, count: int) -> Iterator[tuple[int, torch.Tensor]]:
    """(first, numbers) of a tensor: the base's, and for a tuned model what was learned on top."""
    base = np.random.Generator(np.random.SFC64([tensor]))
    learned = np.random.Generator(np.random.SFC64([tensor, model]))
    for first in range(0, count, 1 << 20):
        size = min(1 << 20, count - first)
        numbers = base.standard_normal(size, dtype=np.float32) * 0.04
        if model:
            numbers += learned.standard_normal(size, dtype=np.float32) * 0.001
        yield first, torch.from_numpy(numbers).half()


def measured(command: Sequence[str], out: Path) -> dict[str, float]:
    """Seconds and the most MiB of a command whose OUT is a new folder.

    Files that are mapped count as far as they are held; the page cache does not.
    """
    shutil.rmtree(out, ignore_errors=True)
    settle()
    watch, started = quiet.Watch(), time.perf_counter()
    process = subprocess.Popen([str(out) if word == "OUT" else word for word in command])
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command[0]} ended with {process.returncode}.")
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    return {
        "seconds": seconds,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_mib": usage.ru_maxrss / unit,
        "others": watch.others(),
    }


def settle() -> None:
    """Wait until what was written lies on the disk and others leave the processors alone, for a while."""
    os.sync()
    quiet.wait_for_quiet(PATIENCE_SECONDS)


def errors(folder: Path, out: Path) -> dict[str, float]:
    """Lengths of the error by those of the exact result, and of what it adds to the base."""
    error = whole = delta = 0.0
    for name in CHECKED:
        tensors = [_read(folder / model, name).double() for model in ("base", *TUNED)]
        parameters = {"weight": list(WEIGHTS), "density": [DENSITY] * len(TUNED)}
        exact = merge_tensors(tensors, "ties", parameters, base=0)
        clear = torch.ones_like(exact, dtype=torch.bool)
        for tensor in tensors[1:]:
            magnitudes = (tensor - tensors[0]).abs()
            kept = int(DENSITY * magnitudes.numel())
            threshold = magnitudes.reshape(-1).kthvalue(magnitudes.numel() - kept + 1).values
            clear &= magnitudes != threshold
        error += float((_read(out, name).double() - exact)[clear].square().sum())
        whole += float(exact[clear].square().sum())
        delta += float((exact - tensors[0])[clear].square().sum())
    return {"relative_error": (error / whole) ** 0.5, "delta_error": (error / delta) ** 0.5}


def _read(folder: Path, name: str) -> torch.Tensor:
    """A tensor of a folder's weights, wherever it lies."""
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            if name in file.keys():  # noqa: SIM118 - no mapping
                return file.get_tensor(name)
    raise SystemExit(f"{folder} has no {name}.")


if __name__ == "__main__":
    main()
