"""What of a run must be the same for it to go on from a state, and what may be another."""

from __future__ import annotations

__all__ = ["check_goes_on", "lasting", "measured_by"]

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tercet.errors import InputError
from tercet.training.data import Source
from tercet.training.recipe import TrainRecipe

# What may change. None of it decides which examples a step learns from, nor what there is to be learned; with
# the rest as it was, steps that were taken stay as they are, and later ones are taken otherwise.
_FREE = (
    "output",
    "checkpoints",
    "validation",
    "tensorboard",
    "optimizer",
    "epochs",
    "steps",
    "precision",
    "gradient_checkpointing",
    "batch.forward_tokens",
    "lora.folder",
)
_FREE_OF_LOSSES = ("weight", "options")


def lasting(recipe: TrainRecipe, sources: Sequence[Source], processes: int) -> dict[str, Any]:
    """What of a run decides what its steps learn from, for its states."""
    return {
        "recipe": json.dumps(_deciding(recipe), sort_keys=True),
        "data": [source.digest() for source in sources],
        "processes": processes,
        "measured_by": measured_by(recipe),
    }


def measured_by(recipe: TrainRecipe) -> str:
    """What of the recipe a measurement means; one by another cannot be compared with it."""
    how = recipe.to_dict()["validation"] or {}
    return json.dumps({key: how[key] for key in how if key not in ("every", "patience")}, sort_keys=True)


def check_goes_on(
    state: Mapping[str, Any], found: Path, recipe: TrainRecipe, sources: Sequence[Source], processes: int
) -> None:
    """An error where the run of a state was another one.

    Raises:
        InputError: the recipe changed in a key that decides what steps learn from, or a file or the number of
            processes did.
    """
    before, now = json.loads(state["recipe"]), json.loads(json.dumps(_deciding(recipe)))
    for key in dict.fromkeys([*now, *before]):
        if now.get(key) != before.get(key):
            raise InputError(
                f"{found}: {key} was {_shown(before.get(key))} and is {_shown(now.get(key))} now; a run goes "
                "on as it began, but for the optimizer, the length, the precision, weights and options of "
                "losses, validation, checkpoints and output. Put it back, or start anew in another folder."
            )
    for source, digest in zip(sources, state["data"], strict=True):
        if source.digest() != digest:
            raise InputError(
                f"{source.recipe.path} is not what it was when {found} was written; a run goes on as it "
                "began. Put the file back, or start anew in another folder."
            )
    if state["processes"] != processes:
        raise InputError(
            f"{found}: the run had {state['processes']} processes, now there are {processes}; "
            "batches would be others. Start as many, or anew in another folder."
        )


def _deciding(recipe: TrainRecipe) -> dict[str, Any]:
    """Path of a key -> its value, of all that may not change when a run goes on; nothing that is null."""
    return {
        key: value for key, value in _leaves(recipe.to_dict(), "") if value is not None and not _free(key)
    }


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from _leaves(inner, f"{path}[{number}]")
    else:
        yield path, value


def _free(key: str) -> bool:
    whole = key.startswith("losses[") and key.partition("].")[2].partition(".")[0] in _FREE_OF_LOSSES
    return whole or any(key == free or key.startswith(f"{free}.") for free in _FREE)


def _shown(value: object) -> str:
    return "not given" if value is None else repr(value)
