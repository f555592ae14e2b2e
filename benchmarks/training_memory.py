"""What fine-tuning a full-size BGE-M3 takes: the peak of memory of `tercet train`, setting by setting.

    python benchmarks/training_memory.py                           # about 20 minutes of processor time
    python benchmarks/training_memory.py --layers 2 --only lora    # to try
    python benchmarks/training_memory.py --keep build/figures      # goes on where an earlier run ended

XLM-RoBERTa large (24 layers, 1024 wide, 250,002 pieces) with random weights, float16 on disk, and both heads;
all three heads learn by BGE-M3's loss with self-distillation, in float32, for two steps: in the second one
weights, gradients, moments and activations are there together. Each setting is a command in a process of its
own on the CPU.

Its anonymous memory (RssAnon, looked at every 10 ms) is what nobody can take from it: the peak up to the end
of the last step, and that of the whole command, the saving of state and model included. VmHWM counts
the pages of mapped files, too. What a card would hold is the peak of the steps less what a process has before
it has weights: Python, torch, accelerate and the tokenizer. A card has a context beside it, of some hundred
MB, and other kernels than a processor, so that is an estimate: no card was measured.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import machine
from engines import Shape
from make_bge_m3 import tensor_shapes
from models import folder_of
from workloads import make_texts, words

QUERIES, PASSAGES, STEPS = 16, 2, 2
FORWARD_TOKENS, LONGEST, QUERY_TOKENS, MEDIAN, SIGMA = 512, 512, 8, 16.0, 0.84
RANK = 16
# What an 8 GB card has, and what its context takes of it; the second is a guess on the safe side.
CARD, CONTEXT = 8 << 30, 600 << 20


@dataclass(frozen=True, slots=True)
class Setting:
    """One way to train.

    Attributes:
        title: as in the table.
        learns: which numbers have gradients and moments: "all", "layers" (all but tables), "adapters" or
            "heads" (both of these and heads).
        recipe: keys of the recipe that make it.
        queries: in a batch.
    """

    title: str
    learns: str
    recipe: Mapping[str, Any] = field(default_factory=dict)
    queries: int = QUERIES


TWICE = {"gradient_checkpointing": True}
LORA = {"lora": {"rank": RANK}}
SETTINGS = {
    "whole": Setting("all weights", "all"),
    "whole-twice": Setting("all weights", "all", TWICE),
    "layers": Setting("all but embedding tables", "layers", {"freeze_embeddings": True}),
    "layers-twice": Setting("all but embedding tables", "layers", {"freeze_embeddings": True, **TWICE}),
    "lora": Setting(f"LoRA, rank {RANK}", "adapters", LORA),
    "lora-twice": Setting(f"LoRA, rank {RANK}", "adapters", {**LORA, **TWICE}),
    "lora-twice-64": Setting(f"LoRA, rank {RANK}", "adapters", {**LORA, **TWICE}, 4 * QUERIES),
    "heads": Setting("heads alone", "heads", {"freeze_body": True}),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--model", type=Path, help="such a model that is there already")
    parser.add_argument("--only", action="append", choices=SETTINGS, help="these settings alone")
    parser.add_argument("--keep", type=Path, help="folder for what is measured; what it has is not done anew")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        print(anonymous_before_weights(asked.child))
        return
    model = asked.model or folder_of(
        Shape(f"m3-{asked.layers}", "", layers=asked.layers, limit=LONGEST), "float16"
    )
    scratch = Path(tempfile.mkdtemp(prefix="training_memory-", dir=model.parent))
    try:
        found = [
            kept(asked.keep, f"{name}-{asked.layers}", lambda name=name: measured(name, model, scratch))
            for name in asked.only or SETTINGS
        ]
    finally:
        shutil.rmtree(scratch)
    made = {"layers": asked.layers, "machine": machine.machine(), "torch": torch_version(), "rows": found}
    print(json.dumps(made, indent=1) if asked.json else table(made), end="")


def kept(folder: Path | None, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What is made, or what an earlier run left of it in the folder."""
    path = None if folder is None else folder / f"{name}.json"
    if path is not None and path.exists():
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found
    found = make()
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found), encoding="utf-8")
    return found


