"""Predicted against measured peak memory: each load in a fresh process, VmHWM with RssAnon beside it.

    python benchmarks/peak_memory.py FOLDER [--precision float32 --precision float16] [--max-length 2048]

A child loads the model, embeds batches as large as the plan allows and one text as long as `--max-length`,
with all outputs, and reads its own /proc/self/status. VmHWM counts the pages of mapped files, which the
kernel can drop again; RssAnon, read after the run, is what cannot be dropped. Where the embedding table stays
mapped, the batches hold a token from every 64 KiB of it, so that all of it is touched, as in a long run.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tercet.precision.dtype import DType


def status() -> dict[str, int]:
    """Bytes of VmHWM, VmRSS and RssAnon of this process."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    pairs = (line.split(":", 1) for line in lines if line.startswith(("VmHWM", "VmRSS", "RssAnon")))
    return {name: int(value.split()[0]) * 1024 for name, value in pairs}


def covering(model: Any) -> list[str]:
    """Texts of about 128 tokens, at least one full batch, that touch a mapped embedding table everywhere."""
    plan, tokens = model.plan, model.plan.token_budget
    stored = DType.parse(model.checkpoint.footprint().stored_dtype)
    # Where only linear layers are narrowed, the table stays as it is stored.
    mapped = stored in (plan.precision.weights, plan.precision.compute)
    step = (64 << 10) // (stored.bytes * model.checkpoint.config["hidden_size"]) if mapped else 1 << 20
    tokenizer, words = model.tokenizer, []
    for start in range(0, tokenizer.vocabulary_size, step):
        names = (tokenizer.id_to_token(i) for i in range(start, min(start + step, tokenizer.vocabulary_size)))
        # A piece that begins a word stays itself when it stands between spaces.
        words.append(next((name.lstrip("\u2581") for name in names if is_word(name)), "word"))
    words += ["word"] * max(0, tokens - len(words))
    return [" ".join(words[i : i + 120]) for i in range(0, len(words), 120)]


def is_word(piece: str) -> bool:
    return len(piece) > 1 and not piece.startswith(("##", "<", "["))


def measure(folder: str, precision: str, max_length: int | None) -> dict[str, Any]:
    """One load and one full batch, in this process."""
    import tercet

    model = tercet.load(folder, precision=precision, max_length=max_length)
    loaded = status()
    texts = [*covering(model), " ".join(["word"] * model.max_length)]
    tokens = 0
    for part in model.stream(texts, outputs=model.outputs, max_length=max_length):
        tokens = max(tokens, int(part.num_tokens.sum()))
    after = status()
    return {
        "model": model.checkpoint.name,
        "precision": str(model.plan.scheme),
        "predicted": model.plan.peak_bytes,
        "parts": model.plan.memory,
        "measured": after["VmHWM"],
        "anonymous": after["RssAnon"],
        "loaded": loaded["VmHWM"],
        "loaded_anonymous": loaded["RssAnon"],
        "tokens": tokens,
    }


def main() -> None:
    """Measure every precision asked for, each in a process of its own, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", nargs="+", help="model folders, hub ids, or minilm")
    parser.add_argument("--precision", action="append", help="default: float32 and float16")
    parser.add_argument("--max-length", type=int, help="longest text in tokens; the model's limit by default")
    parser.add_argument("--parts", action="store_true", help="print the prediction part by part")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(options.folder[0], options.child, options.max_length)))
        return
    # The probe is remembered before the first child starts, so that none of them has to make one.
    subprocess.run(
        [sys.executable, "-m", "tercet", "doctor", "--json"], check=True, stdout=subprocess.DEVNULL
    )
    rows = []
    for folder in options.folder:
        for precision in options.precision or ["float32", "float16"]:
            command = [sys.executable, __file__, folder, "--child", precision]
            if options.max_length:
                command += ["--max-length", str(options.max_length)]
            found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            rows.append(json.loads(found.splitlines()[-1]))
    if options.json:
        print(json.dumps(rows, indent=2))
        return
    print("| model | body | predicted | VmHWM | off by | RssAnon | after loading | largest batch |")
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        mb = {key: f"{row[key] / 1e6:,.0f} MB" for key in ("predicted", "measured", "anonymous", "loaded")}
        off = row["predicted"] / row["measured"] - 1
        print(
            f"| {row['model']} | {row['precision']} | {mb['predicted']} | {mb['measured']} | {off:+.1%} | "
            f"{mb['anonymous']} | {mb['loaded']} | {row['tokens']:,} tokens |"
        )
        if options.parts:
            print("\n".join(f"  {count / 1e6:8,.0f} MB  {what}" for what, count in row["parts"]))


if __name__ == "__main__":
    main()
