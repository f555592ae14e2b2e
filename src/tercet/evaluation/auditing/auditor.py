"""One call that measures every precision of a model on the user's own texts, and recommends one."""

from __future__ import annotations

__all__ = ["audit"]

import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter
from typing import Any

from tercet.checkpoint.layout import open_checkpoint
from tercet.checkpoint.source import find
from tercet.errors import PrecisionError
from tercet.evaluation.audit_result import AuditResult, AuditRow
from tercet.evaluation.auditing.asked import check_dimensions, check_drift, head_names
from tercet.evaluation.auditing.budget import DEFAULT_BUDGET, Budget
from tercet.evaluation.auditing.layers import Layers, layers_to_keep, look_at_layers, tensor_rows
from tercet.evaluation.auditing.process import WorkerFailed
from tercet.evaluation.auditing.provenance import describe_machine, describe_versions, notes_of, store_key
from tercet.evaluation.auditing.running import Run
from tercet.evaluation.auditing.saving import save_verdict
from tercet.evaluation.auditing.schemes import Contender, contenders, fastest_float32, float64_plan, plan_of
from tercet.evaluation.auditing.store import Store
from tercet.evaluation.auditing.storing import stored_rows
from tercet.evaluation.auditing.texts import open_texts
from tercet.evaluation.auditing.verdict import decide
from tercet.evaluation.encoding import Encoding
from tercet.evaluation.metrics import parse_metrics
from tercet.evaluation.samples import sample_batches
from tercet.planner import capability, capability_for, with_float32_layers
from tercet.precision.dtype import DType
from tercet.precision.plan import Plan
from tercet.quantization.stored import stored_precision
from tercet.scoring.hybrid import Weights
from tercet.signatures import refuse_unknown_keywords

DEFAULT_METRICS = ("ndcg@10", "recall@100", "mrr@10")
logger = logging.getLogger(__name__)

_LOOKED_AT = 64  # texts that are followed through the layers


