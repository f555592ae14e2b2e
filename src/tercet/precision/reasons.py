"""What a plan says for people of the choices that follow from its scheme, a sentence each."""

from __future__ import annotations

__all__ = ["any_length_reason", "legacy_file_reason", "long_text_reason", "model_reasons"]

from tercet.precision.dtype import Precision
from tercet.precision.footprint import Footprint, show_bytes
from tercet.precision.scheme import Scheme


def model_reasons(
    footprint: Footprint, scheme: Scheme, precision: Precision, kernel: str | None
) -> list[str]:
    """How a model's products, weights and heads are computed, and why."""
    return [
        *(_kernel_reason(kernel) if footprint.layers else ()),
        _weights_reason(footprint, scheme, precision),
        *(_other_reason(footprint, name, precision) for name in footprint.others),
        _heads_reason(precision),
    ]


def any_length_reason(hidden: int) -> str:
    """That the model has no limit of its own, and what a text beyond a batch takes."""
    each = show_bytes(1_000_000 * 3 * 4 * hidden)
    return f"No length is too long; a text beyond a batch takes {each} for a million tokens."


def long_text_reason(length: int, needed_bytes: int, fits: int) -> str:
    """That a text is predicted to need more than is free, and which length would fit (0: none)."""
    if fits:
        advice = f"--max-length {fits} would fit"
    else:
        advice = "free some memory, or choose a narrower --precision"
    return (
        f"A text of {length:,} tokens is predicted to need {show_bytes(needed_bytes)}, more than is "
        f"free; {advice}."
    )


def legacy_file_reason(file_bytes: int) -> str:
    """Why loading from torch's old format takes more memory than from another."""
    return (
        "The file is in torch's format from before 1.6, which can only be read whole, so loading holds "
        f"the file beside the weights ({show_bytes(file_bytes)} at the peak). Saved again as safetensors it "
        "would be read tensor by tensor."
    )


def _kernel_reason(kernel: str | None) -> list[str]:
    return [] if kernel is None else [f"Matrix products go through {kernel}, the fastest way measured here."]


def _weights_reason(footprint: Footprint, scheme: Scheme, precision: Precision) -> str:
    stored, planned = footprint.stored_dtype, str(precision.weights)
    numbers = footprint.body_numbers
    if not footprint.layers and not footprint.table_bytes:
        weights = f"There is no encoder: a weight for each of {footprint.vocabulary:,} tokens"
        behind = footprint.head_numbers > footprint.vocabulary
        return f"{weights}, and modules behind them, are all." if behind else f"{weights} is all."
    if not footprint.layers:
        kind = " and ".join(footprint.stored)
        return (
            f"The table stays as it is stored, {show_bytes(footprint.table_bytes)} in {kind}; where the file "
            f"can be mapped, only the rows of tokens that come are read. Rows are taken as {planned}."
        )
    if precision.weights is not precision.compute:
        if precision.weights.bytes > 1:
            scales = ""
        else:
            scales = (
                f" with a scale for every {'output' if scheme.group is None else f'{scheme.group} of them'}"
            )
        rest = (
            f"are {precision.compute} too"
            if precision.compute.bytes < 4
            else "stay as precise as they are stored"
        )
        return (
            f"Weights of linear layers, {footprint.linear_numbers:,} of {numbers:,} numbers, are packed as "
            f"{planned}{scales}; what flows between them is {precision.compute}, and embeddings and norms "
            f"{rest}."
        )
    if stored == planned:
        if footprint.file_format == "safetensors":
            where = "mapped where nothing is fused or packed"
            return f"Weights stay as stored, {numbers:,} numbers in {planned}, {where}."
        return f"Weights stay as stored, {numbers:,} numbers in {planned}."
    return (
        f"Weights are stored in {stored} and are cast to {planned} while they are read, one tensor at a time."
    )


def _other_reason(footprint: Footprint, name: str, precision: Precision) -> str:
    """What an encoder beside the largest takes."""
    other = footprint.others[name]
    if other.layers:
        what = f"{other.body_numbers:,} numbers, stored in {other.stored_dtype}"
        return f"{name} has an encoder of its own ({other.architecture}): {what}, in the same precision."
    if not other.table_bytes:
        return f"{name} has no encoder, but a weight for each of {other.vocabulary:,} tokens."
    stored = " and ".join(other.stored)
    return (
        f"{name} has a table of its own, which stays as it is stored, {show_bytes(other.table_bytes)} in "
        f"{stored}. Rows are taken as {precision.weights}."
    )


def _heads_reason(precision: Precision) -> str:
    return (
        f"Heads, pooling and normalisation work in {precision.heads} whatever the body does; vectors come "
        f"out in {precision.output}."
    )
