"""One call that finds out what a data set asks for, measures it, and remembers the result."""

from __future__ import annotations

__all__ = ["evaluate", "evaluate_run_file"]

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

from tercet.embedder import Embedder, load
from tercet.embedder.options import positive_integer
from tercet.errors import InputError, UnknownNameError, nearest
from tercet.evaluation import reranking, retrieval, stored
from tercet.evaluation.candidates import read_candidates
from tercet.evaluation.collection import Document
from tercet.evaluation.datasets import RETRIEVAL_ALONE, open_checked, task_of
from tercet.evaluation.encoding import Encoding, identity
from tercet.evaluation.layouts import judgements_of
from tercet.evaluation.metrics import (
    DEFAULT_METRICS,
    METRICS_VERSION,
    Gain,
    Metric,
    Scores,
    check_gain,
    evaluate_run,
    parse_metrics,
)
from tercet.evaluation.records import file_hash
from tercet.evaluation.report import Report, System
from tercet.evaluation.reranked_runs import SecondStage, reranked_run
from tercet.evaluation.reranking import candidate_documents, candidate_queries, rerank
from tercet.evaluation.retrieval import Progress, Search, search
from tercet.evaluation.runs import Run, read_run, write_run
from tercet.evaluation.similarity import similarity
from tercet.heads import named_outputs
from tercet.reranker import Reranker
from tercet.scoring.hybrid import Weights
from tercet.scoring.late import Reduction
from tercet.signatures import refuse_unknown_keywords

OUTPUTS = ("dense", "sparse", "multivector")
_RERANKING_METRICS = ("map", "mrr@10", "ndcg@10")
_RERANK_DEPTH = 100


