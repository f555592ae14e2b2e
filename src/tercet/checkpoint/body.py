"""What comes first in a model: an encoder, or a table of vectors; found on disk, no weight read."""

from __future__ import annotations

__all__ = ["UNLIMITED", "Body"]

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tercet.checkpoint.header import TensorInfo
from tercet.checkpoint.weights import Weights

# Tokens of a text where nothing limits them: more than any text has.
UNLIMITED = 10**9


@dataclass(frozen=True, slots=True)
class Body:
    """The first module of a stack; `Checkpoint` says what each field means.

    Attributes:
        positions: most tokens of a text that can be asked for.
        weights: the files, and all their tensors by the names that the files have.
        tokenizer_config: what decides how long a text may be, and which tokens are special.
    """

    architecture: str
    config: Mapping[str, Any]
    positions: int
    weights: Weights
    tensors: dict[str, TensorInfo]
    ignored: dict[str, TensorInfo]
    tokenizer_file: Path | None
    tokenizer_config: Mapping[str, object]
    special_tokens: bool = True
