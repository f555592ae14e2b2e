"""A TREC run file, scored without any model."""

from __future__ import annotations

__all__ = ["evaluate_run_file"]

from collections.abc import Iterable
from pathlib import Path

from tercet.evaluation import stored
from tercet.evaluation.asked import metric_names
from tercet.evaluation.layouts import judgements_of
from tercet.evaluation.metrics import Gain, evaluate_run
from tercet.evaluation.records import file_hash
from tercet.evaluation.report import Report, System
from tercet.evaluation.runs import read_run
from tercet.signatures import refuse_unknown_keywords


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
    names = metric_names("retrieval", metrics)
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
