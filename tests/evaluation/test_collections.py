import gzip
import json

import pytest

from tercet.errors import InputError, UnknownNameError
from tercet.evaluation.layouts import judgements_of, layout, open_collection

DOCUMENTS = [
    ("d1", "Paris", "is a city"),
    ("2", "", "the cat"),
    ("d#3", "Birds", "fish and the bird"),
    ("d4", "", ""),
]
QUERIES = [("q1", "which city"), ("7", "a bird"), ("q3", "nobody judged this")]
GRADES = [("q1", "d1", 2), ("q1", "2", 0), ("7", "d#3", 1)]


def lines(path, rows):
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8")


def table(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join("\t".join(map(str, row)) + "\n" for row in rows), encoding="utf-8")


def corpus(path, key="_id"):
    rows = [
        {key: int(name) if name.isdigit() else name, "title": title, "text": text}
        for name, title, text in DOCUMENTS
    ]
    lines(path, rows)


def beir(folder, suffix="", split="test"):
    corpus(folder / f"corpus.jsonl{suffix}")
    lines(folder / f"queries.jsonl{suffix}", [{"_id": name, "text": text} for name, text in QUERIES])
    table(folder / "qrels" / f"{split}.tsv", [("query-id", "corpus-id", "score"), *GRADES])


def flagembedding(folder):
    corpus(folder / "corpus.jsonl", "id")
    lines(folder / "test_queries.jsonl", [{"id": name, "text": text} for name, text in QUERIES])
    lines(folder / "test_qrels.jsonl", [{"qid": q, "docid": d, "relevance": g} for q, d, g in GRADES])


def trec(folder):
    rows = [{"docid": name, "title": title, "text": text} for name, title, text in DOCUMENTS]
    lines(folder / "miracl-corpus-v1.0-xx" / "docs-1.jsonl.gz", rows[2:])
    lines(folder / "miracl-corpus-v1.0-xx" / "docs-0.jsonl.gz", rows[:2])
    table(folder / "topics" / "topics.miracl-v1.0-xx-dev.tsv", QUERIES)
    table(folder / "qrels" / "qrels.miracl-v1.0-xx-dev.tsv", [(q, "Q0", d, g) for q, d, g in GRADES])


def mldr(folder):
    corpus(folder / "corpus.jsonl.gz", "docid")
    rows = []
    for name, text in QUERIES:
        sides = {
            key: [{"docid": d, "text": "…"} for q, d, g in GRADES if q == name and (g > 0) == positive]
            for key, positive in (("positive_passages", True), ("negative_passages", False))
        }
        rows.append({"query_id": name, "query": text, **sides})
    lines(folder / "test.jsonl.gz", rows)


MAKERS = {"beir": beir, "flagembedding": flagembedding, "trec": trec, "mldr": mldr}


@pytest.mark.parametrize("name", MAKERS)
def test_every_layout_gives_the_same_collection(name, tmp_path):
    MAKERS[name](tmp_path)
    found = open_collection(tmp_path)
    assert found.layout == name
    texts = {document.id: document.text for document in found.documents()}
    assert texts == {"d1": "Paris is a city", "2": "the cat", "d#3": "Birds fish and the bird", "d4": ""}
    assert list(texts) == [row[0] for row in DOCUMENTS]
    assert found.queries == {"q1": "which city", "7": "a bird"}
    first = 1 if name == "mldr" else 2
    assert found.qrels == {"q1": {"d1": first, "2": 0}, "7": {"d#3": 1}}
    assert found.num_documents == 4
    assert any("1 queries without judgements" in note for note in found.notes)
    assert any("1 documents without text" in note for note in found.notes)
    assert found.to_json()["judgements"] == 3


def test_miracl_is_a_name_of_the_trec_layout():
    assert layout["miracl"] is layout["trec"]


def test_a_gzipped_collection_is_the_same(tmp_path):
    beir(tmp_path / "plain")
    beir(tmp_path / "packed", ".gz")
    plain, packed = open_collection(tmp_path / "plain"), open_collection(tmp_path / "packed")
    assert [one[:2] for one in packed.documents()] == [one[:2] for one in plain.documents()]
    assert (packed.queries, packed.qrels) == (plain.queries, plain.qrels)


