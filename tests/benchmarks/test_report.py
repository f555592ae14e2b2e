import pytest

import report
from figures import Figures
from goals import Cell, goals
from limits import Sizes
from samples import Store
from workloads import WORKLOADS

MACHINE = {
    "cpu": "Imaginary 9000", "model": "model 1", "flags": ["avx2"], "cores": 2, "memory_gib": 8.0,
    "system": "Linux", "python": "3.11",
}  # fmt: skip


IDENTITY = {"machine": MACHINE, "versions": {"tercet": "0"}, "code": "0123456789abcdef"}


class Found(Figures):
    """Needs no model: lengths are those of the workloads, the sizes such that arithmetic is easy."""

    def lengths(self, shape, workload):
        return list(WORKLOADS[workload].lengths)

    def sizes(self, shape):
        return Sizes(1, 1000, 1000)

    def agreement(self, shape, workload, engine):
        return (1e-7, 2e-7)


def faster(store, engine, seconds, *, shape="m3-24", workload="A", computed=None):
    """Three clean samples around a time."""
    key = {"shape": shape, "workload": workload, "engine": engine}
    if computed is not None:
        store.add(kind="count", **key, computed=computed)
    for factor in (0.9, 1.0, 1.2):
        store.add(kind="speed", **key, seconds=factor * seconds, clean=True)


def start(store, engine, seconds, anonymous):
    """A cold start and a peak of memory."""
    parts = {"imports": 0.1, "load": 0.1, "first": 0.1}
    store.add(kind="cold", shape="minilm", engine=engine, seconds=seconds, **parts)
    store.add(kind="memory", shape="m3-24", file="float32", engine=engine, peak_anonymous=anonymous, ran={})


@pytest.fixture
def store(tmp_path):
    made = Store(tmp_path / "results.json", IDENTITY)
    faster(made, "tercet", 1.0, computed=100)
    faster(made, "st", 3.0, computed=260)
    faster(made, "tercet-int8-fast", 0.2)
    faster(made, "tercet-int8", 0.3)
    for shape, workload in (("m3-6", "A"), ("minilm", "B")):
        faster(made, "tercet-int8", 0.27, shape=shape, workload=workload)
        faster(made, "tercet-int8-fast", 0.2, shape=shape, workload=workload)
        faster(made, "openvino-int8", 0.22, shape=shape, workload=workload)
    start(made, "tercet", 1.0, 10**9)
    start(made, "st", 3.0, 10**9)
    start(made, "tercet-int8-fast", 1.0, 6 * 10**8)
    made.add(kind="peak", instructions={"float32": 100.0, "int8": 400.0}, products={"float32": 75.0})
    change = {"documents": 1400, "overlap": 1.0, "ndcg": 0.4, "low": -0.001, "high": 0.002}
    made.add(
        kind="drift", engine="tercet", against="float64", mean=1e-8, worst=2e-6, difference=0.0, **change
    )
    made.add(
        kind="drift",
        engine="tercet-int8-fast",
        against="float32",
        mean=1e-3,
        worst=5e-3,
        **{**change, "difference": -0.006, "overlap": 0.97},
    )
    made.add(kind="absent", shape="m3-24", engine="tercet-float16", reason="this CPU lacks\nAVX512-FP16")
    made.add(kind="failure", of="speed", shape="minilm", workload="A", engine="onnx", error="no such graph")
    made.add(kind="failure", of="speed", shape="m3-24", workload="A", engine="st", error="it was killed")
    return made


def cells(found):
    return {goal.what: goal.cells for goal in goals(found)}


def test_goals_are_met_or_not_or_not_measured_for_each_precision(store):
    found = cells(Found(store))
    row = found["sentence-transformers, 64 mixed texts, 24 layers"]
    assert row["float32"].met is True
    assert row["float32"].measured.startswith("3.00×")
    assert row["int8-fast"].met is True
    assert row["int8"] == Cell("", row["int8"].measured, None)
    assert row["int8"].measured.startswith("10.00×")
    assert found["FlagEmbedding, defaults, 64 mixed texts, 24 layers"]["int8-fast"].met is None
    assert found["FlagEmbedding, defaults, 64 mixed texts, 24 layers"]["float32"].measured == "not measured"
    assert found["OpenVINO int8, 64 mixed texts, 6 layers"]["int8-fast"].met is False


def test_a_precision_that_does_not_run_says_so_in_every_row_it_has_a_goal_in(store):
    for what, row in cells(Found(store)).items():
        assert row["float16"].measured == ("does not run here" if "over that" not in what else "")
        assert row["float16"].met is None


def test_int8_is_held_to_the_time_of_int8_fast(store):
    row = cells(Found(store))["time of int8 over that of int8-fast, 64 mixed texts, 6 layers"]
    assert row["int8"].measured.startswith("1.35×")
    assert row["int8"].met is False
    assert row["int8-fast"] == Cell("", "")


