"""How the texts of a data set become vectors, and everything that decides a value of theirs."""

from __future__ import annotations

__all__ = ["Encoding", "identity", "text_identity"]

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tercet.checkpoint.hashing import hash_file
from tercet.checkpoint.layout import Checkpoint
from tercet.embedder import Embedder
from tercet.embeddings import Embeddings
from tercet.text.tokenizer import Tokenizer

_PROBE = "Antidisestablishmentarianism, naïve café №5: 東京 🚀 x² ≤ 1.000,25\tEND"


@dataclass(frozen=True, slots=True)
class Encoding:
    """Options of `Embedder.encode`, for queries and for documents.

    Attributes:
        outputs: of "dense", "sparse", "multivector".
        query_prompt, document_prompt: put before each text; None for those of the checkpoint.
        max_length, dimensions, normalize: see `Embedder.encode`.
    """

    outputs: tuple[str, ...]
    query_prompt: str | None = None
    document_prompt: str | None = None
    max_length: int | None = None
    dimensions: int | None = None
    normalize: bool | None = None

    def queries(self, model: Embedder, texts: Sequence[str]) -> Embeddings:
        """Embeddings of queries."""
        return self._encoded(model.encode_query, texts, self.query_prompt)

    def documents(self, model: Embedder, texts: Sequence[str]) -> Embeddings:
        """Embeddings of documents."""
        return self._encoded(model.encode_document, texts, self.document_prompt)

    def alike(self, model: Embedder, texts: Sequence[str]) -> Embeddings:
        """Embeddings of texts of which neither is a query; the prompt is that of queries if one was given."""
        return self._encoded(model.encode, texts, self.query_prompt)

    def _encoded(
        self, encode: Callable[..., Embeddings], texts: Sequence[str], prompt: str | None
    ) -> Embeddings:
        return encode(
            texts,
            outputs=self.outputs,
            prompt=prompt,
            max_length=self.max_length,
            dimensions=self.dimensions,
            normalize=self.normalize,
        )


def identity(model: Embedder, encoding: Encoding) -> dict[str, Any]:
    """Everything that decides a vector's value, JSON-safe: no name of a folder is part of it.

    Weights, tokenizer and configuration by hash; prompts, lengths and outputs; the scheme, precision and
    device that the plan chose. The plan's reasons, memory and token budget decide nothing.
    """
    checkpoint, plan = model.checkpoint, model.plan
    said = model.provenance(
        outputs=encoding.outputs,
        max_length=encoding.max_length,
        dimensions=encoding.dimensions,
        normalize=encoding.normalize,
    )
    return {
        **{
            name: said[name]
            for name in (
                "tercet",
                "torch",
                "weights_sha256",
                "architecture",
                "modules",
                "precision",
                "float32_layers",
                "outputs",
                "max_length",
                "dimensions",
                "truncate_dim",
                "normalize",
            )
        },
        "scheme": plan.scheme.to_json(),
        "device": plan.device,
        "query_prompt": encoding.query_prompt,
        "document_prompt": encoding.document_prompt,
        **text_identity(checkpoint, model.tokenizer),
    }


def text_identity(checkpoint: Checkpoint, tokenizer: Tokenizer) -> dict[str, Any]:
    """What decides a vector's value besides weights and options: tokenizer, prompts, configuration."""
    # Where tokenizer.json was made from another file, what it makes of a text stands for it.
    made = tokenizer.encode([_PROBE], max_length=checkpoint.max_length).ids
    file = checkpoint.tokenizer_file
    return {
        "prompts": dict(checkpoint.prompts),
        "default_prompt_name": checkpoint.default_prompt_name,
        "lowercase": checkpoint.lowercase,
        "tokenizer_sha256": None if file is None else hash_file(file),
        "tokenizer_probe_sha256": _digest(made),
        "tokenizer_config_sha256": _digest(checkpoint.tokenizer_config),
        "config_sha256": _digest(checkpoint.config),
        **({} if checkpoint.late is None else {"late": asdict(checkpoint.late)}),
    }


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=dict).encode()).hexdigest()
