"""Which scheme runs the body, and a sentence about each that does not."""

from __future__ import annotations

__all__ = ["WORTH_LEAVING", "Choice", "choose_scheme"]

from collections.abc import Iterable
from dataclasses import dataclass

from tercet.errors import PrecisionError
from tercet.precision.dtype import DType, Wish
from tercet.precision.footprint import Footprint
from tercet.precision.hardware import Capability, Measured
from tercet.precision.scheme import Scheme

# How many times as fast as float32 a scheme must measure before `auto` leaves float32 for it.
WORTH_LEAVING = 1.3


@dataclass(frozen=True, slots=True)
class Choice:
    """A scheme, and why it and not another."""

    scheme: Scheme
    reasons: tuple[str, ...]


def choose_scheme(capability: Capability, wish: Wish, footprint: Footprint | None = None) -> Choice:
    """The scheme that a wish means on a device.

    Args:
        capability: what was measured there.
        wish: what the user asked for.
        footprint: of the checkpoint, which "checkpoint" needs.

    Raises:
        PrecisionError: what was asked for does not run here; with the framework's message and what does.
    """
    if wish.kind == "auto":
        return _choose_auto(capability)
    if wish.kind == "explicit":
        assert wish.dtype is not None
        return _honour(capability, wish.dtype, f"{wish.dtype} was asked for")
    assert footprint is not None
    stored, sentence = _stored(footprint)
    try:
        return _honour(capability, DType.parse(stored), sentence)
    except PrecisionError as error:
        raise PrecisionError(f"precision 'checkpoint' of {footprint.name}: {sentence}. {error}") from None


def _stored(footprint: Footprint) -> tuple[str, str]:
    """The stored dtype to honour, and what to say about it."""
    floats = {name: count for name, count in footprint.stored.items() if "float" in name}
    main = footprint.stored_dtype
    if len(floats) < 2:
        return main, f"the checkpoint is stored in {main}"
    share = ", ".join(
        f"{floats[name]:,} numbers in {name}" for name in sorted(floats, key=lambda n: -floats[n])
    )
    return main, f"the checkpoint mixes dtypes ({share}), and most of it is {main}"


def _honour(capability: Capability, dtype: DType, why: str) -> Choice:
    """The fastest scheme of one dtype that runs."""
    candidates = {scheme: found for scheme, found in capability.schemes.items() if scheme.dtype is dtype}
    running = [scheme for scheme, found in candidates.items() if found.runs]
    if not candidates:
        engines = ", ".join(sorted({scheme.engine for scheme in capability.schemes}))
        raise PrecisionError(
            f"precision {dtype}: no engine here computes in {dtype} on {capability.device} (engines: "
            f"{engines}). {_mend(capability)}"
        )
    if not running:
        failures = "; ".join(f"{scheme}: {found.failure}" for scheme, found in candidates.items())
        raise PrecisionError(
            f"precision {dtype} does not run on {capability.device} ({capability.name}): {failures}. "
            f"{_mend(capability)}"
        )
    scheme = _fastest(capability, running)
    measured = capability.schemes[scheme]
    reasons = [f"{why}: {scheme} runs here, {_speed(measured, capability)}{_drift_clause(measured, dtype)}."]
    for other in running:
        if other != scheme:
            reasons.append(f"{other} would do as well, {_speed(capability.schemes[other], capability)}.")
    for other, found in candidates.items():
        if not found.runs:
            reasons.append(f"{other} does not run here: {found.failure}.")
    return Choice(scheme, tuple(_capital(reason) for reason in reasons))


