"""Which scheme runs the body, and a sentence about each that does not."""

from __future__ import annotations

__all__ = ["WORTH_LEAVING", "Choice", "choose_scheme"]

from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import isfinite

from tercet.errors import PrecisionError
from tercet.precision.dtype import DType, Wish
from tercet.precision.footprint import Footprint
from tercet.precision.hardware import Capability, Measured
from tercet.precision.scheme import Drift, Scheme

# How many times as fast as float32 a scheme must measure before `auto` leaves float32 for it.
WORTH_LEAVING = 1.3
# A scheme that measured so many times slower is slower even where other processes disturbed the measurement.
_DISTURBED_MARGIN = 3.0


@dataclass(frozen=True, slots=True)
class Choice:
    """A scheme, and why it and not another."""

    scheme: Scheme
    reasons: tuple[str, ...]


def choose_scheme(
    capability: Capability,
    wish: Wish,
    footprint: Footprint | None = None,
    *,
    tolerance: float | None = None,
) -> Choice:
    """The scheme that a wish means on a device.

    Args:
        capability: what was measured there. A scheme's drift is the one that its engine states, or whatever
            the caller knows better of this model.
        wish: what the user asked for.
        footprint: of the checkpoint, which "checkpoint" needs.
        tolerance: largest mean 1 - cosine to float32 that the user accepts. `auto` takes the fastest within
            it, and of what was asked for only that within it may run. None: `auto` takes only what has no
            visible loss, and whatever was asked for may run.

    Raises:
        PrecisionError: what was asked for does not run here, or drifts further than the tolerance; with the
            framework's message and what does.
    """
    if tolerance is not None and not (_is_number(tolerance) and isfinite(tolerance) and 0 <= tolerance <= 2):
        raise PrecisionError(
            f"tolerance={tolerance!r}: it is the largest mean 1 - cosine that you accept, such as 5e-4."
        )
    if footprint is not None and not footprint.layers:
        return _choose_for_rows(capability, wish, footprint, tolerance)
    if wish.kind == "auto":
        return _choose_auto(capability, tolerance)
    if wish.kind == "explicit":
        return _honour(capability, wish.label, f"{wish} was asked for", tolerance)
    assert footprint is not None
    stored, sentence = _stored(footprint)
    try:
        return _honour(capability, DType.parse(stored).label, sentence, tolerance)
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


def _choose_for_rows(
    capability: Capability, wish: Wish, footprint: Footprint, tolerance: float | None
) -> Choice:
    """A format for the rows of a table alone: it multiplies nothing, so none is faster than another."""
    rows = {s: found for s, found in capability.schemes.items() if s.variant is None and s.compute is s.dtype}
    label = wish.label
    if wish.kind == "explicit":
        why = f"{wish} was asked for: the rows of the table are taken in it; none is faster than another."
        known = {scheme.label for scheme in capability.schemes}
        if label in known - {scheme.label for scheme in rows}:
            raise PrecisionError(
                f"precision {label}: it is a way to multiply, and {footprint.name} is a table of vectors, of "
                "which nothing is multiplied. Ask for 'auto': the table is used as it is stored, its rows in "
                "float32."
            )
    else:
        # Numbers of 8 bits are no format to compute in, whether they are whole or not.
        stored = {str(scheme.dtype): scheme.label for scheme in rows if wish.kind == "checkpoint"}
        label = stored.get(footprint.stored_dtype, DType.FLOAT32.label)
        why = f"{wish}: rows in {label}; a table without layers multiplies nothing that could be faster."
    bound = None if wish.kind == "auto" else tolerance
    return Choice(_honour(replace(capability, schemes=rows), label, why, bound).scheme, (why,))


def _honour(capability: Capability, label: str, why: str, tolerance: float | None) -> Choice:
    """The fastest scheme of one name that runs."""
    candidates = {scheme: found for scheme, found in capability.schemes.items() if scheme.label == label}
    running = [scheme for scheme, found in candidates.items() if found.runs]
    if not candidates:
        engines = ", ".join(sorted({scheme.engine for scheme in capability.schemes}))
        raise PrecisionError(
            f"precision {label}: no engine here computes in {label} on {capability.device} (engines: "
            f"{engines}). {_mend(capability)}"
        )
    if not running:
        failures = "; ".join(f"{scheme}: {found.failure}" for scheme, found in candidates.items())
        raise PrecisionError(
            f"precision {label} does not run on {capability.device} ({capability.name}): {failures}. "
            f"{_mend(capability)}"
        )
    within = [scheme for scheme in running if _acceptable(candidates[scheme].drift, tolerance, asked=True)]
    if not within:
        assert tolerance is not None
        drifts = "; ".join(f"{scheme}: {_stated(candidates[scheme].drift)}" for scheme in running)
        raise PrecisionError(
            f"precision {label} drifts further than tolerance={tolerance:g} allows: {drifts}. Raise the "
            "tolerance, leave it out, or ask for 'auto', which takes the fastest within it."
        )
    scheme = _fastest(capability, within)
    measured = capability.schemes[scheme]
    reasons = [f"{why}: {scheme} runs here, {_speed(measured, capability)}{_drift_clause(scheme, measured)}."]
    for other in running:
        if other != scheme:
            far = "" if other in within else ", but drifts further than the tolerance"
            reasons.append(f"{other} would do as well, {_speed(capability.schemes[other], capability)}{far}.")
    for other, found in candidates.items():
        if not found.runs:
            reasons.append(f"{other} does not run here: {found.failure}.")
    return Choice(scheme, tuple(_capital(reason) for reason in reasons))


