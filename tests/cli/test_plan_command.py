"""`tercet plan`: the page, its JSON, and a plan saved for later."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import tercet
import tiny_reranker
from planned import DRIFTED, UNSEEN, capability, measured
from tercet.cli.main import main
from tercet.planner import making
from tercet.precision.dtype import DType
from tercet.precision.plan import Plan


@pytest.fixture(autouse=True)
def _machine(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {
        DType.FLOAT32: measured(1.0),
        DType.BFLOAT16: measured(0.25, DRIFTED),
        DType.FLOAT16: measured(4.0, UNSEEN),
    }
    monkeypatch.setattr(making, "capability", lambda device=None: capability(rows))


def test_the_page_names_the_model_and_the_reasons(
    tiny_bert: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", str(tiny_bert)]) == 0
    out = capsys.readouterr().out
    assert f"Plan for {tiny_bert}" in out
    assert "--precision bfloat16" in " ".join(out.split())


def test_a_tolerance_lets_auto_take_what_is_faster(
    tiny_bert: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", str(tiny_bert), "--tolerance", "1e-4"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "body bfloat16 (torch_packed)" in out
    assert "has a loss within the tolerance of 0.0001" in out


def test_the_saved_plan_is_the_printed_one(
    tiny_m3: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "plan.json"
    options = [
        "--precision",
        "bf16",
        "--outputs",
        "dense, sparse",
        "--batch-tokens",
        "512",
        "--max-length",
        "32",
    ]
    options += ["--output-dtype", "float16", "--json", "--save-plan", str(path)]
    assert main(["plan", str(tiny_m3), *options]) == 0
    captured = capsys.readouterr()
    assert f"saved in {path}" in captured.err
    made = Plan.load(path, available=["cpu"])
    assert Plan.from_json(json.loads(captured.out)) == made
    assert made.token_budget == 512
    assert made.precision.to_json() == {
        "weights": "bfloat16",
        "compute": "bfloat16",
        "heads": "float32",
        "output": "float16",
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--precision", "int8"], "no engine here computes in int8"),
        (["--precision", "int8-fast"], "no engine here computes in int8-fast"),
        (["--precision", "int8-fst"], "Did you mean 'int8-fast'?"),
        (["--precision", "fast"], "'fast' is not a precision"),
        (["--precision", "bf16", "--tolerance", "1e-6"], "bfloat16 drifts further than tolerance=1e-06"),
        (["--tolerance", "3"], "tolerance=3.0: it is the largest mean 1 - cosine"),
        (["--outputs", "sparse"], "no sparse output"),
        (["--output-dtype", "int8"], "vectors come out in float32"),
    ],
)
def test_what_cannot_be_planned_is_one_message(
    tiny_bert: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", str(tiny_bert), *options]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("tercet plan: ")
    assert message in captured.err
    assert "Traceback" not in captured.err


def test_a_folder_that_is_not_there_is_one_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", str(tmp_path / "nothing" / "here")]) == 2
    assert "There is no folder" in capsys.readouterr().err


@pytest.mark.parametrize("how", ["plain", "cross-encoder", "without a class"])
def test_a_reranker_is_planned_as_it_would_be_loaded(
    how: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tiny_reranker.write_reranker(tmp_path / "reranker", "bert", cross_encoder=how == "cross-encoder")
    if how == "without a class":
        config = json.loads((folder / "config.json").read_text())
        del config["architectures"]
        (folder / "config.json").write_text(json.dumps(config))
    path = tmp_path / "plan.json"
    assert main(["plan", str(folder), "--precision", "bf16", "--json", "--save-plan", str(path)]) == 0
    made = Plan.from_json(json.loads(capsys.readouterr().out))
    loaded = tercet.load_reranker(folder, plan=path)
    assert (loaded.plan.scheme, loaded.plan.peak_bytes) == (made.scheme, made.peak_bytes)
    assert made.scheme.dtype is DType.BFLOAT16
    assert main(["plan", str(folder)]) == 0
    assert f"Plan for {folder}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "option", [["--outputs", "sparse"], ["--pooling", "cls"], ["--output-dtype", "float16"]]
)
def test_an_option_of_vectors_is_refused_of_a_reranker(
    option: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tiny_reranker.write_reranker(tmp_path / "reranker", "xlm-roberta")
    assert main(["plan", str(folder), *option]) == 2
    name = option[0].removeprefix("--").replace("-", "_")
    assert (
        f"{name} belongs to models that make vectors, and {folder} is a reranker" in capsys.readouterr().err
    )


def test_an_encoder_with_modules_makes_vectors_whatever_it_was_trained_as(
    tiny_stack: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(tiny_stack, tmp_path / "stack")
    config = json.loads((folder / "config.json").read_text())
    config["architectures"] = ["BertForSequenceClassification"]
    (folder / "config.json").write_text(json.dumps(config))
    assert main(["plan", str(folder), "--outputs", "dense"]) == 0
    assert f"Plan for {folder}" in capsys.readouterr().out
