"""What comes out: dense, sparse and multi-vector embeddings of texts, ragged by offsets, never padded."""

__all__ = [
    "EmbeddingArrays",
    "Embeddings",
    "MultiVectorArrays",
    "MultiVectors",
    "SparseArrays",
    "SparseVectors",
]

from tercet.embeddings.arrays import EmbeddingArrays, MultiVectorArrays, SparseArrays
from tercet.embeddings.multivector import MultiVectors
from tercet.embeddings.result import Embeddings
from tercet.embeddings.sparse import SparseVectors
