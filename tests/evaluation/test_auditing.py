import json
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Self, cast

import pytest
import torch
from safetensors.torch import load_file, save_file

import tercet
import tiny
from tercet.cache import cache_folder
from tercet.checkpoint.layout import open_checkpoint
from tercet.checkpoint.source import find
from tercet.embedder import Embedder
from tercet.errors import InputError, PrecisionError, TercetError, UnknownNameError
from tercet.evaluation.audit_result import AuditResult, AuditRow
from tercet.evaluation.auditing import auditor, running
from tercet.evaluation.auditing import worker as worker_module
from tercet.evaluation.auditing.parts import read_part
from tercet.evaluation.auditing.process import Worker, WorkerFailed
from tercet.evaluation.auditing.schemes import fastest_float32, plan_of
from tercet.evaluation.auditing.timing import Timing, time_in_turns
from tercet.evaluation.auditing.worker import Commands
from tercet.evaluation.encoding import Encoding
from tercet.kernels.native import library
from tercet.planner import make_plan
from tercet.precision.dtype import Wish
from tercet.precision.plan import Plan
from tercet.precision.planning import plan as plan_footprint
from tercet.scoring import best

COUNT, ASKED = 40, 6
INT8_ENGINE = "onednn" if library() is None else "native_cpu"


class Beside:
    """A worker in this process: what a process of its own costs is one test's business, not every test's."""

    def __init__(self) -> None:
        self._commands = Commands()

    @property
    def model(self) -> Embedder | None:
        return self._commands.model

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def ask(self, do: str, **fields: Any) -> dict[str, Any]:
        try:
            return self._commands.answer(json.loads(json.dumps({"do": do, **fields})))
        except TercetError as error:
            raise WorkerFailed(str(error)) from None


@pytest.fixture(scope="module", autouse=True)
def _beside() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "Worker", Beside)
        yield


def sentence(start: int, step: int, length: int) -> str:
    return " ".join(tiny.WORDS[(start + step * word) % len(tiny.WORDS)] for word in range(length))


DOCUMENTS = {f"d{i}": sentence(7 * i, 3, 3 + i % 9) for i in range(COUNT)}
QUERIES = {f"q{i}": sentence(5 * i, 1, 4) for i in range(ASKED)}


def lines(texts: dict[str, str]) -> str:
    return "".join(json.dumps({"_id": name, "text": text}) + "\n" for name, text in texts.items())


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("texts")
    found = {name: folder / name for name in ("corpus.jsonl", "queries.jsonl", "qrels.tsv")}
    found["corpus.jsonl"].write_text(lines(DOCUMENTS))
    found["queries.jsonl"].write_text(lines(QUERIES))
    judged = "".join(f"q{i}\td{3 * i}\t1\n" for i in range(ASKED))
    found["qrels.tsv"].write_text("query-id\tcorpus-id\tscore\n" + judged)
    return found


def run(model: Path, files: dict[str, Path], **options: Any) -> AuditResult:
    return auditor.audit(
        model,
        files["corpus.jsonl"],
        queries=files["queries.jsonl"],
        qrels=files["qrels.tsv"],
        **options,
    )


def scheme_plan(folder: Path, row: AuditRow) -> Plan:
    here = tercet.probe("cpu")
    alone = {s: m for s, m in here.schemes.items() if (s.label, s.engine) == (row.label, row.engine)}
    footprint = open_checkpoint(find(folder)).footprint()
    return plan_footprint(footprint, replace(here, schemes=alone), Wish.parse(row.label))


