"""The page: what was measured, in tables, with what a reader must know to believe it."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from engines import ENGINES, SCHEMES, SHAPES
from figures import Figures
from goals import Cell, goals
from samples import Store, digits, ratio, spread
from workloads import CRANFIELD

WORDS = ("engine", "against", "on what", "dtype", "shape", "file", "scheme", "ran as", "part")
MET = {True: "yes", False: "**no**"}
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
does. *Share* is of the physical limit: the time that the multiplications and additions on real tokens would
take if linear layers ran at the peak of the engine's dtype and attention at float32's, over the time they
took. *Apart* is 1 - cosine to Tercet's float32 vectors of the same texts."""


def write(store: Store, form: str, path: Path, note: str = "") -> Figures:
    """Write the page; the picture lies beside it under the same name.

    Args:
        note: what a reader must know before anything else: why measuring ended early.
    """
    found = Figures(store)
    parts = [_head(found, form, path, note), _goals(found), _absent(found)]
    parts += ["## How to read it\n\n" + HOW_TO_READ, _peaks(found)]
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


def _head(found: Figures, form: str, path: Path, note: str) -> str:
    store = found.store
    machine, versions = store.identity["machine"], store.identity["versions"]
    told = ", ".join(f"{name} {version}" for name, version in versions.items())
    source = "Cranfield abstracts" if CRANFIELD.exists() else "docstrings of Python's standard library"
    forms = {
        "full": "",
        "short": " The short form: few samples.",
        "try": " A trial of the bench, no measurement.",
    }
    picture = found.shapes() and (
        f'\n\n<picture><source media="(prefers-color-scheme: dark)" srcset="{path.stem}-dark.svg">'
        f'<img src="{path.stem}.svg" alt="Tokens a second by engine and workload"></picture>'
    )
    return (
        "# Benchmarks\n\n"
        f"Written by `make bench` on {time.strftime('%Y-%m-%d')}.{forms[form]} Raw samples: "
        f"`build/bench/{store.path.name}`, all of one source, {store.identity['code']}.\n\n"
        + (f"**{note}**\n\n" if note else "")
        + f"**Machine:** {machine['cpu']} ({machine['model']}), {machine['cores']} cores, "
        f"{machine['memory_gib']} GiB, {machine['system']}, Python {machine['python']}; "
        f"{' '.join(machine['flags'])}\n\n"
        f"**Versions:** {told}\n\n"
        f"**Texts:** lognormal lengths of 16 to 512 tokens of the model's own tokenizer (mean about 134), "
        f"seeded, words from {source}.{picture or ''}"
    )


def _goals(found: Figures) -> str:
    rows = [
        (goal.what, *(_cell(goal.cells[scheme]) for scheme in SCHEMES), goal.basis) for goal in goals(found)
    ]
    columns = ("against", *(f"Tercet {scheme}" for scheme in SCHEMES), "on what")
    return "## Goals\n\n" + table(columns, rows)


def _cell(cell: Cell) -> str:
    """What was measured, and below it the goal and whether it is met."""
    if not cell.goal:
        return cell.measured
    told = f"goal {cell.goal}" if cell.met is None else f"{cell.goal}: {MET[cell.met]}"
    return f"{cell.measured}<br>{told}"


def _absent(found: Figures) -> str:
    """The engines that do not run here, each with the reason."""
    lines = [f"- {ENGINES[engine].title}: {found.absent(engine)}" for engine in found.absentees()]
    return "## What does not run here\n\n" + "\n".join(lines) if lines else ""


def _peaks(found: Figures) -> str:
    rows = []
    for dtype in ("float64", "float32", "bfloat16", "float16", "int8"):
        rates = (found.instruction(dtype), found.product(dtype))
        if any(rates):
            rows.append((dtype, *(digits(rate) if rate else "-" for rate in rates)))
    if not rows:
        return ""
    title = "## What the chip could do, GFLOP/s\n\n"
    if not found.peaks_are_clean():
        title += (
            "*Disturbed by other processes: the chip can do more, and every share is less than shown.*\n\n"
        )
    return title + table(("dtype", "instructions, registers alone", "torch's best matrix product"), rows)


def _speed(found: Figures, shape: str) -> str:
    parts = [f"## {SHAPES[shape].title}"]
    rows: list[tuple[object, ...]]
    for workload in found.workloads(shape):
        tokens = found.tokens(shape, workload)
        title = f"### {found.workload_title(workload)}: {tokens:,} tokens\n\n"
        rows = [_row(found, shape, workload, engine, tokens) for engine in found.engines(shape, workload)]
        rows += [(ENGINES[engine].title, "does not run here", *[""] * 6) for engine in found.absentees(shape)]
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
    padding, share = found.padding(shape, workload, engine), found.share(shape, workload, engine)
    faster = ratio(seconds, base) if base and ENGINES[engine].worker != "tercet" else None
    apart = found.agreement(shape, workload, engine) if engine != "tercet" else None
    return (
        ENGINES[engine].title,
        seconds,
        digits(tokens / seconds.median),
        f"{share:.0%}" if share else "",
        f"{padding:.2f}×" if padding else "",
        f"**{faster.median:.2f}×** ({faster.low:.2f}-{faster.high:.2f})" if faster else "",
        f"{faster.median / padding:.2f}×" if faster and padding else "",
        f"{max(apart[1], 0.0):.0e}" if apart else "",
    )


def _cold(found: Figures) -> str:
    rows = []
    for row in found.store.find(kind="first start"):
        title = f"{ENGINES[row['engine']].title}, its very first start: probes the machine, packs weights"
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
    rows = []
    newest = {row["engine"]: row for row in found.store.find(kind="drift")}
    for row in newest.values():
        shown = [f"{row['mean']:.1e}", f"{row['worst']:.1e}", "", "", ""]
        if row.get("overlap") is not None:
            shown[2] = f"{row['overlap']:.4f}"
        if row.get("difference") is not None:
            shown[3] = f"{row['ndcg']:.4f}"
            shown[4] = f"{row['difference']:+.4f} [{row['low']:+.4f}, {row['high']:+.4f}]"
        rows.append((ENGINES[row["engine"]].title, row["against"], *shown))
    if not rows:
        return ""
    documents = max(row["documents"] for row in newest.values())
    title = (
        f"## Drift on the packaged MiniLM\n\n{documents:,} whole documents and their queries, cut at 256 "
        "tokens: 1 - cosine of all of them; the share of each query's ten best documents that stay among the "
        "ten best; nDCG@10 (linear gain) and its difference to the reference, with a 95 % bootstrap interval "
        "over queries. float64 is sentence-transformers' and float32 is Tercet's.\n\n"
    )
    columns = ("engine", "against", "mean 1 - cosine", "worst", "top-10 overlap", "nDCG@10", "difference")
    return title + table(columns, rows)


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
    """What went wrong and did not go right later."""
    lines = set()
    for row in store.find(kind="failure"):
        key = {name: row[name] for name in ("shape", "workload", "engine", "file") if name in row}
        if not store.find(kind=row.get("of"), **key):
            where = ", ".join(str(row[name]) for name in ("of", "shape", "workload", "file") if name in row)
            lines.add(f"- {row['engine']} ({where}): {' '.join(row['error'].split())}")
    return "## What went wrong\n\n" + "\n".join(sorted(lines)) if lines else ""
