"""How well texts match: dense dot, sparse dot, late interaction; their weighted sum, and fusion by rank.

Everything is computed in float32, or in float64 where float64 comes in, whatever dtype the vectors have.
A score against many documents works block by block, so that memory beyond the answer stays bounded.
"""

__all__ = [
    "PairScores",
    "best",
    "dense_pairs",
    "dense_scores",
    "maxsim",
    "maxsim_pairs",
    "maxsim_scores",
    "reciprocal_rank_fusion",
    "reciprocal_rank_scores",
    "score_matrix",
    "score_pairs",
    "search_stored",
    "sparse_pairs",
    "sparse_scores",
    "stored_scores",
    "weighted_sum",
]

from tercet.scoring.best import best
from tercet.scoring.dense import dense_pairs, dense_scores
from tercet.scoring.hybrid import PairScores, score_matrix, score_pairs, weighted_sum
from tercet.scoring.late import maxsim, maxsim_pairs, maxsim_scores
from tercet.scoring.ranks import reciprocal_rank_fusion, reciprocal_rank_scores
from tercet.scoring.sparse import sparse_pairs, sparse_scores
from tercet.scoring.stored import search_stored, stored_scores
