"""The benchmark of training's memory: its counts against a model that trains, its recipes, its table."""

import sys
from pathlib import Path

import pytest

import tiny
import training_memory as benchmark
from tercet.checkpoint.layout import open_checkpoint
from tercet.training.model import open_trainable
from tercet.training.recipe import read_recipe


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny.write_checkpoint(tmp_path / "model", "xlm-roberta", layout="bge-m3", max_positions=514)


@pytest.mark.parametrize("name", benchmark.SETTINGS)
def test_the_numbers_of_the_table_are_those_of_a_model_that_trains(name: str, model: Path) -> None:
    setting = benchmark.SETTINGS[name]
    recipe = read_recipe(benchmark.recipe_of(setting, model, Path("data.jsonl"), Path("out")))
    made = open_trainable(
        model,
        freeze_body=recipe.freeze_body,
        freeze_embeddings=recipe.freeze_embeddings,
        gradient_checkpointing=recipe.gradient_checkpointing,
        lora=recipe.lora,
    )
    counts = benchmark.numbers({key: one.shape for key, one in open_checkpoint(model).tensors.items()})
    learn = sum(one.numel() for one in made.parameters() if one.requires_grad)
    held = sum(one.numel() for one in made.parameters())
    assert learn == counts[setting.learns]
    assert held == benchmark.held_numbers(counts, setting)
    assert made.checkpointing is ("twice" in name)


def test_a_setting_is_trained_by_the_command_and_its_peaks_come_back(model: Path, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    found = benchmark.measured("layers-twice", model, scratch)
    assert found["tokens"] > sum(benchmark.passage_lengths(benchmark.QUERIES * benchmark.PASSAGES)) * 0.9
    assert 50 << 20 < found["before"] <= found["steps"] <= found["anonymous"] < 2 << 30
    assert found["resident"] > found["anonymous"]
    assert {path.name for path in scratch.iterdir()} == {"data.jsonl", "recipe.yaml", "log"}


def test_memory_after_the_steps_counts_for_the_command_alone() -> None:
    peaks = {"steps": 0, "anonymous": 0, "resident": 0}
    seen = [(30, 40, True), (70, 90, True), (50, 90, True), (80, 120, False), (60, 120, False)]
    for anonymous, most, steps in seen:
        status = f"Name:\tpython\nVmHWM:\t{most} kB\nVmRSS:\t9 kB\nRssAnon:\t{anonymous} kB\n"
        benchmark.note(peaks, status, steps=steps)
    benchmark.note(peaks, "Name:\tpython\nState:\tZ (zombie)\n", steps=False)
    assert peaks == {"steps": 70 * 1024, "anonymous": 80 * 1024, "resident": 120 * 1024}


def test_a_command_that_fails_ends_the_benchmark_with_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="ended with 3:\nno such recipe"):
        benchmark.watched(
            [sys.executable, "-c", "import sys; print('no such recipe'); sys.exit(3)"],
            tmp_path / "log",
            until=lambda: False,
        )


def test_every_batch_has_one_text_that_fills_a_part_and_a_larger_one_begins_alike() -> None:
    few, many = benchmark.passage_lengths(32), benchmark.passage_lengths(128)
    assert few[0] == benchmark.LONGEST == benchmark.FORWARD_TOKENS
    assert many[: len(few)] == few
    assert 8 <= min(many[1:]) < max(many[1:]) <= benchmark.LONGEST


def test_what_was_measured_once_is_not_measured_again(tmp_path: Path) -> None:
    assert benchmark.kept(tmp_path / "kept", "heads", lambda: {"steps": 7}) == {"steps": 7}
    assert benchmark.kept(tmp_path / "kept", "heads", lambda: pytest.fail("again")) == {"steps": 7}
    assert benchmark.kept(None, "heads", lambda: {"steps": 8}) == {"steps": 8}


def test_the_table_says_what_a_card_would_hold_and_whether_8_gib_have_it() -> None:
    here = {
        "cpu": "Some CPU", "model": "model 1", "cores": 2, "memory_gib": 23.5, "system": "Linux 6",
        "python": "3.11.7",
    }  # fmt: skip
    gigabyte = 10**9
    rows = [
        {"name": name, "before": gigabyte, "tokens": 1402, "steps": steps, "anonymous": 12 * gigabyte,
         "resident": 13 * gigabyte}
        for name, steps in (("whole", 11 * gigabyte), ("lora-twice-64", 4 * gigabyte))
    ]  # fmt: skip
    text = benchmark.table({"layers": 24, "machine": here, "torch": "2.13.0", "rows": rows})
    title, _, head, line, whole, lora = text.splitlines()
    assert title.startswith("24 layers, 568 million numbers. Some CPU (model 1), 2 cores, 23.5 GiB")
    assert head.count("|") == line.count("|") == whole.count("|") == lora.count("|")
    ends = "12.00 GB | 13.00 GB |"
    assert whole == (
        f"| all weights | no | 16 | 1,402 | 567.8 million | 9.08 GB | 11.00 GB | 10.00 GB | no | {ends}"
    )
    assert lora == (
        f"| LoRA, rank 16 | yes | 64 | 1,402 | 8.1 million | 2.40 GB | 4.00 GB | 3.00 GB | yes | {ends}"
    )


@pytest.mark.parametrize(("left", "fits"), [(-1, False), (0, True), (1, True)])
def test_a_card_needs_room_for_its_context(left: int, fits: bool) -> None:
    assert benchmark.fits(benchmark.CARD - benchmark.CONTEXT - left) is fits
