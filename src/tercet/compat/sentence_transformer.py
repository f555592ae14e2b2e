"""The SentenceTransformer of sentence-transformers 6, over `tercet.load`."""

from __future__ import annotations

__all__ = ["SentenceTransformer"]

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from tercet.compat.keywords import older_keywords
from tercet.compat.loaded import Loaded
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
from tercet.compat.sentence_results import Precision, checked_precision, given_as, in_precision, watched
from tercet.compat.similarities import PAIRWISE, SIMILARITIES, Vectors, similarity_name
from tercet.embedder import Embedder, load
from tercet.embedder.options import positive_integer
from tercet.embedder.token_vectors import token_vectors
from tercet.errors import InputError, UnknownNameError, nearest
from tercet.quantization import Quantizer
from tercet.signatures import refuse_unknown_keywords

logger = logging.getLogger(__name__)

OutputValue = Literal["sentence_embedding", "token_embeddings"] | None
_OUTPUT_VALUES = ("sentence_embedding", "token_embeddings")
_DOCUMENT_PROMPTS = ("document", "passage", "corpus")


class SentenceTransformer(Loaded[Embedder]):
    """A model of sentence vectors, called as sentence-transformers' class of this name is called.

    docs/migration.md lists what differs. What that class has beyond encoding (training, saving, modules by
    number) is not here; what Tercet has beyond that class is in `embedder`.

    Attributes:
        prompts: name -> text before each text.
        default_prompt_name: which of them is taken where none is asked for.
        truncate_dim: dense vectors are cut to so many dimensions; None for all.
        quantizer: what `encode(precision="int8")` stores vectors with; fitted once, by the caller.
    """

    @older_keywords(tokenizer_kwargs="processor_kwargs", use_auth_token="token")
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
        truncate_dim: int | None = None,
    ) -> None:
        """Loads the model.

        Args:
            model_name_or_path: a folder, a hub id, or "minilm" for the packaged all-MiniLM-L6-v2; an id
                without an organisation is one of sentence-transformers'.
            modules, model_card_data: must stay None: a model comes from its folder.
            device: "cpu", "cuda:1", "mps", a torch.device; None for the best that is there.
            prompts: name -> text before each text; they outrank the checkpoint's.
            default_prompt_name: which of them is taken where none is asked for.
            cache_folder, revision, local_files_only, token: for the hub; a token that is True is the one that
                `hf auth login` saved.
            trust_remote_code: must stay False: code out of a model's repository is never run.
            model_kwargs: {"dtype": ...} or {"torch_dtype": ...} asks for a precision in any spelling, "int8"
                and "checkpoint" included; without one, and with "auto", it is planned for this machine.
                {"device_map": one device} outranks `device`. Other choices of transformers that change no
                vector are accepted.
            processor_kwargs: {"model_max_length": ...} limits the tokens of a text.
            config_kwargs: a dtype, as in `model_kwargs`.
            backend: must stay "torch"; the plan chooses the engine.
            similarity_fn_name: "cosine", "dot", "euclidean" or "manhattan"; by default as saved, else cosine.
            truncate_dim: cut dense vectors to so many dimensions; by default as saved.

        Raises:
            InputError, UnknownNameError: an option that cannot be.
            CheckpointError, SourceError, PrecisionError: as `tercet.load`.
        """
        name = source(
            model_name_or_path,
            "sentence-transformers",
            modules=modules,
            trust_remote_code=trust_remote_code,
            model_card_data=model_card_data,
            backend=backend,
            token=token,
        )
        wish = wanted(model_kwargs, processor_kwargs, config_kwargs)
        asked_similarity = similarity_name(similarity_fn_name)
        self._dimensions: int | None = None
        self.truncate_dim = truncate_dim
        opening = partial(
            load,
            name,
            outputs="dense",
            revision=revision,
            token=token if isinstance(token, str) else None,
            local_files_only=local_files_only,
            cache_folder=cache_folder,
        )
        super().__init__(
            opening, precision=wish.precision, device=device if wish.device is None else wish.device
        )
        checkpoint = self.embedder.checkpoint
        self._take_prompts(
            merged_prompts(prompts, checkpoint, always=("query", "document")),
            default_prompt_name or checkpoint.default_prompt_name,
        )
        if truncate_dim is None:
            self.truncate_dim = checkpoint.truncate_dim
        if wish.max_length is not None:
            self.max_seq_length = wish.max_length
        if asked_similarity is None and (saved := saved_similarity(checkpoint)) in SIMILARITIES:
            asked_similarity = similarity_name(saved)
        self._similarity = asked_similarity
        self.quantizer: Quantizer | None = None

    def __repr__(self) -> str:
        return f"SentenceTransformer({self.embedder!r})"

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
        output_value: OutputValue = "sentence_embedding",
        precision: Precision | None = "float32",
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: Device | Sequence[Device] | None = None,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        pool: None = None,
        chunk_size: int | None = None,
        *,
        task: str | None = None,
        processing_kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """The texts' vectors, in their order.

        Args:
            inputs: a text, or several in any iterable that has an order; a text may also be {"text": it}.
            prompt_name: which of `prompts` stands before each text.
            prompt: the prompt itself; it outranks `prompt_name`, and that `default_prompt_name`.
            batch_size: checked, and without effect: texts are packed by their tokens, to the plan's budget,
                and no vector depends on what it was packed with.
            show_progress_bar: by default where the logger "tercet" tells of information; at a terminal only.
            output_value: "sentence_embedding"; "token_embeddings" for each text's (tokens, hidden) as the
                encoder makes them; None for a dict a text with both, "input_ids" and "attention_mask". The
                latter two give tensors whatever the flags say, and are never padded.
            precision: of what comes out; 8-bit codes need `quantizer`.
            convert_to_numpy, convert_to_tensor: an array (texts, dim) float32; a tensor on the model's
                device, which outranks it; a list of tensors where both are False. One text gives one row.
            device: where to compute from now on; another device loads the model anew there.
            normalize_embeddings: unit length, whatever the checkpoint says.
            truncate_dim: the first so many dimensions, not made unit length again unless that is asked for.
            pool, chunk_size: must stay None: no processes are started, and one uses all cores.
            task: "query" or "document", where a model embeds them differently.
            processing_kwargs: {"text": {"max_length": 64}} limits the tokens of a text, for this call.

        Returns:
            What the flags say, as above; of no texts, something of length 0.

        Raises:
            InputError, UnknownNameError: a text or an option that cannot be.
            PrecisionError: 8-bit codes without a quantizer.
            NonFiniteError: a vector that is not finite even in float32.
        """
        texts, alone = as_texts(inputs)
        positive_integer("batch_size", batch_size)
        if output_value is not None and output_value not in _OUTPUT_VALUES:
            raise UnknownNameError(
                f"output_value is {output_value!r}. {nearest(str(output_value), _OUTPUT_VALUES)}"
            )
        precision = checked_precision(precision, self.quantizer)
        if output_value != "sentence_embedding" and precision != "float32":
            raise InputError(f"precision={precision!r} is for sentence embeddings; of tokens, leave it out.")
        without_processes(pool, chunk_size)
        there = one_device(device)
        if there is not None:
            self.to(there)
        prompt = self._prompt(prompt, prompt_name)
        max_length = processed_length(processing_kwargs) or self._max_length
        if output_value == "token_embeddings":
            rows = [text["token_embeddings"] for text in self._tokens(texts, prompt, max_length, task)]
            return rows[0] if alone else rows
        whole = self.embedder.checkpoint.dense_dim
        dimensions = _checked_dimensions(self.truncate_dim if truncate_dim is None else truncate_dim)
        dimensions = whole if dimensions is None else min(dimensions, whole)
        cut = dimensions < whole
        # Routes may differ in width: all columns are asked for by number only against a saved truncation.
        every = None if self.embedder.checkpoint.truncate_dim is None else whole
        options: dict[str, Any] = {
            "prompt": prompt,
            "max_length": max_length,
            # Cut and normalised is one step there; cut alone is not what `dimensions` means.
            "dimensions": dimensions if cut and normalize_embeddings else every,
            "normalize": True if normalize_embeddings else None,
        }
        if self.embedder.checkpoint.routes is not None:  # any task is accepted where there is but one way
            options["task"] = task

        def vectors(part: Sequence[str]) -> Tensor:
            dense = self.embedder.encode(part, **options).dense
            assert dense is not None
            return dense if dense.shape[1] <= dimensions else dense[:, :dimensions].contiguous()

        if show_progress_bar is None:
            show_progress_bar = logger.getEffectiveLevel() in (logging.INFO, logging.DEBUG)
        made = watched(vectors, texts, shown=show_progress_bar, join=torch.cat)
        if output_value is None:
            features = self._tokens(texts, prompt, max_length, task)
            for text, vector in zip(features, made.to(self.device), strict=True):
                text["sentence_embedding"] = vector
            return features[0] if alone else features
        return given_as(
            in_precision(made, precision, self.quantizer),
            alone=alone,
            to_numpy=convert_to_numpy,
            to_tensor=convert_to_tensor,
            device=self.embedder.plan.device,
        )

    @older_keywords(sentences="inputs")
    @refuse_unknown_keywords
    def encode_query(
        self,
        inputs: Texts,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        output_value: OutputValue = "sentence_embedding",
        precision: Precision | None = "float32",
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: Device | Sequence[Device] | None = None,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
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
            output_value,
            precision,
            convert_to_numpy,
            convert_to_tensor,
            device,
            normalize_embeddings,
            truncate_dim,
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
        output_value: OutputValue = "sentence_embedding",
        precision: Precision | None = "float32",
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: Device | Sequence[Device] | None = None,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
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
            output_value,
            precision,
            convert_to_numpy,
            convert_to_tensor,
            device,
            normalize_embeddings,
            truncate_dim,
            pool,
            chunk_size,
            task="document",
            processing_kwargs=processing_kwargs,
        )

    def similarity(self, embeddings1: Vectors, embeddings2: Vectors) -> Tensor:
        """(first, second): how alike each vector of one set is to each of the other, in float32.

        Distances are negative, so that more is more alike. One vector (dim,) is a set of one.
        """
        return SIMILARITIES[self.similarity_fn_name](embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: Vectors, embeddings2: Vectors) -> Tensor:
        """(pairs,): how alike the vectors of each pair are; of two vectors (dim,), one number."""
        return PAIRWISE[self.similarity_fn_name](embeddings1, embeddings2)

    @property
    def similarity_fn_name(self) -> str:
        """What `similarity` measures: "cosine", "dot", "euclidean" or "manhattan"."""
        return self._similarity or "cosine"

    @similarity_fn_name.setter
    def similarity_fn_name(self, value: object) -> None:
        self._similarity = similarity_name(value)

    @property
    def truncate_dim(self) -> int | None:
        """How many dimensions a dense vector is cut to, None for all."""
        return self._dimensions

    @truncate_dim.setter
    def truncate_dim(self, value: int | None) -> None:
        self._dimensions = _checked_dimensions(value)

    @contextmanager
    def truncate_embeddings(self, truncate_dim: int | None) -> Iterator[None]:
        """A context in which dense vectors are cut to so many dimensions."""
        before = self.truncate_dim
        self.truncate_dim = truncate_dim
        try:
            yield
        finally:
            self.truncate_dim = before

    truncate_sentence_embeddings = truncate_embeddings  # its older name

    def get_embedding_dimension(self) -> int:
        """Width of the vectors that `encode` gives."""
        whole = self.embedder.checkpoint.dense_dim
        return whole if self.truncate_dim is None else min(whole, self.truncate_dim)

    get_sentence_embedding_dimension = get_embedding_dimension  # its older name

    def _tokens(
        self, texts: Sequence[str], prompt: str, max_length: int | None, task: str | None
    ) -> list[dict[str, Tensor]]:
        """Each text's token ids and vectors, on the model's device, under that library's names."""
        found = token_vectors(self.embedder, texts, prompt=prompt, max_length=max_length, task=task)
        return [
            {
                "input_ids": torch.tensor(ids, device=self.device),
                "attention_mask": torch.ones(len(ids), dtype=torch.int64, device=self.device),
                "token_embeddings": one.vectors.to(self.device),
            }
            for ids, one in zip(found.ids, found.vectors, strict=True)
        ]


def _checked_dimensions(value: int | None) -> int | None:
    return None if value is None else positive_integer("truncate_dim", value)
