import json
from dataclasses import replace
from pathlib import Path

import pytest

import tercet
import tiny_reranker
from tercet import embedder
from tercet.cli.commands import evaluate as evaluate_command
from tercet.cli.evaluation_report import sentences
from tercet.cli.main import main
from tercet.cli.progress import Progress

DOCUMENTS = [
    "Paris is the city",
    "the cat is on the bridge",
    "read a csv file",
    "the fish and the bird",
    "the cat",
]
QUERIES = ["which city", "a cat", "open a file"]


@pytest.fixture
def collection(own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COLUMNS", "120")
    folder = tmp_path / "collection"
    (folder / "qrels").mkdir(parents=True)
    for name, texts in (("corpus", DOCUMENTS), ("queries", QUERIES)):
        rows = [json.dumps({"_id": f"{name[0]}{i}", "text": text}) + "\n" for i, text in enumerate(texts)]
        (folder / f"{name}.jsonl").write_text("".join(rows))
    (folder / "qrels" / "test.tsv").write_text(
        "query-id\tcorpus-id\tscore\nq0\tc0\t2\nq1\tc1\t1\nq1\tc4\t1\n"
    )
    return folder


def test_the_figures_are_those_of_the_function(
    tiny_m3: Path, collection: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--weights", "1,0.5,1", "--metrics", "ndcg@3,mrr", "--precision", "float32", "--depth", "4"]
    arguments = ["evaluate", str(tiny_m3), str(collection), *options]
    assert main([*arguments, "--json", "--per-query", "--runs", str(tmp_path / "runs")]) == 0
    found = json.loads(capsys.readouterr().out)
    model = tercet.load(tiny_m3, precision="float32")
    wanted = tercet.evaluate(
        model, collection, weights=(1, 0.5, 1), metrics=["ndcg@3", "mrr"], depth=4, refresh=True
    )
    assert found["settings"] == json.loads(json.dumps(wanted.to_json()["settings"]))
    assert found["systems"] == json.loads(json.dumps(wanted.to_json()["systems"]))
    assert [system["name"] for system in found["systems"]][-1] == "rrf"
    assert len(list((tmp_path / "runs").iterdir())) == 6
    assert (tmp_path / "runs" / "hybrid.trec").read_text().startswith("q0 Q0 c")


def test_people_see_the_precision_by_the_name_that_they_asked_for_it_by(
    tiny_bert: Path, collection: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = tercet.evaluate(tercet.load(tiny_bert, precision="float32"), collection)
    assert report.model is not None
    for variant, shown in (("int8-fast", "int8-fast (native_cpu)"), (None, "int8 (native_cpu)")):
        scheme = {**report.model["scheme"], "dtype": "int8", "variant": variant, "engine": "native_cpu"}
        lines = sentences(replace(report, model={**report.model, "scheme": scheme}))
        assert any(f": {shown} on cpu" in line for line in lines)


def test_people_see_a_table_and_what_it_was_found_under(
    tiny_bert: Path,
    collection: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    arguments = [
        "evaluate",
        str(tiny_bert),
        str(collection),
        "--precision",
        "float32",
        "--gain",
        "exponential",
    ]
    assert main([*arguments, "--remove-query"]) == 0
    out, err = capsys.readouterr()
    header, row = out.splitlines()
    assert header.split()[:3] == ["ndcg@10", "recall@10", "recall@100"]
    assert "…" not in header
    name, *figures = row.split()
    assert name == "dense"
    assert all(0 <= float(figure) <= 1 for figure in figures)
    for part in (
        "5 documents, 2 queries, 3 judgements",
        "1 queries without judgements",
        "exponential gain (2^grade - 1)",
        "the query's own id is left out",
        "title and its text",
        "Computed: 7 texts",
    ):
        assert part in err
    assert main([*arguments, "--remove-query"]) == 0
    again = capsys.readouterr()
    assert again.out == out
    assert "Kept from an earlier run (--refresh computes anew)" in again.err
    assert main([*arguments, "--remove-query", "--refresh"]) == 0
    assert "Computed: 7 texts" in capsys.readouterr().err


def test_ties_get_a_second_line_where_they_matter(
    collection: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run.trec"
    run.write_text("q0 Q0 c0 1 0.5 x\nq0 Q0 c9 2 0.5 x\nq1 Q0 c1 1 1 x\nq7 Q0 c1 1 1 x\n")
    assert main(["evaluate", str(collection), "--run", str(run), "--metrics", "mrr,recall@5"]) == 0
    out, err = capsys.readouterr()
    lines = [line.split() for line in out.splitlines()]
    assert lines[1] == ["run", "0.7500", "0.7500"]
    assert lines[2] == ["run,", "over", "ties", "0.8750", "0.7500"]
    assert "1 queries of the run have no judgement and were left out." in err


def test_a_run_is_scored_with_a_file_of_judgements_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedder, "load", lambda *_, **__: pytest.fail("a model was loaded"))
    (tmp_path / "qrels").write_text("q 0 a 1\nnone 0 a 1\n")
    (tmp_path / "run").write_text("q Q0 b 1 2.0 x\nq Q0 a 2 1.0 x\n")
    arguments = ["evaluate", str(tmp_path / "qrels"), "--run", str(tmp_path / "run"), "--json"]
    assert main([*arguments, "--metrics", "mrr"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["systems"][0]["metrics"] == {"mrr": 0.5}
    assert "per_query" not in found["systems"][0]
    assert main([*arguments, "--metrics", "mrr", "--complete"]) == 0
    assert json.loads(capsys.readouterr().out)["systems"][0]["metrics"] == {"mrr": 0.25}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--metrics", "ndgc@10"], "Did you mean 'ndcg'?"),
        (["--split", "tset"], "Did you mean 'test'?"),
        (["--layout", "bier"], "Did you mean 'beir'?"),
        (["--task", "rerankng"], "Did you mean 'reranking'?"),
        (["--outputs", "dnse"], "Did you mean 'dense'?"),
        (["--gain", "cubic"], "give linear or exponential"),
        (["--reduction", "max"], "give mean or sum"),
        (["--weights", "1,2"], "give three numbers"),
        (["--complete"], "--complete belongs to --run"),
        (["--run", "x.trec"], "give the data set or its judgements alone"),
        (["another"], "two are needed: MODEL DATASET"),
        (["--plan", "p.json", "--precision", "float32"], "--precision and --plan were both given"),
        (["--plan", "p.json", "--tolerance", "1e-3"], "--tolerance and --plan were both given"),
    ],
)
def test_mistakes_are_found_before_a_model_is_loaded(
    change: list[str],
    message: str,
    collection: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(embedder, "load", lambda *_, **__: pytest.fail("a model was loaded"))
    assert main(["evaluate", "minilm", str(collection), *change]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err


def test_a_bad_line_is_told_with_its_place_and_left_out_by_wish(
    tiny_bert: Path, collection: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    qrels = collection / "qrels" / "test.tsv"
    qrels.write_text(qrels.read_text() + "q0\tc77\t1\n")
    arguments = ["evaluate", str(tiny_bert), str(collection), "--precision", "float32"]
    assert main(arguments) == 2
    assert "test.tsv, line 5: the document 'c77' is not in" in capsys.readouterr().err
    assert main([*arguments, "--ignore-missing"]) == 0
    assert "1 judgements of unknown documents, left out." in capsys.readouterr().err


def test_a_reranker_stands_beside_the_first_stage_with_what_it_changed(
    tiny_bert: Path, collection: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tiny_reranker.write_reranker(tmp_path / "reranker", "bert", scale=20.0)
    options = ["--precision", "float32", "--metrics", "ndcg@3,mrr"]
    options += ["--reranker", str(folder), "--reranker-precision", "float32", "--rerank-depth", "3"]
    arguments = ["evaluate", str(tiny_bert), str(collection), *options]
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert [line.split()[0] for line in out.splitlines()[1:]] == ["dense", "reranked"]
    assert f"reranked: the first 3 of dense by {folder}: float32" in err
    assert "6 pairs in" in err
    assert "by a paired randomisation test: ndcg@3 " in err
    assert main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    wanted = tercet.evaluate(
        tercet.load(tiny_bert, precision="float32"),
        collection,
        metrics=["ndcg@3", "mrr"],
        reranker=tercet.load_reranker(folder, precision="float32"),
        rerank_depth=3,
        refresh=True,
    )
    assert found["stored"]
    assert found["systems"][1]["metrics"] == wanted["reranked"].metrics
    assert found["work"]["changes"] == wanted.work["changes"]


def test_each_stage_has_a_bar_of_its_own(
    tiny_bert: Path, collection: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[str, str, int, int, float | None]] = []

    class Told(Progress):
        def __init__(self, what: str, *, measurable: bool, unit: str = "texts") -> None:
            super().__init__(what, measurable=measurable, unit=unit)
            self.named = (what, unit)

        def advance(self, texts: int, tokens: int, done: float | None) -> None:
            super().advance(texts, tokens, done)
            told.append((*self.named, self.texts, min(self.tokens, 1), done))

    monkeypatch.setattr(evaluate_command, "Progress", Told)
    folder = tiny_reranker.write_reranker(tmp_path / "reranker", "bert", scale=20.0)
    arguments = ["evaluate", str(tiny_bert), str(collection), "--precision", "float32", "--refresh"]
    assert main(arguments) == 0
    assert {what for what, *_ in told} == {"Evaluating"}
    told.clear()
    assert main([*arguments, "--reranker", str(folder), "--rerank-depth", "2"]) == 0
    stages = list(dict.fromkeys(what for what, *_ in told))
    assert stages == ["First stage", "Second stage"]
    ends = {what: (unit, count, tokens, done) for what, unit, count, tokens, done in told}
    assert ends["First stage"] == ("texts", 7, 1, 1.0)
    assert ends["Second stage"] == ("pairs", 4, 0, 1.0)
    assert told[[what for what, *_ in told].index("Second stage")][2:] == (0, 0, 0.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rerank-depth", "3"], "--rerank-depth belongs to --reranker"),
        (["--first-stage", "dense"], "--first-stage belongs to --reranker"),
        (["--reranker-precision", "int8"], "--reranker-precision belongs to --reranker"),
        (["--reranker", "/no/where"], "There is no folder /no/where"),
    ],
)
def test_a_second_stage_that_cannot_be_is_one_message(
    options: list[str],
    message: str,
    tiny_bert: Path,
    collection: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["evaluate", str(tiny_bert), str(collection), *options]) == 2
    assert message in capsys.readouterr().err


def test_of_a_run_the_way_through_tercet_rerank_is_shown(
    collection: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(collection), "--run", "x.trec", "--reranker", "r"]) == 2
    assert "tercet rerank COLLECTION --run FILE" in capsys.readouterr().err
