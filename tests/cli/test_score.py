import json
from pathlib import Path

import pytest

from tercet import embedder
from tercet.cli.main import main

PAIRS = [("which city", "Paris is the city"), ("which city", "the cat"), ("a bird", "the fish and the bird")]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    rows = [json.dumps({"query": query, "document": document}) + "\n" for query, document in PAIRS]
    (tmp_path / "pairs.jsonl").write_text("".join(rows))
    return tmp_path


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().out.splitlines()


@pytest.mark.usefixtures("here")
def test_pairs_of_a_file_score_as_the_model_scores_them(
    tiny_m3: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--model", str(tiny_m3), "--weights", "0.4,0.2,0.4", "--json", "--precision", "float32"]
    assert main(["score", "pairs.jsonl", *options]) == 0
    model = embedder.load(tiny_m3, precision="float32")
    queries, documents = zip(*PAIRS, strict=True)
    wanted = model.score(queries, documents, pairwise=True, weights=(0.4, 0.2, 0.4))
    rows = [json.loads(line) for line in lines(capsys)]
    assert [(row["query"], row["document"]) for row in rows] == PAIRS
    for name in ("dense", "sparse", "multivector", "combined"):
        assert [row[name] for row in rows] == pytest.approx(getattr(wanted, name).tolist(), abs=1e-6)


@pytest.mark.usefixtures("here")
def test_a_query_is_scored_against_each_document(tiny_m3: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--model", str(tiny_m3), "--precision", "float32"]
    assert main(["score", "which city", "Paris is the city", "the\n cat", *options]) == 0
    header, *rows = lines(capsys)
    assert header.split() == ["dense", "sparse", "multivector", "combined"]
    assert len(rows) == 2
    assert rows[1].endswith("which city ↔ the cat")
    dense, sparse, multivector, combined = map(float, rows[0].split()[:4])
    assert combined == pytest.approx((dense + sparse + multivector) / 3, abs=1e-4)


@pytest.mark.usefixtures("here")
def test_many_pairs_keep_their_order_over_chunks(tiny_bert: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = "".join(f"city {row % 7}\tdocument {row}\n" for row in range(150))
    Path("pairs.tsv").write_text("question\tanswer\n" + rows)
    columns = ["--query-column", "question", "--document-column", "answer"]
    assert (
        main(["score", "pairs.tsv", *columns, "--model", str(tiny_bert), "--json", "--precision", "float32"])
        == 0
    )
    found = [json.loads(line) for line in lines(capsys)]
    assert [row["document"] for row in found] == [f"document {row}" for row in range(150)]
    assert set(found[0]) == {"query", "document", "dense", "combined"}


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.jsonl"], "'missing.jsonl' alone is taken for a file of pairs"),
        (["pairs.jsonl", "--query-column", "qeury"], "Did you mean 'query'?"),
        (["a", "b", "--weights", "1,2"], "give three numbers"),
        (["a", "b", "--outputs", "dnse"], "Did you mean 'dense'?"),
    ],
)
def test_mistakes_are_found_before_a_model_is_loaded(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedder, "load", lambda *_, **__: pytest.fail("a model was loaded"))
    assert main(["score", *arguments]) == 2
    assert message in capsys.readouterr().err
