import json
from pathlib import Path
from typing import Any

import pytest

from tercet import evaluation
from tercet.cli.main import main
from tercet.evaluation.audit_result import (
    AuditResult,
    AuditRow,
    LayerRow,
    MetricChange,
    StoredRow,
    TensorRow,
    Verdict,
)


def result() -> AuditResult:
    metric = MetricChange("ndcg@10", 0.398, 0.4, -0.002, -0.004, 0.0, 0.04, 225)
    rows = (
        AuditRow("float32", "native_cpu", "dense", drift_mean=2e-14, drift_worst=9e-14, overlap_at_10=1.0,
                 relative_speed=1.0, peak_bytes=300 << 20),
        AuditRow("int8", "native_cpu", "dense", float32_layers=(17,), drift_mean=3.7e-4, drift_worst=1.6e-3,
                 overlap_at_10=0.9712, metrics=(metric,), relative_speed=2.43, quiet=False,
                 peak_bytes=200 << 20),
        AuditRow("float8", "torch_packed", "dense", failure="needs a GPU"),
    )  # fmt: skip
    layer = "layer 17: 71,204 > 65,504: float16 is unsafe here, bfloat16 is not"
    return AuditResult(
        machine={"name": "a CPU", "threads": 2, "device": "cpu"},
        versions={"torch": "2.13", "tercet": "0.1", "python": "3.11"},
        model="minilm",
        weights_sha256="0" * 64,
        texts={"name": "corpus.jsonl", "documents": 1400, "queries": 225},
        settings={},
        rows=rows,
        stored=(StoredRow("dense", "int8", 192, 1.0, True, 192.0, 0.991, 0.99, (metric,)),),
        layers=(LayerRow("layer 17", 17, 71204.0, "output", layer, ("float16",), {}, {}, {}),),
        tensors=(TensorRow("a.weight", (4, 4), "float16", 16, 3, 0, 0, 1.0, 1e5),),
        verdict=Verdict(
            "int8", "native_cpu", (17,), "ndcg<=0.002", "int8 it is.", ("float8 does not.",), True
        ),
        notes=("A note.",),
        seconds=61.0,
    )


def test_people_see_tables_and_the_verdict_last(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: dict[str, Any] = {}

    def audit(model: str, texts: str, **options: Any) -> AuditResult:
        asked.update(options, model=model, texts=texts)
        return result()

    monkeypatch.setattr(evaluation, "audit", audit)
    arguments = ["audit", "minilm", "--texts", "c.jsonl", "--queries", "q.jsonl", "--qrels", "q.tsv"]
    more = ["--precisions", "float32, int8", "--dimensions", "256,128", "--budget", "ndcg<=0.002", "--save"]
    assert main([*arguments, *more, "--output-dtypes", "int8", "--weights", "1,0,2", "--report", "out"]) == 0
    assert (asked["model"], asked["texts"]) == ("minilm", "c.jsonl")
    assert (asked["queries"], asked["qrels"]) == ("q.jsonl", "q.tsv")
    assert asked["precisions"] == ["float32", "int8"]
    assert asked["dimensions"] == [256, 128]
    assert asked["output_dtypes"] == ["int8"]
    assert (asked["budget"], asked["save"], asked["report"]) == ("ndcg<=0.002", True, "out")
    assert asked["weights"] == (1.0, 0.0, 2.0)
    assert (asked["reference"], asked["sample"]) == ("float64", 256)
    out, err = capsys.readouterr()
    for part in ("layers 17 in float32", "0.9712", "0.3980 (-0.0020)", "2.43x?", "does not run here", "192"):
        assert part in out
    for part in ("71,204 > 65,504", "3 of 16 weights are infinite in float16", "A note.", "1,400 documents"):
        assert part in err
    assert err.splitlines()[-1] == "Verdict: int8 it is."


def test_json_is_the_result(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(evaluation, "audit", lambda *_, **__: result())
    assert main(["audit", "minilm", "--texts", "c.jsonl", "--json"]) == 0
    assert AuditResult.from_json(json.loads(capsys.readouterr().out)) == result()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--dimensions", "all"], "'all' is no number of dimensions"),
        (["--outputs", "dnse"], "Did you mean 'dense'?"),
        (["--weights", "1,2"], "give three numbers"),
        (["--metrics", "ndgc@10"], "Did you mean 'ndcg'?"),
        (["--budget", "cosine>=1"], "Write cosine<=1."),
        (["--budget", "overlap"], "give a name, <= or >=, and a number"),
        (["--budget", "worst<=nan"], "give a number of at least 0"),
        (["--qrels", "nowhere.tsv"], "qrels were given without queries"),
        (["--texts", "nowhere"], "no such file or folder"),
        (["--output-dtypes", "int9"], "no precision of stored vectors"),
        (["--reference", "float16"], "Known: float32, float64"),
    ],
)
def test_a_mistake_is_told_in_a_line_and_exits_with_2(
    tiny_bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: list[str], message: str
) -> None:
    (tmp_path / "c.jsonl").write_text('{"text": "a cat"}\n')
    assert main(["audit", str(tiny_bert), "--texts", str(tmp_path / "c.jsonl"), *change]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.startswith("tercet audit: ")
    assert "Traceback" not in err
