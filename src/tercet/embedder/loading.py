"""A checkpoint loaded: found, opened, planned."""

from __future__ import annotations

__all__ = ["load", "planned"]

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from tercet.checkpoint.layout import Checkpoint, open_checkpoint
from tercet.checkpoint.source import find
from tercet.embedder.embedder import Embedder
from tercet.embedder.options import positive_integer
from tercet.embedder.routed import embedder
from tercet.errors import InputError
from tercet.heads import named_outputs
from tercet.planner import make_plan
from tercet.precision.plan import Plan
from tercet.signatures import refuse_unknown_keywords

logger = logging.getLogger(__name__)


@refuse_unknown_keywords
def load(
    path_or_id: str | Path,
    *,
    precision: object = "auto",
    device: str | int | torch.device | None = None,
    outputs: str | Sequence[str] | None = None,
    revision: str | None = None,
    token: str | None = None,
    local_files_only: bool = False,
    cache_folder: str | Path | None = None,
    max_length: int | None = None,
    pooling: str | None = None,
    prompts: Mapping[str, str] | None = None,
    token_budget: int | None = None,
    output_dtype: object = None,
    tolerance: float | None = None,
    plan: Plan | str | Path | None = None,
    confirm: Callable[[int], bool] | None = None,
) -> Embedder:
    """A checkpoint, loaded at a planned precision and ready to embed.

    Args:
        path_or_id: a folder, a hub id such as "BAAI/bge-m3", or "minilm" for the packaged all-MiniLM-L6-v2.
        precision: "auto" (measured and planned), "checkpoint" (as stored), a dtype in any spelling, or a way
            to compute such as "int8-fast" or "tf32".
        device: "cpu", "cuda", "cuda:1", "mps", a torch.device; None for the best that is there.
        outputs: what will be asked for, of "dense", "sparse", "multivector"; a head that is not there is an
            error now; "usual" for what `encode` makes where nothing is asked for; None for whatever the
            checkpoint can make.
        revision, token, local_files_only, cache_folder: for the hub.
        max_length: most tokens of a text, special tokens included; never more than the model takes.
        pooling: replaces the checkpoint's pooling: "cls", "mean", ..., or several: "cls+mean"; "splade" gives
            sparse vectors of a masked-language head.
        prompts: prompt name -> text before each text; added to the checkpoint's.
        token_budget: most tokens in one forward.
        output_dtype: of the vectors that come out; float32 by default.
        tolerance: largest mean 1 - cosine to float32 that is acceptable, such as 5e-4: "auto" takes the
            fastest within it, and a precision that drifts further is refused. By default "auto" takes only
            what has no visible loss.
        plan: a saved plan (or its path) to replay instead of making one; it decides precision, tolerance,
            device, token_budget and output_dtype, so none of these may be given beside it.
        confirm: asked with the number of bytes before gigabytes are fetched.

    Raises:
        CheckpointError, SourceError: the model is not there, is damaged, or lacks a head that was asked for.
        PrecisionError: the precision, device or plan cannot be honoured.
        InputError: an option cannot be, or contradicts the plan.
    """
    max_length = None if max_length is None else positive_integer("max_length", max_length)
    source = find(
        path_or_id,
        revision=revision,
        token=token,
        local_files_only=local_files_only,
        cache_folder=cache_folder,
        confirm=confirm,
    )
    checkpoint = open_checkpoint(source, pooling=pooling)
    if prompts is not None:
        checkpoint = replace(checkpoint, prompts={**checkpoint.prompts, **_checked_prompts(prompts)})
    if outputs == "usual":
        outputs = checkpoint.outputs[:1]
    outputs = None if outputs is None else named_outputs(outputs)
    plan = planned(
        checkpoint,
        plan=plan,
        precision=precision,
        device=device,
        outputs=outputs,
        token_budget=token_budget,
        output_dtype=output_dtype,
        max_length=max_length,
        tolerance=tolerance,
    )
    for note in checkpoint.notes:
        logger.info("%s: %s", checkpoint.name, note)
    return embedder(checkpoint, plan, outputs=outputs, max_length=max_length)


def planned(
    checkpoint: Checkpoint,
    *,
    plan: Plan | str | Path | None = None,
    precision: object = "auto",
    device: str | int | torch.device | None = None,
    outputs: tuple[str, ...] | None = None,
    token_budget: int | None = None,
    output_dtype: object = None,
    max_length: int | None = None,
    tolerance: float | None = None,
) -> Plan:
    """The plan to follow: the saved one, beside which nothing that it decides may be given, or one made now.

    The options are those of `load`.
    """
    if plan is None:
        return make_plan(
            checkpoint,
            precision=precision,
            device=device,
            outputs=outputs,
            token_budget=token_budget,
            output_dtype=output_dtype,
            max_length=max_length,
            tolerance=tolerance,
        )
    _refuse_with_plan(
        precision=None if precision == "auto" else precision,
        tolerance=tolerance,
        device=device,
        token_budget=token_budget,
        output_dtype=output_dtype,
    )
    if not isinstance(plan, (Plan, str, Path)):
        raise InputError(f"plan is of type {type(plan).__name__}. Pass a Plan, or the path of a saved one.")
    return make_plan(checkpoint, precision=plan if isinstance(plan, Plan) else Plan.load(plan))


def _refuse_with_plan(**options: object) -> None:
    """An error for an option that was given although a plan decides it."""
    for name, value in options.items():
        if value is not None:
            raise InputError(
                f"{name} and plan were both given, and the plan decides that already. Leave one of them out."
            )


def _checked_prompts(prompts: object) -> Mapping[str, str]:
    """The prompts, found to be texts by name."""
    if not isinstance(prompts, Mapping):
        raise InputError(f"prompts is of type {type(prompts).__name__}. Pass a dict of name -> text.")
    for name, text in prompts.items():
        if not isinstance(name, str) or not isinstance(text, str):
            raise InputError(f"prompts: {name!r} -> {text!r} must both be strings.")
    return prompts
