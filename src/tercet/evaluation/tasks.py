"""One call that finds out what a data set asks for, measures it, and remembers the result."""

from __future__ import annotations

__all__ = ["evaluate"]

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

from tercet.embedder import Embedder, load
from tercet.embedder.options import positive_integer
from tercet.errors import InputError
from tercet.evaluation import reranking, retrieval, stored
from tercet.evaluation.asked import check_depth, metric_names, output_names, refuse
from tercet.evaluation.candidates import read_candidates
from tercet.evaluation.collection import Document
from tercet.evaluation.datasets import RETRIEVAL_ALONE, Checked, open_checked, task_of
from tercet.evaluation.encoding import Encoding, identity
from tercet.evaluation.metrics import METRICS_VERSION, Gain, check_gain, evaluate_run
from tercet.evaluation.report import Report, System
from tercet.evaluation.reranked_runs import SecondStage
from tercet.evaluation.reranking import candidate_documents, candidate_queries, rerank
from tercet.evaluation.retrieval import Progress, Search, search
from tercet.evaluation.runs import Run, write_run
from tercet.evaluation.similarity import similarity
from tercet.reranker import Reranker
from tercet.scoring.hybrid import Weights
from tercet.scoring.late import Reduction
from tercet.signatures import refuse_unknown_keywords

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
    rerank_progress: Callable[[int, float], None] | None = None,
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
        progress: called with (texts, tokens, part done) after each chunk that the model embedded.
        precision, device: for `tercet.load`, where `model` is not loaded yet.
        reranker: ranks anew what the model found, as the system "reranked" beside the others: a loaded one,
            what `tercet.load_reranker` takes, or a function that loads it.
        rerank_depth: so many documents of each query are ranked anew, 100 by default; the others keep their
            order below.
        first_stage: whose documents: a system such as "dense", "hybrid" or "rrf"; None for the only one, and
            of several for "hybrid".
        rerank_progress: called with (pairs, part done) when the reranker begins, and after each query.

    Raises:
        InputError: the data cannot be used (naming file and line), or an option cannot be.
        UnknownNameError: a task, layout, metric or output that is not there.
    """
    if task is None and layout is not None:
        task = "retrieval"  # nothing else has layouts
    task = task_of(Path(dataset), task)
    names = metric_names(task, metrics)
    check_gain(gain, relevance_level)
    how = Search(depth, weights, reduction, rrf_k, remove_query)
    given = {"layout": layout, "split": split, "remove_query": remove_query, "ignore_missing": ignore_missing}
    if task == "retrieval":
        check_depth(names, depth)
    else:
        refuse({name: given[name] for name in RETRIEVAL_ALONE}, _meaningless(task))
    if task == "similarity":
        only_ranked = {"document_prompt": document_prompt, "runs_folder": runs_folder, "reranker": reranker}
        refuse(only_ranked, _meaningless(task))
    if reranker is None:
        refuse(
            {"rerank_depth": rerank_depth, "first_stage": first_stage},
            "belongs to reranker, which ranks anew what was found. Give it, too.",
        )
    rerank_depth = positive_integer("rerank_depth", _RERANK_DEPTH if rerank_depth is None else rerank_depth)
    asked = None if outputs is None else output_names(outputs)
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

    more: dict[str, Any] = {}
    if ranked:
        found = _first_stage(task, model, Path(dataset), data, encoding, how, counted)
        runs, more = found.runs, found.work
        if second is not None:
            after = second.run(runs, found.queries, found.documents, progress=rerank_progress)
            runs, more = {**runs, "reranked": after.run}, {**more, **after.work}
        if runs_folder is not None:
            _write_runs(Path(runs_folder), runs, model.checkpoint.name)
        score = partial(
            evaluate_run, qrels=found.qrels, metrics=names, gain=gain, relevance_level=relevance_level
        )
        systems = [System.of(name, score(run)) for name, run in runs.items()]
        if second is not None:
            by_name = {system.name: system for system in systems}
            more |= second.changes(by_name[second.first_stage], by_name["reranked"])
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


@dataclass(frozen=True, slots=True, eq=False)
class _Found:
    """What a first stage found, the judgements, and the texts that a second one reads."""

    runs: dict[str, Run]
    qrels: dict[str, dict[str, int]]
    queries: Iterable[Document]
    documents: Iterable[Document]
    work: dict[str, Any]


def _first_stage(
    task: str, model: Embedder, path: Path, data: Checked, encoding: Encoding, how: Search, progress: Progress
) -> _Found:
    """The ranking by each system of the model: of a whole collection, or of each query's candidates."""
    if task == "retrieval":
        collection = data.collection
        assert collection is not None
        found = search(model, collection, encoding, how, progress=progress)
        return _Found(
            found.runs,
            collection.qrels,
            (Document(name, text, "") for name, text in collection.queries.items()),
            collection.documents(),
            {"queries_cut": found.truncated_queries, "documents_cut": found.truncated_documents},
        )
    candidates = partial(read_candidates, path)
    ordered = rerank(
        model, candidates(), encoding, weights=how.weights, reduction=how.reduction, progress=progress
    )
    return _Found(
        ordered.runs, ordered.qrels, candidate_queries(candidates()), candidate_documents(candidates()), {}
    )


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


def _meaningless(task: str) -> str:
    return f"means nothing to {task}. Leave it out."


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