@refuse_unknown_keywords
def evaluate(
    model: Embedder | str | Path | Callable[[], Embedder],
    dataset: str | Path,
    *,
    task: str | None = None,
    layout: str | None = None,
    split: str | None = None,
    outputs: str | Sequence[str] | None = None,
    metrics: Iterable[str] | None = None,
    gain: Gain = "linear",
    relevance_level: int = 1,
    depth: int = 1000,
    weights: Weights = (1.0, 1.0, 1.0),
    reduction: Reduction = "mean",
    rrf_k: float = 60.0,
    remove_query: bool = False,
    ignore_missing: bool = False,
    query_prompt: str | None = None,
    document_prompt: str | None = None,
    max_length: int | None = None,
    dimensions: int | None = None,
    normalize: bool | None = None,
    runs_folder: str | Path | None = None,
    refresh: bool = False,
    progress: Progress | None = None,
    precision: object = "auto",
    device: str | None = None,
    reranker: Reranker | str | Path | Callable[[], Reranker] | None = None,
    rerank_depth: int | None = None,
    first_stage: str | None = None,
) -> Report:
    """How well a model finds, compares or reranks the texts of a data set.

    The result is kept in the user's cache under everything that decides a figure: the weights' hash, scheme
    and precision, prompts and lengths, the hash of the data, the settings below.

    Args:
        model: a loaded one, what `tercet.load` takes, or a function that loads it; loaded after the data was
            checked. Scores are dot products of its vectors: cosines where it makes them of unit length.
        dataset: a folder or file on this machine; its form is found out, see `layout` and the documentation.
        task: "retrieval", "similarity" or "reranking"; None goes by the form of the data, and
            takes retrieval where a layout is named.
        layout: of a collection: "beir", "flagembedding", "trec", "miracl", "mldr", "candidates".
        split: of a collection: "test" by default where there is one, else "dev", else the only one.
        outputs: what to score by; all that the model makes by default.
        metrics: names such as "ndcg@10", "recall@100", "mrr", "map@100", "precision@5", "hit_rate@1".
        gain: of a grade in nDCG: "linear" as in trec_eval, or "exponential".
        relevance_level: lowest grade that binary metrics call relevant.
        depth: so many documents of each query are ranked.
        weights: of dense, sparse and multi-vector scores in their sums.
        reduction: late interaction as the "mean" over query tokens or their "sum".
        rrf_k: softens the first ranks in reciprocal-rank fusion.
        remove_query: a document with the query's own id is not to be found.
        ignore_missing: leave out judgements of what is not there, and count them.
        query_prompt, document_prompt: put before each text; None for those of the checkpoint.
        max_length, dimensions, normalize: see `Embedder.encode`.
        runs_folder: write a TREC run file of each system there; the search is then always done.
        refresh: compute anew in any case.
        progress: called with (texts, tokens, part done) after each chunk.
        precision, device: for `tercet.load`, where `model` is not loaded yet.
        reranker: ranks anew what the model found, as the system "reranked" beside the others: a loaded one,
            what `tercet.load_reranker` takes, or a function that loads it.
        rerank_depth: so many documents of each query are ranked anew, 100 by default; the others keep their
            order below.
        first_stage: whose documents: a system such as "dense", "hybrid" or "rrf"; None for the only one, and
            of several for "hybrid".

    Raises:
        InputError: the data cannot be used (naming file and line), or an option cannot be.
        UnknownNameError: a task, layout, metric or output that is not there.
    """
    if task is None and layout is not None:
        task = "retrieval"  # nothing else has layouts
    task = task_of(Path(dataset), task)
    names = _metric_names(task, metrics)
    check_gain(gain, relevance_level)
    how = Search(depth, weights, reduction, rrf_k, remove_query)
    given = {"layout": layout, "split": split, "remove_query": remove_query, "ignore_missing": ignore_missing}
    if task == "retrieval":
        _check_depth(names, depth)
    else:
        _refuse(task, {name: given[name] for name in RETRIEVAL_ALONE})
    if task == "similarity":
        _refuse(task, {"document_prompt": document_prompt, "runs_folder": runs_folder, "reranker": reranker})
    if reranker is None:
        _refuse_alone({"rerank_depth": rerank_depth, "first_stage": first_stage})
    rerank_depth = positive_integer("rerank_depth", _RERANK_DEPTH if rerank_depth is None else rerank_depth)
    asked = None if outputs is None else _outputs(outputs)
    data = open_checked(task, Path(dataset), layout=layout, split=split, ignore_missing=ignore_missing)
    model = _loaded(model, precision, device, asked)
    encoding = Encoding(
        model.outputs if asked is None else asked,
        query_prompt,
        document_prompt,
        max_length,
        dimensions,
        normalize,
    )
    ranked = task != "similarity"
    settings: dict[str, Any] = {
        "outputs": list(encoding.outputs),
        "weights": list(weights),
        "reduction": reduction,
    }
    if ranked:
        settings |= {"metrics": names, "gain": gain, "relevance_level": relevance_level}
    if task == "retrieval":
        settings |= {
            name: value for name, value in asdict(how).items() if name not in ("weights", "reduction")
        }
    second: SecondStage | None = None
    if reranker is not None:
        known = (
            retrieval.systems_of(encoding.outputs, weights)
            if task == "retrieval"
            else reranking.systems_of(encoding.outputs)
        )
        second = SecondStage.of(
            reranker, device=device, depth=rerank_depth, first_stage=first_stage, systems=known
        )
        settings["reranker"] = second.settings()
    described = identity(model, encoding)
    key = stored.key_of(
        {
            "task": task,
            "data": data.sha256,
            "model": described,
            "settings": settings,
            "metrics_version": METRICS_VERSION,
        }
    )
    if not refresh and runs_folder is None and (kept := stored.recall(key)) is not None:
        # The same bytes may lie under another name now.
        return _renamed(kept, data.described, model.checkpoint.name, second)
    start = perf_counter()
    counted = _Counted(progress)

    def scored(run: Run, qrels: dict[str, dict[str, int]]) -> Scores:
        return evaluate_run(run, qrels, names, gain=gain, relevance_level=relevance_level)

    more: dict[str, Any] = {}
    if ranked:
        runs: dict[str, Run]
        queries: Iterable[Document]
        documents: Iterable[Document]
        if task == "retrieval":
            assert data.collection is not None
            found = search(model, data.collection, encoding, how, progress=counted)
            runs, qrels = found.runs, data.collection.qrels
            more = {"queries_cut": found.truncated_queries, "documents_cut": found.truncated_documents}
            queries = (Document(name, text, "") for name, text in data.collection.queries.items())
            documents = data.collection.documents()
        else:
            candidates = partial(read_candidates, Path(dataset))
            ordered = rerank(
                model, candidates(), encoding, weights=weights, reduction=reduction, progress=counted
            )
            runs, qrels = ordered.runs, ordered.qrels
            queries, documents = candidate_queries(candidates()), candidate_documents(candidates())
        if second is not None:
            before, begin = runs[second.first_stage], perf_counter()
            after = reranked_run(
                second.model.score,
                before,
                queries,
                documents,
                depth=second.depth,
                where=second.first_stage,
                progress=counted.second_stage,
            )
            runs = {**runs, "reranked": after}
            more["pairs"] = sum(min(second.depth, len(ranking)) for ranking in before.values())
            more["rerank_seconds"] = perf_counter() - begin
        if runs_folder is not None:
            _write_runs(Path(runs_folder), runs, model.checkpoint.name)
        systems = [System.of(name, scored(run, qrels)) for name, run in runs.items()]
        if second is not None:
            by_name = {system.name: system for system in systems}
            more |= second.work(by_name[second.first_stage], by_name["reranked"])
    else:
        correlations = similarity(
            model, data.pairs, encoding, weights=weights, reduction=reduction, progress=counted
        )
        systems = [System(name, asdict(values), {}) for name, values in correlations.items()]
    report = Report(
        task=task,
        data=data.described,
        model={"name": model.checkpoint.name, **described},
        settings=settings,
        systems=tuple(systems),
        work={"texts": counted.texts, "tokens": counted.tokens, **more, "seconds": perf_counter() - start},
    )
    stored.remember(key, report)
    return report


