"""LlamaIndex's `BaseEmbedding` over `tercet.load`."""

from __future__ import annotations

__all__ = ["LlamaIndexEmbedding"]

import asyncio
from typing import Any, Literal

from tercet.adapters.loaded_model import LoadOptions, check_output, loaded, vectors
from tercet.embedder import Embedder
from tercet.extras import require

require(
    "llama_index.core.base.embeddings.base",
    extra="llama-index",
    purpose="tercet.adapters.LlamaIndexEmbedding",
)

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.bridge.pydantic import ConfigDict, Field, PrivateAttr

# A forward is laid out by tokens: the more texts come together, the better it is filled.
_TEXTS = 512


class LlamaIndexEmbedding(BaseEmbedding):
    """Dense vectors of texts, for LlamaIndex's indices, pipelines and stores.

    Every option is a field, so that `to_dict`, `from_dict` and pickling give it again; an unknown one is
    refused.
    """

    model_config = ConfigDict(
        extra="forbid", protected_namespaces=("pydantic_model_",), arbitrary_types_allowed=True
    )

    model_name: str = Field(description="A folder, a hub id such as 'BAAI/bge-m3', or 'minilm'.")
    precision: str = Field(default="auto", description="As in tercet.load.")
    device: str | None = Field(default=None, description="As in tercet.load.")
    revision: str | None = Field(default=None, description="Of the hub's repository.")
    local_files_only: bool = Field(default=False, description="Ask no network.")
    max_length: int | None = Field(default=None, description="Most tokens of a text.")
    plan: str | None = Field(default=None, description="Path of a saved plan.")
    query_prompt: str | None = Field(default=None, description="Before queries; None: the checkpoint's.")
    document_prompt: str | None = Field(default=None, description="Before documents; None: the checkpoint's.")
    dimensions: int | None = Field(default=None, description="So many columns, renormalised (Matryoshka).")
    normalize: bool | None = Field(default=None, description="None: as the checkpoint says.")
    embed_batch_size: int = Field(default=_TEXTS, gt=0, le=2048, description="Texts of a call.")

    _embedder: Embedder = PrivateAttr()

    def model_post_init(self, context: Any, /) -> None:
        """Loads the model, and finds out whether the options can be."""
        super().model_post_init(context)
        self._embedder = loaded(
            self.model_name,
            LoadOptions(
                self.precision,
                self.device,
                self.revision,
                self.local_files_only,
                self.max_length,
                self.plan,
            ),
        )
        check_output(self._embedder, "dense")
        self._vectors([], "document")

    @classmethod
    def class_name(cls) -> str:
        """Under which LlamaIndex saves it."""
        return "TercetLlamaIndexEmbedding"

    @property
    def embedder(self) -> Embedder:
        """The loaded model; its `plan` says in what number format it runs, where, and why."""
        return self._embedder

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._vectors([query], "query")[0]

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._vectors([text], "document")[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return self._vectors(texts, "document")

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return await asyncio.to_thread(self._get_query_embedding, query)

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return await asyncio.to_thread(self._get_text_embedding, text)

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return await asyncio.to_thread(self._get_text_embeddings, texts)

    def _vectors(self, texts: list[str], role: Literal["query", "document"]) -> list[list[float]]:
        return vectors(
            self._embedder,
            texts,
            role,
            prompt=self.query_prompt if role == "query" else self.document_prompt,
            dimensions=self.dimensions,
            normalize=self.normalize,
        )
