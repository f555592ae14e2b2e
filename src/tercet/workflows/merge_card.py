"""The model card of a merge: what of, how, how exact, and how to use it."""

from __future__ import annotations

__all__ = ["merge_card"]

from collections.abc import Mapping, Sequence
from math import isfinite

from tercet.merging.methods import METHODS
from tercet.merging.planning import MergePlan
from tercet.merging.report import MergeReport, TensorReport
from tercet.workflows.merge_audit import ParentAudit

_WORST = 5


def merge_card(
    plan: MergePlan,
    report: MergeReport,
    hashes: Mapping[str, Mapping[str, str | None]],
    tried: str,
    title: str,
    audit: Sequence[ParentAudit] = (),
) -> str:
    """The text of README.md; the same for the same merge.

    Args:
        plan, report: of the merge.
        hashes: model -> its hub revision and the sha256 of its weights.
        tried: what the result was found to do.
        title: the name of the folder.
        audit: the result against its parents.
    """
    recipe, total = plan.recipe, report.total
    on_hub = [str(name) for name, model in plan.models.items() if model.revision is not None]
    base_models = "".join(f"- {name}\n" for name in on_hub)
    lines = [
        "---",
        *([f"base_model:\n{base_models}".rstrip("\n")] if on_hub else []),
        "tags:\n- merge\n- tercet",
        "---",
        f"# {title}",
        "",
        f"Merged by [Tercet](https://pypi.org/project/tercet) with `{recipe.method}`: "
        f"{METHODS[recipe.method].summary}",
        "",
        "| model | revision | sha256 of its weights |",
        "|---|---|---|",
        *(f"| {name} | {of['revision'] or ''} | `{of['sha256']}` |" for name, of in hashes.items()),
        "",
        f"Names, settings and tokenizer are those of {plan.donor.name}.",
        *(f"\n- {note}" for note in report.notes[:40]),
        "",
        "## Precision",
        "",
        f"{total.numbers:,} numbers, computed in float64 and rounded once to {total.dtype or 'it'}. "
        "The relative error is the length of what rounding changed by the length of the exact result; the "
        "delta error is by the length of what the merge adds to the base, or to the first model.",
        "",
        "| tensor | relative error | delta error | beyond the range | flushed to zero |",
        "|---|---|---|---|---|",
        *(
            f"| {one.name} | {one.relative_error:.2e} | {_delta_error(one)} | {one.overflowed:,} | "
            f"{one.flushed:,} |"
            for one in (total, *report.worst(_WORST))
        ),
        "",
        *(
            [f"{total.on_threshold:,} entries lay exactly on a threshold: of these the first were kept.", ""]
            if total.on_threshold
            else []
        ),
        f"{tried} All tensors are in `merge_report.json`.",
        "",
        *(["## Beside its parents", ""] if audit else []),
        *(f"- {sentence}" for one in audit for sentence in one.sentences()),
        *([""] if audit else []),
        "## Recipe",
        "",
        "```yaml",
        recipe.text.strip("\n"),
        "```",
    ]
    return "\n".join(lines) + "\n"


def _delta_error(one: TensorReport) -> str:
    """Nothing where nothing was changed that the error could be a part of."""
    return f"{one.delta_error:.2e}" if isfinite(one.delta_error) else ""