@refuse_unknown_keywords
def audit(
    model: str | Path,
    texts: str | Path,
    *,
    queries: str | Path | None = None,
    qrels: str | Path | None = None,
    precisions: Iterable[object] | None = None,
    output_dtypes: Iterable[str] = ("float16", "int8", "binary"),
    dimensions: Iterable[int] = (),
    budget: str = DEFAULT_BUDGET,
    reference: str = "float64",
    sample: int = 256,
    metrics: Iterable[str] = DEFAULT_METRICS,
    outputs: str | Sequence[str] | None = None,
    weights: Weights = (1.0, 1.0, 1.0),
    query_prompt: str | None = None,
    document_prompt: str | None = None,
    max_length: int | None = None,
    pooling: str | None = None,
    ignore_missing: bool = False,
    save: bool = False,
    report: str | Path | None = None,
    device: object = None,
    revision: str | None = None,
    token: str | None = None,
    local_files_only: bool = False,
    confirm: Callable[[int], bool] | None = None,
    progress: Callable[[int, int, float | None], None] | None = None,
) -> AuditResult:
    """What each precision of a model costs on the user's own texts, and the fastest one within a budget.

    Every scheme runs in a process of its own, one after the other, beside one float32 that it is timed
    against. What is finished is kept in the user's cache: an audit that was interrupted goes on from there.

    Args:
        model: a folder, a hub id, or "minilm".
        texts: documents: a .jsonl or .txt file, or the folder of a collection with queries and judgements.
        queries, qrels: files of queries and of judgements, beside a file of documents. Without queries, some
            documents stand for them; without judgements there are no metrics.
        precisions: such as "float16", "int8"; all that run here but float64 by default. One that several
            engines have is audited on each.
        output_dtypes: of stored vectors: "float16", "int8", "binary", "ubinary".
        dimensions: to shorten dense vectors to, besides all of them.
        budget: what a precision may cost: "ndcg<=0.002", "cosine<=1e-4", "worst<=1e-3", "overlap>=0.98",
            several with commas between. By default no visible loss: a mean 1 - cosine of at most 5e-6, and at
            worst 5e-5.
        reference: of drift: "float64", on a sample, or "float32", on everything. Rankings and metrics are
            always compared with float32 on everything.
        sample: most documents, and most queries, that go through float64.
        metrics: names, where there are judgements.
        outputs: heads; all that the model has by default.
        weights: of dense, sparse and multi-vector scores in "combined".
        query_prompt, document_prompt, max_length: see `Embedder.encode`.
        pooling, device, revision, token, local_files_only, confirm: see `tercet.load`.
        ignore_missing: leave out judgements of what is not there, and count them.
        save: remember the verdict for this machine, so that `tercet.load` and `tercet.plan` follow it.
        report: a folder for a page with pictures, and JSON beside it.
        progress: called with (texts, tokens, part done) after each part.

    Raises:
        InputError: a text, query or judgement that cannot be used (naming file and line), or an option.
        UnknownNameError: a metric, output or format that is not there.
        PrecisionError: a precision that is not there, or float32 does not run.
    """
    begun = perf_counter()
    if report is not None:
        from tercet.evaluation.audit_report import check_report  # what draws pictures is an extra

        check_report(Path(report))
    names = tuple(str(metric) for metric in parse_metrics(metrics))
    check_drift(reference, sample)
    stored = tuple(dict.fromkeys(stored_precision(name) for name in output_dtypes))
    shorter = tuple(dict.fromkeys(dimensions))
    data = open_texts(texts, queries, qrels, ignore_missing=ignore_missing)
    judged = data.qrels is not None
    wanted = Budget.parse(budget, judged=judged, metrics=names)
    source = find(model, revision=revision, token=token, local_files_only=local_files_only, confirm=confirm)
    checkpoint = open_checkpoint(source, pooling=pooling)
    available = checkpoint.footprint().outputs
    heads = available if outputs is None else head_names(outputs, available, checkpoint)
    check_dimensions(shorter, checkpoint, heads)
    here = capability_for(checkpoint, capability(device))
    encoding = Encoding(heads, query_prompt, document_prompt, max_length)
    asked = contenders(checkpoint, here, None if precisions is None else list(precisions), outputs=heads)
    float32 = plan_of(checkpoint, here, fastest_float32(here), outputs=heads)
    exact = None if reference == "float32" else float64_plan(checkpoint, here, outputs=heads)
    settings: dict[str, Any] = {
        "reference": reference,
        "sample": sample,
        "budget": str(wanted),
        "metrics": list(names) if judged else [],
        "outputs": list(heads),
        "weights": list(weights),
        "query_prompt": query_prompt,
        "document_prompt": document_prompt,
        "max_length": max_length,
        "pooling": pooling,
        "precisions": list(dict.fromkeys(one.scheme.label for one in asked)),
        "output_dtypes": list(stored),
        "dimensions": list(shorter),
        "ignore_missing": ignore_missing,
    }
    sha256 = checkpoint.weights_hash()
    machine = describe_machine(here)
    store = Store(store_key(checkpoint, sha256, data, machine, settings))
    earlier = store.seconds
    if store.resumed:
        logger.info("going on with the audit in %s, after %.0f s", store.folder, earlier)
    plans = [one.plan for one in asked if one.plan is not None]
    every = data.num_documents + len(data.queries)
    in_float64 = 0 if exact is None else min(sample, data.num_documents) + min(sample, len(data.queries))
    work = _Work(progress, (len(plans) + (float32 not in plans)) * every + in_float64)
    with ExitStack() as stack:
        run = Run(
            checkpoint=checkpoint,
            pooling=pooling,
            texts=data,
            encoding=encoding,
            store=store,
            reference=float32,
            exact=exact,
            sample=sample,
            metrics=names,
            weights=weights,
            progress=work.advance,
            stack=stack,
        )
        stack.callback(lambda: store.note_seconds(earlier + perf_counter() - begun))
        rows = _all_rows(run, asked, float32)
        tensors = tensor_rows(checkpoint)
        layers = look_at_layers(checkpoint, _batches(run), _looked_at(asked))
        rows += _mixed_rows(run, asked, rows, layers, tensors, wanted)
        side = run.reference_side()
        kept = stored_rows(
            side,
            texts=data,
            queries=run.queries,
            precisions=stored,
            dimensions=shorter,
            metrics=names,
            tick=lambda: work.advance(0, 0),
        )
    verdict = decide(rows, rows[0].name, wanted)
    notes = notes_of(run, data, reference, judged, verdict)
    if save:
        notes = (*notes, save_verdict(checkpoint, here, rows, verdict, heads, data))
    result = AuditResult(
        machine=machine,
        versions=describe_versions(),
        model=checkpoint.name,
        weights_sha256=sha256,
        texts={
            **data.to_json(),
            "sample_documents": len(run.sample_documents) if exact is not None else data.num_documents,
            "sample_queries": len(run.sample_queries) if exact is not None else len(data.queries),
            "ranked": len(run.queries.ids),
        },
        settings=settings,
        rows=tuple(rows),
        stored=tuple(kept),
        layers=layers.rows,
        tensors=tensors,
        verdict=verdict,
        notes=notes,
        seconds=earlier + perf_counter() - begun,
    )
    if report is not None:
        from tercet.evaluation.audit_report import write_report

        write_report(result, Path(report))
    store.clear()
    return result


