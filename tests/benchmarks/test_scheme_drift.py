import json

import pytest

import scheme_drift
import tiny
from report import table
from retrieval import Change, Collection, read_collection

FACTS = {
    "model": "minilm", "device": "cpu", "documents": 1400, "queries": 225, "code": "0123",
    "machine": {"cpu": "Imaginary 9000", "model": "model 1"}, "versions": {"tercet": "0"},
}  # fmt: skip
GOOD = Change(1625, 1e-4, 1e-3, 0.99, 0.4, 0.399, 0.001, -0.001, 0.003)


def row(change, **more):
    return {"ran": "int8 (engine)", "against": "float32", **change.to_json(), **more}


def test_a_line_has_the_goals_beside_and_what_misses_them_in_bold():
    line = scheme_drift.line("int8", row(GOOD))
    assert line == (
        "int8", "int8 (engine)", "float32", "1.0e-04 (≤ 4.5e-04)", "1.0e-03 (≤ 2.0e-03)", "0.9900 (≥ 0.98)",
        "0.4000", "+0.0010 [-0.0010, +0.0030] (within 0.003)",
    )  # fmt: skip
    worse = scheme_drift.line("int8", {**row(GOOD), "worst": 3e-3, "overlap": 0.97})
    assert worse[4:6] == ("**3.0e-03** (≤ 2.0e-03)", "**0.9700** (≥ 0.98)")


def test_a_scheme_without_goals_has_its_numbers_alone():
    assert scheme_drift.line("bfloat16", row(GOOD))[3:5] == ("1.0e-04", "1.0e-03")


def test_a_scheme_that_does_not_run_has_a_whole_line_with_the_reason():
    rows = {"float32": row(GOOD), "int8": {"reason": "no engine\nhere | there"}}
    page = scheme_drift.page(rows, FACTS)
    assert "| int8 | does not run here: no engine here / there |" in page
    lines = page.split("\n\n")[1].splitlines()
    assert {line.count("|") for line in lines} == {len(scheme_drift.COLUMNS) + 1}
    assert "Imaginary 9000" in page
    assert table(("scheme",), [("int8",)]).startswith("| scheme |")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("drift") / "model"
    tiny.write_checkpoint(made, "bert", layout="sentence-transformers")
    return made


COLLECTION = Collection(
    ("a river and a bridge", "the music of a film", "water, fire and earth"),
    ("1", "2", "3"),
    ("river", "music"),
    ("a", "b"),
    {"a": {"1": 1.0}, "b": {"2": 1.0}},
)


def test_schemes_are_measured_against_float32_and_float32_against_float64(folder):
    rows = scheme_drift.measure(str(folder), "cpu", ("float32", "bfloat16"), COLLECTION)
    assert rows["float32"]["against"] == "float64"
    assert 0 < rows["float32"]["worst"] < 1e-10
    assert rows["float32"]["overlap"] == 1.0
    assert rows["bfloat16"]["against"] == "float32"
    assert rows["bfloat16"]["ran"].startswith("bfloat16")
    assert rows["float32"]["worst"] < rows["bfloat16"]["mean"] < 1e-2


def test_a_scheme_that_nobody_knows_is_reported_and_the_others_are_measured(folder):
    rows = scheme_drift.measure(str(folder), "cpu", ("int3", "bfloat16"), COLLECTION)
    assert "int3" in rows["int3"]["reason"]
    assert rows["bfloat16"]["texts"] == 5


def test_the_script_writes_its_table_and_its_json(folder, tmp_path, monkeypatch, capsys):
    def lines(name, rows):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    lines(
        "corpus.jsonl",
        [{"_id": "1", "title": "", "text": "a river"}, {"_id": "2", "title": "", "text": "a cat"}],
    )
    lines("queries.jsonl", [{"_id": "a", "text": "river"}])
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "test.tsv").write_text("q\td\ts\na\t1\t1\n", encoding="utf-8")
    assert len(read_collection(tmp_path).documents) == 2
    out = tmp_path / "drift.json"
    asked = [
        "scheme_drift.py",
        str(tmp_path),
        "--model",
        str(folder),
        "--precision",
        "bfloat16",
        "--json",
        str(out),
    ]
    monkeypatch.setattr("sys.argv", asked)
    scheme_drift.main()
    assert "| bfloat16 | bfloat16 (torch_packed) | float32 |" in capsys.readouterr().out
    found = json.loads(out.read_text(encoding="utf-8"))
    assert found["schemes"]["bfloat16"]["texts"] == 3
    assert found["goals"]["int8"]["overlap"] == 0.98
