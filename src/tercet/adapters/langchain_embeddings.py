"""LangChain's `Embeddings` over `tercet.load`."""

from __future__ import annotations

__all__ = ["LangChainEmbeddings"]

from pathlib import Path

from tercet.adapters.loaded_model import LoadOptions, check_output, loaded, vectors
from tercet.embedder import Embedder
from tercet.extras import require
from tercet.signatures import refuse_unknown_keywords

require("langchain_core.embeddings", extra="langchain", purpose="tercet.adapters.LangChainEmbeddings")

from langchain_core.embeddings import Embeddings


class LangChainEmbeddings(Embeddings):
    """Dense vectors of texts, for LangChain's vector stores, retrievers and caches.

    The asynchronous methods are LangChain's own: they run these in a thread, which an embedder allows.

    Attributes:
        embedder: the loaded model; its `plan` says in what number format it runs, where, and why.
    """

    @refuse_unknown_keywords
    def __init__(
        self,
        model: str | Path | Embedder,
        *,
        precision: str = "auto",
        device: str | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
        max_length: int | None = None,
        plan: str | None = None,
        query_prompt: str | None = None,
        document_prompt: str | None = None,
        dimensions: int | None = None,
        normalize: bool | None = None,
    ) -> None:
        """Loads the model.

        Args:
            model: a folder, a hub id such as "BAAI/bge-m3", "minilm"; or what `tercet.load` gave.
            precision, device, revision, local_files_only, max_length, plan: as in `tercet.load`.
            query_prompt, document_prompt: put before each text; None for those of the checkpoint.
            dimensions, normalize: as in `Embedder.encode`.

        Raises:
            CheckpointError: the model is not there, is damaged, or makes no dense vectors.
            InputError: an option cannot be.
        """
        options = LoadOptions(precision, device, revision, local_files_only, max_length, plan)
        self.embedder = loaded(model, options)
        check_output(self.embedder, "dense")
        self.query_prompt, self.document_prompt = query_prompt, document_prompt
        self.dimensions, self.normalize = dimensions, normalize
        # What cannot be is told now, and not at the first text.
        self.embed_documents([])

    def __repr__(self) -> str:
        return f"LangChainEmbeddings({self.embedder!r})"

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """A vector of each text, with the prompt for documents."""
        return vectors(
            self.embedder,
            texts,
            "document",
            prompt=self.document_prompt,
            dimensions=self.dimensions,
            normalize=self.normalize,
        )

    def embed_query(self, text: str) -> list[float]:
        """The vector of one text, with the prompt for queries."""
        [vector] = vectors(
            self.embedder,
            [text],
            "query",
            prompt=self.query_prompt,
            dimensions=self.dimensions,
            normalize=self.normalize,
        )
        return vector
