"""Two fine-tunes of the packaged all-MiniLM-L6-v2, each on texts of its own, merged and measured on both.

One learns to find the docstring of a name, the other the code that a sentence describes: both texts of
Python's own standard library. A quarter of its modules is held out; none of their texts is learned from.

    pip install 'tercet[train,merge]'
    python examples/merge_minilm.py -o build/merge_minilm      minutes on one core; needs no network

The folder then has the pairs, the recipes, both models and their merge. Lines that begin with $ are what a
shell would be given.
"""

from __future__ import annotations

import argparse
import ast
import json
import random
import shlex
import sys
import sysconfig
import warnings
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from tri_vector_pairs import Pair, docstrings, write_files, write_lines

import tercet
from tercet.cli.main import main as command
from tercet.errors import InputError, TercetError
from tercet.evaluation.significance import paired_bootstrap

METRIC = "ndcg@10"
MOST_TOKENS = 64
BATCH = 16
# A part of the modules, by their names: what one module says of a thing, it says more than once.
_HELD_OUT_OF = 4
_SENTENCE_WORDS = range(5, 36)
_STATEMENTS = 2  # of a function's body: one alone seldom shows what it does

TRAIN = """\
model: {model}
output: {{folder: {folder}}}
data: [{{path: {learn}, group_size: 1}}]
losses: [{{name: info_nce, head: dense, options: {{temperature: 0.05}}}}]
batch: {{texts: {batch}}}
query_max_length: {tokens}
document_max_length: {tokens}
optimizer: {{learning_rate: {rate}}}
steps: {steps}
precision: float32
seed: 1
"""

MERGE = """\
merge_method: task_arithmetic
base_model: {model}
models:
  - model: {docstrings}
    parameters: {{weight: 0.5}}
  - model: {code}
    parameters: {{weight: 0.5}}
"""


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--output", required=True, type=Path, help="a new folder for all files")
    parser.add_argument("--model", default="minilm", help="that both are made of (%(default)s)")
    parser.add_argument("--pairs", type=int, default=640, help="that each learns from, at most (%(default)s)")
    parser.add_argument("--held-out", type=int, default=400, help="of each kind, at most (%(default)s)")
    parser.add_argument("--steps", type=int, default=40, help="of each fine-tune (%(default)s)")
    parser.add_argument("--rate", type=float, default=5e-5, help="of learning, at its highest (%(default)s)")
    options = parser.parse_args(argv)
    try:
        if options.output.exists():
            raise InputError(f"{options.output} is there already. Name another folder.")
        kinds = {"docstrings": docstring_pairs(), "code": code_pairs()}
        write_pairs(options.output, kinds, options.pairs, options.held_out)
        return run(options.output, options.model, options.steps, options.rate)
    except (TercetError, OSError) as error:
        print(f"merge_minilm: {error}", file=sys.stderr)
        return 2


def run(out: Path, model: str, steps: int, rate: float) -> int:
    """Trains, merges, compares and measures, by the commands that are printed; their exit code."""
    paths = {kind: str(out / f"model-{kind}") for kind in ("docstrings", "code")}
    for kind, path in paths.items():
        text = TRAIN.format(
            model=quoted(model),
            folder=quoted(path),
            learn=quoted(str(out / kind / "learn.jsonl")),
            batch=BATCH,
            tokens=MOST_TOKENS,
            rate=rate,
            steps=steps,
        )
        (out / f"train-{kind}.yaml").write_text(text, encoding="utf-8")
    named = {kind: quoted(path) for kind, path in paths.items()}
    (out / "merge.yml").write_text(MERGE.format(model=quoted(model), **named), encoding="utf-8")
    recipe, merged = str(out / "merge.yml"), str(out / "merged")
    for arguments in (
        ["train", str(out / "train-docstrings.yaml")],
        ["train", str(out / "train-code.yaml")],
        ["merge", "check", recipe],
        ["merge", recipe, merged, "--audit", str(out / "texts.jsonl")],
        ["diff", model, merged, "--top", "5"],
    ):
        print(f"$ tercet {shlex.join(arguments)}", flush=True)
        if code := command(arguments):
            return code
        print(flush=True)
    learned = {f"learned {kind}": path for kind, path in paths.items()}
    print(table(out, {"the base": model, **learned, "merged": merged}))
    return 0


