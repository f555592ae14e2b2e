"""The encoder's own vectors, one a token, before any module makes a text's vector of them."""

from __future__ import annotations

__all__ = ["TokenVectors", "token_vectors"]

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from tercet.batch import Batch
from tercet.embedder.embedder import Embedder
from tercet.embedder.options import limited
from tercet.embedder.recomputing import not_finite, recomputed
from tercet.embedder.texts import checked
from tercet.embeddings import MultiVectors
from tercet.errors import InputError
from tercet.model import position_limit
from tercet.text.pack import pack


@dataclass(frozen=True, slots=True, eq=False)
class TokenVectors:
    """What the encoder makes of each token of some texts.

    Attributes:
        ids: token ids of each text, special tokens and those of the prompt included.
        vectors: their vectors, on the CPU in the output dtype.
    """

    ids: list[list[int]]
    vectors: MultiVectors


def token_vectors(
    model: Embedder,
    texts: Sequence[str],
    *,
    prompt: str = "",
    max_length: int | None = None,
    task: str | None = None,
) -> TokenVectors:
    """The last hidden state of every token of the texts, special tokens included.

    Args:
        model: whose encoder; its heads take no part.
        texts: all of them, of which all vectors are held at once.
        prompt: before each text.
        max_length: most tokens of a text, special tokens included; by default the model's.
        task: what the texts are for, where routes have encoders of their own.

    Raises:
        InputError: a text is not a string, or the model has modules over tokens, whose vectors are others.
        NonFiniteError: a vector that is not finite even in float32.
    """
    model = model.member(task)
    checkpoint, plan = model.checkpoint, model.plan
    first = checkpoint.modules[0] if checkpoint.modules else None
    if first is not None and first.kind != "pooling":
        raise InputError(
            f"{checkpoint.name}: {first.where} stands between the encoder and the pooling, and only an "
            "encoder's own token vectors are given. Ask for sentence embeddings."
        )
    length = (
        model.max_length
        if max_length is None
        else limited(max_length, position_limit(checkpoint), checkpoint.name)
    )
    ids = model.tokenizer.encode(list(checked(texts)), max_length=length, prompt=prompt).ids
    lengths = [len(text) for text in ids]
    output = plan.precision.output.torch
    parts: list[Tensor] = [torch.empty(0, int(checkpoint.config["hidden_size"]), dtype=output)]
    for part in pack(lengths, plan.token_budget):
        batch = Batch.from_ids(ids[part])
        with torch.no_grad():
            hidden = model._engine.forward(batch)
            if bad := not_finite(hidden, batch):
                hidden = recomputed(
                    hidden, batch, bad, checkpoint=checkpoint, scheme=plan.scheme, first=part.start
                )
        parts.append(hidden.to("cpu", output))
    offsets = torch.tensor([0, *accumulate(lengths)], dtype=torch.int64)
    return TokenVectors(ids, MultiVectors(torch.cat(parts), offsets))
