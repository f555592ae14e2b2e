"""What an audit was asked for, checked before anything is embedded."""

from __future__ import annotations

__all__ = ["check_dimensions", "check_drift", "head_names"]

from collections.abc import Sequence

from tercet.checkpoint.layout import Checkpoint
from tercet.errors import InputError, UnknownNameError, nearest
from tercet.heads import named_outputs

_REFERENCES = ("float64", "float32")


def check_drift(reference: str, sample: int) -> None:
    """An error where drift cannot be told against this reference, or on so few texts."""
    if reference not in _REFERENCES:
        raise UnknownNameError(f"reference is {reference!r}. {nearest(str(reference), _REFERENCES)}")
    if isinstance(sample, bool) or not isinstance(sample, int) or sample < 1:
        raise InputError(f"sample is {sample!r}; at least one text must go through float64.")


def check_dimensions(dimensions: Sequence[int], checkpoint: Checkpoint, heads: tuple[str, ...]) -> None:
    """An InputError for a number of dimensions that dense vectors do not have."""
    widest = min(checkpoint.dense_dim, checkpoint.truncate_dim or checkpoint.dense_dim)
    for wanted in dimensions:
        if isinstance(wanted, bool) or not isinstance(wanted, int) or wanted < 1:
            raise InputError(f"dimensions: {wanted!r} is no number of dimensions. Give some, such as 256.")
        if "dense" in heads and wanted > widest:
            raise InputError(
                f"dimensions: {wanted} were asked for; the dense vectors of {checkpoint.name} have {widest}."
            )


def head_names(
    outputs: str | Sequence[str], available: tuple[str, ...], checkpoint: Checkpoint
) -> tuple[str, ...]:
    """The outputs that were asked for, each once, in the order of the model's own.

    Raises:
        UnknownNameError: an output that the model does not have.
        InputError: none.
    """
    asked = named_outputs(outputs)
    for name in asked:
        if name not in available:
            raise UnknownNameError(f"{checkpoint.name} has no output {name!r}. {nearest(name, available)}")
    if not asked:
        raise InputError(f"outputs is empty; name some of {', '.join(available)}.")
    return tuple(name for name in available if name in asked)