def overflowing(folder: Path) -> Path:
    """A checkpoint whose second layer leaves float16's range inside, and whose Dense module does, too."""
    modules = (
        "pooling",
        ("dense", {"scale": 6e4, "activation_function": "torch.nn.modules.linear.Identity"}),
        "normalize",
    )
    tiny.write_checkpoint(folder, "bert", layout="sentence-transformers", modules=modules, layers=3)
    tensors = load_file(folder / "model.safetensors")
    for name in ("weight", "bias"):
        tensors[f"encoder.layer.1.intermediate.dense.{name}"] *= 6e4
    tensors["encoder.layer.1.output.dense.weight"] /= 6e4
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def m3_audit(tiny_m3: Path, files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> AuditResult:
    """All heads at int8, against float32 on everything."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "time_in_turns", _faster)
        return run(
            tiny_m3,
            files,
            precisions=["float32", "float16", "int8"],
            reference="float32",
            dimensions=[16],
        )


def of(result: AuditResult, label: str, head: str, engine: str | None = None) -> AuditRow:
    return next(
        row for row in result.rows if (row.label, row.head) == (label, head) and engine in (None, row.engine)
    )


def test_float32_against_itself_drifts_by_exactly_nothing(m3_audit: AuditResult) -> None:
    name = m3_audit.rows[0].name
    own = [row for row in m3_audit.rows if row.name == name]
    assert [row.head for row in own] == ["dense", "sparse", "multivector", "combined"]
    for row in own[:3]:
        assert (row.drift_mean, row.drift_p50, row.drift_p99, row.drift_worst) == (0.0, 0.0, 0.0, 0.0)
        assert row.drift_texts == COUNT + ASKED
        assert row.worst_texts == ()
        assert row.drift_histogram == ((0.0, row.drift_histogram[0][1], COUNT + ASKED),)
    for row in own:
        assert (row.overlap_at_10, row.rank_biased_overlap) == (1.0, 1.0)
        # Of scores that are all alike there is no tau.
        assert row.kendall_tau in (None, pytest.approx(1.0))
        assert (row.ties_created, row.ties_broken, row.rank_changes) == (0, 0, ())
        assert all((metric.change, metric.p_value) == (0.0, 1.0) for metric in row.metrics)
    assert (own[1].tokens_gained, own[1].tokens_lost, own[1].sparse_weight_error_worst) == (0, 0, 0.0)


@pytest.mark.parametrize(
    ("label", "engine"),
    [*dict.fromkeys([("int8", INT8_ENGINE), ("int8", "onednn")]), ("float16", "torch_packed")],
)
def test_a_row_is_what_can_be_computed_by_hand(
    m3_audit: AuditResult, tiny_m3: Path, label: str, engine: str
) -> None:
    dense = of(m3_audit, label, "dense", engine)
    exact = tercet.load(tiny_m3, plan=scheme_plan(tiny_m3, m3_audit.rows[0]))
    narrow = tercet.load(tiny_m3, plan=scheme_plan(tiny_m3, dense))
    sides = []
    for model in (exact, narrow):
        kinds = [
            model.encode_query(list(QUERIES.values()), outputs=("dense", "sparse")),
            model.encode_document(list(DOCUMENTS.values()), outputs=("dense", "sparse")),
        ]
        sides.append(kinds)
    drifts = []
    for one, other in zip(*sides, strict=True):
        assert one.dense is not None
        assert other.dense is not None
        cosine = torch.nn.functional.cosine_similarity(one.dense.double(), other.dense.double())
        drifts += (1 - cosine).tolist()
    assert dense.drift_mean == pytest.approx(math.fsum(drifts) / len(drifts), rel=1e-6, abs=1e-15)
    assert dense.drift_worst == pytest.approx(max(drifts), rel=1e-6, abs=1e-15)
    names = [f"query {name}" for name in QUERIES] + list(DOCUMENTS)
    assert dense.worst_texts[0].id == names[drifts.index(max(drifts))]
    tops = []
    for queries, documents in sides:
        assert queries.dense is not None
        assert documents.dense is not None
        tops.append(best(queries.dense @ documents.dense.T, 10)[1].tolist())
    kept = [len(set(a) & set(b)) / 10 for a, b in zip(*tops, strict=True)]
    assert dense.overlap_at_10 == pytest.approx(sum(kept) / ASKED)
    hits = [[f"d{3 * i}" in {f"d{k}" for k in top[:10]} for i, top in enumerate(side)] for side in tops]
    recall = [sum(side) / ASKED for side in hits]
    found = tercet.evaluate(
        narrow, _folder(DOCUMENTS, QUERIES, tiny_m3), outputs="dense", metrics=["recall@10"]
    )
    assert found["dense"].metrics["recall@10"] == pytest.approx(recall[1])
    assert dense.bytes_per_text == 4 * 32


def _folder(documents: dict[str, str], queries: dict[str, str], beside: Path) -> Path:
    folder = beside.parent / "as_collection"
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    (folder / "corpus.jsonl").write_text(lines(documents))
    (folder / "queries.jsonl").write_text(lines(queries))
    judged = "".join(f"q{i}\td{3 * i}\t1\n" for i in range(ASKED))
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged)
    return folder


def test_metrics_are_those_of_tercet_evaluate(m3_audit: AuditResult, tiny_m3: Path) -> None:
    row = of(m3_audit, "int8", "multivector", INT8_ENGINE)
    model = tercet.load(tiny_m3, plan=scheme_plan(tiny_m3, row))
    found = tercet.evaluate(
        model, _folder(DOCUMENTS, QUERIES, tiny_m3), metrics=["ndcg@10", "recall@100", "mrr@10"]
    )
    for head, system in (
        ("dense", "dense"),
        ("sparse", "sparse"),
        ("multivector", "multivector"),
        ("combined", "hybrid"),
    ):
        metrics = {metric.name: metric.value for metric in of(m3_audit, "int8", head, INT8_ENGINE).metrics}
        assert metrics == pytest.approx(dict(found[system].metrics))


def test_a_result_says_what_it_is_of_and_survives_json(m3_audit: AuditResult) -> None:
    assert AuditResult.from_json(json.loads(json.dumps(m3_audit.to_json()))) == m3_audit
    assert m3_audit.texts["documents"] == COUNT
    assert m3_audit.texts["queries"] == ASKED
    assert m3_audit.settings["budget"] == "cosine<=5e-06,worst<=5e-05"
    assert any("no visible loss" in note for note in m3_audit.notes)
    for row in m3_audit.rows:
        if row.failure is not None:
            # Few processors have that, and without a compiler there are no kernels.
            assert row.engine == "native_cpu"
            assert row.label == "float16" or library() is None
            continue
        assert row.load_seconds is not None
        assert row.load_seconds > 0
        assert row.peak_bytes is not None
        assert row.peak_bytes > 50 << 20
        assert row.relative_speed is not None
        assert row.relative_speed > 0
        assert row.tokens_per_second is not None
        assert row.texts_per_second is not None
        assert row.tokens_per_second > row.texts_per_second
    with pytest.raises(InputError, match="Run `tercet audit` again"):
        AuditResult.from_json({"audit_version": 99}, "audit.json")


def test_int8_is_beyond_no_visible_loss_and_the_verdict_says_by_what(m3_audit: AuditResult) -> None:
    assert m3_audit.verdict.label == "float32"
    said = next(
        sentence for sentence in m3_audit.verdict.others if sentence.startswith(f"int8 ({INT8_ENGINE})")
    )
    mean = of(m3_audit, "int8", "dense", INT8_ENGINE).drift_mean
    assert f"cosine of dense is {mean:.2g}" in said


def test_stored_vectors_are_told_by_bytes_and_rankings(m3_audit: AuditResult) -> None:
    ways = {
        (row.head, row.precision, row.dimensions, row.pool_factor, row.rescored): row
        for row in m3_audit.stored
    }
    assert ways["dense", "float16", 32, 1.0, False].bytes_per_text == 64
    assert ways["dense", "int8", 16, 1.0, True].bytes_per_text == 16
    assert ways["dense", "binary", 32, 1.0, False].bytes_per_text == 4
    assert ways["dense", "float16", 32, 1.0, False].overlap_at_10 > 0.95
    assert ways["dense", "binary", 32, 1.0, False].overlap_at_10 < 0.9
    pooled, whole = ways["multivector", "int8", 32, 2.0, False], ways["multivector", "int8", 32, 1.0, False]
    assert pooled.bytes_per_text < whole.bytes_per_text
    assert ("sparse", "float16", 227, 1.0, False) in ways
    assert all(len(row.metrics) == 3 for row in m3_audit.stored)


def test_rescoring_orders_the_candidates_as_a_search_does(m3_audit: AuditResult, tiny_m3: Path) -> None:
    from tercet.quantization import Quantizer
    from tercet.scoring import search_stored

    model = tercet.load(tiny_m3, plan=scheme_plan(tiny_m3, m3_audit.rows[0]))
    queries = model.encode_query(list(QUERIES.values())).dense
    documents = model.encode_document(list(DOCUMENTS.values())).dense
    assert queries is not None
    assert documents is not None
    quantizer = Quantizer.fit(documents, "binary")
    codes = quantizer.encode(documents).codes
    # Forty documents are fewer than four times a hundred, so everything is a candidate.
    found = search_stored(queries, codes, quantizer, 10, rescore_multiplier=4)[1].tolist()
    exact = best(queries @ documents.T, 10)[1].tolist()
    kept = sum(len(set(a) & set(b)) / 10 for a, b in zip(found, exact, strict=True)) / ASKED
    row = next(
        row
        for row in m3_audit.stored
        if (row.head, row.precision, row.dimensions, row.rescored) == ("dense", "binary", 32, True)
    )
    assert row.overlap_at_10 == pytest.approx(kept)


@pytest.fixture(scope="module")
def repaired(tmp_path_factory: pytest.TempPathFactory, files: dict[str, Path]) -> tuple[Path, AuditResult]:
    folder = overflowing(tmp_path_factory.mktemp("model") / "overflowing")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "time_in_turns", _faster_mixed)
        return folder, run(folder, files, precisions=["float16"], save=True, sample=20)


def _faster(baseline: Any, other: Any, texts: Any, *, threads: int) -> Timing:
    """What a quiet machine could say; this one's times decide nothing in a test."""
    return Timing(1.5, True)


def _faster_mixed(baseline: Any, other: Beside, texts: Any, *, threads: int) -> Timing:
    """The same of float16 that leaves its range, and of a mixed plan."""
    assert other.model is not None
    return Timing(1.5 if other.model.plan.float32_layers else 0.4, True)


def test_a_planted_overflow_is_found_by_layer_and_a_mixed_plan_repairs_it(
    repaired: tuple[Path, AuditResult],
) -> None:
    _, result = repaired
    plain = of(result, "float16", "dense", "torch_packed")
    assert plain.recomputed == COUNT + ASKED
    layers = {layer.layer: layer for layer in result.layers}
    assert layers["layer 1"].unsafe == ("float16",)
    assert "float16 is unsafe here, bfloat16 is not" in layers["layer 1"].sentence
    assert layers["layer 1"].sentence.startswith("layer 1: ")
    assert layers["layer 1"].lost["float16 (torch_packed)"] > 0
    assert layers["layer 0"].unsafe == layers["layer 2"].unsafe == ()
    assert layers["2_Dense"].unsafe == ("float16",)
    assert "computed in float32 whatever the body" in layers["2_Dense"].sentence
    mixed = next(row for row in result.rows if row.float32_layers and row.engine == "torch_packed")
    assert mixed.float32_layers == (1,)
    assert mixed.recomputed == 0
    assert mixed.drift_mean is not None
    assert 0 < mixed.drift_mean <= 5e-6
    assert result.verdict.float32_layers == (1,)
    assert result.verdict.label == "float16"
    assert result.verdict.decided


def test_auto_follows_the_verdict_that_was_saved_and_says_so(repaired: tuple[Path, AuditResult]) -> None:
    folder, result = repaired
    assert "The verdict was saved" in result.notes[-1]
    plan = tercet.plan(folder)
    assert (plan.scheme.label, plan.float32_layers) == ("float16", (1,))
    assert plan.reasons[0].startswith("auto follows the audit of this model on this machine (40 documents, ")
    assert "encoder layer 1 in float32 instead" in dict(plan.memory)
    assert sum(size for _, size in plan.memory) == plan.peak_bytes
    model = tercet.load(folder)
    assert not bool(model.encode(list(DOCUMENTS.values())).recomputed.any())
    assert tercet.plan(folder, precision="float32").float32_layers == ()
    # A tolerance chooses by what the audit measured, and keeps no layer.
    assert tercet.plan(folder, tolerance=1e-3).float32_layers == ()


def test_a_verdict_is_of_one_weights_hash_one_torch_and_one_engine_level(
    repaired: tuple[Path, AuditResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = repaired
    other = overflowing(tmp_path / "other")
    assert make_plan(open_checkpoint(find(other))).float32_layers == (1,)  # the same weights elsewhere
    tensors = load_file(other / "model.safetensors")
    tensors["encoder.layer.0.output.dense.bias"] += 1e-3
    save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
    assert make_plan(open_checkpoint(find(other))).float32_layers == ()
    here = tercet.probe("cpu")
    with monkeypatch.context() as patch:
        patch.setattr("tercet.planner.making.kernels_here", lambda: "another level")
        patch.setattr("tercet.planner.making.capability", lambda device: here)
        assert make_plan(open_checkpoint(find(folder))).float32_layers == ()


def test_an_interrupted_audit_goes_on_from_where_it_was(
    tiny_bert: Path, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = cache_folder() / "audits"
    monkeypatch.setattr(running, "_TEXTS", 16)
    monkeypatch.setattr(running, "time_in_turns", _faster)
    embedded: list[str] = []
    ask = Beside.ask

    def counted(self: Beside, do: str, **fields: Any) -> dict[str, Any]:
        if do == "embed":
            embedded.append(Path(fields["path"]).name)
        return ask(self, do, **fields)

    def stopping(texts: int, tokens: int, done: float | None) -> None:
        if len(embedded) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(Beside, "ask", counted)
    options = {"precisions": ["float32"], "reference": "float32", "metrics": ["ndcg@10"]}
    with pytest.raises(KeyboardInterrupt):
        run(tiny_bert, files, progress=stopping, **options)
    assert len(embedded) == 3
    left = list(folder.rglob("*.safetensors"))
    assert len(left) == 3
    assert all(read_part(path)[1].texts for path in left)
    done: list[float] = []
    result = run(tiny_bert, files, progress=lambda texts, tokens, part: done.append(part or 0.0), **options)
    schemes = {row.name for row in result.rows if row.failure is None}
    # A part of queries and three of documents for each float32, the three from before counted once.
    assert len(embedded) == 4 * len(schemes)
    assert done == sorted(done)
    assert done[-1] == 1.0
    assert result.rows[0].drift_worst == 0.0
    assert not list(folder.iterdir())


def test_documents_stand_for_queries_where_there_are_none(
    tiny_bert: Path, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "time_in_turns", _faster)
    result = auditor.audit(
        tiny_bert, files["corpus.jsonl"], precisions=["bfloat16"], reference="float32", budget="cosine<=1e-2"
    )
    row = of(result, "bfloat16", "dense")
    assert (row.ranked_by, row.ranked_queries, row.metrics) == ("documents", COUNT, ())
    assert any("40 documents stand for them" in note for note in result.notes)
    assert result.verdict.label == "bfloat16"
    assert "1.50 times as fast as float32" in result.verdict.reason


BAD: dict[str, tuple[Callable[[dict[str, Path]], dict[str, Any]], str]] = {
    "unknown document": (
        lambda files: {"qrels": _written(files, "qrels.tsv", "q0 0 nowhere 1\n")},
        r"qrels\.tsv, line 1: the document 'nowhere' is not in .*corpus\.jsonl",
    ),
    "empty query": (
        lambda files: {"queries": _written(files, "q.jsonl", '{"_id": "q0", "text": " "}\n'), "qrels": None},
        r"q\.jsonl, line 1: the query 'q0' is empty",
    ),
    "two queries": (
        lambda files: {
            "queries": _written(files, "q.jsonl", '{"_id": "q", "text": "a"}\n' * 2),
            "qrels": None,
        },
        r"q\.jsonl, line 2: a second query has the id 'q'",
    ),
    "two documents": (
        lambda files: {"texts": _written(files, "c.jsonl", '{"_id": "d", "text": "a"}\n' * 2), "qrels": None},
        r"c\.jsonl, line 2: a second document has the id 'd'; the first is at .*line 1",
    ),
    "metric": (lambda files: {"metrics": ["ndgc@10"]}, "Did you mean 'ndcg'"),
    "budget": (lambda files: {"budget": "ndgc<=0.1"}, "Did you mean 'ndcg'"),
    "budget of what is not measured": (lambda files: {"budget": "map<=0.1"}, "not among the metrics"),
    "budget without judgements": (
        lambda files: {"budget": "ndcg<=0.1", "qrels": None},
        "needs queries and judgements",
    ),
    "stored": (lambda files: {"output_dtypes": ["int4"]}, "no precision of stored vectors"),
    "reference": (lambda files: {"reference": "float65"}, "Did you mean 'float64'"),
    "precision": (lambda files: {"precisions": ["auto"]}, "auto is a choice"),
    "no such precision": (lambda files: {"precisions": ["float17"]}, "not a precision"),
    "output": (lambda files: {"outputs": "sparse"}, "has no output 'sparse'"),
    "qrels alone": (lambda files: {"queries": None}, "qrels were given without queries"),
    "sample": (lambda files: {"sample": 0}, "sample is 0"),
}


def _written(files: dict[str, Path], name: str, text: str) -> Path:
    folder = files["corpus.jsonl"].parent / "bad"
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text)
    return folder / name


@pytest.mark.parametrize("what", BAD)
def test_what_cannot_be_audited_is_refused_before_anything_runs(
    tiny_bert: Path, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(running, "Worker", lambda: pytest.fail("a model was started"))
    change, message = BAD[what]
    options = {
        "texts": files["corpus.jsonl"],
        "queries": files["queries.jsonl"],
        "qrels": files["qrels.tsv"],
        **change(files),
    }
    with pytest.raises((InputError, UnknownNameError, PrecisionError), match=message):
        auditor.audit(tiny_bert, **options)


def test_dimensions_beyond_the_vectors_are_refused_before_anything_runs(
    tiny_bert: Path, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "Worker", lambda: pytest.fail("a model was started"))
    with pytest.raises(InputError, match=r"64 were asked for; the dense vectors of .* have 32"):
        run(tiny_bert, files, dimensions=[64])


def test_a_scheme_runs_in_a_process_of_its_own(tiny_bert: Path, tmp_path: Path) -> None:
    here = tercet.probe("cpu")
    checkpoint = open_checkpoint(find(tiny_bert))
    plan = plan_of(checkpoint, here, fastest_float32(here), outputs=("dense",))
    asked = {
        "folder": str(tiny_bert),
        "pooling": None,
        "plan": plan.to_json(),
        "encoding": asdict(Encoding(("dense",))),
        "threads": torch.get_num_threads(),
    }
    texts = list(DOCUMENTS.values())
    with Worker() as worker:
        with pytest.raises(WorkerFailed, match="layer 7 in float32; the encoder has layers 0 to 1"):
            worker.ask("load", **{**asked, "plan": replace(plan, float32_layers=(7,)).to_json()})
        assert 0 < worker.ask("load", **asked)["load_seconds"] < 60
        worker.ask("embed", role="document", texts=texts, path=str(tmp_path / "part.safetensors"))
        # torch alone takes more than this.
        assert worker.ask("memory")["peak_bytes"] > 50 << 20
        assert worker.ask("time", texts=texts[:4])["seconds"] > 0
        with pytest.raises(WorkerFailed, match=r"its process ended with 1: KeyError: 'texts'"):
            worker.ask("embed", role="document")
        with pytest.raises(WorkerFailed, match="ended with 1"):
            worker.ask("memory")
    found, part = read_part(tmp_path / "part.safetensors")
    wanted = tercet.load(tiny_bert, plan=plan).encode(texts)
    assert found.allclose(wanted, atol=0.0)
    assert (part.texts, part.tokens) == (COUNT, int(wanted.num_tokens.sum()))


class Clock:
    """A worker that takes the seconds it was told to."""

    def __init__(self, seconds: list[float], order: list[str], name: str, waited: float = 0.0) -> None:
        self._seconds, self._order, self._name, self._waited = iter(seconds), order, name, waited

    def ask(self, do: str, **fields: Any) -> dict[str, Any]:
        self._order.append(self._name)
        return {"seconds": next(self._seconds), "waited": self._waited}


def timed(one: list[float], other: list[float], waited: float = 0.0) -> tuple[Timing, list[str]]:
    order: list[str] = []
    first, second = Clock(one, order, "a", waited), Clock(other, order, "b", waited)
    return time_in_turns(cast(Worker, first), cast(Worker, second), ["a"], threads=2), order


def test_speed_is_the_median_ratio_of_turns_that_change_their_order() -> None:
    found, order = timed([1.0] * 7, [0.5] * 7)
    assert found == Timing(2.0, True)
    assert order[:4] == ["a", "b", "b", "a"]
    # A machine that slows down for both does not change the ratio.
    assert timed([1, 2, 4, 4, 4, 1, 1], [0.5, 1, 2, 2, 2, 0.5, 0.5])[0] == Timing(2.0, True)


def test_a_timing_that_others_disturbed_says_so() -> None:
    assert timed([1.0] * 7, [0.5] * 6 + [0.9])[0] == Timing(2.0, False)
    assert timed([1.0] * 7, [0.5] * 7, waited=0.2)[0] == Timing(2.0, False)


@pytest.mark.parametrize(
    ("waited", "others", "blamed"), [(3.0, 0.25, 0.25), (0.5, 2.0, 0.5), (3.0, -0.1, 0.0)]
)
def test_others_are_blamed_for_no_more_waiting_than_they_used_the_processor(
    monkeypatch: pytest.MonkeyPatch, waited: float, others: float, blamed: float
) -> None:
    commands = Commands()
    monkeypatch.setattr(commands, "_made", lambda role, texts: None)
    monkeypatch.setattr(worker_module, "_waited", iter([7.0, 7.0 + waited]).__next__)
    monkeypatch.setattr(worker_module, "_used_by_others", iter([50.0, 50.0 + others]).__next__)
    assert commands.answer({"do": "time", "texts": ["a"]})["waited"] == pytest.approx(blamed)


def test_processor_time_of_another_process_is_that_of_others() -> None:
    before = worker_module._used_by_others()
    subprocess.run([sys.executable, "-c", "while __import__('time').process_time() < 0.5: pass"], check=True)
    assert worker_module._used_by_others() - before > 0.4


def test_slow_schemes_are_timed_in_fewer_turns() -> None:
    assert len(timed([1.0] * 7, [30.0] * 7)[1]) == 6
