"""The best documents of each query, chunk by chunk: memory grows with queries and depth alone."""

from __future__ import annotations

__all__ = ["TopDocuments"]

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from tercet.evaluation.ranked import Ranking


class TopDocuments:
    """Keeps the `depth` best documents of each query; of equal scores at its end those with the larger id.

    Which documents are kept does not depend on how they are cut into chunks.
    """

    def __init__(self, queries: int, depth: int) -> None:
        self.depth = depth
        self._scores = torch.empty(queries, 0, dtype=torch.float32)
        self._places = torch.empty(queries, 0, dtype=torch.int64)  # in the order of arrival
        self._ids: dict[int, str] = {}  # of those that are among the best of any query
        self._seen = 0

    def add(self, ids: Sequence[str], scores: Tensor) -> None:
        """Takes a chunk.

        Args:
            ids: of its documents.
            scores: (queries, documents); float32 decides the order. Minus infinity: not to be found.
        """
        places = torch.arange(self._seen, self._seen + len(ids)).expand(len(self._scores), -1)
        self._ids |= dict(zip(range(self._seen, self._seen + len(ids)), ids, strict=True))
        self._seen += len(ids)
        scores = torch.cat([self._scores, scores.to("cpu", torch.float32)], dim=1)
        places = torch.cat([self._places, places], dim=1)
        if scores.shape[1] > self.depth:
            chosen = self._best(scores, places)
            scores, places = scores.gather(1, chosen), places.gather(1, chosen)
        self._scores, self._places = scores, places
        kept = set(torch.unique(places).tolist())
        self._ids = {place: name for place, name in self._ids.items() if place in kept}

    def rankings(self) -> Iterator[Ranking]:
        """The ranking of each query."""
        for scores, places in zip(self._scores, self._places, strict=True):
            found = scores > -torch.inf
            pairs = zip(places[found].tolist(), scores[found].tolist(), strict=True)
            yield Ranking.of({self._ids[place]: score for place, score in pairs})

    def _best(self, scores: Tensor, places: Tensor) -> Tensor:
        """(queries, depth), the columns that stay."""
        best, chosen = scores.topk(self.depth, dim=1)
        last = best[:, -1:]
        # topk takes any of the equal scores at its end: where it had a choice, the ids decide
        contested = (scores == last).sum(dim=1) > (best == last).sum(dim=1)
        for row in contested.nonzero()[:, 0].tolist():
            above = (scores[row] > last[row]).nonzero()[:, 0]
            equal = (scores[row] == last[row]).nonzero()[:, 0].tolist()
            equal.sort(key=lambda column: self._ids[int(places[row, column])], reverse=True)
            chosen[row] = torch.cat([above, torch.tensor(equal[: self.depth - len(above)])])
        return chosen
