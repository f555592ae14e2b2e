"""A small model, pairs and a collection in the current folder, and recipes of short runs on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tiny

WORDS = ("cat", "dog", "sun", "moon", "red fish", "one star")


def write_base(pairs: int = len(WORDS)) -> Path:
    """The folder of a model, beside data.jsonl with so many pairs, and `set`, a collection of all words."""
    rows = [{"query": f"the {word}", "pos": [word[::-1]]} for word in WORDS[:pairs]]
    Path("data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("set/qrels").mkdir(parents=True)
    for name, letter in (("corpus", "d"), ("queries", "q")):
        rows = [{"_id": f"{letter}{row}", "text": word} for row, word in enumerate(WORDS)]
        Path(f"set/{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    judged = [f"q{row}\td{row}\t1\n" for row in range(len(WORDS))]
    Path("set/qrels/test.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(judged))
    return tiny.write_checkpoint(Path("base").resolve(), "bert", layers=1)


def recipe(base: Path, **changes: Any) -> dict[str, Any]:
    """Four steps of three pairs each in float32."""
    return {
        "model": str(base),
        "output": {"folder": "out"},
        "data": [{"path": "data.jsonl", "group_size": 1}],
        "losses": [{"name": "info_nce", "head": "dense", "options": {"temperature": 0.1}}],
        "batch": {"texts": 3},
        "optimizer": {"learning_rate": 1e-3, "schedule": "constant", "warmup": 0.0},
        "steps": 4,
        "precision": "float32",
        **changes,
    }


def lines(folder: str = "out") -> list[dict[str, Any]]:
    """What the run of a folder wrote into scalars.jsonl."""
    return [json.loads(line) for line in Path(f"{folder}.run/scalars.jsonl").read_text().splitlines()]