def measured(name: str, model: Path, scratch: Path) -> dict[str, Any]:
    """One setting's peaks in bytes, and the tokens of its steps."""
    setting, data, recipe = SETTINGS[name], scratch / "data.jsonl", scratch / "recipe.yaml"
    write_data(data, model, setting.queries)
    # JSON is YAML.
    recipe.write_text(json.dumps(recipe_of(setting, model, data, scratch / "trained")), encoding="utf-8")
    before = int(subprocess.check_output([sys.executable, __file__, "--child", str(model)], text=True))
    print(f"{name} ...", file=sys.stderr)
    command = [sys.executable, "-m", "tercet", "train", str(recipe), "--device", "cpu", "--json"]
    started = time.monotonic()
    scalars = scratch / "trained.run" / "scalars.jsonl"
    peaks = watched(command, scratch / "log", until=lambda: lines_of(scalars) == STEPS)
    steps = [json.loads(line) for line in scalars.read_text(encoding="utf-8").splitlines()]
    for folder in ("trained", "trained.run"):
        shutil.rmtree(scratch / folder)
    if len(steps) != STEPS or not all(math.isfinite(step["loss"]) for step in steps):
        raise SystemExit(f"{name}: {STEPS} steps of a finite loss were expected, and these came: {steps}")
    print(f"  {time.monotonic() - started:.0f} s, {peaks['steps'] / 1e9:.2f} GB", file=sys.stderr)
    return {"name": name, "before": before, "tokens": max(step["tokens"] for step in steps), **peaks}


def recipe_of(setting: Setting, model: Path, data: Path, output: Path) -> dict[str, Any]:
    """What `tercet train` is asked for."""
    return {
        "model": str(model),
        "output": {"folder": str(output), "dtype": "float16"},
        "data": [{"path": str(data), "group_size": PASSAGES}],
        "losses": [{"name": "m3", "options": {"temperature": 0.02, "self_distill": True}}],
        "batch": {"texts": setting.queries, "forward_tokens": FORWARD_TOKENS, "by_length": False},
        "steps": STEPS,
        "precision": "float32",
        "checkpoints": {"every": None, "keep": 1},
        **setting.recipe,
    }


def write_data(path: Path, model: Path, queries: int) -> None:
    """A batch of queries of a few words, each with a positive and a negative of very different lengths."""
    from tercet.checkpoint.layout import open_checkpoint
    from tercet.text.tokenizer import Tokenizer

    tokenizer, source = Tokenizer.open(open_checkpoint(model)), words()

    def count(text: str) -> int:
        return tokenizer.encode([text], max_length=2 * LONGEST).lengths[0]

    asked = make_texts([QUERY_TOKENS] * queries, source, count, seed=1)
    passages = make_texts(passage_lengths(queries * PASSAGES), source, count, seed=2)
    with path.open("w", encoding="utf-8") as file:
        for number, query in enumerate(asked):
            own = passages[number * PASSAGES : (number + 1) * PASSAGES]
            file.write(json.dumps({"query": query, "pos": own[:1], "neg": own[1:]}) + "\n")


def passage_lengths(number: int) -> list[int]:
    """Lognormal lengths in tokens, after one that by itself is a part of GradCache."""
    draw = random.Random(0)
    drawn = (round(math.exp(draw.gauss(math.log(MEDIAN), SIGMA))) for _ in range(number - 1))
    return [LONGEST, *(min(LONGEST, max(8, length)) for length in drawn)]


def lines_of(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def watched(command: Sequence[str], log: Path, until: Callable[[], bool]) -> dict[str, int]:
    """The peaks of a process that must end well; its steps end where `until` comes true."""
    peaks = {"steps": 0, "anonymous": 0, "resident": 0}
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file)
    path = Path(f"/proc/{process.pid}/status")
    try:
        while process.poll() is None:
            note(peaks, path.read_text(encoding="utf-8"), steps=not until())
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}:\n{log.read_text()[-2000:]}")
    return peaks


