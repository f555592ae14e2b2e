"""What a caller asks of one call: as it was given, and checked."""

from __future__ import annotations

__all__ = ["Asked", "Call", "OnTruncate", "check", "limited", "positive_integer", "route_of", "saved_prompt"]

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import index
from typing import Literal

from tercet.checkpoint.layout import Checkpoint
from tercet.errors import InputError, nearest
from tercet.heads import HeadOptions, Heads, named_outputs
from tercet.text.late import LateEncoder

logger = logging.getLogger(__name__)

OnTruncate = Literal["cut", "error"]

# Which saved prompt a text takes where none is asked for: the first that is there, as sentence-transformers
# looks for them.
_SAVED_PROMPTS = {"query": ("query",), "document": ("document", "passage", "corpus")}


@dataclass(frozen=True, slots=True)
class Asked:
    """One call's options as they were given; `Embedder.encode` says what they mean."""

    outputs: str | Sequence[str] | None = None
    prompt: str | None = None
    prompt_name: str | None = None
    max_length: int | None = None
    dimensions: int | None = None
    normalize: bool | None = None
    on_truncate: OnTruncate = "cut"
    task: str | None = None
    max_active_dims: int | None = None


@dataclass(frozen=True, slots=True)
class Call:
    """One call's options, checked.

    Attributes:
        options: what is asked of the heads.
        prompt: before each text; empty for none.
        max_length: most tokens of a text, special tokens included.
        on_truncate: what becomes of a text that is longer.
        task: of a model of late interaction, what the texts are for: "query", "document" or None.
    """

    options: HeadOptions
    prompt: str
    max_length: int
    on_truncate: OnTruncate
    task: str | None = None


def check(
    asked: Asked,
    checkpoint: Checkpoint,
    heads: Heads,
    *,
    usual: int,
    positions: int,
    late: LateEncoder | None = None,
) -> Call:
    """The options, found to be possible for a model.

    Args:
        asked: as given.
        checkpoint: whose prompts may be named.
        heads: what makes the outputs.
        usual: most tokens of a text where nothing is asked for.
        positions: most tokens that the encoder has positions for.
        late: of a model of late interaction, what knows its tasks.

    Raises:
        InputError: an option cannot be.
        CheckpointError: an output whose head is not there.
    """
    outputs = heads.outputs[:1] if asked.outputs is None else named_outputs(asked.outputs)
    if asked.normalize is not None and not isinstance(asked.normalize, bool):
        raise InputError(f"normalize is {asked.normalize!r}, it must be True, False or None.")
    dimensions = asked.dimensions
    if dimensions is not None:
        dimensions = _integer("dimensions", dimensions)
    most = asked.max_active_dims
    most = None if most is None else positive_integer("max_active_dims", most)
    task = route = None
    dropped: tuple[int, ...] = ()
    kept: tuple[int, ...] | None = None
    pools = False
    if late is None:
        route = route_of(asked.task, checkpoint)
    else:
        late.check(task := asked.task)
        dropped, kept = late.scored(task)
        pools = late.pools(task)
    options = HeadOptions(outputs, dimensions, asked.normalize, route, most, dropped, kept, pools)
    heads.check(options, checkpoint.name)
    if asked.on_truncate not in ("cut", "error"):
        close = nearest(str(asked.on_truncate), ("cut", "error"))
        raise InputError(f"on_truncate is {asked.on_truncate!r}. {close}")
    length = usual if asked.max_length is None else limited(asked.max_length, positions, checkpoint.name)
    return Call(options, _prompt(asked, checkpoint), length, asked.on_truncate, task)


def saved_prompt(asked: Asked, role: Literal["query", "document"], checkpoint: Checkpoint) -> Asked:
    """The options with the checkpoint's prompt for a role, if there is one and no other is asked for.

    Of a checkpoint with routes the texts take the role's; one of late interaction treats them for it.
    """
    if checkpoint.routes is not None or checkpoint.late is not None:
        asked = replace(asked, task=role)
    if asked.prompt is None and asked.prompt_name is None:
        for name in _SAVED_PROMPTS[role]:
            if name in checkpoint.prompts:
                return replace(asked, prompt_name=name)
    return asked


def route_of(task: str | None, checkpoint: Checkpoint) -> str | None:
    """The route for a task; None of a checkpoint that has none, of which nothing may be asked."""
    if task is not None and not isinstance(task, str):
        raise InputError(f"task is of type {type(task).__name__}, it must be a string.")
    if checkpoint.routes is not None:
        return checkpoint.routes.of(task, checkpoint.name)
    if task is not None:
        raise InputError(
            f"task={task!r}: {checkpoint.name} has no routes, one way for all texts. Leave it out."
        )
    return None


def limited(max_length: int, positions: int, model: str) -> int:
    """The length asked for, never more than the model has positions for; a warning says so."""
    max_length = positive_integer("max_length", max_length)
    if max_length > positions:
        logger.warning(
            "max_length=%d: %s has positions for %d tokens; longer texts are cut there.",
            max_length,
            model,
            positions,
        )
    return min(max_length, positions)


def positive_integer(name: str, value: object) -> int:
    """The option as a Python integer, from any type of integer; an InputError unless it is at least 1."""
    number = _integer(name, value)
    if number < 1:
        raise InputError(f"{name} is {value!r}, it must be a positive integer.")
    return number


def _integer(name: str, value: object) -> int:
    try:
        number = None if isinstance(value, bool) else index(value)  # type: ignore[arg-type]
    except TypeError:
        number = None
    if number is None:
        raise InputError(f"{name} is {value!r}, it must be a positive integer.")
    return number


def _prompt(asked: Asked, checkpoint: Checkpoint) -> str:
    """The text before each text: the prompt itself, the one named, or the checkpoint's default."""
    prompt, name = asked.prompt, asked.prompt_name
    if prompt is not None:
        if not isinstance(prompt, str):
            raise InputError(f"prompt is of type {type(prompt).__name__}, it must be a string.")
        return prompt
    if name is None:
        name = checkpoint.default_prompt_name
        if name is None:
            return ""
    if not isinstance(name, str):
        raise InputError(f"prompt_name is of type {type(name).__name__}, it must be a string.")
    prompts = checkpoint.prompts
    if name not in prompts:
        raise InputError(
            f"{checkpoint.name} has no prompt named {name!r}. {nearest(name, prompts)} "
            "Pass prompt='the text itself', or load(..., prompts={name: text})."
        )
    return prompts[name]
