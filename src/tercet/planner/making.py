"""Plans of checkpoints on this machine: by what was probed, and by what an audit recommended."""

from __future__ import annotations

__all__ = ["make_plan", "plan", "with_float32_layers"]

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import prod
from pathlib import Path

from tercet.checkpoint.layout import Checkpoint, open_checkpoint
from tercet.checkpoint.reranker_files import is_reranker, open_reranker
from tercet.checkpoint.source import Source, find
from tercet.engines.mixed import float32_prefixes
from tercet.errors import CheckpointError, InputError, nearest
from tercet.heads import named_outputs
from tercet.model import check_encoder
from tercet.planner.probing import capability, capability_for, kernels_here
from tercet.planner.replaying import replayed
from tercet.precision.choice import Choice
from tercet.precision.dtype import DType, Precision, Wish
from tercet.precision.footprint import Footprint
from tercet.precision.hardware import Measured
from tercet.precision.memory import process_memory
from tercet.precision.plan import Plan
from tercet.precision.planning import plan as plan_footprint
from tercet.precision.scheme import Drift, Scheme
from tercet.verdicts import Remembered, recall

_HEADS = {"dense": "pooling", "sparse": "sparse_linear.pt", "multivector": "colbert_linear.pt"}


def make_plan(
    checkpoint: Checkpoint,
    *,
    precision: object = "auto",
    device: object = None,
    outputs: str | Sequence[str] | None = None,
    token_budget: int | None = None,
    output_dtype: object = None,
    max_length: int | None = None,
    tolerance: float | None = None,
) -> Plan:
    """Where and in what format a checkpoint runs here, and why. Reads no weight.

    "auto" follows the verdict that an audit saved for these weights on this machine; where one may fit, the
    weights are hashed once.

    Args:
        checkpoint: what is on disk.
        precision: "auto", "checkpoint", a dtype or variant in any spelling, a Wish, a Precision; or a Plan,
            which is checked and given back.
        device: in any spelling; None for the best that is there.
        outputs: what will be made, of "dense", "sparse", "multivector"; None for all that can be.
        token_budget: most tokens in one forward; None has it chosen.
        output_dtype: of the vectors; None for float32.
        max_length: longest text in tokens; None for the checkpoint's own limit.
        tolerance: largest mean 1 - cosine to float32 that is acceptable; None for what is not visible, or
            whatever a precision asked for by name has.

    Raises:
        PrecisionError: what was asked for does not run here, or the memory does not suffice.
    """
    if isinstance(precision, Plan):
        return replayed(precision, checkpoint)
    outputs = None if outputs is None else named_outputs(outputs)
    wish = precision if isinstance(precision, Precision) else Wish.parse(precision)
    output = None if output_dtype is None else DType.parse(output_dtype)
    # Before a probe, which leaves behind what the prediction counts anyway: the maths library at work.
    process_bytes = process_memory()
    footprint = checkpoint.footprint()
    _check_outputs(footprint, outputs)
    here = capability_for(checkpoint, capability(device))
    choice: Choice | None = None
    kept: tuple[int, ...] = ()
    audited = recall(checkpoint, here.device, kernels_here()) if _is_auto(wish) else None
    if audited is not None and set(outputs or footprint.outputs) <= set(audited.outputs):
        here = replace(here, schemes=_as_audited(here.schemes, audited.drifts))
        found = here.schemes.get(audited.scheme)
        if tolerance is None and found is not None and found.runs:
            choice, kept = Choice(audited.scheme, (_audited_reason(audited),)), audited.float32_layers
    made = plan_footprint(
        footprint,
        here,
        wish,
        token_budget=token_budget,
        output_dtype=output,
        outputs=outputs,
        max_length=max_length,
        process_bytes=process_bytes,
        tolerance=tolerance,
        choice=choice,
    )
    return with_float32_layers(made, checkpoint, kept)


