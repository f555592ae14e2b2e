import json
from pathlib import Path

import pytest

import tercet
import tiny
import tiny_reranker
from tercet import reranker
from tercet.cli.main import main
from tercet.cli.progress import Progress

DOCUMENTS = {
    "d1": "Paris is the city of the river",
    "d2": "the cat",
    "d3": "a bird and a fish",
    "d4": "the moon",
}
QUERIES = {"q1": "which city", "q2": "an animal"}
RUN = {"q1": ("d2", "d1", "d3"), "q2": ("d1", "d3", "d4")}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_reranker.write_reranker(tmp_path_factory.mktemp("rerankers") / "bert", "bert")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write("corpus.jsonl", [{"_id": name, "text": text} for name, text in DOCUMENTS.items()])
    write("queries.jsonl", [{"_id": name, "text": text} for name, text in QUERIES.items()])
    Path("queries.tsv").write_text("".join(f"{name}\t{text}\n" for name, text in QUERIES.items()))
    rows = [
        f"{query} Q0 {document} {rank} {1 / rank} first\n"
        for query, ids in RUN.items()
        for rank, document in enumerate(ids, start=1)
    ]
    Path("first.trec").write_text("".join(rows))
    return tmp_path


def write(name: str, rows: list[dict[str, object]]) -> None:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def read(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


def wanted(model: Path, query: str, documents: list[str]) -> list[tuple[str, float]]:
    ranked = tercet.load_reranker(model, precision="float32").rank(query, documents)
    return [(one.document, pytest.approx(one.score, abs=1e-6)) for one in ranked]


def options(model: Path) -> list[str]:
    return ["--model", str(model), "--precision", "float32"]


@pytest.mark.usefixtures("here")
def test_documents_of_a_query_stand_in_the_models_order(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = list(DOCUMENTS.values())
    assert main(["rerank", "which city", *texts, *options(model)]) == 0
    rows = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    expected = tercet.load_reranker(model, precision="float32").rank("which city", texts)
    assert [text for _, text in rows] == [one.document for one in expected]
    assert [float(score) for score, _ in rows] == pytest.approx([one.score for one in expected], abs=1e-4)
    assert main(["rerank", "which city", *texts, "--json", "--top-k", "2", *options(model)]) == 0
    [line] = read(capsys.readouterr().out)
    found = [(one["text"], one["score"]) for one in line["documents"]]
    assert found == wanted(model, "which city", texts)[:2]


@pytest.mark.usefixtures("here")
def test_candidates_of_a_file_are_ranked_line_by_line(model: Path) -> None:
    write(
        "candidates.jsonl",
        [
            {"id": "a", "query": "which city", "documents": ["the cat", "a city", "a river"]},
            {"query": "an animal", "pos": [{"id": "x", "title": "the", "text": "cat"}], "neg": ["the moon"]},
            {"query": "nothing", "documents": []},
        ],
    )
    assert main(["rerank", "candidates.jsonl", "-o", "ranked.jsonl", *options(model)]) == 0
    first, second, third = read(Path("ranked.jsonl").read_text())
    assert (first["id"], first["query"]) == ("a", "which city")
    found = [(one["text"], one["score"]) for one in first["documents"]]
    assert found == wanted(model, "which city", ["the cat", "a city", "a river"])
    assert second["id"] == "2"
    assert {one["id"]: one["text"] for one in second["documents"]} == {"x": "the cat", "1": "the moon"}
    assert third["documents"] == []


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("queries", ["queries.jsonl", "queries.tsv"])
def test_a_run_is_ranked_anew_and_can_be_evaluated(
    queries: str, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = ["--run", "first.trec", "--queries", queries, "--corpus", "corpus.jsonl", "--depth", "2"]
    assert main(["rerank", *places, "-o", "second.trec", *options(model)]) == 0
    rows = [line.split() for line in Path("second.trec").read_text().splitlines()]
    for query, ids in RUN.items():
        expected = wanted(model, QUERIES[query], [DOCUMENTS[name] for name in ids[:2]])
        own = [row for row in rows if row[0] == query]
        assert [(DOCUMENTS[row[2]], float(row[4])) for row in own] == expected
        assert [row[3] for row in own] == ["1", "2"]
    Path("qrels").mkdir()
    Path("qrels/test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t1\nq2\td3\t1\n")
    capsys.readouterr()
    assert main(["evaluate", ".", "--run", "second.trec", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["data"]["queries"] == 2
    assert main(["rerank", ".", "--run", "first.trec", "--depth", "2", *options(model)]) == 0
    lines = read(capsys.readouterr().out)
    assert [[one["id"] for one in line["documents"]] for line in lines] == [
        [row[2] for row in rows if row[0] == query] for query in RUN
    ]


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Nothing to rank"),
        (["missing.jsonl"], "'missing.jsonl' alone is taken for a file of candidates"),
        (["a", "b", "--corpus", "corpus.jsonl"], "--corpus belongs to --run"),
        (["--run", "first.trec"], "say where its texts are"),
        (["--run", "first.trec", "--corpus", "corpus.jsonl"], "say where its texts are"),
        ([".", "--run", "none.trec"], "none.trec: no such file"),
        (["a", "b", "-o", "out.csv"], "Use .jsonl, .trec or .run"),
        (["a", "b", "-o", "corpus.jsonl"], "is there already. Say --overwrite"),
        (["queries.jsonl", "-o", "queries.jsonl", "--overwrite"], "is an input itself"),
        (["a", "b", "--query-max-length", "9"], "belongs to --truncation only_second"),
        (["a", "b", "--plan", "p.json", "--device", "cpu"], "--device and --plan were both given"),
    ],
)
def test_mistakes_are_found_before_a_model_is_loaded(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reranker, "load_reranker", lambda *_, **__: pytest.fail("a model was loaded"))
    assert main(["rerank", *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([{"query": "a"}], "line 1: there are no documents"),
        (
            [{"query": "a", "documents": ["b"]}, {"query": "a", "documents": [3]}],
            "line 2: document 0 is an int",
        ),
        ([{"id": "x", "query": "a", "documents": []}] * 2, "line 2: a second query has the id 'x'"),
        ([{"query": "a", "documents": [{"id": "y", "text": ""}] * 2}], "a second document has the id 'y'"),
    ],
)
def test_a_line_that_cannot_be_ranked_is_named_and_no_file_is_left(
    lines: list[dict[str, object]], message: str, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write("candidates.jsonl", lines)
    before = sorted(Path().iterdir())
    assert main(["rerank", "candidates.jsonl", "-o", "ranked.jsonl", *options(model)]) == 2
    assert message in capsys.readouterr().err
    assert sorted(Path().iterdir()) == before


@pytest.mark.usefixtures("here")
def test_a_run_of_another_collection_is_refused(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("first.trec").write_text("q1 Q0 d9 1 1.0 first\nq1 Q0 d1 2 0.5 first\n")
    places = ["--run", "first.trec", "--queries", "queries.jsonl", "--corpus", "corpus.jsonl"]
    assert main(["rerank", *places, *options(model)]) == 2
    assert "first.trec: the document 'd9' is not in the collection (1 such)" in capsys.readouterr().err


@pytest.mark.usefixtures("here")
def test_at_a_terminal_a_bar_counts_pairs(
    model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    places = ["--run", "first.trec", "--queries", "queries.jsonl", "--corpus", "corpus.jsonl"]
    told: list[tuple[int, int, float | None]] = []
    advance = Progress.advance

    def watched(self: Progress, texts: int, tokens: int, done: float | None) -> None:
        told.append((texts, tokens, done))
        advance(self, texts, tokens, done)

    monkeypatch.setattr(Progress, "advance", watched)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert main(["rerank", *places, "-o", "second.trec", *options(model)]) == 0
    assert told == [(3, 0, 0.5), (3, 0, 1.0)]
    assert "2 queries, 6 pairs in " in capsys.readouterr().err


@pytest.mark.usefixtures("here")
def test_a_model_of_several_labels_ranks_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    three = tiny_reranker.write_reranker(tmp_path / "three", labels=3)
    assert main(["rerank", "a", "b", *options(three)]) == 2
    assert "gives 3 scores a pair" in capsys.readouterr().err


def test_the_other_kind_of_model_is_answered_with_the_command_for_it(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("texts.txt").write_text("the cat\n")
    embedder = tiny.write_checkpoint(tmp_path / "embedder", "bert", layout="sentence-transformers")
    assert main(["embed", "texts.txt", "-m", str(model), "-o", "out.jsonl"]) == 2
    assert "`tercet rerank`" in capsys.readouterr().err
    assert main(["rerank", "which", "the cat", "-m", str(embedder)]) == 2
    assert "`tercet embed`" in capsys.readouterr().err
