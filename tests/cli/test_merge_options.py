"""Options of `tercet merge` where they mean nothing, and the lines of `tercet diff`."""

from __future__ import annotations

from pathlib import Path

import pytest

import tiny
from tercet.cli.main import main


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    tiny.write_checkpoint(tmp_path / "a")
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "merge.yml"
    path.write_text("merge_method: passthrough\nmodels: [{model: a}]\nout_dtype: float16\n")
    return path


@pytest.mark.parametrize("option", ["--allow-overflow", "--no-try", "--audit=texts.txt", "--shard-size=1"])
def test_options_of_a_merge_are_refused_where_they_would_do_nothing(
    option: str, recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = option.partition("=")[0]
    assert main(["merge", "check", "merge.yml", option]) == 2
    assert f"{name} has no meaning for tercet merge check. Leave it out." in capsys.readouterr().err
    assert main(["merge", "statistics", "a", "texts.txt", "a.safetensors", option]) == 2
    assert f"{name} has no meaning for tercet merge statistics" in capsys.readouterr().err
    assert main(["merge", "check", "merge.yml", "--overwrite"]) == 2
    assert "--overwrite has no meaning for tercet merge check" in capsys.readouterr().err


def test_a_diff_shows_the_shape_of_what_one_model_lacks(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny.write_checkpoint(recipe.parent / "b", pooler=False)
    assert main(["diff", "b", "a"]) == 0
    assert " only second  pooler.dense.bias  (32,)\n" in capsys.readouterr().out


def test_a_recipe_that_has_too_few_models_is_named(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe.write_text("merge_method: ties\nbase_model: a\nmodels: [{model: a}]\n")
    assert main(["merge", "check", "merge.yml"]) == 2
    assert "merge.yml: ties takes at least 1 model(s) beside the base" in capsys.readouterr().err