def _choose_auto(capability: Capability) -> Choice:
    """float32, unless something without visible loss measured clearly faster while nothing disturbed."""
    table = capability.schemes
    plain = [scheme for scheme, found in table.items() if scheme.dtype is DType.FLOAT32 and found.runs]
    if not plain:
        failures = [f"{s}: {m.failure}" for s, m in table.items() if s.dtype is DType.FLOAT32]
        raise PrecisionError(
            f"float32 does not run on {capability.device} ({capability.name}): "
            f"{'; '.join(failures) or 'no engine has it'}. Choose another device with --device, or run "
            "`tercet doctor --refresh`."
        )
    base = _fastest(capability, plain)
    base_seconds = table[base].relative_seconds or 1.0
    eligible = [
        scheme
        for scheme, found in table.items()
        if capability.quiet and found.quiet and found.runs and scheme.dtype.bytes < DType.FLOAT32.bytes
        if found.drift is not None and found.drift.invisible and found.relative_seconds is not None
        if base_seconds / found.relative_seconds >= WORTH_LEAVING
    ]
    chosen = _fastest(capability, eligible) if eligible else base
    if eligible:
        found = table[chosen]
        assert found.drift is not None
        first = (
            f"auto: {chosen} is {_times(base_seconds, found)} times as fast as float32 here and has no "
            f"visible loss (its stated drift: mean 1 - cosine {found.drift.mean:.1e}, worst "
            f"{found.drift.worst:.1e}; {found.drift.source})."
        )
    elif not capability.quiet:
        first = (
            f"auto stays with {base}: other processes disturbed the measurement, and a disturbed one decides "
            "nothing. `tercet doctor --refresh` measures again."
        )
    else:
        first = (
            f"auto stays with {base}: nothing without visible loss measured at least {WORTH_LEAVING} times "
            "as fast here."
        )
    others = (
        _declined(scheme, found, base_seconds, capability, chosen)
        for scheme, found in table.items()
        if scheme != chosen
    )
    return Choice(chosen, (first, *others))


def _declined(
    scheme: Scheme, found: Measured, base_seconds: float, capability: Capability, chosen: Scheme
) -> str:
    """Why `auto` did not take a scheme, with its numbers."""
    ask = f"ask for it with --precision {scheme.dtype}"
    if not found.runs:
        return f"{scheme} does not run on {capability.device}: {found.failure}."
    if found.relative_seconds is None:
        return f"{scheme} was not timed; {ask}."
    seconds, drift = found.relative_seconds, found.drift
    faster = base_seconds / seconds
    if faster >= 1:
        speed = f"{scheme} is {_times(base_seconds, found)} times as fast as float32 here"
    else:
        speed = f"{scheme} takes {seconds / base_seconds:.2g} times as long as float32 here"
    if scheme.dtype is DType.FLOAT32:
        return f"{scheme} gives the same; {speed.removeprefix(f'{scheme} ')}."
    if scheme.dtype.bytes > DType.FLOAT32.bytes:
        return f"{speed}; for reference values, {ask}."
    if not (capability.quiet and found.quiet):
        return f"{speed}, as far as a busy machine can tell; {ask}."
    if drift is None:
        return f"{speed}, but states no drift on real texts, so its loss is not known; {ask}."
    stated = f"its stated drift, mean {drift.mean:.1e} and worst {drift.worst:.1e},"
    if not drift.invisible:
        return f"{speed}, {'but' if faster >= 1 else 'and'} {stated} is visible; {ask}."
    if faster < WORTH_LEAVING:
        return (
            f"{speed}, and {stated} is not visible; but below {WORTH_LEAVING} times it is not worth leaving "
            f"float32; {ask}."
        )
    return f"{speed}, and {stated} is not visible, but {chosen} is faster; {ask}."


def _fastest(capability: Capability, schemes: Iterable[Scheme]) -> Scheme:
    """The fastest of several; where the measurement was disturbed, the first."""
    found = list(schemes)
    if not capability.quiet:
        return found[0]
    return min(found, key=lambda scheme: capability.schemes[scheme].relative_seconds or float("inf"))


def _mend(capability: Capability) -> str:
    """What to ask for instead."""
    running = sorted({str(scheme.dtype) for scheme, found in capability.schemes.items() if found.runs})
    if not running:
        return "Choose another device with --device."
    return f"Ask for what runs here ({', '.join(running)}), or for 'auto', which measures and chooses."


def _times(base_seconds: float, found: Measured) -> str:
    # Rounded down, so that 1.299 does not read as the 1.3 that it missed.
    assert found.relative_seconds is not None
    return f"{int(base_seconds / found.relative_seconds * 100 + 1e-9) / 100:.2f}"


def _speed(found: Measured, capability: Capability) -> str:
    if found.relative_seconds is None:
        return "untimed"
    busy = "" if capability.quiet and found.quiet else ", as far as a busy machine can tell"
    if found.relative_seconds <= 1:
        return f"{_times(1.0, found)} times as fast as float32{busy}"
    return f"in {found.relative_seconds:.2g} times the time of float32{busy}"


def _drift_clause(found: Measured, dtype: DType) -> str:
    if dtype.bytes >= DType.FLOAT32.bytes:
        return ""
    if found.drift is None:
        return "; it states no drift on real texts"
    seen = "not visible" if found.drift.invisible else "visible"
    return f"; its stated drift, mean {found.drift.mean:.1e} and worst {found.drift.worst:.1e}, is {seen}"


def _capital(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:] if sentence.startswith("the ") else sentence
