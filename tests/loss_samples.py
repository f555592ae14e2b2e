"""Outputs for tests of losses: some with given scores, some random with repeats and several lengths."""

from __future__ import annotations

__all__ = ["SCORES", "TEACHER", "outputs_of_scores", "random_outputs"]

from collections.abc import Mapping

import torch
from torch import Tensor

from tercet.embeddings import MultiVectors
from tercet.training.outputs import Outputs
from tercet.training.sparse_scores import pool_tokens

# Two queries, two passages each; what the losses of them are was calculated by hand and by FlagEmbedding.
SCORES = {
    "dense": torch.tensor([[2.0, 1, 0, -1], [0, 1, 3, 0]]),
    "sparse": torch.tensor([[1.0, 0, 0, 0], [0, 0, 2, 1]]),
    "multivector": torch.tensor([[1.5, 0.5, 0.2, 0], [0.1, 0.3, 1.2, 0.4]]),
}
TEACHER = torch.tensor([[0.7, 0.3], [0.6, 0.4]])
VOCABULARY = 20


def outputs_of_scores(scores: Mapping[str, Tensor]) -> tuple[Outputs, Outputs]:
    """Queries that are unit vectors, and passages such that the scores are these."""
    queries, passages = scores["dense"].shape
    none = torch.tensor([], dtype=torch.int64)
    sides = []
    for texts, dense, sparse, late in (
        (queries, torch.eye(queries), torch.eye(queries), torch.eye(queries)),
        (passages, scores["dense"].T, scores["sparse"].T, scores["multivector"].T),
    ):
        ids = torch.arange(queries).repeat(texts)
        bounds = torch.arange(texts + 1)
        weights = pool_tokens(
            ids, sparse.flatten(), bounds * queries, vocabulary=VOCABULARY, special_ids=none
        )
        sides.append(Outputs(dense, weights, MultiVectors(late.contiguous(), bounds)))
    return sides[0], sides[1]


def random_outputs(queries: int, group: int, seed: int) -> tuple[Outputs, Outputs]:
    """All three outputs of both sides, whose tensors are leaves that want gradients."""
    generator = torch.Generator().manual_seed(seed)

    def side(texts: int) -> Outputs:
        lengths = torch.randint(1, 6, (texts,), generator=generator)
        bounds = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
        tokens = int(bounds[-1])
        ids = torch.randint(0, VOCABULARY, (tokens,), generator=generator)
        weights = torch.rand(tokens, generator=generator) + 0.1
        sparse = pool_tokens(ids, weights, bounds, vocabulary=VOCABULARY, special_ids=torch.tensor([0]))
        late = MultiVectors(torch.randn(tokens, 4, generator=generator), bounds)
        made = Outputs(torch.randn(texts, 4, generator=generator), sparse, late)
        return made.replace([tensor.detach().requires_grad_() for tensor in made.tensors()])

    return side(queries), side(queries * group)
