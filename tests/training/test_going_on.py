from pathlib import Path
from typing import Any

import pytest

from small_runs import lines, recipe, write_base
from tercet.errors import InputError, NonFiniteError
from tercet.training.going_on import check_goes_on, lasting, measured_by
from tercet.training.recipe import read_recipe
from tercet.training.trainer import train


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return write_base()


def broken_off(asked: dict[str, Any], at: int) -> None:
    def stop(step: int, steps: int, scalars: Any) -> None:
        if step == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(asked, device="cpu", progress=stop)


def rates() -> list[float]:
    return [line["learning_rate"] for line in lines() if "loss" in line]


def test_a_run_that_ended_without_a_finite_loss_goes_on_by_other_settings(base: Path) -> None:
    small = [{"name": "info_nce", "head": "dense", "options": {"temperature": 1e-39}}]
    with pytest.raises(NonFiniteError, match=r"After step 0: The loss is .* is in out\.run"):
        train(recipe(base, losses=small), device="cpu")
    rate = {"learning_rate": 1e-4, "schedule": "constant", "warmup": 0.0}
    done = train(recipe(base, optimizer=rate), device="cpu", resume=True)
    assert done.steps == 4
    assert rates() == [1e-4] * 4


def test_rate_decay_and_length_may_change_on_the_way(base: Path) -> None:
    broken_off(recipe(base), at=2)
    with pytest.raises(InputError, match=r"2 steps were taken, and the recipe asks for 1 now"):
        train(recipe(base, steps=1), device="cpu", resume=True)
    other = {"learning_rate": 5e-4, "schedule": "constant", "warmup": 0.0, "weight_decay": 0.5}
    changed = recipe(base, steps=6, optimizer=other, batch={"texts": 3, "forward_tokens": 16})
    done = train({**changed, "checkpoints": {"every": 1, "keep": 9}}, device="cpu", resume=True)
    assert done.steps == 6
    assert rates() == [1e-3] * 2 + [5e-4] * 4
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
        ({"data": [{"path": "data.jsonl", "group_size": 2}]}, "data[0].group_size was 1 and is 2 now"),
        ({"model": "minilm"}, "model was 'base' and is 'minilm' now"),
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


def test_paths_may_be_spelled_otherwise_and_data_lie_elsewhere(base: Path, tmp_path: Path) -> None:
    how: dict[str, Any] = {"collection": "set", "every": 1, "metric": "mrr@6"}
    broken_off(recipe(Path("base"), validation=how), at=2)
    best = [line for line in lines() if "validation/chosen" in line]
    Path("elsewhere").mkdir()
    moved = Path("data.jsonl").rename(tmp_path / "elsewhere" / "pairs.jsonl")
    asked = recipe(Path(f"./elsewhere/../{base.name}"), data=[{"path": str(moved), "group_size": 1}])
    how["collection"] = f"{tmp_path}/./set"
    done = train({**asked, "validation": how}, device="cpu", resume=True)
    assert done.steps == 4
    assert rates() == [1e-3] * 4
    assert done.best["chosen"] >= max(line["validation/chosen"] for line in best)


def test_the_same_collection_measures_the_same_however_it_is_spelled(base: Path, tmp_path: Path) -> None:
    said = {
        measured_by(read_recipe(recipe(base, validation={"collection": name})))
        for name in ("set", "./set", "base/../set", str(tmp_path / "set"))
    }
    assert len(said) == 1
    assert said != {measured_by(read_recipe(recipe(base, validation={"collection": "base"})))}


def test_data_that_hold_something_else_are_named(base: Path) -> None:
    broken_off(recipe(base), at=2)
    Path("data.jsonl").write_text(Path("data.jsonl").read_text().replace("cat", "cow"))
    with pytest.raises(InputError) as caught:
        train(recipe(base), device="cpu", resume=True)
    assert str(caught.value).startswith("data[0]: data.jsonl is not what it was when out.run/step-")
    assert "Put the file back, or start anew in another folder." in str(caught.value)
