"""The page: what was measured, in tables, with what a reader must know to believe it."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from engines import ENGINES, SHAPES
from figures import Figures
from goals import goals
from samples import Store, digits, ratio
from workloads import CRANFIELD

WORDS = ("engine", "against", "on what", "dtype", "shape", "file")
MET = {True: "yes", False: "**no**", None: "-"}
HOW_TO_READ = """\
Everything is measured end to end: text in, vectors out, tokenisation and heads included, in one run on one
machine. Each engine is loaded in a process of its own; the processes take turns, and only one works at a
time. A number is the median, in brackets the fastest and the slowest sample and how many there were. A sample
is dropped and repeated while other processes use more than 5 % of the CPU; where none was left, the number
says *disturbed*. Thread counts are the libraries' own defaults.

**How much of a ratio is padding?** The peers pad the texts of a batch to the longest; *padding* is the tokens
that went through the encoder over the tokens that are there, counted by a hook. A peer with 2.6 there would
be 2.6 times as fast if it padded nothing. What is left, *computing*, is the ratio divided by it. In a large
corpus that is sorted by length padding nears 1, and what remains of a ratio is computing. FlagEmbedding's
includes the first batch, which it computes twice.

**Better than life for the runtimes.** OpenVINO and ONNX Runtime run exported graphs and are given batches
sorted by length within a budget of 1,024 padded tokens: better batching than their users have from
sentence-transformers or optimum. OpenVINO is told INFERENCE_PRECISION_HINT=f32. Their int8 graphs are NNCF's
post-training quantisation for transformers (12 texts) and ONNX Runtime's dynamic quantisation (weights by
channel).

**Random weights** of BGE-M3's shape take as long as trained ones, but say nothing about drift: only MiniLM's
does. *Share* is multiplications and additions of linear layers and attention on real tokens, over what the
chip's float32 instructions do in registers alone. *Apart* is 1 - cosine to Tercet's float32 vectors of the
same texts."""


def write(store: Store, form: str, path: Path) -> Figures:
    """Write the page; the picture lies beside it under the same name."""
    found = Figures(store)
    parts = [_head(store, form, path), _goals(found), "## How to read it\n\n" + HOW_TO_READ, _peaks(found)]
    parts += [_speed(found, shape) for shape in found.shapes()]
    parts += [_cold(found), _memory(found), _drift(found), _plans(store), _failures(store)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n\n".join(part for part in parts if part) + "\n", encoding="utf-8")
    return found


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table: words to the left, numbers to the right."""
    rule = ["---" if column in WORDS else "---:" for column in columns]
    lines = [columns, rule, *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)


def _head(store: Store, form: str, path: Path) -> str:
    machine, versions = store.identity["machine"], store.identity["versions"]
    told = ", ".join(f"{name} {version}" for name, version in versions.items())
    source = "Cranfield abstracts" if CRANFIELD.exists() else "docstrings of Python's standard library"
    forms = {
        "full": "",
        "short": " The short form: few samples.",
        "try": " A trial of the bench, no measurement.",
    }
    picture = (
        f'<picture><source media="(prefers-color-scheme: dark)" srcset="{path.stem}-dark.svg">'
        f'<img src="{path.stem}.svg" alt="Tokens a second by engine and workload"></picture>'
    )
    return (
        "# Benchmarks\n\n"
        f"Written by `make bench` on {time.strftime('%Y-%m-%d')}.{forms[form]} Raw samples: "
        f"`build/bench/{store.path.name}`.\n\n"
        f"**Machine:** {machine['cpu']} ({machine['model']}), {machine['cores']} cores, "
        f"{machine['memory_gib']} GiB, {machine['system']}, Python {machine['python']}; "
        f"{' '.join(machine['flags'])}\n\n"
        f"**Versions:** {told}\n\n"
        f"**Texts:** lognormal lengths of 16 to 512 tokens of the model's own tokenizer (mean about 134), "
        f"seeded, words from {source}.\n\n{picture}"
    )


def _goals(found: Figures) -> str:
    rows = [(goal.what, goal.goal, goal.measured, MET[goal.met], goal.basis) for goal in goals(found)]
    return "## Goals of the float32 engine\n\n" + table(
        ("against", "goal", "measured", "met", "on what"), rows
    )


def _peaks(found: Figures) -> str:
    rows = []
    for dtype in ("float64", "float32", "bfloat16", "float16", "int8"):
        rates = found.store.find(kind="peak")
        instruction = max((row["instructions"].get(dtype, 0.0) for row in rates), default=0.0)
        product = found.product(dtype)
        if instruction or product:
            rows.append(
                (dtype, digits(instruction) if instruction else "-", digits(product) if product else "-")
            )
    if not rows:
        return ""
    title = "## What the chip could do, GFLOP/s\n\n"
    return title + table(("dtype", "instructions, registers alone", "torch's best matrix product"), rows)