class _Work:
    """How far an audit is."""

    def __init__(self, progress: Callable[[int, int, float | None], None] | None, texts: int) -> None:
        self._progress = progress
        self._texts = max(1, texts)
        self._done = 0

    def advance(self, texts: int, tokens: int) -> None:
        """So many texts more."""
        self._done += texts
        if self._progress is not None:
            self._progress(texts, tokens, min(1.0, self._done / self._texts))


def _all_rows(run: Run, asked: Sequence[Contender], float32: Plan) -> list[AuditRow]:
    """Every contender's rows, the float32 that others are compared with first."""
    try:
        run.reference_side()
    except WorkerFailed as error:
        raise PrecisionError(
            f"{run.checkpoint.name}: {float32.scheme}, which all is compared with, does not run: {error}"
        ) from None
    rows = list(run.rows(float32))
    for one in asked:
        if one.plan is None:
            rows.append(AuditRow(one.scheme.label, one.scheme.engine, run.systems[0], failure=one.failure))
        elif one.plan != float32:
            rows += run.rows(one.plan)
    return rows


def _looked_at(asked: Sequence[Contender]) -> dict[str, Plan]:
    """Name -> plan of the schemes whose layers are followed: those that narrow anything."""
    return {
        AuditRow(one.scheme.label, one.scheme.engine, "").name: one.plan
        for one in asked
        if one.plan is not None and not one.scheme.is_plain
    }


def _batches(run: Run) -> list[Any]:
    """A few texts of the sample, as batches."""
    positions = run.sample_documents[:: max(1, len(run.sample_documents) // _LOOKED_AT)][:_LOOKED_AT]
    documents = run.texts.at(positions)
    return sample_batches(
        run.checkpoint,
        [documents[position].text for position in positions],
        max_length=run.encoding.max_length,
    )


def _mixed_rows(
    run: Run,
    asked: Sequence[Contender],
    rows: Sequence[AuditRow],
    layers: Layers,
    tensors: Sequence[Any],
    budget: Budget,
) -> list[AuditRow]:
    """Rows of mixed plans, for schemes of which a few layers break the budget or leave the range."""
    found: list[AuditRow] = []
    for name, plan in _looked_at(asked).items():
        own = [row for row in rows if row.name == name]
        fine = own[0].failure is None and not own[0].recomputed and not budget.broken(own)
        if fine or plan.scheme.variant == "tf32" or plan.scheme.dtype is DType.FLOAT8:
            continue
        kept = layers_to_keep(run.checkpoint, layers, tensors, plan, name)
        if kept:
            found += run.rows(with_float32_layers(plan, run.checkpoint, kept))
    return found
