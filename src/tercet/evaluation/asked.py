"""What an evaluation was asked for, checked before anything is loaded or read through."""

from __future__ import annotations

__all__ = ["OUTPUTS", "check_depth", "metric_names", "output_names", "refuse"]

from collections.abc import Iterable, Mapping, Sequence

from tercet.errors import InputError, UnknownNameError, nearest
from tercet.evaluation.metrics import DEFAULT_METRICS, Metric, parse_metrics
from tercet.heads import named_outputs

OUTPUTS = ("dense", "sparse", "multivector")
_RERANKING_METRICS = ("map", "mrr@10", "ndcg@10")


def metric_names(task: str, metrics: Iterable[str] | None) -> list[str]:
    """The metrics by their full names, those of the task by default; none of similarity.

    Raises:
        UnknownNameError: a metric that is not there.
        InputError: any for similarity, which has its own.
    """
    if task == "similarity":
        if metrics is not None:
            raise InputError(
                "Similarity is measured by Spearman's and Pearson's correlation; leave metrics out."
            )
        return []
    default = _RERANKING_METRICS if task == "reranking" else DEFAULT_METRICS
    found: tuple[Metric, ...] = parse_metrics(default if metrics is None else metrics)
    return [str(metric) for metric in found]


def output_names(outputs: str | Sequence[str]) -> tuple[str, ...]:
    """The outputs that were asked for, each once, in the order of `OUTPUTS`.

    Raises:
        UnknownNameError: another output.
        InputError: none.
    """
    names = named_outputs(outputs)
    for name in names:
        if name not in OUTPUTS:
            raise UnknownNameError(f"There is no output {name!r}. {nearest(name, OUTPUTS)}")
    if not names:
        raise InputError(f"No output was named; give at least one of {', '.join(OUTPUTS)}.")
    return tuple(name for name in OUTPUTS if name in names)


def check_depth(names: Sequence[str], depth: int) -> None:
    """An InputError for a metric that looks further down than there are documents."""
    for name in names:
        cutoff = Metric.parse(name).cutoff
        if cutoff is not None and cutoff > depth:
            raise InputError(
                f"{name} looks down to rank {cutoff}, and depth={depth} documents of each query are kept. "
                "Raise depth, or choose other metrics."
            )


def refuse(given: Mapping[str, object], why: str) -> None:
    """An InputError for the first option that was given where it means nothing; `why` follows its name."""
    for name, value in given.items():
        if value is not None and value is not False:
            raise InputError(f"{name} {why}")
