"""What a file says of its vectors: how they were made, and what is needed to read them back."""

from __future__ import annotations

__all__ = ["KEY", "describe", "numeric_dtype", "separate"]

import json
from collections.abc import Mapping
from typing import Any

import torch

from tercet.embeddings import Embeddings
from tercet.errors import InputError, PrecisionError

KEY = "tercet"
_VERSION = 1


def describe(provenance: Mapping[str, Any], embeddings: Embeddings) -> str:
    """Provenance as JSON, with a part "file" that says which outputs, dtype and vocabulary the file has."""
    file = {
        "version": _VERSION,
        "outputs": list(embeddings.outputs),
        "dtype": numeric_dtype(embeddings),
        "vocabulary": None if embeddings.sparse is None else embeddings.sparse.vocabulary,
    }
    return json.dumps({**provenance, "file": file}, allow_nan=False, ensure_ascii=False)


def separate(path: str, stored: str | bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    """(provenance, part "file") of what `describe` gave.

    Raises:
        InputError: it is something else, or of a later version.
    """
    try:
        provenance = json.loads(stored)
        file = provenance.pop("file")
        version = file["version"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path}: its provenance cannot be read ({error}). Was it written by Tercet?"
        ) from error
    if version != _VERSION:
        raise InputError(
            f"{path}: its layout is version {version}; this Tercet reads {_VERSION}. Install a newer one."
        )
    return provenance, file


def numeric_dtype(embeddings: Embeddings) -> str:
    """The dtype of the vectors by name.

    Raises:
        PrecisionError: bfloat16, which neither Arrow nor NumPy has.
    """
    tensors = [embeddings.dense]
    tensors += [] if embeddings.sparse is None else [embeddings.sparse.weights]
    tensors += [] if embeddings.multivector is None else [embeddings.multivector.vectors]
    dtype = next((tensor.dtype for tensor in tensors if tensor is not None), torch.float32)
    if dtype == torch.bfloat16:
        raise PrecisionError(
            "Neither Arrow nor NumPy has bfloat16, so vectors in it cannot be written. Choose --output-dtype "
            "float32, which holds every bfloat16 exactly, or float16 for the same size."
        )
    return str(dtype).removeprefix("torch.")
