"""Footprint + capability + wish -> plan: pure, with a reason for each choice."""

from __future__ import annotations

__all__ = ["CPU_TOKEN_BUDGET", "Footprint", "Plan", "plan"]

import json
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from textwrap import wrap
from typing import Any

from tercet.errors import PrecisionError
from tercet.precision.checked import (
    checked_count,
    checked_dtype,
    checked_list,
    checked_object,
    checked_text,
)
from tercet.precision.choice import Choice, choose_scheme
from tercet.precision.dtype import DType, Precision, Wish
from tercet.precision.footprint import Footprint, predict_memory, show_bytes, weight_bytes
from tercet.precision.hardware import Capability, find_device
from tercet.precision.scheme import Scheme

CPU_TOKEN_BUDGET = 2048
_GPU_TOKEN_BUDGETS = (2048, 32768)
_SMALLEST_BUDGET = 256
# Of the free memory, what a budget chosen by us may fill; the rest is for what grows meanwhile.
_FILL = 0.9
_VERSION = 3
_PAGE_WIDTH = 100


@dataclass(frozen=True, slots=True)
class Plan:
    """Where and in what format a model runs, and why; prints as a page a person can argue with.

    Attributes:
        device: torch's name of the device.
        scheme: how the body runs.
        precision: which format runs where.
        token_budget: most tokens in one forward (a longer text goes alone).
        peak_bytes: predicted peak memory of loading and running, on the device (on the CPU: of the process).
        free_bytes: what was free when the plan was made.
        reasons: a sentence for every choice.
        model: what the user called it.
        machine: what people call the device.
        memory: (what, bytes) of the predicted peak; their sum is `peak_bytes`.
        kernel: which of the engine's ways to do a product measured the fastest, by the engine's name for it.
        float32_layers: numbers of encoder layers that are computed in float32, whatever the scheme.
    """

    device: str
    scheme: Scheme
    precision: Precision
    token_budget: int
    peak_bytes: int
    free_bytes: int
    reasons: tuple[str, ...]
    model: str = ""
    machine: str = ""
    memory: tuple[tuple[str, int], ...] = ()
    kernel: str | None = None
    float32_layers: tuple[int, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Field -> plain value, and the version of this format."""
        return {
            "plan_version": _VERSION,
            "model": self.model,
            "machine": self.machine,
            "device": self.device,
            "scheme": self.scheme.to_json(),
            "kernel": self.kernel,
            "float32_layers": list(self.float32_layers),
            "precision": self.precision.to_json(),
            "token_budget": self.token_budget,
            "peak_bytes": self.peak_bytes,
            "free_bytes": self.free_bytes,
            "memory": [list(part) for part in self.memory],
            "reasons": list(self.reasons),
        }

    @classmethod
    def from_json(cls, data: object, where: str = "the plan") -> Plan:
        """The inverse of `to_json`, every field checked.

        Raises:
            PrecisionError: naming `where`: a key is unknown or missing, or a value has the wrong type.
        """
        found = checked_object(data, {field.name for field in fields(cls)} | {"plan_version"}, where)
        if found["plan_version"] != _VERSION:
            raise PrecisionError(
                f"{where}: plan_version is {found['plan_version']!r}, this release reads {_VERSION}. "
                "Make the plan again with `tercet plan --save-plan`."
            )
        scheme = checked_object(found["scheme"], {field.name for field in fields(Scheme)}, f"{where}: scheme")
        precision = checked_object(
            found["precision"], {field.name for field in fields(Precision)}, f"{where}: precision"
        )
        group, variant, between = (scheme[key] for key in ("group", "variant", "between"))
        if group is not None:
            group = checked_count(group, "scheme: group", where)
        if variant is not None:
            variant = checked_text(variant, "scheme: variant", where)
        if between is not None:
            between = checked_dtype(between, "scheme: between", where)
        parts = checked_list(found["memory"], "memory", where)
        kept = [
            checked_count(number, "float32_layers", where)
            for number in checked_list(found["float32_layers"], "float32_layers", where)
        ]
        if not all(isinstance(part, list) and len(part) == 2 for part in parts):
            raise PrecisionError(f"{where}: memory must be a list of [what, bytes].")
        return cls(
            device=checked_text(found["device"], "device", where),
            scheme=Scheme(
                checked_dtype(scheme["dtype"], "scheme: dtype", where),
                checked_dtype(scheme["accumulate"], "scheme: accumulate", where),
                group,
                checked_text(scheme["engine"], "scheme: engine", where),
                variant,
                between,
            ),
            precision=Precision(
                **{key: checked_dtype(v, f"precision: {key}", where) for key, v in precision.items()}
            ),
            token_budget=checked_count(found["token_budget"], "token_budget", where, at_least=1),
            peak_bytes=checked_count(found["peak_bytes"], "peak_bytes", where),
            free_bytes=checked_count(found["free_bytes"], "free_bytes", where),
            reasons=tuple(
                checked_text(reason, "reasons", where)
                for reason in checked_list(found["reasons"], "reasons", where)
            ),
            model=checked_text(found["model"], "model", where),
            machine=checked_text(found["machine"], "machine", where),
            kernel=None if found["kernel"] is None else checked_text(found["kernel"], "kernel", where),
            float32_layers=tuple(sorted(set(kept))),
            memory=tuple(
                (checked_text(what, "memory", where), checked_count(n, "memory", where)) for what, n in parts
            ),
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it as JSON, for `Plan.load`, aside first and then renamed.

        Raises:
            PrecisionError: the file cannot be written.
        """
        target = Path(path)
        if not target.name:
            raise PrecisionError(f"{target}: is a folder. Give the name of a file in it, such as plan.json.")
        aside = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            aside.write_text(json.dumps(self.to_json(), indent=2) + "\n", encoding="utf-8")
            aside.replace(target)
        except OSError as error:
            with suppress(OSError):  # of a place that cannot be written to, there is nothing to remove
                aside.unlink(missing_ok=True)
            raise PrecisionError(
                f"{target}: the plan could not be written: {error}. Choose another place."
            ) from None

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, available: list[str] | None = None) -> Plan:
        """A saved plan, checked.

        Args:
            path: what `save` wrote.
            available: devices of this machine; asked of torch where None.

        Raises:
            PrecisionError: naming the file: it cannot be read, is no plan, or its device is not here.
        """
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise PrecisionError(
                f"{path}: the plan cannot be read: {error}. Save one with --save-plan."
            ) from None
        except (ValueError, RecursionError) as error:
            raise PrecisionError(
                f"{path}: is not JSON: {error}. Save the plan again with --save-plan."
            ) from None
        found = cls.from_json(data, str(path))
        try:
            here = find_device(found.device, available)
        except PrecisionError as error:
            raise PrecisionError(
                f"{path}: was made for another machine: {error} Or make the plan anew here."
            ) from None
        if here != found.device:
            raise PrecisionError(
                f"{path}: device is {found.device!r}, torch's name of it is {here!r}. Write that."
            )
        return found

    def page(self) -> str:
        """The plan for people: a few lines of what, the memory, and why."""
        precision, title = self.precision, f"Plan for {self.model or 'a model'}"
        where = f"{self.device} ({self.machine})" if self.machine else self.device
        lines = [
            title,
            f"  device    {where}",
            f"  body      {self.scheme}{_kept(self.float32_layers)}",
            f"  weights   {precision.weights}, arithmetic {precision.compute}, heads {precision.heads}, "
            f"output {precision.output}",
            f"  batches   up to {self.token_budget:,} tokens; a longer text goes alone",
            f"  memory    {show_bytes(self.peak_bytes)} at the peak, {show_bytes(self.free_bytes)} free",
        ]
        lines += [f"            {show_bytes(count):>9}  {what}" for what, count in self.memory]
        lines.append("Why")
        for reason in self.reasons:
            lines += wrap(reason, _PAGE_WIDTH, initial_indent="  - ", subsequent_indent="    ")
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.page()


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
    reasons = [
        *choice.reasons,
        *(_kernel_reason(kernel) if footprint.layers else ()),
        _weights_reason(footprint, choice.scheme, precision),
        *(_other_reason(footprint, name, precision) for name in footprint.others),
        _heads_reason(precision),
    ]
    if not longest:
        each = show_bytes(1_000_000 * 3 * 4 * footprint.hidden)
        reasons.append(f"No length is too long; a text beyond a batch takes {each} for a million tokens.")
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
        advice = (
            f"--max-length {fits} would fit" if fits else "free some memory, or choose a narrower --precision"
        )
        reasons.append(
            f"A text of {longest:,} tokens is predicted to need {show_bytes(needed(budget))}, more than is "
            f"free; {advice}."
        )
    if footprint.file_format == "torch-legacy":
        whole_file = show_bytes(dict(memory(budget)).get("the legacy file, read whole", 0))
        reasons.append(
            "The file is in torch's format from before 1.6, which can only be read whole, so loading holds "
            f"the file beside the weights ({whole_file} at the peak). Saved again as safetensors it would be "
            "read tensor by tensor."
        )
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


def _kernel_reason(kernel: str | None) -> list[str]:
    return [] if kernel is None else [f"Matrix products go through {kernel}, the fastest way measured here."]


def _heads_reason(precision: Precision) -> str:
    return (
        f"Heads, pooling and normalisation work in {precision.heads} whatever the body does; vectors come "
        f"out in {precision.output}."
    )


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


def _kept(layers: tuple[int, ...]) -> str:
    return f"; layers {', '.join(map(str, layers))} in float32" if layers else ""


def _machine(capability: Capability) -> str:
    if capability.device != "cpu":
        return capability.name
    return f"{capability.name}, {capability.threads} {'thread' if capability.threads == 1 else 'threads'}"
