"""What is minimised, one file a loss, found by name.

A loss of an embedder takes the outputs of queries and of passages (those of each query one after another, its
positive first) and what is known of the batch; one of a reranker takes logits (queries, group) instead.
"""

from __future__ import annotations

__all__ = [
    "LOSSES",
    "RERANKER_LOSSES",
    "WITH_OR_WITHOUT_SCORES",
    "Loss",
    "RerankerLoss",
    "make_loss",
    "make_reranker_loss",
]

from collections.abc import Mapping
from dataclasses import MISSING, fields
from difflib import get_close_matches
from typing import Any, Literal, Protocol, TypeVar

from torch import Tensor

from tercet.errors import InputError, UnknownNameError, nearest
from tercet.registry import Registry
from tercet.training.outputs import Outputs
from tercet.training.scores import Head
from tercet.training.targets import LossValue, Targets

Known = Literal["scores", "labels"]
L = TypeVar("L")


class Loss(Protocol):
    """A frozen dataclass of options, called once a batch."""

    @property
    def uses(self) -> frozenset[Known]:
        """What it learns from, of `Targets`."""
        ...

    @property
    def heads(self) -> tuple[Head, ...]:
        """Which outputs it compares."""
        ...

    def __call__(self, queries: Outputs, passages: Outputs, targets: Targets) -> LossValue:
        """The loss of a batch."""
        ...


class RerankerLoss(Protocol):
    """A frozen dataclass of options, called with logits (queries, group), the positive's first."""

    @property
    def uses(self) -> frozenset[Known]:
        """What it learns from, of `Targets`."""
        ...

    def __call__(self, logits: Tensor, targets: Targets) -> LossValue:
        """The loss of a batch."""
        ...


LOSSES: Registry[type[Loss]] = Registry("loss", "tercet.training.losses")
RERANKER_LOSSES: Registry[type[RerankerLoss]] = Registry("reranker loss", "tercet.training.losses")

# Of those that use scores: these do without them where a file has none.
WITH_OR_WITHOUT_SCORES = frozenset({"m3"})


def make_loss(name: str, options: Mapping[str, Any] | None = None, *, head: Head | None = None) -> Loss:
    """The loss of this name with these options; `head` where it compares one kind of output of several.

    A loss around another one (matryoshka) takes the inner one as `loss`: a name, or a mapping with `name` and
    `options`.

    Raises:
        UnknownNameError: no such loss or option; the message gives the nearest.
        InputError: an option that the loss cannot use.
    """
    kind = _found(LOSSES, name, "an embedder's")
    given = dict(options or {})
    known = {one.name for one in fields(kind)}  # type: ignore[arg-type]
    inner = given.get("loss")
    if "loss" in known and isinstance(inner, str | Mapping):
        described: Mapping[str, Any] = {"name": inner} if isinstance(inner, str) else inner
        _check(f"loss {name!r}: its inner loss", described, {"name", "options"}, required=("name",))
        given["loss"] = make_loss(described["name"], described.get("options"), head=head)
    elif head is not None:
        if "head" not in known:
            raise InputError(f"Loss {name!r} has no choice of head: leave head out.")
        given["head"] = head
    loss: Loss = _made("loss", name, kind, given)
    return loss


def make_reranker_loss(name: str, options: Mapping[str, Any] | None = None) -> RerankerLoss:
    """The reranker's loss of this name with these options; errors as `make_loss`."""
    loss: RerankerLoss = _made(
        "reranker loss", name, _found(RERANKER_LOSSES, name, "a reranker's"), dict(options or {})
    )
    return loss


def _found(registry: Registry[L], name: str, whose: str) -> L:
    """The loss of this name; an error names the losses of both kinds, each with what it is for."""
    if name in registry:
        return registry[name]
    embedders, rerankers = LOSSES.names(), RERANKER_LOSSES.names()
    every = f"Losses of an embedder: {', '.join(embedders)}; of a reranker: {', '.join(rerankers)}."
    if name in (*embedders, *rerankers):
        raise UnknownNameError(f"The loss {name!r} is not {whose}, which is needed here. {every}")
    # the kind that was asked for comes first: of names that are as near, the first is taken
    own = registry.names()
    close = get_close_matches(str(name), own, n=1) or get_close_matches(
        str(name), [*embedders, *rerankers], n=1
    )
    hint = f"Did you mean {close[0]!r}? " if close else ""
    raise UnknownNameError(f"There is no loss named {name!r}. {hint}{every}")


def _made(what: str, name: str, kind: type[Any], given: Mapping[str, Any]) -> Any:
    needed = [one.name for one in fields(kind) if one.default is MISSING and one.default_factory is MISSING]
    _check(f"{what} {name!r}", given, {one.name for one in fields(kind)}, required=needed)
    try:
        return kind(**given)
    except InputError as error:
        raise InputError(f"{what} {name!r}: {error}") from None


def _check(where: str, given: Mapping[str, Any], known: set[str], *, required: Any) -> None:
    for key in given:
        if key not in known:
            raise UnknownNameError(f"{where}: there is no option {key!r}. {nearest(str(key), known)}")
    for key in required:
        if key not in given:
            raise InputError(f"{where}: the option {key!r} is missing.")
