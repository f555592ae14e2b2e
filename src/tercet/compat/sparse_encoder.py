"""The SparseEncoder of sentence-transformers 6, over `tercet.load`."""

from __future__ import annotations

__all__ = ["SparseEncoder"]

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tercet.checkpoint.layout import open_checkpoint
from tercet.checkpoint.source import find
from tercet.compat.keywords import older_keywords
from tercet.compat.loaded import Loaded
from tercet.compat.right_class import named
from tercet.compat.sentence_inputs import Texts, as_texts
from tercet.compat.sentence_options import (
    Device,
    merged_prompts,
    one_device,
    processed_length,
    saved_similarity,
    source,
    wanted,
    without_processes,
)
from tercet.compat.sentence_results import watched
from tercet.compat.similarities import SIMILARITIES, similarity_name
from tercet.compat.sparse_results import SparseLike, as_vectors, is_one, rows_of, tensor_of
from tercet.compat.sparse_similarities import SPARSE_PAIRWISE, SPARSE_SIMILARITIES
from tercet.embedder import Embedder, load
from tercet.embedder.options import positive_integer
from tercet.embeddings import SparseVectors
from tercet.errors import CheckpointError, InputError
from tercet.signatures import refuse_unknown_keywords

logger = logging.getLogger(__name__)

_DOCUMENT_PROMPTS = ("document", "passage", "corpus")


