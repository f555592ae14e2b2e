"""Text in, vectors out, and a search over them: the documentation of Python's own standard library.

python examples/demo.py                          the packaged MiniLM with Tercet's heads: no download
python examples/demo.py --model BAAI/bge-m3      from the hub
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter

from rich.console import Console
from stdlib_docs import Doc, collect

import tercet
from tercet.cli.progress import Progress, peak_memory
from tercet.errors import TercetError
from tercet.scoring import score_matrix
from tercet.storage.vectors import open_writer, read_vectors

QUESTIONS = ("how do I pick a random element", "read a csv file", "wait for several coroutines")
BEST = 3
WORDS = 5
# Of dense, sparse and multi-vector scores.
WEIGHTS = (1.0, 0.05, 1.0)

# Plain text when it goes into a file; lines are never broken there.
console = Console(highlight=False, soft_wrap=True)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="tercet-minilm", help="a folder, a hub id, or a packaged model")
    parser.add_argument("--precision", default="auto", help="auto, checkpoint, or a dtype such as float16")
    parser.add_argument("--limit", type=int, help="at most so many texts")
    parser.add_argument("-o", "--output", default="build/stdlib_docs.parquet", help="where the vectors go")
    options = parser.parse_args(argv)
    try:
        demo(options.model, options.precision, options.limit, options.output)
    except TercetError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("demo: stopped.", file=sys.stderr)
        return 130
    return 0


def demo(model_name: str, precision: str, limit: int | None, output: str) -> None:
    start = perf_counter()
    title("The texts")
    docs = collect()[:limit]
    version = ".".join(map(str, sys.version_info[:2]))
    console.print(f"{len(docs):,} docstrings of Python {version}'s standard library, in {since(start)}.")

    start = perf_counter()
    title("The plan")
    model = tercet.load(model_name, precision=precision)
    console.print(model.plan.page(), markup=False)
    console.print(f"Probed or remembered, planned and loaded in {since(start)}.")

    title("The vectors")
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    progress = embed(model, docs, output)
    rates = progress.texts / progress.seconds, progress.tokens / progress.seconds
    console.print(
        f"{progress.texts:,} texts, {progress.tokens:,} tokens in {progress.seconds:.1f} s: "
        f"[bold]{rates[0]:,.0f} texts/s[/bold], {rates[1]:,.0f} tokens/s; {', '.join(model.outputs)}."
    )
    console.print(
        f"Written to {output} ({Path(output).stat().st_size / 1e6:.1f} MB), with how they were made."
    )

    title("Three questions")
    answer(model, docs, output)

    peak, on_device = peak_memory(model.plan.device)
    shown = f"{peak / 1e6:,.0f} MB" + (
        "" if on_device is None else f", {on_device / 1e6:,.0f} MB on the device"
    )
    console.print(f"\nPeak memory of all this: [bold]{shown}[/bold].")


def embed(model: tercet.Embedder, docs: Sequence[Doc], output: str) -> Progress:
    """The texts into a file, batch by batch, with a bar if a person is watching."""
    provenance = model.provenance(outputs=model.outputs)
    with (
        open_writer(output, provenance=provenance, overwrite=True) as writer,
        Progress("Embedding", measurable=True) as progress,
    ):
        for part in model.stream((doc.text for doc in docs), outputs=model.outputs):
            ids = [doc.id for doc in docs[progress.texts : progress.texts + len(part)]]
            writer.write(part, ids=ids)
            done = (progress.texts + len(part)) / len(docs)
            progress.advance(len(part), int(part.num_tokens.sum()), done)
    return progress


def answer(model: tercet.Embedder, docs: Sequence[Doc], output: str) -> None:
    """The best matches of each question, by every kind of vector that the file has, combined."""
    documents, ids, _ = read_vectors(output)
    texts = {doc.id: doc.text for doc in docs}
    start = perf_counter()
    asked = model.encode_query(QUESTIONS, outputs=model.outputs)
    scores = score_matrix(asked, documents, weights=WEIGHTS)
    took = (perf_counter() - start) / len(QUESTIONS)
    kinds = {"dense": scores.dense, "sparse": scores.sparse, "multi-vector": scores.multivector}
    there = {name: each for name, each in kinds.items() if each is not None}
    lexical = asked.sparse.tokens(model.tokenizer) if asked.sparse is not None else None
    for number, (question, row) in enumerate(zip(QUESTIONS, scores.combined, strict=True)):
        console.print(f"\n[bold]{question}?[/bold]")
        if lexical is not None:
            console.print(f"  [dim]its words: {words(lexical[number])}[/dim]")
        best = row.topk(min(BEST, len(row)))
        names = [str(ids[place]) for place in best.indices.tolist()]
        width = max(map(len, names))
        for score, name in zip(best.values.tolist(), names, strict=True):
            console.print(f"  {score:.3f}  [green]{name:<{width}}[/green]  [dim]{summary(texts[name])}[/dim]")
        if len(there) > 1:
            firsts = (f"{kind} {ids[int(each[number].argmax())]}" for kind, each in there.items())
            console.print(f"  [dim]first by one kind alone: {', '.join(firsts)}[/dim]")
    console.print(
        f"\n{took * 1000:.0f} ms a question, embedded and compared with all {len(documents):,} texts."
    )


def words(weights: Mapping[str, float]) -> str:
    """The tokens that weigh most in a question's sparse vector."""
    best = sorted(weights.items(), key=lambda pair: -pair[1])[:WORDS]
    return ", ".join(f"{token} {weight:.2f}" for token, weight in best).replace("[", r"\[")


def summary(text: str) -> str:
    """The first sentence or so of a documentation, fit for console markup."""
    _, _, doc = text.partition("\n\n")
    line = " ".join(doc.split())
    return (line if len(line) <= 72 else line[:71] + "…").replace("[", r"\[")


def title(text: str) -> None:
    console.print(f"\n[bold cyan]{text}[/bold cyan]")


def since(start: float) -> str:
    return f"{perf_counter() - start:.1f} s"


if __name__ == "__main__":
    sys.exit(main())
