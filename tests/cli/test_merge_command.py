"""`tercet merge` and `tercet diff`."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

import tiny
from tercet.cli.main import main


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate("ab"):
        tiny.write_checkpoint(tmp_path / name, seed=number, prefix="bert." if number else "")
    path = tmp_path / "merge.yml"
    path.write_text(
        "merge_method: linear\nparameters: {weight: 1}\nmodels: [{model: a}, {model: b}]\ndtype: float16\n"
    )
    return path


def test_a_merge_says_what_rounding_cost(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["merge", "merge.yml", "out", "--json"]) == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert found["folder"] == "out"
    assert 0 < found["relative_error"] < 2**-11
    assert "tensors in float16. Rounding changed the result by" in captured.err
    assert "Loaded: 10 texts give finite dense vectors" in captured.err
    assert main(["merge", "merge.yml", "out"]) == 2
    assert "exists and is not an empty folder" in capsys.readouterr().err
    assert main(["merge", "merge.yml", "out", "--overwrite", "--no-try"]) == 0
    assert "Not tried." in capsys.readouterr().err


def test_a_merge_that_changes_the_format_alone_names_no_part_of_a_change(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe.write_text(recipe.read_text().replace(", {model: b}", ""))
    assert main(["merge", "check", "merge.yml"]) == 0
    assert "linear of 1 model, settings of a:" in capsys.readouterr().out
    assert main(["merge", "merge.yml", "out", "--json"]) == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert found["relative_error"] > 0
    assert found["delta_error"] is None
    assert " of its length.\n" in captured.err
    assert "inf of" not in captured.err
    assert "| inf |" not in (recipe.parent / "out" / "README.md").read_text()


def test_a_check_writes_nothing(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(recipe.parent.rglob("*"))
    assert main(["merge", "check", "merge.yml"]) == 0
    out = capsys.readouterr().out
    assert "linear of 2 models, settings of a:" in out
    assert "numbers in float16" in out
    assert "float32, 2 layers," in out
    assert "Memory: " in out
    assert main(["merge", "check", "merge.yml", str(recipe.parent / "there" / "out")]) == 0
    assert "Disk: " in capsys.readouterr().out
    assert sorted(recipe.parent.rglob("*")) == before


def test_a_wrong_recipe_is_one_message(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe.write_text(recipe.read_text().replace("dtype", "dtpye"))
    assert main(["merge", "merge.yml", "out"]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("tercet merge: merge.yml: there is no key 'dtpye'. Did you mean 'dtype'?")
    assert not (recipe.parent / "out").exists()
    assert main(["merge", "merge.yml"]) == 2
    assert "tercet merge CONFIG OUT" in capsys.readouterr().err


def test_a_diff_shows_what_changed_most_first(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", "a", "a"]) == 0
    assert capsys.readouterr().out == "39 tensors: 39 same\n"
    assert main(["diff", "a", "b", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["tensors"]
    assert {row["kind"] for row in rows} == {"changed"}
    changes = [row["relative_change"] for row in rows]
    assert changes == sorted(changes, reverse=True)
    tiny.write_checkpoint(recipe.parent / "c", pooler=False, max_positions=40, dtype="float16")
    assert main(["diff", "a", "c", "--top", "4"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "39 tensors: 2 only first, 1 shape, 36 changed"
    assert "only first  pooler.dense" in lines[1]
    assert "shape  embeddings.position_embeddings.weight  (66, 32) -> (40, 32)" in lines[3]
    assert "float32 -> float16" in lines[4]
    assert lines[-1] == "... and 35 more (--top 39)"


def test_a_diff_is_drawn_with_every_tensor_in_both_panels(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny.write_checkpoint(recipe.parent / "c", seed=2, pooler=False, max_positions=40, dtype="float16")
    assert main(["diff", "a", "c", "--picture", "out.svg", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["tensors"]
    root = ElementTree.parse(recipe.parent / "out.svg").getroot()
    titles = [title.text or "" for title in root.iter("{http://www.w3.org/2000/svg}title")]
    for row in rows:
        said = [title for title in titles if title.startswith(f"{row['name']}, {row['kind']}, ")]
        assert len(said) == 2
        if row["kind"] == "changed":
            assert f"relative change {row['relative_change']:.3e}" in said[0]
    texts = {text.text for text in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {"only in A", "of another shape", "A", "≠"} <= texts
    assert "only in B" not in texts
    assert "prefers-color-scheme:dark" in (recipe.parent / "out.svg").read_text(encoding="utf-8")


def test_a_picture_of_equal_models_and_strange_names_is_still_xml(recipe: Path) -> None:
    (recipe.parent / "a").rename(recipe.parent / "a<&>")
    assert main(["diff", "a<&>", "a<&>", "--picture", "same.svg"]) == 0
    root = ElementTree.parse(recipe.parent / "same.svg").getroot()
    texts = [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "B  a<&>" in texts
    assert "the same, bit by bit" in texts


def test_a_picture_needs_a_name_of_svg_and_a_folder(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", "a", "b", "--picture", "out.png"]) == 2
    assert "Name a file that ends in .svg" in capsys.readouterr().err
    assert main(["diff", "a", "b", "--picture", "nowhere/out.svg"]) == 2
    assert "nowhere/out.svg" in capsys.readouterr().err
