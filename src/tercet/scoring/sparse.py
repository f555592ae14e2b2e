"""Dot products of lexical weights, by meeting token ids: no row as wide as the vocabulary exists."""

from __future__ import annotations

__all__ = ["sparse_pairs", "sparse_scores"]

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from tercet.embeddings import SparseVectors
from tercet.errors import InputError
from tercet.scoring.blocks import check_pairs, runs, wide

# Entries of queries that meet the documents at once: their table has at most the square of this, 16 MiB.
_QUERY_ENTRIES = 2048


def sparse_scores(queries: SparseVectors, documents: SparseVectors) -> Tensor:
    """(queries, documents), the sum over shared tokens of both weights' product.

    Memory beyond the answer is proportional to the entries of the documents.
    """
    _check(queries, documents)
    dtype = wide(queries.weights, documents.weights)
    weights, rows = documents.weights.to(dtype), queries.rows
    scores = weights.new_zeros(len(queries), len(documents))
    for start, end in runs(queries.lengths, most=_QUERY_ENTRIES):
        first, last = int(queries.offsets[start]), int(queries.offsets[end])
        if first == last or len(weights) == 0:
            continue
        # the few tokens that these queries have, and which documents have them where
        tokens, columns = torch.unique(queries.token_ids[first:last], return_inverse=True)
        place = torch.searchsorted(tokens, documents.token_ids).clamp(max=len(tokens) - 1)
        shared = tokens[place] == documents.token_ids
        begins = torch.cat([shared.new_zeros(1, dtype=torch.int64), shared.cumsum(0)])[documents.offsets[:-1]]
        table = weights.new_zeros(len(tokens), end - start)
        table[columns, rows[first:last] - start] = queries.weights[first:last].to(dtype)
        # a bag a document: compressed rows times a narrow table, with no (entries, queries) in between
        found = embedding_bag(place[shared], table, begins, mode="sum", per_sample_weights=weights[shared])
        scores[start:end] = found.T
    return scores


def sparse_pairs(queries: SparseVectors, documents: SparseVectors) -> Tensor:
    """(pairs,), the sum over shared tokens of both weights' product, of each query with the same document."""
    _check(queries, documents)
    check_pairs(len(queries), len(documents))
    dtype = wide(queries.weights, documents.weights)
    scores = torch.zeros(len(queries), dtype=dtype, device=queries.weights.device)
    if len(documents.token_ids) == 0:
        return scores
    keys, wanted = documents.keys(), queries.keys()
    place = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
    shared = keys[place] == wanted
    products = queries.weights[shared].to(dtype) * documents.weights[place[shared]].to(dtype)
    return scores.index_add(0, queries.rows[shared], products)


def _check(queries: SparseVectors, documents: SparseVectors) -> None:
    if queries.vocabulary != documents.vocabulary:
        raise InputError(
            f"Sparse vectors of different vocabularies have no common tokens: {queries.vocabulary} and "
            f"{documents.vocabulary}. Embed both with one model."
        )
