import json

import pytest

import tercet
from recorder import judged


@pytest.fixture(scope="module")
def peer(recorded):
    return recorded("evaluation")


@pytest.fixture(scope="module")
def model(minilm):
    return tercet.load(minilm, precision="float32", device="cpu")


@pytest.mark.minilm
def test_retrieval_is_worth_what_sentence_transformers_and_trec_eval_say(model, peer, real_texts, tmp_path):
    documents, queries, qrels = judged.collection(real_texts)
    for name, texts in (("corpus", documents), ("queries", queries)):
        rows = [json.dumps({"_id": name, "text": text}) + "\n" for name, text in texts.items()]
        (tmp_path / f"{name}.jsonl").write_text("".join(rows))
    lines = [f"{q}\t{d}\t{grade}\n" for q, grades in qrels.items() for d, grade in grades.items()]
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(lines))
    report = tercet.evaluate(model, tmp_path, metrics=judged.METRICS, refresh=True)
    assert list(report["dense"].queries) == list(queries)
    for name in judged.METRICS:
        theirs = peer[f"retrieval/{name}"]
        assert report["dense"].metrics[name] == pytest.approx(theirs.mean(), abs=1e-4), name
        assert 0.02 < theirs.mean() < 0.999  # a figure that can differ
        assert report["dense"].per_query[name] == pytest.approx(theirs.tolist(), abs=1e-4), name


@pytest.mark.minilm
def test_similarity_correlates_as_in_sentence_transformers(model, peer, real_texts, tmp_path):
    rows = [
        json.dumps({"sentence1": first, "sentence2": second, "score": gold}) + "\n"
        for first, second, gold in judged.pairs(real_texts)
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(rows))
    report = tercet.evaluate(model, tmp_path / "pairs.jsonl", refresh=True)
    for name in judged.SIMILARITIES:
        for kind in ("spearman", "pearson"):
            wanted = float(peer[f"similarity/{name}/{kind}"])
            assert report[name].metrics[kind] == pytest.approx(wanted, abs=1e-4), (name, kind)