class SparseEncoder(Loaded[Embedder]):
    """A model of sparse vectors, called as sentence-transformers' class of this name is called.

    docs/migration.md lists what differs. What that class has beyond encoding (training, saving, modules by
    number) is not here; what Tercet has beyond that class is in `embedder`.

    Attributes:
        prompts: name -> text before each text.
        default_prompt_name: which of them is taken where none is asked for.
        max_active_dims: so many of the largest weights of each vector are kept; None for all.
    """

    @older_keywords(tokenizer_kwargs="processor_kwargs")
    @refuse_unknown_keywords
    def __init__(
        self,
        model_name_or_path: str | Path | None = None,
        *,
        modules: None = None,
        device: Device | None = None,
        prompts: Mapping[str, str] | None = None,
        default_prompt_name: str | None = None,
        cache_folder: str | Path | None = None,
        trust_remote_code: bool = False,
        revision: str | None = None,
        local_files_only: bool = False,
        token: bool | str | None = None,
        model_kwargs: Mapping[str, Any] | None = None,
        processor_kwargs: Mapping[str, Any] | None = None,
        config_kwargs: Mapping[str, Any] | None = None,
        model_card_data: None = None,
        backend: str = "torch",
        similarity_fn_name: object = None,
        max_active_dims: int | None = None,
    ) -> None:
        """Loads the model.

        Args:
            model_name_or_path: a folder or a hub id; an id without an organisation is one of
                sparse-encoder's. A *ForMaskedLM folder without modules is a SPLADE model, pooled by "max".
            modules, model_card_data: must stay None: a model comes from its folder.
            device: "cpu", "cuda:1", "mps", a torch.device; None for the best that is there.
            prompts: name -> text before each text; they outrank the checkpoint's.
            default_prompt_name: which of them is taken where none is asked for.
            cache_folder, revision, local_files_only, token: for the hub; a token that is True is the one that
                `hf auth login` saved.
            trust_remote_code: must stay False: code out of a model's repository is never run.
            model_kwargs, processor_kwargs, config_kwargs: as `SentenceTransformer`'s.
            backend: must stay "torch"; the plan chooses the engine.
            similarity_fn_name: "dot", "cosine", "euclidean" or "manhattan"; by default as saved, else dot.
            max_active_dims: keep so many of the largest weights of each vector; by default as saved, else
                all, or a SparseAutoEncoder's own number.

        Raises:
            InputError, UnknownNameError: an option that cannot be.
            CheckpointError: the model makes no sparse vectors, or as `tercet.load`.
            SourceError, PrecisionError: as `tercet.load`.
        """
        name = source(
            model_name_or_path,
            "sparse-encoder",
            modules=modules,
            trust_remote_code=trust_remote_code,
            model_card_data=model_card_data,
            backend=backend,
            token=token,
        )
        wish = wanted(model_kwargs, processor_kwargs, config_kwargs)
        self._most: int | None = None
        self.max_active_dims = max_active_dims
        asked_similarity = similarity_name(similarity_fn_name)
        hub: dict[str, Any] = {
            "revision": revision,
            "token": token if isinstance(token, str) else None,
            "local_files_only": local_files_only,
            "cache_folder": cache_folder,
        }
        try:
            pooling = _pooling(name, hub)
        except CheckpointError as error:
            raise named(error, "SparseEncoder", name, hub) from error
        opening = partial(load, name, outputs="sparse", pooling=pooling, **hub)
        super().__init__(
            opening, precision=wish.precision, device=device if wish.device is None else wish.device
        )
        checkpoint = self.embedder.checkpoint
        self._take_prompts(
            merged_prompts(prompts, checkpoint, always=("query", "document")),
            default_prompt_name or checkpoint.default_prompt_name,
        )
        if max_active_dims is None:
            encoder = checkpoint.module("sparse_auto_encoder")
            # Routes may have numbers of their own.
            own = None if encoder is None or checkpoint.routes is not None else encoder.config["k"]
            self.max_active_dims = own if checkpoint.max_active_dims is None else checkpoint.max_active_dims
        if wish.max_length is not None:
            self.max_seq_length = wish.max_length
        if asked_similarity is None and (saved := saved_similarity(checkpoint)) in SIMILARITIES:
            asked_similarity = similarity_name(saved)
        self._similarity = asked_similarity

    def __repr__(self) -> str:
        return f"SparseEncoder({self.embedder!r})"

    @property
    def embedder(self) -> Embedder:
        """What `tercet.load` gave: its `plan` says in which precision it runs and why."""
        return self._model

    @older_keywords(sentences="inputs")
    @refuse_unknown_keywords
    def encode(
        self,
        inputs: Texts,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        convert_to_tensor: bool = True,
        convert_to_sparse_tensor: bool = True,
        save_to_cpu: bool = False,
        device: Device | Sequence[Device] | None = None,
        max_active_dims: int | None = None,
        pool: None = None,
        chunk_size: int | None = None,
        *,
        task: str | None = None,
        processing_kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """The texts' sparse vectors, in their order.

        Args:
            inputs: a text, or several in any iterable that has an order; a text may also be {"text": it}.
            prompt_name: which of `prompts` stands before each text.
            prompt: the prompt itself; it outranks `prompt_name`, and that `default_prompt_name`.
            batch_size: checked, and without effect: texts are packed by their tokens, to the plan's budget,
                and no vector depends on what it was packed with.
            show_progress_bar: by default where the logger "tercet" tells of information; at a terminal only.
            convert_to_tensor: one tensor (texts, dim); else a list of tensors (dim,). One text gives (dim,).
            convert_to_sparse_tensor: coalesced COO; else every zero is written out.
            save_to_cpu: the result lies on the CPU, not on the model's device.
            device: where to compute from now on; another device loads the model anew there.
            max_active_dims: so many of the largest weights, for this call.
            pool, chunk_size: must stay None: no processes are started, and one uses all cores.
            task: "query" or "document", where a model embeds them differently.
            processing_kwargs: {"text": {"max_length": 64}} limits the tokens of a text, for this call.

        Returns:
            What the flags say, in float32; of no texts a tensor of shape (0,), or an empty list.

        Raises:
            InputError, UnknownNameError: a text or an option that cannot be.
            NonFiniteError: a weight that is not finite even in float32.
        """
        texts, alone = as_texts(inputs)
        positive_integer("batch_size", batch_size)
        without_processes(pool, chunk_size)
        there = one_device(device)
        if there is not None:
            self.to(there)
        options: dict[str, Any] = {
            "prompt": self._prompt(prompt, prompt_name),
            "max_length": processed_length(processing_kwargs) or self._max_length,
            "max_active_dims": _checked(max_active_dims) or self.max_active_dims,
        }
        if self.embedder.checkpoint.routes is not None:  # any task is accepted where there is but one way
            options["task"] = task

        def vectors(part: Sequence[str]) -> SparseVectors:
            found = self.embedder.encode(part, outputs="sparse", **options).sparse
            assert found is not None
            return found

        if show_progress_bar is None:
            show_progress_bar = logger.getEffectiveLevel() in (logging.INFO, logging.DEBUG)
        made = watched(vectors, texts, shown=show_progress_bar, join=SparseVectors.concat)
        place = "cpu" if save_to_cpu else self.device
        if not convert_to_tensor:
            rows = rows_of(made, sparse=convert_to_sparse_tensor, device=place)
            return rows[0] if alone else rows
        if not len(made):  # of no texts nothing is known, not even the width
            nothing = torch.empty(0, device=place)
            return nothing.to_sparse() if convert_to_sparse_tensor else nothing
        if alone:
            return rows_of(made, sparse=convert_to_sparse_tensor, device=place)[0]
        return tensor_of(made, sparse=convert_to_sparse_tensor, device=place)

    @older_keywords(sentences="inputs")
    @refuse_unknown_keywords
    def encode_query(
        self,
        inputs: Texts,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        convert_to_tensor: bool = True,
        convert_to_sparse_tensor: bool = True,
        save_to_cpu: bool = False,
        device: Device | Sequence[Device] | None = None,
        max_active_dims: int | None = None,
        pool: None = None,
        chunk_size: int | None = None,
        *,
        processing_kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """`encode` of queries: with the prompt "query", where there is one and no other is asked for."""
        if prompt_name is None and prompt is None and "query" in self.prompts:
            prompt_name = "query"
        return self.encode(
            inputs,
            prompt_name,
            prompt,
            batch_size,
            show_progress_bar,
            convert_to_tensor,
            convert_to_sparse_tensor,
            save_to_cpu,
            device,
            max_active_dims,
            pool,
            chunk_size,
            task="query",
            processing_kwargs=processing_kwargs,
        )

    @older_keywords(sentences="inputs")
    @refuse_unknown_keywords
    def encode_document(
        self,
        inputs: Texts,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        convert_to_tensor: bool = True,
        convert_to_sparse_tensor: bool = True,
        save_to_cpu: bool = False,
        device: Device | Sequence[Device] | None = None,
        max_active_dims: int | None = None,
        pool: None = None,
        chunk_size: int | None = None,
        *,
        processing_kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """`encode` of documents: with the first there is of the prompts "document", "passage" and "corpus".

        As there, "document" is always among `prompts`, empty where nobody says otherwise.
        """
        if prompt_name is None and prompt is None:
            prompt_name = next((name for name in _DOCUMENT_PROMPTS if name in self.prompts), None)
        return self.encode(
            inputs,
            prompt_name,
            prompt,
            batch_size,
            show_progress_bar,
            convert_to_tensor,
            convert_to_sparse_tensor,
            save_to_cpu,
            device,
            max_active_dims,
            pool,
            chunk_size,
            task="document",
            processing_kwargs=processing_kwargs,
        )

    def similarity(self, embeddings1: SparseLike, embeddings2: SparseLike) -> Tensor:
        """(first, second): how alike each vector of one set is to each of the other, in float32.

        Vectors may be sparse or written out. Distances are negative, so that more is more alike.
        """
        return SPARSE_SIMILARITIES[self.similarity_fn_name](embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: SparseLike, embeddings2: SparseLike) -> Tensor:
        """(pairs,): how alike the vectors of each pair are; of two vectors (dim,), one number."""
        return SPARSE_PAIRWISE[self.similarity_fn_name](embeddings1, embeddings2)

    @property
    def similarity_fn_name(self) -> str:
        """What `similarity` measures: "dot", "cosine", "euclidean" or "manhattan"."""
        return self._similarity or "dot"

    @similarity_fn_name.setter
    def similarity_fn_name(self, value: object) -> None:
        self._similarity = similarity_name(value)

    @property
    def max_active_dims(self) -> int | None:
        """How many of the largest weights of each vector are kept, None for all."""
        return self._most

    @max_active_dims.setter
    def max_active_dims(self, value: int | None) -> None:
        self._most = _checked(value)

    def get_embedding_dimension(self) -> int:
        """Width of the vectors that `encode` gives."""
        found = self.embedder.encode_document([], outputs="sparse").sparse
        assert found is not None
        return found.vocabulary

    get_sentence_embedding_dimension = get_embedding_dimension  # its older name

    @staticmethod
    def sparsity(embeddings: Tensor) -> dict[str, float]:
        """How many dimensions are not zero ("active_dims"), and the share that is ("sparsity_ratio").

        Args:
            embeddings: (dim,), or (texts, dim), of which both are means.
        """
        _checked_tensor(embeddings)
        if not embeddings.numel():
            return {"active_dims": 0.0, "sparsity_ratio": 1.0}
        found = as_vectors(embeddings)
        active = len(found.token_ids) / len(found)
        return {"active_dims": active, "sparsity_ratio": 1.0 - active / found.vocabulary}

    @staticmethod
    def intersection(embeddings_1: Tensor, embeddings_2: Tensor) -> Tensor:
        """The product with one vector (dim,), where it is above zero: sparse, in the shape of the second.

        Args:
            embeddings_1: (dim,).
            embeddings_2: (dim,) or (texts, dim).
        """
        _checked_tensor(embeddings_1)
        _checked_tensor(embeddings_2)
        if embeddings_1.ndim != 1:
            raise InputError(f"embeddings_1 is {tuple(embeddings_1.shape)}; pass one vector (dim,).")
        one, found = as_vectors(embeddings_1), as_vectors(embeddings_2)
        if one.vocabulary != found.vocabulary:
            raise InputError(
                f"Vectors of {one.vocabulary} and {found.vocabulary} dimensions share none. Encode both with "
                "one model."
            )
        table = one.weights.new_zeros(one.vocabulary)
        table[one.token_ids] = one.weights
        products = found.weights * table[found.token_ids]
        shared = products > 0
        counts = torch.bincount(found.rows[shared], minlength=len(found))
        offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        made = SparseVectors(found.token_ids[shared], products[shared], offsets, found.vocabulary)
        if is_one(embeddings_2):
            return rows_of(made, sparse=True, device=embeddings_2.device)[0]
        return tensor_of(made, sparse=True, device=embeddings_2.device)

    def decode(
        self, embeddings: Tensor, top_k: int | None = None
    ) -> list[tuple[str, float]] | list[list[tuple[str, float]]]:
        """(piece of the vocabulary, weight) of what is not zero, largest first; a list of such for a matrix.

        Args:
            embeddings: (dim,) or (texts, dim), sparse or written out.
            top_k: at most so many.

        Raises:
            InputError: the dimensions of this model are no words, or an argument cannot be.
        """
        most = None if top_k is None else positive_integer("top_k", top_k)
        if self.embedder.checkpoint.module("sparse_auto_encoder") is not None:
            raise InputError(
                f"{self.embedder.checkpoint.name}: its dimensions are features of a SparseAutoEncoder, not "
                "words, so there is nothing to read."
            )
        _checked_tensor(embeddings)
        found = as_vectors(embeddings)
        decoded = []
        for one in found:
            order = torch.argsort(one.weights, descending=True, stable=True)[:most]
            ids, weights = one.token_ids[order].tolist(), one.weights[order].tolist()
            decoded.append([(self.tokenizer.id_to_token(i), w) for i, w in zip(ids, weights, strict=True)])
        return decoded[0] if is_one(embeddings) else decoded


def _pooling(name: str | Path, hub: Mapping[str, Any]) -> str | None:
    """What a folder without modules.json is pooled by: SPLADE's maximum, of a masked-language head.

    Raises:
        CheckpointError: it makes no sparse vectors.
    """
    checkpoint = open_checkpoint(find(name, headers_only=True, **hub))
    if "sparse" in checkpoint.outputs:
        return None
    kinds = checkpoint.config.get("architectures") or ()
    if checkpoint.layout == "huggingface" and any(str(kind).endswith("ForMaskedLM") for kind in kinds):
        return "splade"
    raise CheckpointError(
        f"{checkpoint.name} makes {', '.join(checkpoint.outputs)} vectors, and no module of it makes sparse "
        "ones; none is added here, for its weights would be random."
    )


def _checked(value: int | None) -> int | None:
    return None if value is None else positive_integer("max_active_dims", value)


def _checked_tensor(embeddings: object) -> None:
    if not isinstance(embeddings, Tensor) or embeddings.ndim not in (1, 2):
        shape = tuple(embeddings.shape) if isinstance(embeddings, Tensor) else type(embeddings).__name__
        raise InputError(f"The embeddings are {shape}; pass a tensor (dim,) or (texts, dim).")
