"""The page of stacks.py, docs/stacks.md, from its samples."""

from __future__ import annotations

import time

import models
from samples import Spread, Store, ratio, spread
from stack_kinds import LONGEST, STACKS, TEXTS, Stack, engines_of, number_of
from workloads import CRANFIELD

TOLD = ("tercet", "torch", "numpy", "tokenizers", "transformers", "sentence-transformers", "FlagEmbedding")

HOW = """\
*Apart* is the largest difference of any number that comes out, as a part of the largest number of the peer's:
what bfloat16 and int8 lose on these random weights says little of a trained model (`tercet audit` says that);
what float32 does says that the two compute the same. *Load* is the peak of RssAnon of a fresh process until
the model is loaded, imports included, looked at every 10 ms; what Tercet packs once was packed by a start
before. *Texts/s*, of rerankers pairs, is of the median of clean samples, with the slowest and the fastest;
*faster* is the peer's seconds over ours, with the range that the samples leave. All engines of a stack were
resident and took turns."""


def text_of(store: Store, note: str) -> str:
    """The page.

    Args:
        note: what a reader must know before anything else: why measuring ended early.
    """
    found, versions = store.identity["machine"], store.identity["versions"]
    told = ", ".join(f"{name} {versions[name]}" for name in TOLD if name in versions)
    source = "Cranfield abstracts" if CRANFIELD.exists() else "docstrings of Python's standard library"
    samples = store.find(kind="speed")
    disturbed = sum(not row["clean"] for row in samples)
    parts = [
        "# Every kind of stack beside its own library",
        f"Written by `make stacks` on {time.strftime('%Y-%m-%d')} from `build/bench/{store.path.name}`, all "
        f"of one source, {store.identity['code'][:16]}: {len(samples)} samples, of which {disturbed} were "
        "disturbed by others and count only where it is said.",
        f"**{note}**" if note else "",
        f"**Machine:** {found['cpu']} ({found['model']}), {found['cores']} cores, {found['memory_gib']} GiB, "
        f"{found['system']}, Python {found['python']}; {' '.join(found['flags'])}",
        f"**Versions:** {told}",
        "**Models:** random weights in float32 files; an encoder has 6 layers, 384 wide, and 30,522 pieces, "
        f"as all-MiniLM-L6-v2 has. **Texts:** {TEXTS} of 16 to {LONGEST} tokens, words from {source}; "
        f"rerankers score {TEXTS // 2} pairs. The peers compute in float32 by the class that is named, in "
        "its batches.",
        HOW,
        table(store),
        left_out(store),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def table(store: Store) -> str:
    """A row for the peer and one for each scheme that ran, stack by stack."""
    lines = [
        "| stack | of | computes in | apart | load, MB | texts/s | faster |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for stack in STACKS.values():
        theirs = seconds_of(store, stack, "peer")
        for engine in engines_of(stack):
            loads = store.find(kind="load", stack=stack.name, engine=engine.name)
            if not loads:
                continue
            ours = seconds_of(store, stack, engine.name)
            peer = engine.name == "peer"
            cells = (
                stack.title if peer else "",
                f"{stack.library} `{stack.kind}`" if peer else "Tercet",
                "float32" if peer else engine.name,
                "" if peer else apart_of(store, stack, engine.name),
                f"{loads[0]['peak'] / 1e6:,.0f}",
                "" if ours is None else str(rate(ours, number_of(stack))),
                "" if peer or ours is None or theirs is None else faster(theirs, ours),
            )
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) if len(lines) > 2 else "Nothing was measured."


def seconds_of(store: Store, stack: Stack, engine: str) -> Spread | None:
    return spread(store.find(kind="speed", stack=stack.name, engine=engine))


def rate(seconds: Spread, number: int) -> Spread:
    """Texts a second, or pairs."""
    return Spread(
        number / seconds.median, number / seconds.high, number / seconds.low, seconds.number, seconds.clean
    )


def faster(theirs: Spread, ours: Spread) -> str:
    found = ratio(theirs, ours)
    return f"**{found.median:.2f}×** ({found.low:.2f}-{found.high:.2f})"


def apart_of(store: Store, stack: Stack, engine: str) -> str:
    rows = store.find(kind="apart", stack=stack.name, engine=engine)
    if not rows:
        return ""
    if rows[0]["apart"] is None:
        return "another shape"
    return f"{rows[0]['apart'] / max(rows[0]['largest'], 1e-30):.0e}"


def left_out(store: Store) -> str:
    """What did not run, with the reason; once where it is the same of all stacks."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for kind in ("absent", "failure"):
        for row in store.find(kind=kind):
            if store.find(kind="speed", stack=row["stack"], engine=row["engine"]):
                # It went right later.
                continue
            reason = " ".join(row["reason"].split()).replace(str(models.BENCH), "build/bench")
            for name in STACKS:
                reason = reason.replace(f"build/bench/models/stack-{name}", "the folder")
            reasons.setdefault((row["engine"], reason), []).append(STACKS[row["stack"]].title)
    lines = [
        f"- {engine}, {'every stack' if len(where) == len(STACKS) else '; '.join(where)}: {reason}"
        for (engine, reason), where in reasons.items()
    ]
    return "## What was left out\n\n" + "\n".join(lines) if lines else ""
