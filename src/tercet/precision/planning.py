"""Footprint + capability + wish -> plan: pure, with a reason for each choice."""

from __future__ import annotations

__all__ = ["CPU_TOKEN_BUDGET", "plan"]

from collections.abc import Callable

from tercet.errors import PrecisionError
from tercet.precision.choice import Choice, choose_scheme
from tercet.precision.dtype import DType, Precision, Wish
from tercet.precision.footprint import Footprint, predict_memory, show_bytes, weight_bytes
from tercet.precision.hardware import Capability
from tercet.precision.plan import Plan
from tercet.precision.reasons import any_length_reason, legacy_file_reason, long_text_reason, model_reasons
from tercet.precision.scheme import Scheme

CPU_TOKEN_BUDGET = 2048
_GPU_TOKEN_BUDGETS = (2048, 32768)
_SMALLEST_BUDGET = 256
# Of the free memory, what a budget chosen by us may fill; the rest is for what grows meanwhile.
_FILL = 0.9


def plan(
    footprint: Footprint,
    capability: Capability,
    wish: Wish | Precision,
    *,
    token_budget: int | None = None,
    output_dtype: DType | None = None,
    outputs: tuple[str, ...] | None = None,
    max_length: int | None = None,
    process_bytes: int = 0,
    tolerance: float | None = None,
    choice: Choice | None = None,
) -> Plan:
    """Where and in what format a model runs on a probed device, and why.

    Pure: the same numbers give the same plan.

    Args:
        footprint: the checkpoint's numbers.
        capability: what was measured on the device, and its free memory.
        wish: "auto", "checkpoint", a dtype or a variant; or a whole Precision, heads and output included.
        token_budget: most tokens in one forward; chosen where None.
        output_dtype: of the vectors; float32 where None.
        outputs: which outputs will be made; all that the checkpoint has where None.
        max_length: longest text in tokens that will come; the model's own limit where None.
        process_bytes: resident bytes of the process before loading, for the predicted peak on a CPU.
        tolerance: largest mean 1 - cosine to float32 that is acceptable; see `choose_scheme`.
        choice: a scheme that was chosen otherwise, with its reasons; the wish then chooses none.

    Raises:
        PrecisionError: a dtype does not run here, or the memory does not suffice; with reason and mend.
    """
    whole = wish if isinstance(wish, Precision) else None
    asked = Wish("explicit", whole.weights) if whole is not None else wish
    assert isinstance(asked, Wish)
    if choice is None:
        choice = choose_scheme(capability, asked, footprint, tolerance=tolerance)
    precision = _precision(choice.scheme, whole, output_dtype)
    outputs = footprint.outputs if outputs is None else outputs
    longest = max_length or footprint.max_tokens
    kernel = capability.schemes[choice.scheme].kernel
    reasons = [*choice.reasons, *model_reasons(footprint, choice.scheme, precision, kernel)]
    if not longest:
        reasons.append(any_length_reason(footprint.hidden))
    for name, number in (("token_budget", token_budget), ("max_length", max_length)):
        if number is not None and (type(number) is not int or number < 1):
            raise PrecisionError(f"{name}={number!r}: it must be a positive number of tokens.")

    def memory(budget: int, text: int = longest) -> tuple[tuple[str, int], ...]:
        tokens = max(budget, text)
        return predict_memory(
            footprint,
            precision,
            group=choice.scheme.group,
            device=capability.device,
            tokens=tokens,
            outputs=outputs,
            process_bytes=process_bytes,
            keeps_memory=capability.schemes[choice.scheme].keeps_memory,
        )

    def needed(budget: int, text: int = longest) -> int:
        # What was there before is not free any more, so only what comes on top has to fit.
        return sum(count for _, count in memory(budget, text)) - (
            process_bytes if capability.device == "cpu" else 0
        )

    weights, free = weight_bytes(footprint, precision, choice.scheme.group), capability.free_bytes
    if weights > free:
        raise PrecisionError(_too_large(footprint, capability, precision, weights))
    if token_budget is not None:
        if needed(token_budget, 0) > free:
            raise PrecisionError(
                f"token_budget={token_budget:,}: {footprint.name} would need "
                f"{show_bytes(needed(token_budget, 0))} on {capability.device}, {show_bytes(free)} are free "
                f"(by {capability.memory_limit}). Pass fewer tokens, or leave it out to have it chosen."
            )
        budget = token_budget
        reasons.append(f"Batches of up to {budget:,} tokens were asked for.")
    else:
        budget, reason = _budget(capability, lambda tokens: needed(tokens, 0))
        reasons.append(reason)
    if needed(budget) > free:
        fits = max(
            (n for n in (1 << k for k in range(17)) if n < longest and needed(n, n) <= free), default=0
        )
        reasons.append(long_text_reason(longest, needed(budget), fits))
    if footprint.file_format == "torch-legacy":
        reasons.append(legacy_file_reason(dict(memory(budget)).get("the legacy file, read whole", 0)))
    parts = memory(budget)
    return Plan(
        device=capability.device,
        scheme=choice.scheme,
        precision=precision,
        token_budget=budget,
        peak_bytes=sum(count for _, count in parts),
        free_bytes=free,
        reasons=tuple(reasons),
        model=footprint.name,
        machine=_machine(capability),
        memory=parts,
        kernel=kernel,
    )


