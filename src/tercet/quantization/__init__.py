"""Vectors as they are stored: fewer bytes a number, fewer numbers a vector, fewer vectors a text."""

__all__ = [
    "STORED_PRECISIONS",
    "Quantizer",
    "Ranges",
    "StoredPrecision",
    "StoredVectors",
    "bytes_per_vector",
    "pool_rows",
    "pool_tokens",
    "stored_bytes",
    "truncate",
    "truncate_multivectors",
]

from tercet.quantization.matryoshka import truncate, truncate_multivectors
from tercet.quantization.quantizer import Quantizer, StoredVectors
from tercet.quantization.ranges import Ranges
from tercet.quantization.stored import STORED_PRECISIONS, StoredPrecision, bytes_per_vector, stored_bytes
from tercet.quantization.token_pooling import pool_rows, pool_tokens