def note(peaks: dict[str, int], status: str, *, steps: bool) -> None:
    """Raises peaks (bytes) to what /proc/PID/status says: anonymous memory, also of the steps, and VmHWM."""
    found = dict(line.split(":", 1) for line in status.splitlines() if line.startswith(("RssAnon", "VmHWM")))
    for name, key in (("RssAnon", "anonymous"), ("VmHWM", "resident")):
        # A process that has just ended has no memory, and no such line.
        peaks[key] = max(peaks[key], int(found.get(name, "0 kB").split()[0]) * 1024)
    if steps:
        peaks["steps"] = peaks["anonymous"]


def anonymous_before_weights(model: str) -> int:
    """Bytes of RssAnon where everything but the model is there: in this process."""
    import accelerate

    from tercet.checkpoint.layout import open_checkpoint
    from tercet.text.tokenizer import Tokenizer
    from tercet.training import trainer

    there = (accelerate.Accelerator(cpu=True), trainer, Tokenizer.open(open_checkpoint(Path(model))))
    text = Path("/proc/self/status").read_text(encoding="utf-8")
    assert all(there)
    return next(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("RssAnon"))


def numbers(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """Of all weights, and of those that learn by each kind of setting; heads are as wide as the encoder."""
    body = {name: shape for name, shape in shapes.items() if not name.startswith("pooler")}
    whole = sum(map(math.prod, body.values()))
    tables = sum(math.prod(shape) for name, shape in body.items() if name.endswith("_embeddings.weight"))
    linear = [shape for name, shape in body.items() if name.startswith("encoder") and len(shape) == 2]
    [width] = shapes["embeddings.LayerNorm.weight"]
    heads = (width + 1) * (width + 1)
    return {
        "weights": whole + heads,
        "all": whole + heads,
        "layers": whole - tables + heads,
        "adapters": RANK * sum(map(sum, linear)) + heads,
        "heads": heads,
    }


def held_numbers(counts: Mapping[str, int], setting: Setting) -> int:
    """Of all weights; adapters come on top of the model's."""
    return counts["weights"] + (counts["adapters"] - counts["heads"] if setting.learns == "adapters" else 0)


def table(made: Mapping[str, Any]) -> str:
    """What was found, in Markdown."""
    here, counts = made["machine"], numbers(tensor_shapes(made["layers"]))
    heads = (
        "what learns", "checkpointing", "queries", "tokens a step", "numbers that learn",
        "weights, gradients, moments", "peak of the steps", "a card would hold", "in 8 GiB",
        "whole command", "VmHWM",
    )  # fmt: skip
    lines = [
        f"{made['layers']} layers, {counts['weights'] / 1e6:,.0f} million numbers. {here['cpu']} "
        f"({here['model']}), {here['cores']} cores, {here['memory_gib']} GiB, {here['system']}, Python "
        f"{here['python']}, torch {made['torch']}.",
        "",
        f"| {' | '.join(heads)} |",
        "|---" * len(heads) + "|",
    ]
    for row in made["rows"]:
        setting = SETTINGS[row["name"]]
        learn, held = counts[setting.learns], row["steps"] - row["before"]
        cells = (
            setting.title,
            "yes" if setting.recipe.get("gradient_checkpointing") else "no",
            str(setting.queries),
            f"{row['tokens']:,}",
            f"{learn / 1e6:,.1f} million",
            # float32: each weight, and of those that learn a gradient and two moments.
            gigabytes(4 * held_numbers(counts, setting) + 12 * learn),
            gigabytes(row["steps"]),
            gigabytes(held),
            "yes" if fits(held) else "no",
            gigabytes(row["anonymous"]),
            gigabytes(row["resident"]),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def fits(held: int) -> bool:
    """Whether so many bytes go into an 8 GB card, beside its context."""
    return held + CONTEXT <= CARD


def gigabytes(count: float) -> str:
    return f"{count / 1e9:,.2f} GB"


def torch_version() -> str:
    from importlib.metadata import version

    return version("torch")


if __name__ == "__main__":
    main()