def _precision(scheme: Scheme, asked: Precision | None, output_dtype: DType | None) -> Precision:
    """Which format runs where, once the scheme is known."""
    heads = DType.FLOAT64 if scheme.dtype is DType.FLOAT64 else DType.FLOAT32
    output = output_dtype or (asked.output if asked is not None else DType.FLOAT32)
    if not output.is_float or output.bytes < 2:
        raise PrecisionError(
            f"output dtype {output}: vectors come out in float32, float16, bfloat16 or float64."
        )
    if asked is not None and asked.compute not in (asked.weights, scheme.compute):
        raise PrecisionError(
            f"weights in {asked.weights} with arithmetic in {asked.compute}: with {scheme.dtype} weights, "
            f"{scheme} computes in {scheme.compute}. Ask for {asked.compute.label} or for "
            f"{asked.weights.label}."
        )
    if asked is not None and asked.heads not in (heads, DType.FLOAT32):
        raise PrecisionError(
            f"heads in {asked.heads}: heads, pooling and normalisation work in {heads} whatever the body "
            f"does. Ask for heads={heads}; a narrower result is output_dtype."
        )
    return Precision(weights=scheme.dtype, compute=scheme.compute, heads=heads, output=output)


def _budget(capability: Capability, needed: Callable[[int], int]) -> tuple[int, str]:
    """Tokens of a batch, and why so many."""
    room = int(capability.free_bytes * _FILL)
    if capability.device == "cpu":
        budget, why = CPU_TOKEN_BUDGET, "enough to keep a CPU busy, and small enough for its caches"
    else:
        smallest, budget = _GPU_TOKEN_BUDGETS
        while budget > smallest and needed(budget) > room // 2:
            budget //= 2
        why = f"as many as use at most half of the {show_bytes(capability.free_bytes)} that are free"
    wanted = budget
    while budget > _SMALLEST_BUDGET and needed(budget) > room:
        budget //= 2
    if budget < wanted:
        return budget, (
            f"Batches of up to {budget:,} tokens instead of {wanted:,}: only "
            f"{show_bytes(capability.free_bytes)} are free (by {capability.memory_limit})."
        )
    return budget, f"Batches of up to {budget:,} tokens: {why}."


def _too_large(footprint: Footprint, capability: Capability, precision: Precision, weights: int) -> str:
    narrower = [
        f"--precision {scheme.label} ({show_bytes(size)})"
        for scheme, found in capability.schemes.items()
        if found.runs
        if (size := weight_bytes(footprint, _precision(scheme, None, None), scheme.group))
        < capability.free_bytes
    ]
    mend = f"ask for {' or '.join(dict.fromkeys(narrower))}" if narrower else "choose a smaller model"
    return (
        f"{footprint.name}: its weights take {show_bytes(weights)} in {precision.weights}, and "
        f"{capability.device} has {show_bytes(capability.free_bytes)} free of "
        f"{show_bytes(capability.total_bytes)} (by {capability.memory_limit}). Free memory, raise the limit, "
        f"or {mend}."
    )


def _machine(capability: Capability) -> str:
    if capability.device != "cpu":
        return capability.name
    return f"{capability.name}, {capability.threads} {'thread' if capability.threads == 1 else 'threads'}"
