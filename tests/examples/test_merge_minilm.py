"""The example of two fine-tunes and their merge, on a tiny model and a few texts; and its pairs."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file

import tiny

EXAMPLES = Path(__file__).parents[2] / "examples"
RECORDED = Path(__file__).parents[1] / "recorded" / "texts.json"


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module("merge_minilm")


def test_code_is_asked_for_by_what_its_docstring_says_and_does_not_hold_it(example: ModuleType) -> None:
    (pair,) = example.functions(
        b"def far(x):\n"
        b"    '''Tell how far away\n    the thing is. Not the way.\n\n    More.'''\n"
        b"    # seldom wrong\n    y = x + 1\n    return y\n"
        b"def short():\n    '''Do what the name of it says.'''\n    return 1\n"
        b"def silent(x):\n    y = x\n    return y\n"
    )
    assert pair.query == "Tell how far away the thing is"
    assert pair.passage == "def far(x):\n    y = x + 1\n    return y"
    assert list(example.functions(b"a template {{ here }")) == []
    names = ["json", "csv", "no_such_module"]
    found = list(example.code_pairs(names))
    assert {module for module, _ in found} == {"json", "csv"}
    assert found == list(example.code_pairs(names))


def test_a_module_is_learned_from_or_held_out_but_never_both(example: ModuleType) -> None:
    made = [
        (f"module{n % 20}", example.Pair(f"query {n}", f"passage {n // 2 * 2} of {n % 20}", "code"))
        for n in range(400)
    ]
    learned, kept = example.parted([*made, *made])
    assert sorted([*learned, *kept]) == sorted({pair.passage: pair for _, pair in made}.values())
    modules = [{pair.passage.rpartition(" ")[2] for pair in side} for side in (learned, kept)]
    assert all(modules)
    assert not modules[0] & modules[1]


def test_two_fine_tunes_are_merged_compared_and_measured(
    example: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    texts = [text.partition("\n\n") for text in json.loads(RECORDED.read_text(encoding="utf-8"))]
    docs = [(title, example.Pair(title, body, "docstrings")) for title, _, body in texts if body]
    monkeypatch.setattr(example, "docstring_pairs", lambda: iter(docs))
    whole = example.code_pairs
    monkeypatch.setattr(example, "code_pairs", lambda: whole(["csv", "json", "queue", "gettext", "weakref"]))
    base = tiny.write_checkpoint(tmp_path / "base", "bert", layout="sentence-transformers")
    out = tmp_path / "a folder: of it"
    arguments = ["-o", str(out), "--model", str(base), "--held-out", "12", "--steps", "2", "--rate", "1e-2"]
    assert example.main(arguments) == 0
    said = capfd.readouterr().out
    assert said.count("$ tercet ") == 5
    assert "task_arithmetic of 3 models" in said

    weights = [
        load_file(folder / "model.safetensors")
        for folder in (base, out / "model-docstrings", out / "model-code", out / "merged")
    ]
    for name, merged in weights[3].items():
        one, two = (weights[place][name].double() for place in (1, 2))
        torch.testing.assert_close(merged.double(), (one + two) / 2, rtol=1e-6, atol=1e-7)
    assert any(not torch.equal(weights[1][name], weights[2][name]) for name in weights[3])

    rows = [line.split("|")[1:-1] for line in said.splitlines() if line.startswith("|")]
    assert [row[0].strip() for row in rows[2:]] == [
        "the base",
        "learned docstrings",
        "learned code",
        "merged",
    ]
    figures = [[float(row[1]), float(row[3])] for row in rows[2:]]
    assert all(0 <= value <= 1 for row in figures for value in row)
    assert all(row[2].strip() and row[4].strip() for row in rows[3:])
    audited = json.loads((out / "merged" / "merge_report.json").read_text(encoding="utf-8"))["audit"]
    assert len(audited) == 3

    assert example.main(arguments) == 2
    assert "is there already. Name another folder." in capfd.readouterr().err


def test_too_few_pairs_are_one_message(
    example: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(example, "docstring_pairs", lambda: iter(()))
    monkeypatch.setattr(example, "code_pairs", lambda: iter(()))
    assert example.main(["-o", str(tmp_path / "out")]) == 2
    assert "0 pairs of docstrings to learn from and 0 held out are too few" in capfd.readouterr().err
    assert not (tmp_path / "out").exists()