def _speed(found: Figures, shape: str) -> str:
    parts = [f"## {SHAPES[shape].title}"]
    for workload in found.workloads(shape):
        tokens = found.tokens(shape, workload)
        title = f"### {found.workload_title(workload)}: {tokens:,} tokens\n\n"
        rows = [_row(found, shape, workload, engine, tokens) for engine in found.engines(shape, workload)]
        columns = (
            "engine",
            "seconds",
            "tokens/s",
            "share",
            "padding",
            "Tercet is faster by",
            "computing",
            "apart",
        )
        parts.append(title + table(columns, rows))
    return "\n\n".join(parts)


def _row(found: Figures, shape: str, workload: str, engine: str, tokens: int) -> tuple[object, ...]:
    seconds = found.seconds(shape, workload, engine)
    assert seconds is not None
    # All three outputs are compared with all three.
    three = ENGINES[engine].outputs == "all"
    base = found.seconds(shape, workload, "tercet-all" if three else "tercet")
    padding, peak = found.padding(shape, workload, engine), found.peak("float32")
    rate = found.flops(shape, workload) / seconds.median * 1e-9
    faster = ratio(seconds, base) if base and ENGINES[engine].worker != "tercet" else None
    apart = found.agreement(shape, workload, engine) if engine != "tercet" else None
    return (
        ENGINES[engine].title,
        seconds,
        digits(tokens / seconds.median),
        f"{rate / peak:.0%}" if peak and ENGINES[engine].exact else "",
        f"{padding:.2f}×" if padding else "",
        f"**{faster.median:.2f}×** ({faster.low:.2f}-{faster.high:.2f})" if faster else "",
        f"{faster.median / padding:.2f}×" if faster and padding else "",
        f"{max(apart[1], 0.0):.0e}" if apart else "",
    )


def _cold(found: Figures) -> str:
    rows = []
    for row in found.store.find(kind="first start"):
        title = f"{ENGINES[row['engine']].title}, its very first start, which probes the machine"
        rows.append((title, row["shape"], *_parts([row])))
    for shape in SHAPES:
        for engine in ENGINES:
            samples = found.store.find(kind="cold", shape=shape, engine=engine)
            if samples:
                rows.append((ENGINES[engine].title, shape, *_parts(samples)))
    if not rows:
        return ""
    columns = ("engine", "shape", "total", "imports", "load", "first vector")
    return (
        "## Cold start, seconds\n\nFrom starting a process to the vector of one query; files in the page "
        "cache, Tercet's probe remembered.\n\n" + table(columns, rows)
    )


def _parts(samples: list[dict[str, object]]) -> list[str]:
    from samples import spread

    return [str(spread(samples, name)) for name in ("seconds", "imports", "load", "first")]


def _memory(found: Figures) -> str:
    rows = []
    for row in found.store.find(kind="memory"):
        sizes = (row["peak_anonymous"], row["ran"].get("RssAnon", 0), row["ran"].get("VmHWM", 0))
        rows.append(
            (
                ENGINES[row["engine"]].title,
                row["shape"],
                row["file"],
                *(f"{size / 1e6:,.0f}" for size in sizes),
            )
        )
    if not rows:
        return ""
    columns = ("engine", "shape", "file", "peak RssAnon", "RssAnon after the run", "VmHWM")
    return (
        "## Memory to load and run, MB\n\nVmHWM counts the pages of mapped files, which the kernel can drop "
        "again; RssAnon is what it cannot, its peak looked at every 10 ms.\n\n" + table(columns, rows)
    )


def _drift(found: Figures) -> str:
    rows = [
        (ENGINES[row["engine"]].title, f"{row['texts']:,}", f"{row['mean']:.1e}", f"{row['worst']:.1e}")
        for row in found.store.find(kind="drift")
    ]
    if not rows:
        return ""
    title = (
        "## Drift on the packaged MiniLM\n\n1 - cosine to sentence-transformers in float64 on whole "
        "documents, cut at 256 tokens.\n\n"
    )
    return title + table(("engine", "documents", "mean", "worst"), rows)


def _plans(store: Store) -> str:
    plans = {
        # The folder's place on this machine tells a reader nothing.
        f"{row['shape']}, {ENGINES[row['engine']].title}": re.sub(
            r"^Plan for .*", f"Plan for {row['shape']}", row["facts"]["plan"]
        )
        for row in store.find(kind="load")
        if "plan" in row.get("facts", {})
    }
    if not plans:
        return ""
    return "## Tercet's plans\n\n" + "\n\n".join(f"{who}:\n\n```\n{plan}\n```" for who, plan in plans.items())


def _failures(store: Store) -> str:
    lines = {f"- {row['engine']}: {row['error']}" for row in store.find(kind="failure")}
    return "## What did not run\n\n" + "\n".join(sorted(lines)) if lines else ""
