"""Haystack's embedders of texts and documents, dense and sparse, over `tercet.load`."""

from __future__ import annotations

__all__ = [
    "HaystackDocumentEmbedder",
    "HaystackSparseDocumentEmbedder",
    "HaystackSparseTextEmbedder",
    "HaystackTextEmbedder",
]

import asyncio
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from tercet.adapters.loaded_model import LoadOptions, check_output, loaded, vectors
from tercet.embedder import Embedder
from tercet.errors import InputError
from tercet.extras import require
from tercet.signatures import refuse_unknown_keywords

require("haystack", extra="haystack", purpose="tercet.adapters' embedders for Haystack")

from haystack import Document, component, default_from_dict, default_to_dict
from haystack.dataclasses import SparseEmbedding


class _Model:
    """A component's model: loaded by `warm_up` or the first run; saved as its options, without weights."""

    _output: ClassVar[Literal["dense", "sparse"]]

    def __init__(self, model: str | Path, options: LoadOptions, saved: dict[str, Any]) -> None:
        if not isinstance(model, (str, Path)):
            raise InputError(
                f"The model is of type {type(model).__name__}; a pipeline is saved, and only a name can be. "
                "Give the model's folder or hub id: components that ask for the same share one loaded model."
            )
        self._name, self._options = str(model), options
        self._saved = {
            "model": self._name,
            **asdict(options),
            **saved,
        }
        self._embedder: Embedder | None = None

    @property
    def embedder(self) -> Embedder:
        """The loaded model; its `plan` says in what number format it runs, where, and why."""
        if self._embedder is None:
            embedder = loaded(self._name, self._options)
            check_output(embedder, self._output)
            self._embedder = embedder
        return self._embedder

    def warm_up(self) -> None:
        """Loads the model.

        Raises:
            CheckpointError: it is not there, is damaged, or makes no such vectors.
        """
        _ = self.embedder

    def to_dict(self) -> dict[str, Any]:
        """The component as Haystack saves it in a pipeline."""
        saved: dict[str, Any] = default_to_dict(self, **self._saved)
        return saved

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """The component that was saved."""
        made: Self = default_from_dict(cls, data)
        return made

    def _dense(self, texts: list[str], role: Literal["query", "document"]) -> list[list[float]]:
        saved = self._saved
        return vectors(
            self.embedder,
            texts,
            role,
            prompt=saved["prompt"],
            dimensions=saved["dimensions"],
            normalize=saved["normalize"],
        )

    def _sparse(self, texts: list[str], role: Literal["query", "document"]) -> list[SparseEmbedding]:
        encode = self.embedder.encode_query if role == "query" else self.embedder.encode_document
        found = encode(
            texts,
            outputs="sparse",
            prompt=self._saved["prompt"],
            max_active_dims=self._saved["max_active_dims"],
        ).sparse
        assert found is not None
        return [SparseEmbedding(one.token_ids.tolist(), one.weights.tolist()) for one in found]

    def _document_texts(self, documents: Any) -> list[str]:
        """What of each document is embedded: the chosen fields of its meta, and its content."""
        if not isinstance(documents, list) or not all(isinstance(one, Document) for one in documents):
            raise InputError(
                f"{type(self).__name__} embeds a list of Documents. For one string there is "
                f"{type(self).__name__.replace('Document', 'Text')}."
            )
        fields, separator = self._saved["meta_fields_to_embed"], self._saved["embedding_separator"]
        return [
            separator.join(
                [
                    *(str(one.meta[name]) for name in fields if one.meta.get(name) is not None),
                    one.content or "",
                ]
            )
            for one in documents
        ]

    def _text(self, text: Any) -> str:
        if not isinstance(text, str):
            raise InputError(
                f"{type(self).__name__} embeds one string. For a list of Documents there is "
                f"{type(self).__name__.replace('Text', 'Document')}."
            )
        return text


@component
class HaystackTextEmbedder(_Model):
    """The dense vector of a text, with the prompt for queries."""

    _output = "dense"

    @refuse_unknown_keywords
    def __init__(
        self,
        model: str | Path,
        *,
        precision: str = "auto",
        device: str | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
        max_length: int | None = None,
        plan: str | None = None,
        prompt: str | None = None,
        dimensions: int | None = None,
        normalize: bool | None = None,
    ) -> None:
        """Keeps the options; the model is loaded by `warm_up` or the first run.

        Args:
            model: a folder, a hub id such as "BAAI/bge-m3", or "minilm".
            precision, device, revision, local_files_only, max_length, plan: as in `tercet.load`.
            prompt: put before the text; None for the checkpoint's.
            dimensions, normalize: as in `Embedder.encode`.
        """
        options = LoadOptions(precision, device, revision, local_files_only, max_length, plan)
        saved = {"prompt": prompt, "dimensions": dimensions, "normalize": normalize}
        _Model.__init__(self, model, options, saved)

    @component.output_types(embedding=list[float])
    def run(self, text: str) -> dict[str, Any]:
        """{"embedding": the vector}."""
        return {"embedding": self._dense([self._text(text)], "query")[0]}

    @component.output_types(embedding=list[float])
    async def run_async(self, text: str) -> dict[str, Any]:
        """The same, in a thread of its own."""
        return await asyncio.to_thread(self.run, text)