def with_float32_layers(plan: Plan, checkpoint: Checkpoint, layers: Sequence[int]) -> Plan:
    """The same plan with some encoder layers in float32, and what they add to its memory.

    Raises:
        PrecisionError: there is no such layer.
    """
    if not layers:
        return plan
    kept = tuple(sorted(set(layers)))
    module, names = check_encoder(checkpoint)
    prefixes = float32_prefixes(module, kept)
    numbers = sum(prod(target.shape) for target in names.values() if target.parameter.startswith(prefixes))
    more = numbers * max(0, DType.FLOAT32.bytes - plan.precision.weights.bytes)
    named = f"encoder layers {', '.join(map(str, kept))}" if len(kept) > 1 else f"encoder layer {kept[0]}"
    return replace(
        plan,
        float32_layers=kept,
        memory=(*plan.memory, (f"{named} in float32 instead", more)),
        peak_bytes=plan.peak_bytes + more,
        reasons=(*plan.reasons, f"{named.capitalize()} stays in float32, whatever the others are."),
    )


def plan(
    path_or_id: str | Path,
    *,
    precision: object = "auto",
    device: object = None,
    outputs: str | Sequence[str] | None = None,
    revision: str | None = None,
    token: str | None = None,
    local_files_only: bool = False,
    cache_folder: str | Path | None = None,
    max_length: int | None = None,
    pooling: str | None = None,
    token_budget: int | None = None,
    output_dtype: object = None,
    tolerance: float | None = None,
    confirm: Callable[[int], bool] | None = None,
) -> Plan:
    """The plan that `tercet.load` would follow with the same options; fetches and reads headers, no weight.

    The model is a folder, a hub id such as "BAAI/bge-m3", or "minilm" for the packaged all-MiniLM-L6-v2;
    every option is one of `tercet.load`. Of a reranker it is the plan that `tercet.load_reranker` would
    follow, where `outputs`, `pooling` and `output_dtype` mean nothing.

    Raises:
        InputError: an option that a reranker does not have.
        CheckpointError, SourceError: the model is not there, or its headers are damaged.
        PrecisionError: the precision or device cannot be honoured, or the memory does not suffice.
    """
    source = find(
        path_or_id,
        revision=revision,
        token=token,
        local_files_only=local_files_only,
        cache_folder=cache_folder,
        headers_only=True,
        confirm=confirm,
    )
    if reranks := is_reranker(source):
        _refuse_vectors(source, outputs=outputs, pooling=pooling, output_dtype=output_dtype)
    return make_plan(
        open_reranker(source) if reranks else open_checkpoint(source, pooling=pooling),
        precision=precision,
        device=device,
        outputs=outputs,
        token_budget=token_budget,
        output_dtype=output_dtype,
        max_length=max_length,
        tolerance=tolerance,
    )


def _refuse_vectors(source: Source, **options: object) -> None:
    """An error for an option that decides about vectors, of which a reranker makes none."""
    for name, value in options.items():
        if value is not None:
            raise InputError(
                f"{name} belongs to models that make vectors, and {source.name} is a reranker: it gives "
                "scores of pairs, in float32. Leave it out."
            )


def _check_outputs(footprint: Footprint, outputs: Sequence[str] | None) -> None:
    """An error where an output was asked for that the checkpoint cannot make."""
    for output in outputs or ():
        if output not in _HEADS:
            raise InputError(f"There is no output {output!r}. {nearest(output, _HEADS)}")
        if output not in footprint.outputs:
            raise CheckpointError(
                f"{footprint.name}: no {output} output, since there is no {_HEADS[output]} in the "
                f"checkpoint. It makes: {', '.join(footprint.outputs)}. Fetch the file, or ask for those."
            )


def _is_auto(wish: Wish | Precision) -> bool:
    return isinstance(wish, Wish) and wish.kind == "auto"


def _as_audited(
    schemes: Mapping[Scheme, Measured], drifts: Mapping[Scheme, Drift]
) -> Mapping[Scheme, Measured]:
    """The table with the drift that an audit of this model measured, in place of what engines state."""
    return {
        scheme: replace(found, drift=drifts.get(scheme, found.drift)) for scheme, found in schemes.items()
    }


def _audited_reason(audited: Remembered) -> str:
    return f"auto follows the audit of this model on this machine ({audited.when}): {audited.reason}"
