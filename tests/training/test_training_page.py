"""The recipes of docs/training.md train as they stand there, on tiny models and in fewer steps."""

import json
import re
from pathlib import Path

import pytest
import yaml

import tercet
import tiny
from tercet.training.trainer import train

PAGE = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
RECIPES = [
    yaml.safe_load(block) for block in re.findall(r"^```yaml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
]


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A tiny encoder, and beside it the files that the recipes name."""
    monkeypatch.chdir(tmp_path)
    words = ["the cat", "the dog", "red and blue", "open the file", "the sun", "wait"]
    lines = [
        {
            "query": word,
            "pos": [f"{word} is {word}"],
            "neg": [f"{other} of" for other in words if other != word],
        }
        for word in words
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    for name in ("learn.jsonl", "mined.jsonl", "held_out.jsonl"):
        Path(name).write_text(text)
    return str(tiny.write_checkpoint("base", "bert", layers=1))


def test_the_recipe_of_an_embedder_trains_all_three_heads(model: str) -> None:
    asked = next(one for one in RECIPES if "heads" in one)
    done = train({**asked, "model": model, "epochs": 2, "precision": "float32"}, device="cpu")
    found = tercet.load(done.folder, precision="float32").encode(
        ["the cat"], outputs=("dense", "sparse", "multivector")
    )
    assert found.outputs == ("dense", "sparse", "multivector")
    assert done.steps == 2


def test_the_recipe_of_a_reranker_trains_and_measures_one(model: str) -> None:
    asked = next(one for one in RECIPES if "reranker" in one)
    # A file whose queries have their own candidates, in place of a collection and a run of its own.
    how = {**asked["validation"], "collection": "held_out.jsonl", "run": None, "every": 1}
    changed = {"model": model, "steps": 2, "precision": "float32", "validation": how}
    done = train({**asked, **changed}, device="cpu")
    assert set(done.best) == {"reranker/mrr@10", "chosen"}
    assert tercet.load_reranker(done.folder, precision="float32").score([("the cat", "the dog")]).shape == (
        1,
    )


def test_every_recipe_of_the_page_is_run_by_a_test() -> None:
    assert len(RECIPES) == 2
