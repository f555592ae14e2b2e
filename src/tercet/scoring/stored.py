"""Scores of vectors as they are stored, and the best of them scored again by the full query."""

from __future__ import annotations

__all__ = ["search_stored", "stored_scores"]

import torch
from torch import Tensor

from tercet.errors import InputError
from tercet.quantization import Quantizer
from tercet.scoring.best import best
from tercet.scoring.blocks import BLOCK
from tercet.scoring.dense import dense_scores

_QUERY_ROWS = 256


def stored_scores(
    queries: Tensor, codes: Tensor, quantizer: Quantizer, *, quantize_queries: bool = False
) -> Tensor:
    """(queries, documents), the dot product of each query with what each stored vector stands for.

    Documents are decoded a block at a time.

    Args:
        queries: (queries, dim), full precision.
        codes: of the documents, as the quantizer encoded them.
        quantizer: that of the documents.
        quantize_queries: encode the queries, too, as an index without full precision would compare them: for
            int8 the dot product of both centres, for bits 1 - 2 h / dim at a Hamming distance of h.
    """
    if quantize_queries:
        queries = quantizer.decode(quantizer.encode(queries).codes)
    scores = torch.empty(len(queries), len(codes), dtype=torch.float32, device=codes.device)
    rows = max(1, BLOCK // quantizer.dim)
    for first in range(0, len(codes), rows):
        scores[:, first : first + rows] = _product(
            queries, codes[first : first + rows], quantizer, quantize_queries
        )
    return scores


def search_stored(
    queries: Tensor,
    codes: Tensor,
    quantizer: Quantizer,
    k: int,
    *,
    rescore_multiplier: int | None = 4,
) -> tuple[Tensor, Tensor]:
    """The k best stored vectors for each query, best first; of equal ones the one that comes first.

    Candidates are found by quantised queries. With `rescore_multiplier`, k times as many are taken, and
    ordered by the dot product of the full query with what they stand for (Yamada et al. 2021, for bits), as
    the semantic searches of sentence-transformers do. Memory does not grow with queries times documents.

    Args:
        queries: (queries, dim), full precision.
        codes: of the documents, as the quantizer encoded them.
        quantizer: that of the documents.
        k: how many to find; all where there are fewer.
        rescore_multiplier: 1 or more; None to keep the order of the quantised queries.

    Returns:
        Scores float32 and positions int64, each (queries, min(k, documents)).
    """
    if k < 1 or (rescore_multiplier is not None and rescore_multiplier < 1):
        raise InputError(
            f"k is {k} and rescore_multiplier {rescore_multiplier}; both must be at least 1 "
            "(rescore_multiplier=None turns rescoring off)."
        )
    if not len(queries):
        width = min(k, len(codes))
        return torch.zeros(0, width), torch.zeros(0, width, dtype=torch.int64)
    found = [
        _search(part, codes, quantizer, k, rescore_multiplier) for part in torch.split(queries, _QUERY_ROWS)
    ]
    return torch.cat([scores for scores, _ in found]), torch.cat([places for _, places in found])


def _search(
    queries: Tensor, codes: Tensor, quantizer: Quantizer, k: int, multiplier: int | None
) -> tuple[Tensor, Tensor]:
    """Of some queries."""
    wanted = min(len(codes), k * (multiplier or 1))
    coarse = quantizer.decode(quantizer.encode(queries).codes)
    scores = torch.empty(len(queries), 0, dtype=torch.float32, device=codes.device)
    places = torch.empty(len(queries), 0, dtype=torch.int64, device=codes.device)
    rows = max(wanted, BLOCK // max(quantizer.dim, len(queries)))
    for first in range(0, len(codes), rows):
        block = _product(coarse, codes[first : first + rows], quantizer, True)
        here = torch.arange(first, first + block.shape[1], device=codes.device).expand(len(queries), -1)
        # What was found so far stands before the block, as its documents do: equal scores stay in order.
        joined = torch.cat([places, here], dim=1)
        scores, order = best(torch.cat([scores, block], dim=1), wanted)
        places = joined.gather(1, order)
    if multiplier is None:
        return scores, places
    # In the order of the documents again, so that of equal scores the first document wins.
    places = places.sort(dim=1).values
    again = torch.stack(
        [
            dense_scores(query[None].float(), quantizer.decode(codes[chosen]))[0]
            for query, chosen in zip(queries, places, strict=True)
        ]
    )
    scores, order = best(again, min(k, wanted))
    return scores, places.gather(1, order)


def _product(queries: Tensor, codes: Tensor, quantizer: Quantizer, quantized: bool) -> Tensor:
    """(queries, documents) of a block."""
    if quantized and quantizer.precision in ("binary", "ubinary"):
        # Products of 1 and -1 add up to whole numbers, which float32 holds: equal distances score equally.
        return torch.sign(queries) @ torch.sign(quantizer.decode(codes)).T / quantizer.dim
    return dense_scores(queries.float(), quantizer.decode(codes))
