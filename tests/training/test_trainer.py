import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import tercet
import tiny
from in_two import in_two
from tercet.cli.main import main
from tercet.cli.progress import Progress
from tercet.errors import InputError, NonFiniteError, OutputError
from tercet.training.states import read_state
from tercet.training.trainer import Trained, train
from two_trainers import train_in_two

SUBJECTS = ("cat", "dog", "bird", "fish", "sun", "moon", "star", "water", "fire", "river", "film", "song")
WORDS = ("red", "green", "blue", "long", "short", "one", "two", "three", "open", "close", "read", "write")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_checkpoint(
        tmp_path_factory.mktemp("base") / "m3", "xlm-roberta", layout="bge-m3", heads_dtype="float32"
    )


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with pairs that only training can bring together, and a collection of them."""
    monkeypatch.chdir(tmp_path)
    pairs = list(zip(SUBJECTS, WORDS, strict=True))
    lines = [
        {
            "query": f"the {subject}",
            "pos": [f"{word} and {word}"],
            "neg": [f"{pairs[row - 1][1]} or {pairs[row - 2][1]}"],
        }
        for row, (subject, word) in enumerate(pairs)
    ]
    Path("data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    sts = [("a cat", "the cat", 1.0), ("a cat", "the sun", 0.1)]
    rows = [{"sentence1": one, "sentence2": other, "score": score} for one, other, score in sts]
    Path("sts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("collection/qrels").mkdir(parents=True)
    Path("collection/corpus.jsonl").write_text(
        "".join(f'{{"_id": "d{row}", "text": "{word} and {word}"}}\n' for row, word in enumerate(WORDS))
    )
    Path("collection/queries.jsonl").write_text(
        "".join(f'{{"_id": "q{row}", "text": "the {one}"}}\n' for row, one in enumerate(SUBJECTS))
    )
    Path("collection/qrels/test.tsv").write_text(
        "query-id\tcorpus-id\tscore\n" + "".join(f"q{row}\td{row}\t1\n" for row in range(12))
    )
    return tmp_path


def recipe(base: Path, folder: str = "out", **changes: Any) -> dict[str, Any]:
    return {
        "model": str(base),
        "output": {"folder": folder},
        "data": [{"path": "data.jsonl", "group_size": 2}],
        "losses": [
            {"name": "info_nce", "head": head, "options": {"temperature": 0.1}}
            for head in ("dense", "sparse", "multivector")
        ],
        "batch": {"texts": 6},
        "optimizer": {"learning_rate": 3e-3, "warmup": 0.1},
        "steps": 12,
        "precision": "float32",
        **changes,
    }


def scalars(folder: str = "out") -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in Path(f"{folder}.run/scalars.jsonl").read_text().splitlines()]
    return [line for line in lines if "loss" in line]


def vectors(folder: Path) -> torch.Tensor:
    dense = tercet.load(folder, precision="float32").encode([f"the {one}" for one in SUBJECTS]).dense
    assert dense is not None
    return dense


@pytest.mark.usefixtures("here")
def test_losses_go_down_and_the_saved_model_finds_what_the_first_one_did_not(base: Path) -> None:
    learning = {"learning_rate": 1e-2, "schedule": "constant"}
    done = train(recipe(base, steps=24, dropout=0.0, optimizer=learning), device="cpu")
    found = scalars()
    assert [line["step"] for line in found] == list(range(1, 25))
    for part in (
        "dense/info_nce",
        "multivector/info_nce",
    ):  # no word is shared that a sparse head could weigh
        assert sum(line[part] for line in found[-4:]) < 0.7 * sum(line[part] for line in found[:4])
    assert done.steps == 24
    before, after = (
        tercet.evaluate(tercet.load(one, precision="float32"), "collection", outputs="dense")
        for one in (base, done.folder)
    )
    assert after["dense"].metrics["ndcg@10"] > before["dense"].metrics["ndcg@10"] + 0.2
    assert tercet.load(done.folder, precision="float32").outputs == ("dense", "sparse", "multivector")
    assert "in 24 steps" in (done.folder / "README.md").read_text()


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("cause", [KeyboardInterrupt, SystemExit])  # Ctrl-C; SIGTERM, as the command takes it
def test_a_run_that_was_interrupted_ends_as_an_unbroken_one(base: Path, cause: type[BaseException]) -> None:
    whole = train(recipe(base, "whole", dropout=0.1), device="cpu")

    def stop(step: int, steps: int, scalars: Any) -> None:
        if step == 5:
            raise cause

    with pytest.raises(cause):
        train(recipe(base, "broken", dropout=0.1), device="cpu", progress=stop)
    assert not Path("broken").exists()
    with pytest.raises(OutputError, match="holds the states of a run"):
        train(recipe(base, "broken", dropout=0.1), device="cpu")
    with pytest.raises(InputError, match="seed was 0 and is 1 now; a run goes on as it began"):
        train(recipe(base, "broken", dropout=0.1, seed=1), device="cpu", resume=True)
    broken = train(recipe(base, "broken", dropout=0.1), device="cpu", resume=True)
    assert broken.loss == pytest.approx(whole.loss, rel=1e-5)
    assert [line["loss"] for line in scalars("broken")] == pytest.approx(
        [line["loss"] for line in scalars("whole")], rel=1e-5
    )
    torch.testing.assert_close(vectors(broken.folder), vectors(whole.folder), rtol=0, atol=1e-5)


@pytest.mark.usefixtures("here")
def test_gradients_in_parts_learn_as_whole_ones_do(base: Path) -> None:
    runs = {
        name: train(recipe(base, name, steps=4, dropout=0.0, batch=batch), device="cpu")
        for name, batch in {
            "whole": {"texts": 6},
            "parts": {"texts": 6, "forward_tokens": 16},
            "alone": {"texts": 6, "forward_tokens": 1},
        }.items()
    }
    for name in ("parts", "alone"):
        torch.testing.assert_close(
            vectors(runs[name].folder), vectors(runs["whole"].folder), rtol=0, atol=1e-4
        )


@pytest.mark.usefixtures("here")
def test_accumulated_batches_make_one_step_of_their_mean(base: Path) -> None:
    train(recipe(base, steps=2, batch={"texts": 6, "accumulate": 2}), device="cpu")
    found = scalars()
    assert [line["step"] for line in found] == [1, 2]
    assert [line["epoch"] for line in found] == [0, 1]


@pytest.mark.usefixtures("here")
def test_the_best_model_is_kept_and_patience_ends_the_run(base: Path) -> None:
    # A rate that wrecks the model: the first measurement stays the best one.
    wreck = recipe(
        base,
        steps=12,
        optimizer={"learning_rate": 5.0, "schedule": "constant", "warmup": 0.0, "max_gradient_norm": None},
    )
    wreck["losses"] = wreck["losses"][:1]
    wreck["validation"] = {
        "collection": "collection",
        "every": 1,
        "patience": 2,
        "head": "dense",
        "metric": "ndcg@10",
    }
    done: Trained = train(wreck, device="cpu")
    assert done.stopped_early
    assert done.steps == done.best_step + 2
    report = tercet.evaluate(
        tercet.load(done.folder, precision="float32"), "collection", outputs="dense", metrics=["ndcg@10"]
    )
    assert report["dense"].metrics["ndcg@10"] == pytest.approx(done.best["dense/ndcg@10"])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"losses": [{"name": "info_nc", "head": "dense"}]}, "Did you mean 'info_nce'"),
        ({"losses": [{"name": "info_nce", "options": {"temprature": 1}}]}, "no option 'temprature'"),
        ({"losses": [{"name": "kl_div", "head": "dense"}]}, "data.jsonl, line 1: there are no pos_scores"),
        ({"losses": [{"name": "cosent", "head": "dense"}]}, "no label, and every loss needs one"),
        ({"data": [{"path": "sts.jsonl"}]}, "labels, and no loss learns from them"),
        ({"data": [{"path": "none.jsonl"}]}, "no such file"),
        ({"validation": {"collection": "nowhere"}}, "nowhere"),
        ({"validation": {"collection": "collection", "metric": "ndgc@10"}}, "Did you mean 'ndcg'"),
        ({"validation": {"collection": "collection", "split": "train"}}, "train"),
        ({"freeze_body": True, "losses": [{"name": "info_nce", "head": "dense"}]}, "Nothing learns"),
    ],
)
@pytest.mark.usefixtures("here")
def test_what_does_not_fit_together_is_said_before_the_first_step(
    base: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError) as caught:
        train(recipe(base, **changes), device="cpu")
    assert said in str(caught.value)
    assert not Path("out").exists()
    assert not Path("out.run").exists()


@pytest.mark.usefixtures("here")
def test_a_killed_run_leaves_no_step_twice_and_goes_on_from_its_newest_state(base: Path) -> None:
    class Killed(BaseException):
        """What nothing in the library catches, as if the process were gone."""

    def kill(step: int, steps: int, scalars: Any) -> None:
        if step == 7:
            with Path("out.run/scalars.jsonl").open("a") as file:
                file.write('{"step": 8, "lo')
            raise Killed

    whole = train(recipe(base, "whole"), device="cpu")
    asked = recipe(base, checkpoints={"every": 3})
    with pytest.raises(Killed):
        train(asked, device="cpu", progress=kill)
    assert train(asked, device="cpu", resume=True).loss == pytest.approx(whole.loss, rel=1e-5)
    assert [line["step"] for line in scalars()] == list(range(1, 13))


@pytest.mark.usefixtures("here")
def test_a_run_does_not_go_on_with_other_data(base: Path) -> None:
    asked = recipe(base, checkpoints={"every": 3}, steps=3)
    train(asked, device="cpu")
    shutil.rmtree("out")  # as a run that was killed before its end
    path = Path("data.jsonl")
    path.write_text(path.read_text().replace("the cat", "the dot"))
    with pytest.raises(InputError, match=r"data\.jsonl is not what it was when out\.run/step-00000003"):
        train(asked, device="cpu", resume=True)


@pytest.mark.usefixtures("here")
def test_epochs_end_where_their_batches_do_and_are_measured_there(base: Path) -> None:
    asked = recipe(base, validation={"collection": "collection", "head": "dense"}, batch={"texts": 5})
    del asked["steps"]
    done = train({**asked, "epochs": 2}, device="cpu")
    assert done.steps == 6  # of 12 examples: 5, 5 and 2
    lines = [json.loads(line) for line in Path("out.run/scalars.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" not in line] == [3, 6]
    assert [line["epoch"] for line in lines if "loss" in line] == [0, 0, 0, 1, 1, 1]
    by_tokens = {"tokens": 40, "texts": 4, "by_length": False}
    done = train({**asked, "output": {"folder": "other"}, "epochs": 3, "batch": by_tokens}, device="cpu")
    assert [line["step"] for line in scalars("other")] == list(range(1, done.steps + 1))
    assert [line["epoch"] for line in scalars("other")][-1] == 2


@pytest.mark.usefixtures("here")
def test_a_loss_that_is_not_finite_ends_the_run_and_its_weights_are_kept(base: Path) -> None:
    asked = recipe(base, losses=[{"name": "info_nce", "head": "dense", "options": {"temperature": 1e-39}}])
    with pytest.raises(NonFiniteError, match=r"After step 0: The loss is .* is in out\.run"):
        train(asked, device="cpu")
    state = read_state(Path("out.run/step-00000000"))
    assert all(bool(values.isfinite().all()) for values in state["model"].values())
    assert not Path("out").exists()


@pytest.mark.usefixtures("here")
def test_a_model_whose_weights_are_not_finite_is_named_and_no_learning_rate(tmp_path: Path) -> None:
    model = tiny.write_checkpoint(tmp_path / "spoilt", "bert", layers=1)
    weights = load_file(model / "model.safetensors")
    [name] = [name for name in weights if name.endswith("embeddings.LayerNorm.bias")]
    weights[name][3] = float("nan")
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        NonFiniteError, match=r"spoilt: .*holds values that are not finite.*sound copy"
    ) as told:
        train(recipe(model, steps=2, losses=[{"name": "info_nce", "head": "dense"}]), device="cpu")
    assert "learning rate" not in str(told.value)
    assert not list(Path("out.run").glob("step-*"))


@pytest.mark.usefixtures("here")
def test_two_processes_reach_the_weights_of_one_with_the_whole_batch(base: Path) -> None:
    path = Path("data.jsonl")
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:6]))
    asked = recipe(base, "one", steps=3, dropout=0.0, batch={"texts": 6, "forward_tokens": 24})
    asked["validation"] = {"collection": "collection", "head": "dense", "patience": 9, "every": 3}
    del asked["steps"]
    asked["epochs"] = 3
    one = train(asked, device="cpu")
    batch = {"texts": 3, "forward_tokens": 24, "negatives_across_devices": True}
    with pytest.raises(InputError, match="there is one process"):
        train({**asked, "output": {"folder": "two"}, "batch": batch}, device="cpu")
    in_two(train_in_two, {**asked, "output": {"folder": "two"}, "batch": batch})
    torch.testing.assert_close(vectors(Path("two")), vectors(Path("one")), rtol=0, atol=1e-5)
    for mine, theirs in zip(scalars("two"), scalars("one"), strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
        assert mine["tokens"] == theirs["tokens"]
    assert one.steps == 3


@pytest.mark.usefixtures("here")
def test_files_with_and_without_labels_learn_by_losses_of_their_own(base: Path) -> None:
    mixed = recipe(base, steps=8, data=[{"path": "data.jsonl", "group_size": 2}, {"path": "sts.jsonl"}])
    mixed["losses"] = [{"name": "info_nce", "head": "dense"}, {"name": "cosent", "head": "dense"}]
    train(mixed, device="cpu")
    seen = {name for line in scalars() for name in line if name.startswith("dense/") and name.count("/") == 1}
    assert seen == {"dense/info_nce", "dense/cosent"}


@pytest.mark.usefixtures("here")
def test_what_of_the_data_is_not_learned_from_is_said(base: Path, caplog: pytest.LogCaptureFixture) -> None:
    lines = [{"query": "a cat", "pos": ["tac"], "neg": ["b"], "pos_scores": [1.0], "neg_scores": [0.0]}] * 3
    Path("scored.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    asked = recipe(base, steps=1, batch={"texts": 2}, data=[{"path": "scored.jsonl", "group_size": 1}])
    asked["losses"] = [{"name": "info_nce", "head": "dense"}]
    train(asked, device="cpu")
    assert "scored.jsonl: no loss learns from the teacher's scores in it." in caplog.text
    assert "Left out of the first epoch: 1 query, alone in a batch with one passage" in caplog.text
    caplog.clear()
    asked |= {"output": {"folder": "kd"}, "data": [{"path": "scored.jsonl", "group_size": 2}]}
    train(asked | {"losses": [{"name": "kl_div", "head": "dense"}]}, device="cpu")
    assert "eft out" not in caplog.text
    assert "no loss learns" not in caplog.text


@pytest.mark.usefixtures("here")
def test_the_command_trains_from_a_file_and_refuses_a_used_folder(
    base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("recipe.yaml").write_text(yaml.safe_dump(recipe(base, steps=2)))
    assert main(["train", "recipe.yaml", "--device", "cpu", "--json"]) == 0
    out = capsys.readouterr()
    assert json.loads(out.out)["steps"] == 2
    assert "out: 2 steps, loss" in out.err
    assert "Precision: float32, as the recipe says." in out.err
    assert main(["train", "recipe.yaml", "--device", "cpu"]) == 2
    assert "exists and is not an empty folder" in capsys.readouterr().err
    assert main(["train", "none.yaml"]) == 2
    assert "none.yaml: cannot be read" in capsys.readouterr().err


@pytest.mark.usefixtures("here")
def test_the_bar_tells_the_loss_and_the_peak_of_memory(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("recipe.yaml").write_text(yaml.safe_dump(recipe(base, steps=2)))
    said: list[str] = []
    monkeypatch.setattr(Progress, "describe", lambda bar, what: said.append(what))
    assert main(["train", "recipe.yaml", "--device", "cpu"]) == 0
    assert len(said) == 2
    assert all(re.fullmatch(r"Training, loss \d+\.\d{4}, peak [\d,]+ MiB", one) for one in said)


@pytest.mark.usefixtures("here")
def test_one_process_trains_in_one_precision_after_another(base: Path) -> None:
    found = {}
    for number, precision in enumerate(("float32", "bfloat16", "float32")):
        found[number] = train(recipe(base, f"run{number}", steps=2, precision=precision), device="cpu").loss
    assert found[0] == found[2]
    assert found[0] != found[1]
    assert found[1] == pytest.approx(found[0], rel=0.05)
