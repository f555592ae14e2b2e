"""Routes that begin with encoders of their own: a checkpoint for each encoder, and one of all."""

from __future__ import annotations

__all__ = ["joined"]

from collections.abc import Sequence
from dataclasses import replace

from tercet.checkpoint.contents import Checkpoint
from tercet.checkpoint.routes import Router, Routes


def joined(opened: Sequence[Checkpoint], router: Router) -> Checkpoint:
    """One checkpoint of all routes, in everything else that of the largest encoder.

    Args:
        opened: one for each encoder, with the routes that begin with it.
        router: which routes there are, in their order.
    """
    at = {route: one for one in opened if one.routes is not None for route in one.routes.modules}
    branches = {route: at[route] for route in router.routes}
    chains = {route: one.chain(route) for route, one in branches.items()}
    everywhere = [note for note in opened[0].notes if all(note in one.notes for one in opened)]
    notes = [f"{one.of_routes}: {note}" for one in opened for note in one.notes if note not in everywhere]
    largest = max(opened, key=lambda one: sum(info.numbers for info in one.tensors.values()))
    return replace(
        largest,
        routes=Routes(chains, router.default, router.mappings),
        branches=branches,
        notes=(*everywhere, *notes),
    )
