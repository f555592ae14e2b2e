import json
from pathlib import Path
from typing import Any

import pytest

import tiny
from tercet.errors import InputError, NonFiniteError
from tercet.training.going_on import check_goes_on, lasting
from tercet.training.recipe import read_recipe
from tercet.training.trainer import train

WORDS = ("cat", "dog", "sun", "moon", "red fish", "one star")


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with pairs, a collection of them, and a model that is small."""
    monkeypatch.chdir(tmp_path)
    rows = [{"query": f"the {word}", "pos": [word[::-1]]} for word in WORDS]
    Path("data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("set/qrels").mkdir(parents=True)
    for name, letter in (("corpus", "d"), ("queries", "q")):
        rows = [{"_id": f"{letter}{row}", "text": word} for row, word in enumerate(WORDS)]
        Path(f"set/{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = [f"q{row}\td{row}\t1\n" for row in range(len(WORDS))]
    Path("set/qrels/test.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(lines))
    return tiny.write_checkpoint(tmp_path / "base", "bert", layers=1)


def recipe(base: Path, **changes: Any) -> dict[str, Any]:
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


def broken_off(asked: dict[str, Any], at: int) -> None:
    def stop(step: int, steps: int, scalars: Any) -> None:
        if step == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(asked, device="cpu", progress=stop)


def lines() -> list[dict[str, Any]]:
    found = [json.loads(line) for line in Path("out.run/scalars.jsonl").read_text().splitlines()]
    return [line for line in found if "loss" in line]


def test_a_run_that_ended_without_a_finite_loss_goes_on_by_other_settings(base: Path) -> None:
    small = [{"name": "info_nce", "head": "dense", "options": {"temperature": 1e-39}}]
    with pytest.raises(NonFiniteError, match=r"After step 0: The loss is .* is in out\.run"):
        train(recipe(base, losses=small), device="cpu")
    rate = {"learning_rate": 1e-4, "schedule": "constant", "warmup": 0.0}
    done = train(recipe(base, optimizer=rate), device="cpu", resume=True)
    assert done.steps == 4
    assert [line["learning_rate"] for line in lines()] == [1e-4] * 4


def test_rate_decay_and_length_may_change_on_the_way(base: Path) -> None:
    broken_off(recipe(base), at=2)
    with pytest.raises(InputError, match=r"2 steps were taken, and the recipe asks for 1 now"):
        train(recipe(base, steps=1), device="cpu", resume=True)
    other = {"learning_rate": 5e-4, "schedule": "constant", "warmup": 0.0, "weight_decay": 0.5}
    changed = recipe(base, steps=6, optimizer=other, batch={"texts": 3, "forward_tokens": 16})
    done = train({**changed, "checkpoints": {"every": 1, "keep": 9}}, device="cpu", resume=True)
    assert done.steps == 6
    assert [line["learning_rate"] for line in lines()] == [1e-3] * 2 + [5e-4] * 4
    assert {path.name for path in Path("out.run").glob("step-*")} >= {f"step-0000000{n}" for n in (2, 3, 6)}


def test_a_measurement_by_another_metric_does_not_decide_which_model_is_the_best(base: Path) -> None:
    how = {"collection": "set", "every": 1, "metric": "recall@6", "head": "dense"}
    broken_off(recipe(base, validation=how), at=2)
    done = train(recipe(base, validation={**how, "metric": "mrr@6"}), device="cpu", resume=True)
    assert set(done.best) == {"dense/mrr@6", "chosen"}
    assert done.best_step > 2


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seed": 1}, "seed was 0 and is 1 now"),
        ({"batch": {"texts": 2}}, "batch.texts was 3 and is 2 now"),
        ({"batch": {"texts": 3, "accumulate": 2}}, "batch.accumulate was 1 and is 2 now"),
        ({"data": [{"path": "other.jsonl", "group_size": 1}]}, "data[0].path was 'data.jsonl' and is 'other"),
        ({"losses": [{"name": "mnrl", "head": "dense"}]}, "losses[0].name was 'info_nce' and is 'mnrl' now"),
        ({"lora": {"rank": 4}}, "lora.rank was not given and is 4 now"),
        ({"dropout": 0.3}, "dropout was not given and is 0.3 now"),
        ({"normalize": True}, "normalize was not given and is True now"),
    ],
)
def test_what_decides_what_is_learned_may_not_change_and_is_named(changes: dict[str, Any], said: str) -> None:
    before = read_recipe(recipe(Path("base")))
    state = lasting(before, [], 1)
    check_goes_on(state, Path("out.run/step-2"), before, [], 1)
    with pytest.raises(InputError) as caught:
        check_goes_on(state, Path("out.run/step-2"), read_recipe(recipe(Path("base"), **changes)), [], 1)
    assert str(caught.value).startswith(f"out.run/step-2: {said}")
    assert "Put it back, or start anew" in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"output": {"folder": "elsewhere", "dtype": "bfloat16"}},
        {"validation": {"collection": "set", "patience": 3}},
        {"precision": "bfloat16", "gradient_checkpointing": True, "tensorboard": True},
        {"losses": [{"name": "info_nce", "head": "dense", "weight": 0.5, "options": {"temperature": 1.0}}]},
        {"steps": None, "epochs": 2.5, "checkpoints": {"every": 7}},
    ],
)
def test_what_may_change_may(changes: dict[str, Any]) -> None:
    state = lasting(read_recipe(recipe(Path("base"))), [], 1)
    check_goes_on(state, Path("step"), read_recipe(recipe(Path("base"), **changes)), [], 1)
