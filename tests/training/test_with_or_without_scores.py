"""The M3 loss in a recipe: with a teacher's scores and without, but never with some."""

import json
from pathlib import Path
from typing import Any

import pytest

import tiny
from tercet.errors import InputError
from tercet.training.trainer import train

LINES: list[dict[str, Any]] = [
    {"query": "a cat", "pos": ["the cat"], "neg": ["the sun"]},
    {"query": "a river", "pos": ["the river"], "neg": ["the moon"]},
]
SCORES = {"pos_scores": [3.0], "neg_scores": [1.0]}


def losses(folder: Path, name: str, lines: list[dict[str, Any]]) -> dict[str, float]:
    """What the only step of a run says of its loss."""
    data = folder / f"{name}.jsonl"
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    if not (folder / "base").exists():
        tiny.write_checkpoint(folder / "base", "xlm-roberta", layout="bge-m3", heads_dtype="float32")
    recipe = {
        "model": str(folder / "base"),
        "output": {"folder": str(folder / name)},
        "data": [{"path": str(data), "group_size": 2}],
        "losses": [{"name": "m3", "options": {"self_distill": True, "temperature": 0.1}}],
        "batch": {"texts": 2},
        "steps": 1,
        "dropout": 0.0,
        "precision": "float32",
    }
    train(recipe, device="cpu")
    [line, *_] = (folder / f"{name}.run" / "scalars.jsonl").read_text().splitlines()
    found: dict[str, float] = json.loads(line)
    return found


def test_m3_learns_without_a_teacher_and_otherwise_with_one(tmp_path: Path) -> None:
    without = losses(tmp_path, "without", LINES)
    taught = losses(tmp_path, "taught", [{**line, **SCORES} for line in LINES])
    for part in ("m3/dense", "m3/ensemble", "m3/sparse", "m3/multivector", "m3/dense_distilled"):
        assert without[part] > 0
    assert taught["m3/dense"] != pytest.approx(without["m3/dense"], rel=1e-3)
    # Heads learn from each other alike, whoever teaches the rest.
    assert taught["m3/dense_distilled"] == pytest.approx(without["m3/dense_distilled"], rel=1e-4)


@pytest.mark.parametrize("scored", [0, 1])
def test_scores_of_some_lines_alone_are_an_error_that_names_the_line(scored: int, tmp_path: Path) -> None:
    lines = [{**line, **SCORES} if row == scored else line for row, line in enumerate(LINES)]
    with pytest.raises(InputError, match=rf"some\.jsonl, line {2 - scored}: there are no pos_scores"):
        losses(tmp_path, "some", lines)
