"""Which schemes are audited, each with the plan that it runs by."""

from __future__ import annotations

__all__ = ["Contender", "contenders", "fastest_float32", "float64_plan", "plan_of"]

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tercet.checkpoint.layout import Checkpoint
from tercet.errors import InputError, PrecisionError, nearest
from tercet.precision.dtype import DType, Wish
from tercet.precision.hardware import Capability
from tercet.precision.plan import Plan
from tercet.precision.planning import plan as plan_footprint
from tercet.precision.scheme import Scheme


@dataclass(frozen=True, slots=True)
class Contender:
    """One scheme to audit: its plan, or why it has none."""

    scheme: Scheme
    plan: Plan | None
    failure: str | None = None


def contenders(
    checkpoint: Checkpoint,
    capability: Capability,
    precisions: Sequence[object] | None,
    *,
    outputs: tuple[str, ...],
) -> list[Contender]:
    """Every scheme of these precisions on every engine that offers it; without any named, all but float64.

    Raises:
        PrecisionError: a precision that is none, or that no engine has on this device.
        InputError: "auto" and "checkpoint", which are no precision of their own.
    """
    known = list(dict.fromkeys(scheme.label for scheme in capability.schemes))
    labels = [label for label in known if label != "float64"]
    if precisions is not None:
        wishes = [Wish.parse(precision) for precision in precisions]
        for wish in wishes:
            if wish.kind != "explicit":
                raise InputError(
                    f"precisions: {wish} is a choice, not a precision. {nearest(wish.label, known)}"
                )
            if wish.label not in known:
                raise PrecisionError(
                    f"precisions: no engine computes in {wish.label} on {capability.device}. "
                    f"{nearest(wish.label, known)}"
                )
        labels = list(dict.fromkeys(wish.label for wish in wishes))
        if not labels:
            raise InputError(f"precisions is empty; name some of {', '.join(known)}.")
    return [
        _contender(checkpoint, capability, scheme, outputs)
        for label in labels
        for scheme in capability.schemes
        if scheme.label == label
    ]


def _contender(
    checkpoint: Checkpoint, capability: Capability, scheme: Scheme, outputs: tuple[str, ...]
) -> Contender:
    failure = capability.schemes[scheme].failure
    if failure is not None:
        return Contender(scheme, None, failure)
    try:
        return Contender(scheme, plan_of(checkpoint, capability, scheme, outputs=outputs))
    except PrecisionError as error:
        return Contender(scheme, None, str(error))


def plan_of(
    checkpoint: Checkpoint,
    capability: Capability,
    scheme: Scheme,
    *,
    outputs: tuple[str, ...],
    output: DType | None = None,
) -> Plan:
    """The plan of one scheme, and of no other of its name."""
    alone = replace(capability, schemes={scheme: capability.schemes[scheme]})
    wish = Wish.parse(scheme.label)
    return plan_footprint(checkpoint.footprint(), alone, wish, outputs=outputs, output_dtype=output)


def fastest_float32(capability: Capability) -> Scheme:
    """The float32 that measured the fastest: what everything is compared with.

    Raises:
        PrecisionError: none runs here.
    """
    found = {
        scheme: measured.relative_seconds or 1.0
        for scheme, measured in capability.schemes.items()
        if scheme.label == "float32" and measured.runs
    }
    if not found:
        raise PrecisionError(
            f"float32 does not run on {capability.device}, so there is nothing to compare with. "
            "Run `tercet doctor --refresh`, or choose another device."
        )
    return min(found, key=lambda scheme: found[scheme])


def float64_plan(checkpoint: Checkpoint, capability: Capability, *, outputs: tuple[str, ...]) -> Plan:
    """The plan of float64, which drift is told against; its vectors come out in float64, too.

    Raises:
        PrecisionError: it does not run here.
    """
    found = [
        scheme
        for scheme, measured in capability.schemes.items()
        if scheme.label == "float64" and measured.runs
    ]
    if not found:
        raise PrecisionError(
            f"float64 does not run on {capability.device}. Compare with float32: --reference float32 "
            "(reference='float32')."
        )
    return plan_of(checkpoint, capability, found[0], outputs=outputs, output=DType.FLOAT64)
