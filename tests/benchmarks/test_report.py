import pytest

import report
from figures import Figures
from goals import goals
from samples import Store
from workloads import WORKLOADS

MACHINE = {
    "cpu": "Imaginary 9000", "model": "model 1", "flags": ["avx2"], "cores": 2, "memory_gib": 8.0,
    "system": "Linux", "python": "3.11",
}  # fmt: skip


class Found(Figures):
    """Needs no model: lengths are those of the workloads."""

    def tokens(self, shape, workload):
        return sum(WORKLOADS[workload].lengths)

    def flops(self, shape, workload):
        return 1e12

    def agreement(self, shape, workload, engine):
        return (1e-7, 2e-7)


@pytest.fixture
def store(tmp_path):
    made = Store(tmp_path / "results.json", {"machine": MACHINE, "versions": {"tercet": "0"}})
    for engine, seconds, computed in (("tercet", 1.0, 100), ("st", 3.0, 260)):
        made.add(kind="count", shape="m3-24", workload="A", engine=engine, computed=computed)
        for factor in (0.9, 1.0, 1.2):
            row = {"shape": "m3-24", "workload": "A", "engine": engine, "seconds": factor * seconds}
            made.add(kind="speed", **row, clean=True)
        made.add(
            kind="cold", shape="minilm", engine=engine, seconds=seconds, imports=0.1, load=0.1, first=0.1
        )
        made.add(kind="memory", shape="m3-24", file="float32", engine=engine, peak_anonymous=10**9, ran={})
    made.add(kind="peak", instructions={"float32": 2000.0}, products={"float32": 1500.0})
    made.add(kind="drift", engine="tercet", texts=1400, mean=1e-8, worst=2e-6)
    made.add(kind="failure", engine="onnx", error="no such graph")
    return made


def test_goals_are_met_or_not_or_not_measured(store):
    found = {goal.what: goal for goal in goals(Found(store))}
    met = found["sentence-transformers, 64 mixed texts, 24 layers"]
    assert met.met is True
    assert met.measured.startswith("3.00×")
    assert found["share of the float32 limit, 24 layers"].measured == "50%"
    assert found["share of the float32 limit, 24 layers"].met is False
    assert found["drift on the packaged MiniLM, mean 1 - cosine"].met is True
    assert found["drift on the packaged MiniLM, worst 1 - cosine"].met is False
    assert found["peak RssAnon, 24 layers from a float32 file, of sentence-transformers'"].met is True
    assert found["peak RssAnon, 24 layers from a float16 file, of sentence-transformers'"].met is None
    assert len(found) == 15


def test_the_page_tells_padding_from_computing(store, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "Figures", Found)
    path = tmp_path / "docs" / "page.md"
    report.write(store, "full", path)
    page = path.read_text(encoding="utf-8")
    assert "Imaginary 9000" in page
    assert "| sentence-transformers | 3 (2.7-3.6, n=3) |" in page
    assert "- onnx: no such graph" in page
    assert "page-dark.svg" in page


def test_panels_of_the_picture_have_a_bar_for_each_engine(store):
    [panel] = Found(store).picture()["panels"]
    assert [bar["engine"] for bar in panel["bars"]] == ["Tercet float32", "sentence-transformers"]
    assert panel["bars"][0]["rate"] == pytest.approx(sum(WORKLOADS["A"].lengths))


def test_tables_are_markdown():
    assert report.table(("engine", "seconds"), [(1, 2)]) == "| engine | seconds |\n| --- | ---: |\n| 1 | 2 |"