def _choose_auto(capability: Capability, tolerance: float | None) -> Choice:
    """float32, unless something of acceptable loss measured clearly faster while nothing disturbed."""
    table = capability.schemes
    plain = [scheme for scheme, found in table.items() if _is_float32(scheme) and found.runs]
    if not plain:
        failures = [f"{s}: {m.failure}" for s, m in table.items() if _is_float32(s)]
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
        if capability.quiet and found.quiet and found.runs and not scheme.is_plain
        if _acceptable(found.drift, tolerance) and found.relative_seconds is not None
        if base_seconds / found.relative_seconds >= WORTH_LEAVING
    ]
    chosen = _fastest(capability, eligible) if eligible else base
    loss = "no visible loss" if tolerance is None else f"a loss within the tolerance of {tolerance:g}"
    such = "without visible loss" if tolerance is None else f"with {loss}"
    if eligible:
        found = table[chosen]
        assert found.drift is not None
        first = (
            f"auto: {chosen} is {_times(base_seconds, found)} times as fast as float32 here and has {loss} "
            f"(its stated drift: mean 1 - cosine {found.drift.mean:.1e}, worst {found.drift.worst:.1e}; "
            f"{found.drift.source})."
        )
    elif not capability.quiet:
        first = (
            f"auto stays with {base}: other processes disturbed the measurement, and a disturbed one decides "
            "nothing. `tercet doctor --refresh` measures again."
        )
    else:
        first = (
            f"auto stays with {base}: nothing {such} measured at least {WORTH_LEAVING} times as fast here."
        )
    others = (
        _declined(scheme, found, base_seconds, capability, chosen, tolerance)
        for scheme, found in table.items()
        if scheme != chosen
    )
    return Choice(chosen, (first, *others))


def _declined(
    scheme: Scheme,
    found: Measured,
    base_seconds: float,
    capability: Capability,
    chosen: Scheme,
    tolerance: float | None,
) -> str:
    """Why `auto` did not take a scheme, with its numbers."""
    ask = f"ask for it with --precision {scheme.label}"
    if not found.runs:
        return f"{scheme} does not run on {capability.device}: {found.failure}."
    if found.relative_seconds is None:
        return f"{scheme} was not timed; {ask}."
    seconds, drift = found.relative_seconds, found.drift
    faster = base_seconds / seconds
    if faster >= 1:
        speed = f"{scheme} is {_times(base_seconds, found)} times as fast as float32 here"
    else:
        ratio = seconds / base_seconds
        speed = f"{scheme} takes {ratio:{'.2f' if ratio < 1.1 else '.2g'}} times as long as float32 here"
    if _is_float32(scheme):
        return f"{scheme} gives the same; {speed.removeprefix(f'{scheme} ')}."
    if scheme.is_plain:
        return f"{speed}; for reference values, {ask}."
    if not (capability.quiet and found.quiet):
        return f"{speed}, as far as a busy machine can tell; {ask}."
    if drift is None:
        return f"{speed}, but states no drift on real texts, so its loss is not known; {ask}."
    stated = f"its stated drift, mean {drift.mean:.1e} and worst {drift.worst:.1e},"
    seen = _verdict(drift, tolerance)
    if not _acceptable(drift, tolerance):
        return f"{speed}, {'but' if faster >= 1 else 'and'} {stated} {seen}; {ask}."
    if faster < WORTH_LEAVING:
        return (
            f"{speed}, and {stated} {seen}; but below {WORTH_LEAVING} times it is not worth leaving "
            f"float32; {ask}."
        )
    return f"{speed}, and {stated} {seen}, but {chosen} is faster; {ask}."


def _is_float32(scheme: Scheme) -> bool:
    return scheme.is_plain and scheme.dtype is DType.FLOAT32


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _acceptable(drift: Drift | None, tolerance: float | None, *, asked: bool = False) -> bool:
    """Whether a scheme of this drift may run: by a stated tolerance, else only without visible loss.

    `asked`: by name, which makes a loss welcome that no tolerance forbids.
    """
    if tolerance is not None:
        return drift is not None and drift.mean <= tolerance
    return asked or (drift is not None and drift.invisible)


def _verdict(drift: Drift, tolerance: float | None) -> str:
    if tolerance is not None:
        inside = "within" if drift.mean <= tolerance else "beyond"
        return f"is {inside} the tolerance of {tolerance:g}"
    return "is not visible" if drift.invisible else "is visible"


def _stated(drift: Drift | None) -> str:
    if drift is None:
        return "states no drift on real texts"
    return f"mean 1 - cosine {drift.mean:.1e} ({drift.source})"


def _fastest(capability: Capability, schemes: Iterable[Scheme]) -> Scheme:
    """The fastest of several; where the measurement was disturbed, the first that may well be."""
    seconds = {scheme: capability.schemes[scheme].relative_seconds or float("inf") for scheme in schemes}
    least = min(seconds.values())
    margin = 1.0 if capability.quiet else _DISTURBED_MARGIN
    return next(scheme for scheme, found in seconds.items() if found <= margin * least)


def _mend(capability: Capability) -> str:
    """What to ask for instead."""
    running = sorted({scheme.label for scheme, found in capability.schemes.items() if found.runs})
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


def _drift_clause(scheme: Scheme, found: Measured) -> str:
    if scheme.is_plain:
        return ""
    if found.drift is None:
        return "; it states no drift on real texts"
    seen = "not visible" if found.drift.invisible else "visible"
    return f"; its stated drift, mean {found.drift.mean:.1e} and worst {found.drift.worst:.1e}, is {seen}"


def _capital(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:] if sentence.startswith("the ") else sentence
