"""Inputs of losses that both sides compute: the same numbers from one seed, plain tensors alone."""

from __future__ import annotations

__all__ = [
    "GROUP",
    "LOGITS",
    "M3_CASES",
    "QUERIES",
    "SPECIAL",
    "VOCABULARY",
    "M3Case",
    "Side",
    "dense",
    "heads",
    "side",
]

from dataclasses import dataclass

import torch
from torch import Tensor

QUERIES, GROUP, WIDTH, VOCABULARY = 4, 3, 8, 40
SPECIAL = (0, 2, 1, 3)  # cls, eos, pad, unk
TEMPERATURE = 0.1


@dataclass(frozen=True)
class M3Case:
    """One way to train all heads together."""

    name: str
    self_distill: bool = False
    teacher: str | None = None


M3_CASES = (
    M3Case("unified"),
    M3Case("self_distilled", self_distill=True),
    M3Case("kl_div", teacher="kl_div"),
    M3Case("m3_kd", self_distill=True, teacher="m3_kd_loss"),
)


@dataclass(frozen=True)
class Side:
    """Texts as an encoder leaves them.

    Attributes:
        ids: of each text (tokens,) int64, cls first and eos last.
        hidden: of each text (tokens, width).
    """

    ids: tuple[Tensor, ...]
    hidden: tuple[Tensor, ...]


def side(texts: int, seed: int) -> Side:
    """Texts of several lengths."""
    generator = torch.Generator().manual_seed(seed)
    ids, hidden = [], []
    for text in range(texts):
        length = 6 + (5 * text + seed) % 7
        inner = torch.randint(0, VOCABULARY, (length - 2,), generator=generator)
        ids.append(torch.cat([torch.tensor([SPECIAL[0]]), inner, torch.tensor([SPECIAL[1]])]))
        hidden.append(torch.randn(length, WIDTH, generator=generator))
    return Side(tuple(ids), tuple(hidden))


def heads() -> dict[str, Tensor]:
    """Weights of both heads; the second's vectors lean one way, so that no best match is below 0."""
    generator = torch.Generator().manual_seed(5)
    return {
        "sparse.weight": torch.randn(1, WIDTH, generator=generator) * 0.5,
        "sparse.bias": torch.tensor([0.3]),
        "colbert.weight": torch.randn(WIDTH, WIDTH, generator=generator) * 0.4,
        "colbert.bias": torch.ones(WIDTH),
    }


def dense(texts: int, seed: int, width: int = WIDTH) -> Tensor:
    """(texts, width), not of unit length."""
    return torch.randn(texts, width, generator=torch.Generator().manual_seed(seed))


TEACHER = dense(QUERIES, 21, GROUP)
LABELS = torch.tensor([0.2, 0.9, 0.2, 0.5])
LOGITS = dense(QUERIES, 22, GROUP)
