"""The pooling that a folder's modules do not say: asked for by the user, or assumed."""

from __future__ import annotations

__all__ = ["ASSUMED_MEAN", "M3_MODULES", "asked_pooling", "assumed_modules"]

from dataclasses import replace

from tercet.checkpoint.body import Body
from tercet.checkpoint.contents import ModuleSpec
from tercet.checkpoint.decoder_files import DECODERS
from tercet.checkpoint.sparse_modules import SPARSE_MODULES
from tercet.checkpoint.stack import Stack, parse_pooling
from tercet.checkpoint.token_modules import TOKEN_MODULES
from tercet.errors import InputError

M3_MODULES = (parse_pooling("cls", "BGE-M3's default"), ModuleSpec("normalize", "BGE-M3's default"))
_ASSUMED_MODULES = (parse_pooling("mean", "assumed"),)
ASSUMED_MEAN = (
    "There is no modules.json: mean pooling without normalisation is assumed, as sentence-transformers does. "
    "Pass pooling='cls' if the model was trained so."
)
_ASSUMED_LAST = (
    "There is no modules.json: this is a language model, of which the last token's vector is taken without "
    "normalisation, as sentence-transformers does. Pass pooling='mean' if the model was trained so."
)
_CHAT = (
    "Its tokenizer has a chat template, into which sentence-transformers would put each text: here texts are "
    "embedded as they are."
)


def asked_pooling(
    stack: Stack, body: Body, pooling: str, name: str, notes: list[str]
) -> tuple[Stack, list[str]]:
    """The stack with the pooling that was asked for, and the notes, which do not tell of another any more.

    Raises:
        InputError: `pooling` is not known, or the model called `name` pools nothing.
    """
    if stack.first == "SparseStaticEmbedding":
        raise InputError(
            f"pooling={pooling!r}: {name} has a weight for each token, and no vectors to pool. "
            "Leave pooling out."
        )
    if stack.first == "BoW":
        raise InputError(
            f"pooling={pooling!r}: {name} counts the words of a text, which have no vectors to "
            "pool. Leave pooling out."
        )
    if body.architecture == "static" and stack.first != "WordEmbeddings":
        raise InputError(
            f"pooling={pooling!r}: {name} is a table of static embeddings, of which the vector of "
            "a text is the mean. Leave pooling out."
        )
    told = [note for note in notes if note not in (ASSUMED_MEAN, _ASSUMED_LAST)]
    return _with_pooling(stack, parse_pooling(pooling)), [*told, f"Pooling is {pooling!r}, as asked."]


def assumed_modules(body: Body, notes: list[str]) -> tuple[ModuleSpec, ...]:
    """The pooling of an encoder alone; of one that was a language model, the last token's."""
    if body.architecture not in DECODERS:
        return _ASSUMED_MODULES
    if body.tokenizer_config.get("chat_template"):
        notes.append(_CHAT)
    if not str(next(iter(body.config.get("architectures") or ()), "")).endswith("ForCausalLM"):
        return _ASSUMED_MODULES
    notes[:] = [_ASSUMED_LAST if note == ASSUMED_MEAN else note for note in notes]
    return (parse_pooling("lasttoken", "assumed"),)


def _with_pooling(stack: Stack, pooling: ModuleSpec) -> Stack:
    """The stack, each of its routes too, with another pooling in the place of its own."""
    on_tokens = [module for module in stack.modules if module.kind in TOKEN_MODULES]
    # A SparseAutoEncoder takes what any pooling gives; of SPLADE's there is nothing left for it.
    of_words = pooling.kind == "splade_pooling"
    replaced = ("pooling", "splade_pooling", *TOKEN_MODULES, *(SPARSE_MODULES if of_words else ()))
    rest = (module for module in stack.modules if module.kind not in replaced)
    routes = {name: _with_pooling(route, pooling) for name, route in stack.routes.items()}
    return replace(stack, modules=(*on_tokens, pooling, *rest), pooling_width=None, routes=routes)