def test_the_share_is_of_linear_layers_at_their_own_peak_and_attention_at_that_of_float32(store):
    found = Found(store)
    parts = found.sizes("m3-24").parts(found.lengths("m3-24", "A"))
    attention = parts.pop("attention")
    expected = 1e-9 * (sum(parts.values()) / 400 + attention / 100) / 0.2
    assert found.share("m3-24", "A", "tercet-int8-fast") == pytest.approx(expected)
    assert found.share("m3-24", "A", "tercet") == pytest.approx((sum(parts.values()) + attention) * 1e-11)
    # The product of torch never makes the peak smaller than the instructions'.
    assert found.peak("float32") == 100


def test_a_clean_peak_is_believed_before_a_larger_disturbed_one(store):
    assert not Found(store).peaks_are_clean()
    store.add(kind="peak", instructions={"float32": 90.0}, products={}, clean=True)
    assert Found(store).peaks_are_clean()
    assert Found(store).peak("float32") == 90
    assert Found(store).product("float32") is None


def test_a_plan_is_measured_against_the_peak_of_what_it_chose(store):
    store.add(kind="load", shape="m3-24", engine="tercet-auto", facts={"dtype": "int8"})
    assert Found(store).dtype("m3-24", "tercet-auto") == "int8"
    assert Found(store).dtype("m3-24", "st-default") is None


def test_memory_and_cold_starts_are_ratios_to_sentence_transformers(store):
    found = cells(Found(store))
    [memory] = [row for what, row in found.items() if "from a float32 file" in what]
    assert memory["float32"].met is True
    assert memory["int8-fast"].measured == "0.60× (600 MB)"
    assert memory["int8-fast"].met is False
    cold = found["cold start to the first vector, MiniLM, of sentence-transformers'"]
    assert cold["float32"].met is True
    assert cold["int8-fast"].met is None


def test_drift_is_held_to_the_goals_of_each_precision(store):
    found = cells(Found(store))
    assert found["drift on the packaged MiniLM, mean 1 - cosine"]["float32"].met is True
    assert found["drift on the packaged MiniLM, worst 1 - cosine"]["float32"].met is False
    assert found["drift on the packaged MiniLM, worst 1 - cosine"]["int8-fast"].met is True
    assert found["drift on the packaged MiniLM, top-10 overlap"]["int8-fast"].met is True
    assert found["drift on the packaged MiniLM, difference of nDCG@10"]["int8-fast"].met is False


def test_the_page_tells_what_a_reader_must_know(store, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "Figures", Found)
    path = tmp_path / "docs" / "page.md"
    report.write(store, "full", path, "The time was up.")
    page = path.read_text(encoding="utf-8")
    assert "Imaginary 9000" in page
    assert "all of one source, 0123456789abcdef" in page
    assert "**The time was up.**" in page
    assert "| sentence-transformers | 3 (2.7-3.6, n=3) |" in page
    assert "- onnx (speed, minilm, A): no such graph" in page
    assert "it was killed" not in page, "a failure that went right later is no news"
    assert "- Tercet float16: this CPU lacks AVX512-FP16" in page
    assert "| Tercet float16 | does not run here |" in page
    assert "page-dark.svg" in page


def test_every_row_of_a_table_has_as_many_cells_as_its_head(store, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "Figures", Found)
    path = tmp_path / "page.md"
    report.write(store, "full", path)
    for block in path.read_text(encoding="utf-8").split("\n\n"):
        lines = block.splitlines()
        if lines[0].startswith("|"):
            assert {line.count("|") for line in lines} == {lines[0].count("|")}


def test_where_nothing_was_measured_there_is_no_picture_and_every_goal_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "Figures", Found)
    path = tmp_path / "page.md"
    report.write(Store(tmp_path / "none.json", IDENTITY), "full", path)
    page = path.read_text(encoding="utf-8")
    assert "<picture>" not in page
    assert (
        "| not measured<br>goal ≥ 9× | not measured<br>goal ≥ 17× |  | not measured<br>goal ≥ 30× |" in page
    )


def test_panels_of_the_picture_have_a_bar_for_each_engine(store):
    panels = {(panel["shape"], panel["workload"]): panel for panel in Found(store).picture()["panels"]}
    bars = panels["m3-24", "A"]["bars"]
    expected = ["Tercet float32", "Tercet int8", "Tercet int8-fast", "sentence-transformers"]
    assert [bar["engine"] for bar in bars] == expected
    assert bars[0]["rate"] == pytest.approx(sum(WORKLOADS["A"].lengths))


def test_tables_are_markdown():
    assert report.table(("engine", "seconds"), [(1, 2)]) == "| engine | seconds |\n| --- | ---: |\n| 1 | 2 |"