@component
class HaystackDocumentEmbedder(_Model):
    """Documents with their dense vectors, with the prompt for documents."""

    _output = "dense"

    @refuse_unknown_keywords
    def __init__(
        self,
        model: str | Path,
        *,
        precision: str = "auto",
        device: str | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
        max_length: int | None = None,
        plan: str | None = None,
        prompt: str | None = None,
        dimensions: int | None = None,
        normalize: bool | None = None,
        meta_fields_to_embed: Sequence[str] = (),
        embedding_separator: str = "\n",
    ) -> None:
        """Keeps the options; see `HaystackTextEmbedder`.

        Args:
            model, precision, device, revision, local_files_only, max_length, plan: see there.
            prompt, dimensions, normalize: see there.
            meta_fields_to_embed: fields of a document's meta that stand before its content.
            embedding_separator: between them.
        """
        options = LoadOptions(precision, device, revision, local_files_only, max_length, plan)
        saved = {
            "prompt": prompt,
            "dimensions": dimensions,
            "normalize": normalize,
            "meta_fields_to_embed": _names(meta_fields_to_embed),
            "embedding_separator": embedding_separator,
        }
        _Model.__init__(self, model, options, saved)

    @component.output_types(documents=list[Document])
    def run(self, documents: list[Document]) -> dict[str, Any]:
        """{"documents": new ones with `embedding`}; those that were given stay as they are."""
        found = self._dense(self._document_texts(documents), "document")
        return {
            "documents": [
                replace(one, embedding=vector) for one, vector in zip(documents, found, strict=True)
            ]
        }

    @component.output_types(documents=list[Document])
    async def run_async(self, documents: list[Document]) -> dict[str, Any]:
        """The same, in a thread of its own."""
        return await asyncio.to_thread(self.run, documents)


@component
class HaystackSparseTextEmbedder(_Model):
    """The lexical weights of a text (BGE-M3, SPLADE), with the prompt for queries."""

    _output = "sparse"

    @refuse_unknown_keywords
    def __init__(
        self,
        model: str | Path,
        *,
        precision: str = "auto",
        device: str | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
        max_length: int | None = None,
        plan: str | None = None,
        prompt: str | None = None,
        max_active_dims: int | None = None,
    ) -> None:
        """Keeps the options; see `HaystackTextEmbedder`.

        Args:
            model, precision, device, revision, local_files_only, max_length, plan, prompt: see there.
            max_active_dims: so many of the largest weights of each text; None for all.
        """
        options = LoadOptions(precision, device, revision, local_files_only, max_length, plan)
        _Model.__init__(self, model, options, {"prompt": prompt, "max_active_dims": max_active_dims})

    @component.output_types(sparse_embedding=SparseEmbedding)
    def run(self, text: str) -> dict[str, Any]:
        """{"sparse_embedding": token ids, ascending, and their weights}."""
        return {"sparse_embedding": self._sparse([self._text(text)], "query")[0]}

    @component.output_types(sparse_embedding=SparseEmbedding)
    async def run_async(self, text: str) -> dict[str, Any]:
        """The same, in a thread of its own."""
        return await asyncio.to_thread(self.run, text)


@component
class HaystackSparseDocumentEmbedder(_Model):
    """Documents with their lexical weights (BGE-M3, SPLADE), with the prompt for documents."""

    _output = "sparse"

    @refuse_unknown_keywords
    def __init__(
        self,
        model: str | Path,
        *,
        precision: str = "auto",
        device: str | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
        max_length: int | None = None,
        plan: str | None = None,
        prompt: str | None = None,
        max_active_dims: int | None = None,
        meta_fields_to_embed: Sequence[str] = (),
        embedding_separator: str = "\n",
    ) -> None:
        """Keeps the options; see `HaystackDocumentEmbedder` and `HaystackSparseTextEmbedder`."""
        options = LoadOptions(precision, device, revision, local_files_only, max_length, plan)
        saved = {
            "prompt": prompt,
            "max_active_dims": max_active_dims,
            "meta_fields_to_embed": _names(meta_fields_to_embed),
            "embedding_separator": embedding_separator,
        }
        _Model.__init__(self, model, options, saved)

    @component.output_types(documents=list[Document])
    def run(self, documents: list[Document]) -> dict[str, Any]:
        """{"documents": new ones with `sparse_embedding`}; those that were given stay as they are."""
        found = self._sparse(self._document_texts(documents), "document")
        return {
            "documents": [
                replace(one, sparse_embedding=weights) for one, weights in zip(documents, found, strict=True)
            ]
        }

    @component.output_types(documents=list[Document])
    async def run_async(self, documents: list[Document]) -> dict[str, Any]:
        """The same, in a thread of its own."""
        return await asyncio.to_thread(self.run, documents)


def _names(fields: Sequence[str]) -> list[str]:
    """The fields; one string is no list of them, though it is a sequence of its letters."""
    if isinstance(fields, str):
        raise InputError(f"meta_fields_to_embed is the string {fields!r}. Pass a list: [{fields!r}].")
    return list(fields)
