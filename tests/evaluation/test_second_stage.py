import json

import pytest
import torch

from tercet.errors import InputError
from tercet.evaluation.collection import Document
from tercet.evaluation.ranked import Ranking
from tercet.evaluation.second_stage import Found, found_in_lines, found_in_run, rerank


def by_length(pairs):
    """A score that anyone can check: characters of the document, and of the query a little."""
    return torch.tensor([len(document) + len(query) / 100 for query, document in pairs])


def texts(**named):
    return [Document(name, text, "made") for name, text in named.items()]


def test_each_query_gets_its_own_documents_best_first():
    queries = [
        Found("q1", "a", {"x": "one", "y": "three", "z": "to"}),
        Found("q2", "bb", {}),
        Found("q3", "ccc", {"x": "one", "w": "fourteen"}),
    ]
    ranked = list(rerank(by_length, queries))
    assert [one.found for one in ranked] == queries
    assert [one.ranking.ids for one in ranked] == [("y", "x", "z"), (), ("w", "x")]
    assert ranked[0].ranking.scores.tolist() == pytest.approx([5.01, 3.01, 2.01])
    assert [one.ranking.ids for one in rerank(by_length, queries, top_k=1)] == [("y",), (), ("w",)]


def test_many_queries_are_scored_in_few_calls_and_read_as_they_are_needed():
    calls, read = [], []

    def score(pairs):
        calls.append(len(pairs))
        return by_length(pairs)

    def queries():
        for number in range(1200):
            read.append(number)
            yield Found(str(number), "q" * number, {"a": "x" * number, "b": ""})

    ranked = rerank(score, queries())
    first = next(ranked)
    assert (first.ranking.ids, len(read)) == (("b", "a"), 256)  # equal scores: trec_eval's order
    rest = list(ranked)
    assert [one.found.id for one in rest] == [str(number) for number in range(1, 1200)]
    assert all(one.ranking.ids == ("a", "b") for one in rest)
    assert calls == [512, 512, 512, 512, 352]


def test_of_a_run_only_the_best_are_taken_with_their_texts():
    run = {"q2": Ranking.of({"a": 1.0, "b": 3.0, "c": 2.0}), "q1": Ranking.of({"c": 1.0})}
    queries, documents = texts(q1="first", q2="second", q3="third"), texts(a="A", b="B", c="C", d="D")
    found = found_in_run(run, queries, iter(documents), depth=2, where="a run")
    assert found == [Found("q2", "second", {"b": "B", "c": "C"}), Found("q1", "first", {"c": "C"})]
    with pytest.raises(InputError, match=r"a run: the query 'q2' is not in the collection \(1 such\)"):
        found_in_run(run, texts(q1="first"), documents, depth=2, where="a run")
    with pytest.raises(InputError, match=r"the document 'a' is not in the collection \(1 such\)"):
        found_in_run(run, queries, documents[1:], depth=3, where="a run")


def test_lines_of_every_known_form_are_read(tmp_path):
    path = tmp_path / "lines.jsonl"
    lines = [
        {"_id": 7, "query": "a", "candidates": ["x", {"docid": "y", "text": "z"}]},
        {"query_id": "q", "query": "b", "positive_passages": [{"docid": "1", "title": "T", "text": "u"}]},
        {"query": "c", "pos": ["x"], "neg": ["y", "x"]},
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert list(found_in_lines(path)) == [
        Found("7", "a", {"0": "x", "y": "z"}),
        Found("q", "b", {"1": "T u"}),
        Found("3", "c", {"0": "x", "1": "y", "2": "x"}),
    ]
