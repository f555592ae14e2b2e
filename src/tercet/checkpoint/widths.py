"""Whether the modules of a stack fit each other, found before a weight is read."""

from __future__ import annotations

__all__ = ["check_ends", "check_widths"]

from pathlib import Path

from tercet.checkpoint.bag_files import BAG_OF_WORDS
from tercet.checkpoint.sparse_modules import SPARSE_MODULES
from tercet.checkpoint.stack import Stack
from tercet.checkpoint.token_modules import TOKEN_MODULES
from tercet.checkpoint.token_weights import TOKEN_WEIGHTS
from tercet.errors import CheckpointError

# What a module calls the width of the vectors that reach it.
_TAKES = {
    "dense": "in_features",
    "layer_norm": "dimension",
    "sparse_auto_encoder": "input_dim",
    **dict.fromkeys(TOKEN_MODULES, "width"),
}


def _last_if_sparse(stack: Stack) -> str | None:
    """Where the module lies that makes sparse vectors; None where dense ones are made."""
    return next((module.where for module in stack.modules if module.kind in SPARSE_MODULES), None)


def check_ends(folder: Path, stack: Stack) -> None:
    """Refuse routes of which some make sparse vectors and others dense ones."""
    ends = {name: _last_if_sparse(route) for name, route in stack.routes.items()}
    if len({where is None for where in ends.values()}) > 1:
        sparse, dense = (
            next(n for n, where in ends.items() if (where is None) is none) for none in (False, True)
        )
        raise CheckpointError(
            f"{folder}: the route {sparse!r} ends in {ends[sparse]}, which makes sparse vectors, the route "
            f"{dense!r} makes dense ones; they cannot be compared. Use sentence-transformers for this model."
        )


def check_widths(folder: Path, stack: Stack, hidden: int) -> None:
    """Refuse a stack whose parts do not fit each other, before a weight is read."""
    for route in stack.routes.values():
        check_widths(folder, route, hidden)
    width = hidden
    splade_pooling = next((module for module in stack.modules if module.kind == "splade_pooling"), None)
    if splade_pooling is not None:
        other = next((module for module in stack.modules if module is not splade_pooling), None)
        if other is not None:
            raise CheckpointError(
                f"{folder}: {other.where} stands beside SPLADE's pooling ({splade_pooling.where}), which "
                "makes sparse vectors of a masked-language head and takes no other module. Pass another "
                "pooling, such as pooling='mean'."
            )
        return
    pooled, ended = False, ""
    if stack.modules and stack.modules[0].kind in (TOKEN_WEIGHTS, BAG_OF_WORDS):
        pooled = True  # no token has a vector, so that there is nothing to pool
    for module in stack.modules:
        if ended:
            raise CheckpointError(
                f"{folder / module.where} stands behind {ended}, which makes sparse vectors and is the last "
                "module. Correct the order in modules.json, or use sentence-transformers for this model."
            )
        ended = module.where if module.kind in SPARSE_MODULES else ""
        takes = _TAKES.get(module.kind, "")
        expected = module.config.get(takes)
        if module.kind == "pooling":
            if pooled:
                raise CheckpointError(
                    f"{folder}: {module.where} is a second pooling; one is supported. "
                    "Use sentence-transformers for this model."
                )
            pooled = True
            takes, expected = "embedding_dimension", stack.pooling_width
        elif pooled and module.kind in TOKEN_MODULES:
            raise CheckpointError(
                f"{folder / module.where} stands behind the pooling, where no vectors of tokens are left. "
                "Correct the order in modules.json."
            )
        elif not pooled and module.kind not in TOKEN_MODULES:
            break
        if expected not in (None, width):
            raise CheckpointError(
                f"{folder / module.where}: {takes} is {expected}, what comes before it is {width} wide. "
                "The module belongs to another model; fetch or save the model again."
            )
        if module.kind == "pooling":
            width *= len(module.config["modes"])
        else:
            width = module.config.get("out_features", module.config.get("out_width", width))
    if not pooled:
        raise CheckpointError(
            f"{folder / 'modules.json'}: no pooling follows the encoder, so there is no vector of a text. "
            "Pass pooling='mean' (or 'cls') to add one."
        )
