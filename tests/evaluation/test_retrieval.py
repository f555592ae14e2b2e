import json

import numpy as np
import pytest

import tercet
from tercet.errors import InputError, UnknownNameError
from tercet.evaluation import evaluate_run, retrieval, stored
from tercet.evaluation.encoding import Encoding
from tercet.evaluation.layouts import open_collection
from tercet.evaluation.retrieval import Search, search
from tercet.evaluation.runs import read_run
from tercet.scoring import reciprocal_rank_fusion
from tiny import WORDS

ALL = ("dense", "sparse", "multivector")


@pytest.fixture(scope="module")
def model(tiny_m3):
    return tercet.load(tiny_m3, precision="float32", device="cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Forty documents of random words, some twice, and eight queries, of which one has a document's id."""
    place = tmp_path_factory.mktemp("collection")
    generator = np.random.default_rng(5)
    texts = [" ".join(generator.choice(WORDS, generator.integers(1, 20))) for _ in range(36)]
    texts += [*texts[:3], ""]
    documents = [
        {"_id": f"d{i}", "title": "river" if i % 3 else "", "text": text} for i, text in enumerate(texts)
    ]
    queries = [{"_id": f"q{i}", "text": " ".join(generator.choice(WORDS, 4))} for i in range(7)]
    queries.append({"_id": "d5", "text": texts[5]})
    for name, rows in (("corpus", documents), ("queries", queries)):
        (place / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    judged = [
        f"{query['_id']}\td{document}\t{generator.integers(0, 4)}\n"
        for query in queries
        for document in generator.choice(40, 6, replace=False)
    ]
    (place / "qrels").mkdir()
    (place / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(judged))
    return place


def by_hand(model, folder, name):
    """Query -> document -> score, all at once."""
    rows = [json.loads(line) for line in (folder / "corpus.jsonl").read_text().splitlines()]
    queries = [json.loads(line) for line in (folder / "queries.jsonl").read_text().splitlines()]
    texts = [f"{row['title']} {row['text']}".strip() for row in rows]
    scores = model.score([query["text"] for query in queries], texts, outputs=ALL, weights=(1.0, 0.3, 1.0))
    matrix = {"dense+sparse": scores.dense_sparse, "hybrid": scores.combined}.get(name)
    matrix = getattr(scores, name) if matrix is None else matrix
    return {
        query["_id"]: dict(zip((row["_id"] for row in rows), values.tolist(), strict=True))
        for query, values in zip(queries, matrix, strict=True)
    }


@pytest.mark.parametrize("name", [*ALL, "dense+sparse", "hybrid"])
def test_chunks_find_what_one_matrix_of_all_scores_finds(name, model, folder, monkeypatch):
    for limit in ("_TEXTS", "_TEXTS_MULTIVECTOR"):
        monkeypatch.setattr(retrieval, limit, 7)
    monkeypatch.setattr(retrieval, "_QUERIES", 3)
    collection = open_collection(folder)
    found = search(model, collection, Encoding(ALL), Search(depth=15, weights=(1.0, 0.3, 1.0)))
    wanted = by_hand(model, folder, name)
    assert found.runs[name].keys() == collection.queries.keys() == wanted.keys()
    for query, ranking in found.runs[name].items():
        assert len(ranking) == 15
        expected = sorted(wanted[query].values(), reverse=True)[:15]
        assert ranking.scores.tolist() == pytest.approx(expected, abs=1e-5)
        assert [wanted[query][one] for one in ranking.ids] == pytest.approx(expected, abs=1e-5)


def test_weights_that_leave_nothing_of_dense_and_sparse_leave_their_sum_out(model, folder):
    found = search(model, open_collection(folder), Encoding(ALL), Search(weights=(0.0, 0.0, 1.0)))
    assert list(found.runs) == [*ALL, "hybrid", "rrf"]
    assert {q: r.ids for q, r in found.runs["hybrid"].items()} == {
        q: r.ids for q, r in found.runs["multivector"].items()
    }
    alone = search(model, open_collection(folder), Encoding(("dense",)), Search(weights=(0.0, 0.0, 1.0)))
    assert list(alone.runs) == ["dense"]


def test_rank_fusion_fuses_the_three_rankings(model, folder):
    found = search(model, open_collection(folder), Encoding(ALL), Search(rrf_k=10))
    assert list(found.runs) == ["dense", "sparse", "multivector", "dense+sparse", "hybrid", "rrf"]
    for query, ranking in found.runs["rrf"].items():
        fused = dict(reciprocal_rank_fusion([found.runs[name][query].ids for name in ALL], k=10))
        assert set(ranking.ids) == set(fused)
        wanted = sorted(np.array(list(fused.values()), dtype=np.float32).tolist(), reverse=True)
        assert ranking.scores.tolist() == wanted


def test_texts_that_are_equal_tie_and_stand_by_descending_id(model, folder):
    report = tercet.evaluate(model, folder, outputs="dense", metrics=["ndcg@10", "mrr"])
    assert report["dense"].tied == 8
    ranking = search(model, open_collection(folder), Encoding(("dense",))).runs["dense"]["q0"]
    # d0 and d36 are one text, but for the title that only one of them has
    assert ranking.ids.index("d37") == ranking.ids.index("d1") - 1


def test_a_query_does_not_find_itself_only_where_that_was_asked_for(model, folder, monkeypatch):
    monkeypatch.setattr(retrieval, "_TEXTS_MULTIVECTOR", 9)
    collection = open_collection(folder)
    plain = search(model, collection, Encoding(ALL)).runs
    removed = search(model, collection, Encoding(ALL), Search(remove_query=True)).runs
    for name in ("dense", "multivector", "hybrid", "rrf"):
        assert "d5" in plain[name]["d5"].ids
        assert "d5" not in removed[name]["d5"].ids
        assert len(removed[name]["d5"]) == 39
        assert "d5" in removed[name]["q0"].ids


def test_run_files_score_as_the_search_itself(model, folder, tmp_path):
    report = tercet.evaluate(model, folder, runs_folder=tmp_path / "runs", metrics=["ndcg@5", "map"])
    qrels = open_collection(folder).qrels
    files = list((tmp_path / "runs").iterdir())
    assert {file.name for file in files} == {f"{system.name}.trec" for system in report.systems}
    for file in files:
        scores = evaluate_run(read_run(file), qrels, ["ndcg@5", "map"])
        assert scores.means == pytest.approx(report[file.stem].metrics, abs=1e-12)
        assert scores.expected_means == pytest.approx(report[file.stem].expected, abs=1e-12)


def count_searches(monkeypatch):
    from tercet.evaluation import tasks

    searched = []
    monkeypatch.setattr(
        tasks, "search", lambda *given, **named: searched.append(1) or search(*given, **named)
    )
    return searched


def test_a_result_is_kept_under_everything_that_matters(model, folder, tiny_m3, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    searched = count_searches(monkeypatch)
    plain = {"outputs": ALL, "metrics": ["ndcg@10", "mrr"]}
    first = tercet.evaluate(model, folder, **plain)
    again = tercet.evaluate(model, folder, **plain)
    assert (first.stored, again.stored, len(searched)) == (False, True, 1)
    assert again.to_json() == json.loads(json.dumps({**first.to_json(), "stored": True}))
    assert [list(system.metrics) for system in again.systems] == [["ndcg@10", "mrr"]] * 6
    for number, change in enumerate(
        (
            {"query_prompt": "find: "},
            {"document_prompt": "text: "},
            {"max_length": 9},
            {"dimensions": 8},
            {"normalize": False},
            {"outputs": "dense"},
            {"metrics": ["mrr"]},
            {"gain": "exponential"},
            {"relevance_level": 2},
            {"depth": 10},
            {"weights": (1.0, 0.0, 1.0)},
            {"reduction": "sum"},
            {"rrf_k": 1.0},
            {"remove_query": True},
            {"refresh": True},
        ),
        start=2,
    ):
        assert not tercet.evaluate(model, folder, **{**plain, **change}).stored, change
        assert len(searched) == number
    half = tercet.load(tiny_m3, precision="bfloat16", device="cpu")
    assert not tercet.evaluate(half, folder, **plain).stored
    assert tercet.evaluate(model, folder, **plain).stored


def test_a_model_of_the_same_name_with_other_weights_is_another(folder, own_cache, tmp_path):
    import tiny

    for seed in (0, 1):
        place = tiny.write_checkpoint(tmp_path / str(seed) / "checkpoint-1000", "bert", seed=seed)
        report = tercet.evaluate(place, folder, precision="float32", device="cpu", metrics=["ndcg@10"])
        assert report.model["name"] == str(place)
        assert not report.stored
    (tmp_path / "0" / "checkpoint-1000").rename(tmp_path / "renamed")
    renamed = tercet.evaluate(
        tmp_path / "renamed", folder, precision="float32", device="cpu", metrics=["ndcg@10"]
    )
    assert renamed.stored
    assert renamed.model["name"] == str(tmp_path / "renamed")


def test_data_that_changed_is_measured_anew(model, folder, tmp_path, monkeypatch):
    import shutil

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    copy = shutil.copytree(folder, tmp_path / "copy")
    tercet.evaluate(model, folder, outputs="dense")
    moved = tercet.evaluate(model, copy, outputs="dense")
    assert moved.stored
    assert moved.data["name"] == str(copy)
    qrels = copy / "qrels" / "test.tsv"
    qrels.write_text(qrels.read_text().replace("\t3\n", "\t1\n"))
    assert not tercet.evaluate(model, copy, outputs="dense").stored


def test_a_damaged_note_of_a_result_is_computed_again(model, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    tercet.evaluate(model, folder, outputs="dense")
    (note,) = (tmp_path / "tercet" / "evaluations").iterdir()
    for damage in (
        '{"report": 5}',
        '{"report": "{}"}',
        '{"report": "["}',
        '{"report": "{\\"report_version\\": 1}"}',
    ):
        note.write_text(damage)
        assert stored.recall(note.stem) is None
        assert not tercet.evaluate(model, folder, outputs="dense").stored
        assert tercet.evaluate(model, folder, outputs="dense").stored


def test_the_report_says_what_it_was_found_under(model, folder):
    told = []
    report = tercet.evaluate(
        model, folder, max_length=8, refresh=True, progress=lambda *args: told.append(args)
    )
    assert report.settings["gain"] == "linear"
    assert report.settings["remove_query"] is False
    assert report.model["max_length"] == 8
    assert report.work["texts"] == 48 == sum(texts for texts, _, _ in told)
    assert report.work["documents_cut"] > 10
    assert told[-1][2] == 1.0
    assert report.data["documents"] == 40
    assert len(report["rrf"].per_query["ndcg@10"]) == len(report["rrf"].queries) == 8
    json.dumps(report.to_json(), allow_nan=False)
    with pytest.raises(UnknownNameError, match="Did you mean 'dense'"):
        report["dnse"]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"metrics": ["ndgc@10"]}, UnknownNameError, "Did you mean 'ndcg'?"),
        ({"task": "retreival"}, UnknownNameError, "Did you mean 'retrieval'?"),
        ({"split": "dev"}, InputError, "there is no split 'dev'"),
        ({"depth": 0}, InputError, "depth is 0"),
        ({"outputs": "dnse"}, InputError, "'dnse'"),
        ({"metric": ["mrr"]}, UnknownNameError, "Did you mean 'metrics'?"),
        ({"gain": "cubic"}, InputError, "gain is 'cubic'"),
        ({"reduction": "max"}, InputError, "reduction is 'max'"),
        ({"rrf_k": -1.0}, InputError, "rrf_k is -1.0"),
        ({"weights": (1.0, 2.0)}, InputError, "give three finite numbers"),
        ({"depth": 50}, InputError, "recall@100 looks down to rank 100, and depth=50"),
        ({"device": "cpu"}, InputError, "this one is loaded already"),
    ],
)
def test_mistakes_are_found_before_a_model_is_loaded(options, error, message, folder):
    with pytest.raises(error) as caught:
        tercet.evaluate(lambda: pytest.fail("a model was loaded"), folder, **options)
    assert message in str(caught.value)


def test_a_corpus_that_changes_under_way_is_an_error(model, folder, tmp_path):
    import dataclasses

    collection = dataclasses.replace(open_collection(folder), num_documents=41)
    with pytest.raises(InputError, match="had 41 documents when it was checked, and 40 now"):
        search(model, collection, Encoding(("dense",)))


def test_documents_are_let_go_chunk_by_chunk(model, folder, monkeypatch):
    """The largest matrix of scores has as many columns as a chunk has documents, whatever the corpus."""
    widths = []
    scores = retrieval.score_matrix
    monkeypatch.setattr(retrieval, "_TEXTS", 6)
    monkeypatch.setattr(
        retrieval, "score_matrix", lambda q, d, **how: widths.append(len(d)) or scores(q, d, **how)
    )
    search(model, open_collection(folder), Encoding(("dense",)), Search(depth=3))
    assert widths == [6, 6, 6, 6, 6, 6, 4]
