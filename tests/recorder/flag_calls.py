"""What is asked of FlagEmbedding's classes; the same on both sides of the twin tests."""

from __future__ import annotations

__all__ = ["FLAG_MODELS", "LENGTHS", "M3_OPTIONS", "PIECES", "SIGNATURES", "TEXTS", "signature", "write"]

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tiny

TEXTS = tiny.TEXTS
LENGTHS = {"query_max_length": 20, "passage_max_length": 40}
_INSTRUCTION = {
    "query_instruction_for_retrieval": "search for",
    "query_instruction_format": "{}:\\n{}",
    "passage_instruction_for_retrieval": "read",
    "passage_instruction_format": "{} {}",
}
# name -> folder and options of FlagModel
FLAG_MODELS: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]] = {
    "bert": ({}, {}),
    "bert with instructions": ({"seed": 2}, _INSTRUCTION),
    "bert in float16 files": ({"dtype": "float16"}, {"pooling_method": "mean"}),
    "bert of averaged tokens": ({}, {"pooling_method": "mean", **_INSTRUCTION}),
    "bert not normalised": ({}, {"normalize_embeddings": False}),
    "bert in fewer dimensions": ({}, {"truncate_dim": 8}),
    "averages not normalised, in fewer dimensions": (
        {"seed": 3},
        {"pooling_method": "mean", "normalize_embeddings": False, "truncate_dim": 8},
    ),
    "roberta": ({"architecture": "roberta"}, {}),
    "xlm-roberta": ({"architecture": "xlm-roberta", "file": "bin"}, {"pooling_method": "mean"}),
}
M3_OPTIONS = {
    **LENGTHS,
    **_INSTRUCTION,
    "colbert_dim": 8,
    "return_sparse": True,
    "return_colbert_vecs": True,
}
# of the tiny XLM-RoBERTa's vocabulary; no two read alike
PIECES = ("▁the", "▁cat", "<mask>", "b", "東", "▁vector")
# class -> methods whose signatures are compared
SIGNATURES: Mapping[str, tuple[str, ...]] = {
    "FlagModel": ("__init__", "encode", "encode_queries", "encode_corpus"),
    "BGEM3FlagModel": (
        "__init__",
        "encode",
        "encode_queries",
        "encode_corpus",
        "compute_score",
        "convert_id_to_token",
        "compute_lexical_matching_score",
        "colbert_score",
    ),
    "FlagReranker": ("__init__", "compute_score"),
    "FlagAutoModel": ("from_finetuned",),
    "FlagAutoReranker": ("from_finetuned",),
}


def signature(holder: type, method: str) -> list[str]:
    """What may be given by position: "name" or "name=default" of each, in order, without the object."""
    parameters = inspect.signature(getattr(holder, method)).parameters.values()
    return [
        one.name if one.default is one.empty else f"{one.name}={one.default!r}"
        for one in parameters
        if one.kind is one.POSITIONAL_OR_KEYWORD and one.name != "self"
    ]


def write(folder: Path, name: str) -> Path:
    """The tiny checkpoint of a case, by its name; "m3" is BGE-M3's."""
    if name == "m3":
        return tiny.write_checkpoint(folder, "xlm-roberta", layout="bge-m3", file="bin", colbert_dim=8)
    return tiny.write_checkpoint(folder, **FLAG_MODELS[name][0])