def test_the_hash_follows_the_bytes_and_not_the_place(tmp_path):
    beir(tmp_path / "one")
    beir(tmp_path / "two")
    hashes = [open_collection(tmp_path / name).sha256 for name in ("one", "two")]
    assert hashes[0] == hashes[1]
    corpus_file = tmp_path / "two" / "corpus.jsonl"
    corpus_file.write_text(corpus_file.read_text().replace("cat", "dog"))
    assert open_collection(tmp_path / "two").sha256 != hashes[0]


def test_lines_of_queries_and_documents_can_be_searched_as_a_collection(tmp_path):
    rows = [{"query": "a", "pos": ["x", "y"], "neg": ["z"]}, {"query": "b", "pos": ["z"], "neg": ["x"]}]
    lines(tmp_path / "pairs.jsonl", rows)
    found = open_collection(tmp_path / "pairs.jsonl")
    texts = {document.id: document.text for document in found.documents()}
    assert sorted(texts.values()) == ["x", "y", "z"]
    grades = {query: {texts[name]: grade for name, grade in of.items()} for query, of in found.qrels.items()}
    assert grades == {"1": {"x": 1, "y": 1, "z": 0}, "2": {"z": 1, "x": 0}}


def append(path, text):
    path.write_text(path.read_text(encoding="utf-8") + text, encoding="utf-8")


@pytest.mark.parametrize(
    ("file", "line", "place", "message"),
    [
        (
            "corpus.jsonl",
            '{"_id": "d1", "text": "again"}',
            "corpus.jsonl, line 5",
            "a second document has the id 'd1'",
        ),
        ("corpus.jsonl", '{"_id": 2, "text": "again"}', "corpus.jsonl, line 5", "the first is at"),
        ("corpus.jsonl", '{"_id": "x", "text": 5}', "corpus.jsonl, line 5", "'text' is an int ('5')"),
        ("corpus.jsonl", '{"_id": "a b", "text": ""}', "corpus.jsonl, line 5", "without white space"),
        ("corpus.jsonl", '{"_id": "x"}', "corpus.jsonl, line 5", "there is no key 'text' or 'contents'"),
        ("corpus.jsonl", "{'_id': 1}", "corpus.jsonl, line 5, column 2", "not JSON"),
        ("corpus.jsonl", "[]", "corpus.jsonl, line 5", "each line must be an object"),
        ("corpus.jsonl", '{"_id": "x", "text": "\\ud800"}', "corpus.jsonl, line 5", "surrogate"),
        (
            "queries.jsonl",
            '{"_id": "q1", "text": "again"}',
            "queries.jsonl, line 4",
            "a second query has the id 'q1'",
        ),
        ("queries.jsonl", '{"_id": "q9", "text": " "}', "queries.jsonl, line 4", "the query 'q9' is empty"),
        ("qrels/test.tsv", "q1\td9\t1", "test.tsv, line 5", "the document 'd9' is not in"),
        ("qrels/test.tsv", "q8\td1\t1", "test.tsv, line 5", "the query 'q8' is not in"),
        ("qrels/test.tsv", "q1\td1\t0", "test.tsv, line 5", "gets grade 0 for query 'q1', and got 2"),
        ("qrels/test.tsv", "q1\td1\tyes", "test.tsv, line 5", "the grade is 'yes'"),
        ("qrels/test.tsv", "q1\td1\t0.5", "test.tsv, line 5", "must be a whole number"),
        ("qrels/test.tsv", "q1\td4\t5000", "test.tsv, line 5", "grades lie between -1000 and 1000"),
        ("qrels/test.tsv", "q1 d1", "test.tsv, line 5", "2 columns, where judgements have three"),
    ],
)
def test_a_bad_line_is_an_error_that_names_it(file, line, place, message, tmp_path):
    beir(tmp_path)
    append(tmp_path / file, f"{line}\n")
    with pytest.raises(InputError) as caught:
        open_collection(tmp_path)
    assert place in str(caught.value)
    assert message in str(caught.value)