def quoted(text: str) -> str:
    """As YAML reads it, whatever it holds: JSON's strings are YAML's."""
    return json.dumps(text, ensure_ascii=False)


def table(out: Path, models: Mapping[str, str]) -> str:
    """nDCG@10 of each model on both kinds of pairs held out, and how far that is from the first model's."""
    rows = ["| model | docstrings | minus base | code | minus base |", "|---|---|---|---|---|"]
    first: dict[str, Sequence[float]] = {}
    for name, model in models.items():
        loaded = tercet.load(model, precision="float32", device="cpu")
        row = f"| {name} |"
        for kind in ("docstrings", "code"):
            report = tercet.evaluate(
                loaded, out / kind / "held_out", outputs="dense", metrics=[METRIC], max_length=MOST_TOKENS
            )
            values = report["dense"].per_query[METRIC]
            row += f" {sum(values) / len(values):.4f} |"
            if values is first.setdefault(kind, values):
                row += " |"
            else:
                found = paired_bootstrap(first[kind], values)
                row += f" {found.difference:+.4f} ({found.low:+.4f} to {found.high:+.4f}) |"
        rows.append(row)
    return "\n".join(rows)


def write_pairs(
    out: Path, kinds: Mapping[str, Iterable[tuple[str, Pair]]], pairs: int, held_out: int
) -> None:
    """Of each kind learn.jsonl and the collection held_out; the passages held out of all are texts.jsonl."""
    sides = {}
    for kind, found in kinds.items():
        learned, kept = parted(found)
        sides[kind] = learned[: max(0, pairs)], kept[: max(0, held_out)]
        count, asked = map(len, sides[kind])
        if count < BATCH or asked < 2:
            raise InputError(
                f"{count} pairs of {kind} to learn from and {asked} held out are too few: {BATCH} and 2 are "
                "the least. Ask for more, or take a Python whose standard library has its sources."
            )
    texts: list[str] = []
    for kind, (learned, kept) in sides.items():
        write_files(out / kind, [*learned, *kept], len(kept), len(kept))
        print(f"{kind}: {len(learned)} pairs to learn from, {len(kept)} held out.")
        texts += [pair.passage for pair in kept]
    write_lines(out / "texts.jsonl", ({"_id": str(row), "text": text} for row, text in enumerate(texts)))


def parted(found: Iterable[tuple[str, Pair]]) -> tuple[list[Pair], list[Pair]]:
    """Pairs to learn from and pairs held out, by their modules, in random order; each passage once."""
    first: dict[str, tuple[str, Pair]] = {}
    for module, pair in found:
        first.setdefault(pair.passage, (module, pair))
    drawn = list(first.values())
    random.Random(1).shuffle(drawn)
    sides: tuple[list[Pair], list[Pair]] = ([], [])
    for module, pair in drawn:
        sides[zlib.crc32(module.encode()) % _HELD_OUT_OF == 0].append(pair)
    return sides


def docstring_pairs() -> Iterator[tuple[str, Pair]]:
    """Modules and pairs: the words of a name ask for what its docstring says."""
    for source in docstrings():
        module, _, name = source.title.partition(" ")
        if name and source.sentences:
            yield module, Pair(source.title, " ".join(source.sentences), "docstrings")


def code_pairs(names: Iterable[str] = sys.stdlib_module_names) -> Iterator[tuple[str, Pair]]:
    """Modules and pairs: the first sentence of a function's docstring asks for its code, read but not run."""
    library = Path(sysconfig.get_path("stdlib"))
    for name in sorted(names):
        for path in sorted([library / f"{name}.py", *(library / name).rglob("*.py")]):
            if path.is_file() and not {"test", "tests"} & set(path.relative_to(library).parts):
                for pair in functions(path.read_bytes()):
                    yield name, pair


def functions(code: bytes) -> Iterator[Pair]:
    """The functions of one file that say in a sentence what they do."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of backslashes in others' strings
        try:
            tree = ast.parse(code)
        except SyntaxError:
            return  # templates and samples of syntax that is to be refused
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        paragraph, _, _ = (ast.get_docstring(node) or "").partition("\n\n")
        sentence, _, _ = " ".join(paragraph.split()).partition(". ")
        body = node.body[1:]
        if len(sentence.split()) in _SENTENCE_WORDS and len(body) >= _STATEMENTS:
            node.body = body
            yield Pair(sentence, ast.unparse(node), "code")


if __name__ == "__main__":
    sys.exit(main())