@refuse_unknown_keywords
def evaluate_run_file(
    run: str | Path,
    judgements: str | Path,
    *,
    layout: str | None = None,
    split: str | None = None,
    metrics: Iterable[str] | None = None,
    gain: Gain = "linear",
    relevance_level: int = 1,
    complete: bool = False,
) -> Report:
    """What a TREC run file is worth, without any model.

    Args:
        run: the run file.
        judgements: a file of judgements, or the folder of a collection.
        layout, split: of the collection.
        metrics, gain, relevance_level: see `evaluate`.
        complete: judged queries that the run does not have count as 0, as with `trec_eval -c`.

    Raises:
        InputError: a file cannot be used (naming the line), or they have no query in common.
    """
    names = _metric_names("retrieval", metrics)
    qrels, path, where = judgements_of(judgements, layout_name=layout, split=split)
    scores = evaluate_run(
        read_run(run), qrels, names, gain=gain, relevance_level=relevance_level, complete=complete
    )
    notes = {
        "queries of the run have no judgement and were left out.": len(scores.unjudged),
        f"judged queries are not in the run and {'count as 0' if complete else 'were left out'}.": len(
            scores.missing
        ),
    }
    data = {
        "name": str(judgements),
        "run": str(run),
        "split": where,
        "sha256": stored.key_of({"run": file_hash(Path(run)), "judgements": file_hash(path)}),
        "queries": len(scores.queries),
        "judgements": sum(map(len, qrels.values())),
        "notes": [f"{number:,} {what}" for what, number in notes.items() if number],
    }
    settings = {"metrics": names, "gain": gain, "relevance_level": relevance_level, "complete": complete}
    return Report("run", data, None, settings, (System.of("run", scores),), {})


class _Counted:
    """Counts what was embedded, and tells whoever wants to know."""

    def __init__(self, inner: Callable[[int, int, float | None], None] | None) -> None:
        self.texts = self.tokens = 0
        self._inner = inner

    def __call__(self, texts: int, tokens: int, done: float | None) -> None:
        self.texts += texts
        self.tokens += tokens
        if self._inner is not None:
            self._inner(texts, tokens, done)

    def second_stage(self, done: float) -> None:
        """Tells how far the reranker is, which embeds nothing."""
        if self._inner is not None:
            self._inner(0, 0, done)


def _loaded(
    model: Embedder | str | Path | Callable[[], Embedder],
    precision: object,
    device: str | None,
    outputs: tuple[str, ...] | None,
) -> Embedder:
    if isinstance(model, (str, Path)):
        return load(model, precision=precision, device=device, outputs=outputs)
    if precision != "auto" or device is not None:
        raise InputError(
            "precision and device decide how a model is loaded, and this one is loaded already. Leave them "
            "out, or give the model's folder or hub id."
        )
    return model if isinstance(model, Embedder) else model()


def _refuse_alone(given: dict[str, object]) -> None:
    """An error for an option of the second stage where there is none."""
    for name, value in given.items():
        if value is not None:
            raise InputError(f"{name} belongs to reranker, which ranks anew what was found. Give it, too.")


def _refuse(task: str, given: dict[str, object]) -> None:
    """An error for an option that means nothing to this task, and was given."""
    for name, value in given.items():
        if value is not None and value is not False:
            raise InputError(f"{name} means nothing to {task}. Leave it out.")


def _check_depth(names: list[str], depth: int) -> None:
    """An error for a metric that looks further down than there are documents."""
    for name in names:
        cutoff = Metric.parse(name).cutoff
        if cutoff is not None and cutoff > depth:
            raise InputError(
                f"{name} looks down to rank {cutoff}, and depth={depth} documents of each query are kept. "
                "Raise depth, or choose other metrics."
            )


def _outputs(outputs: str | Sequence[str]) -> tuple[str, ...]:
    """The outputs that were asked for, each once, in the order of `OUTPUTS`."""
    names = named_outputs(outputs)
    for name in names:
        if name not in OUTPUTS:
            raise UnknownNameError(f"There is no output {name!r}. {nearest(name, OUTPUTS)}")
    if not names:
        raise InputError(f"No output was named; give at least one of {', '.join(OUTPUTS)}.")
    return tuple(name for name in OUTPUTS if name in names)


def _metric_names(task: str, metrics: Iterable[str] | None) -> list[str]:
    if task == "similarity":
        if metrics is not None:
            raise InputError(
                "Similarity is measured by Spearman's and Pearson's correlation; leave metrics out."
            )
        return []
    default = _RERANKING_METRICS if task == "reranking" else DEFAULT_METRICS
    found: tuple[Metric, ...] = parse_metrics(default if metrics is None else metrics)
    return [str(metric) for metric in found]


def _write_runs(folder: Path, runs: dict[str, Run], model: str) -> None:
    """One file a system."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: the folder for run files cannot be made ({error.strerror}).") from error
    for name, run in runs.items():
        write_run(folder / f"{name}.trec", run, f"{model}-{name}")


def _renamed(report: Report, data: dict[str, Any], model: str, second: SecondStage | None) -> Report:
    """A stored report under the names that data and model have now."""
    return Report(
        report.task,
        data,
        None if report.model is None else {**report.model, "name": model},
        report.settings,
        report.systems,
        report.work if second is None else {**report.work, "reranker": second.model.checkpoint.name},
        stored=True,
    )