def test_judgements_of_what_is_not_there_are_left_out_and_counted_by_wish(tmp_path):
    beir(tmp_path)
    append(tmp_path / "qrels" / "test.tsv", "q1\td9\t1\nq8\td1\t1\nq3\td9\t1\nq1\td1\t2\n")
    with pytest.raises(InputError, match="ignore_missing=True"):
        open_collection(tmp_path)
    found = open_collection(tmp_path, ignore_missing=True)
    assert found.qrels == {"q1": {"d1": 2, "2": 0}, "7": {"d#3": 1}}
    assert {note for note in found.notes if note[0].isdigit()} == {
        "1 queries without judgements, which are not searched.",
        "1 documents without text.",
        "1 judgements that say again what was said.",
        "1 judgements of unknown queries, left out.",
        "2 judgements of unknown documents, left out.",
    }


def test_the_split_is_chosen_and_a_wrong_one_lists_those_that_are_there(tmp_path):
    beir(tmp_path)
    table(tmp_path / "qrels" / "train.tsv", [("query-id", "corpus-id", "score"), ("q3", "d4", 1)])
    assert open_collection(tmp_path).split == "test"
    assert open_collection(tmp_path, split="train").qrels == {"q3": {"d4": 1}}
    with pytest.raises(InputError, match=r"no split 'tets'. Did you mean 'test'[?] Known: test, train"):
        open_collection(tmp_path, split="tets")
    (tmp_path / "qrels" / "test.tsv").rename(tmp_path / "qrels" / "other.tsv")
    with pytest.raises(InputError, match="has the splits other, train: choose one"):
        open_collection(tmp_path)


def test_a_folder_of_no_known_form_is_told_of_all_forms(tmp_path):
    with pytest.raises(InputError) as caught:
        open_collection(tmp_path)
    assert all(MAKERS.keys() <= set(layout.names()) and name in str(caught.value) for name in MAKERS)
    beir(tmp_path)
    with pytest.raises(InputError, match="is not of the layout 'mldr'"):
        open_collection(tmp_path, layout_name="mldr")
    with pytest.raises(UnknownNameError, match="Did you mean 'beir'"):
        open_collection(tmp_path, layout_name="bier")
    flagembedding(tmp_path)
    with pytest.raises(InputError, match="can be read as beir and as flagembedding: say which"):
        open_collection(tmp_path)
    with pytest.raises(InputError, match="no such file or folder"):
        open_collection(tmp_path / "nowhere")


def test_topics_without_documents_are_told_where_to_put_them(tmp_path):
    table(tmp_path / "topics" / "topics.x-dev.tsv", QUERIES)
    table(tmp_path / "qrels" / "qrels.x-dev.tsv", [(q, "Q0", d, g) for q, d, g in GRADES])
    with pytest.raises(InputError, match=r"docs-0[.]jsonl[.]gz"):
        open_collection(tmp_path)


def test_judgements_alone_are_read_from_a_file_or_a_collection(tmp_path):
    beir(tmp_path)
    wanted = {"q1": {"d1": 2, "2": 0}, "7": {"d#3": 1}}
    assert judgements_of(tmp_path)[0] == wanted
    table(tmp_path / "qrels.txt", [(q, "0", d, g) for q, d, g in GRADES])
    assert judgements_of(tmp_path / "qrels.txt")[0] == wanted
    with pytest.raises(InputError, match="has no splits"):
        judgements_of(tmp_path / "qrels.txt", split="test")


def test_documents_are_read_anew_each_time_and_never_held(tmp_path):
    beir(tmp_path)
    many = 3000
    lines(
        tmp_path / "corpus.jsonl",
        [{"_id": "d1", "text": "x"}, {"_id": "2", "text": ""}, {"_id": "d#3", "text": ""}],
    )
    append(tmp_path / "corpus.jsonl", "".join(f'{{"_id": "n{i}", "text": "w{i}"}}\n' for i in range(many)))
    found = open_collection(tmp_path)
    assert found.num_documents == many + 3
    assert sum(1 for _ in found.documents()) == sum(1 for _ in found.documents()) == many + 3
    append(tmp_path / "corpus.jsonl", '{"_id": "n1500", "text": "again"}\n')
    with pytest.raises(InputError, match=r"line 3004: a second document has the id 'n1500'; .*line 1504"):
        open_collection(tmp_path)
