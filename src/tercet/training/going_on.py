"""What of a run must be the same for it to go on from a state."""

from __future__ import annotations

__all__ = ["check_goes_on", "lasting"]

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tercet.errors import InputError
from tercet.training.data import Source
from tercet.training.recipe import TrainRecipe


def lasting(recipe: TrainRecipe, sources: Sequence[Source], processes: int) -> dict[str, Any]:
    """What of a run decides every step, for its states."""
    return {
        "recipe": json.dumps(_deciding(recipe), sort_keys=True),
        "data": [source.digest() for source in sources],
        "processes": processes,
    }


def check_goes_on(
    state: Mapping[str, Any], found: Path, recipe: TrainRecipe, sources: Sequence[Source], processes: int
) -> None:
    """An error where the run of a state was another one.

    Raises:
        InputError: the recipe, a file or the number of processes changed.
    """
    before, now = json.loads(state["recipe"]), json.loads(json.dumps(_deciding(recipe)))
    if changed := [key for key in now if now[key] != before.get(key)]:
        raise InputError(
            f"{found}: the run had another {', '.join(changed)}; a run goes on as it began. Put the "
            "recipe back, or start anew in another folder."
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
    """What of the recipe decides every step, and may not change when a run goes on."""
    values = recipe.to_dict()
    for key in ("output", "checkpoints", "validation"):
        del values[key]
    return values
