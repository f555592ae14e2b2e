"""What stands behind the encoder where a recipe says it: pooling, the prompt's part in it, Normalize."""

from __future__ import annotations

__all__ = ["with_ending"]

from dataclasses import replace

from tercet.checkpoint.layout import Checkpoint, ModuleSpec
from tercet.errors import InputError

# What a folder can be said to end in anew; heads of other outputs stand beside it.
_PLAIN = ("pooling", "normalize")
_HEADS = ("sparse_linear", "colbert_linear")


def with_ending(
    checkpoint: Checkpoint, *, normalize: bool | None = None, include_prompt: bool | None = None
) -> Checkpoint:
    """The checkpoint with dense vectors made as asked; a saved folder will say so.

    Args:
        checkpoint: opened with the pooling that was asked for, if one was.
        normalize: whether a Normalize ends it; None for what the checkpoint says.
        include_prompt: whether a prompt's tokens are pooled; None for what the checkpoint says.

    Raises:
        InputError: something is asked of a checkpoint that has other modules there, which no folder can say.
    """
    pooling = checkpoint.module("pooling")
    asked = [
        name
        for name, given in (
            ("pooling", pooling is not None and pooling.where.startswith("pooling=")),
            ("normalize", normalize is not None),
            ("include_prompt", include_prompt is not None),
        )
        if given
    ]
    if not asked:
        return checkpoint
    others = [spec.where for spec in checkpoint.modules if spec.kind not in (*_PLAIN, *_HEADS)]
    if others or pooling is None:
        what = f"has {', '.join(others)} beside its pooling" if others else "has no pooling"
        raise InputError(
            f"{checkpoint.name} {what}, and such a stack cannot be saved in another form. "
            f"Leave `{'` and `'.join(asked)}` out."
        )
    modes = tuple(pooling.config["modes"])
    prompt = pooling.config.get("include_prompt", True) if include_prompt is None else include_prompt
    unit = any(spec.kind == "normalize" for spec in checkpoint.modules) if normalize is None else normalize
    body = [
        ModuleSpec("pooling", f"pooling={'+'.join(modes)!r}", {"modes": modes, "include_prompt": prompt}),
        *([ModuleSpec("normalize", "as asked")] if unit else []),
    ]
    return replace(checkpoint, modules=(*body, *(spec for spec in checkpoint.modules if spec.kind in _HEADS)))
