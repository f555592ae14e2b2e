"""The CrossEncoder of sentence-transformers 6, over `tercet.load_reranker`."""

from __future__ import annotations

__all__ = ["CrossEncoder"]

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from tercet.compat.keywords import older_keywords
from tercet.compat.loaded import Loaded
from tercet.compat.sentence_options import (
    Device,
    merged_prompts,
    one_device,
    processed_length,
    source,
    wanted,
    without_processes,
)
from tercet.compat.sentence_results import given_as
from tercet.embedder.options import positive_integer
from tercet.errors import InputError
from tercet.reranker import Reranker, load_reranker
from tercet.signatures import refuse_unknown_keywords

Pairs: TypeAlias = Sequence[str] | Iterable[Sequence[str]] | np.ndarray
Function: TypeAlias = Callable[[Tensor], Tensor]


class CrossEncoder(Loaded[Reranker]):
    """A model that scores pairs, called as sentence-transformers' class of this name is called.

    docs/migration.md lists what differs. What Tercet has beyond that class is in `reranker`.

    Attributes:
        activation_fn: (pairs, labels) logits -> scores, where a call has none of its own.
        prompts: name -> text before each query.
        default_prompt_name: which of them is taken where none is asked for.
    """

    @older_keywords(
        model_name="model_name_or_path",
        automodel_args="model_kwargs",
        tokenizer_args="processor_kwargs",
        tokenizer_kwargs="processor_kwargs",
        config_args="config_kwargs",
        cache_dir="cache_folder",
        default_activation_function="activation_fn",
    )
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
        num_labels: int | None = None,
        max_length: int | None = None,
        activation_fn: Function | None = None,
        keep_in_fp32_modules: Sequence[str] | None = None,
    ) -> None:
        """Loads the model; the arguments that it shares with `SentenceTransformer` mean the same.

        Args:
            model_name_or_path: a folder or a hub id; one without an organisation is one of "cross-encoder".
            num_labels: must be what the model has: a head with others would be random.
            max_length: most tokens of a pair, special tokens included.
            activation_fn: what becomes of logits, such as torch.nn.Identity(); by default as saved, else
                the sigmoid of one label, and the logits of several.
            keep_in_fp32_modules: must stay empty: the head computes in float32 in any case.

        Raises:
            InputError, UnknownNameError: an option that cannot be.
            CheckpointError, SourceError, PrecisionError: as `tercet.load_reranker`.
        """
        name = source(
            model_name_or_path,
            "cross-encoder",
            modules=modules,
            trust_remote_code=trust_remote_code,
            model_card_data=model_card_data,
            backend=backend,
            token=token,
        )
        if keep_in_fp32_modules:
            raise InputError(
                f"keep_in_fp32_modules={list(keep_in_fp32_modules)!r}: the head computes in float32 in any "
                "case. For all of the model pass model_kwargs={'dtype': 'float32'}."
            )
        wish = wanted(model_kwargs, processor_kwargs, config_kwargs)
        opening = partial(
            load_reranker,
            name,
            revision=revision,
            token=token if isinstance(token, str) else None,
            local_files_only=local_files_only,
            cache_folder=cache_folder,
        )
        super().__init__(
            opening, precision=wish.precision, device=device if wish.device is None else wish.device
        )
        if num_labels is not None and num_labels != self.num_labels:
            raise InputError(
                f"num_labels={num_labels}: {self.reranker.checkpoint.name} has {self.num_labels}. Leave it "
                "out, or train a head for the others."
            )
        checkpoint = self.reranker.checkpoint
        self._take_prompts(
            merged_prompts(prompts, checkpoint), default_prompt_name or checkpoint.default_prompt_name
        )
        length = wish.max_length if max_length is None else max_length
        if length is not None:
            self.max_seq_length = length
        self.activation_fn = _module(self.reranker.activation) if activation_fn is None else activation_fn

    def __repr__(self) -> str:
        return f"CrossEncoder({self.reranker!r})"

    @property
    def reranker(self) -> Reranker:
        """What `tercet.load_reranker` gave: its `plan` says in which precision it runs and why."""
        return self._model

    @property
    def num_labels(self) -> int:
        """Scores of a pair."""
        return self.reranker.num_labels

    @property
    def max_length(self) -> int:
        """`max_seq_length`, by its older name."""
        return self.max_seq_length

    @max_length.setter
    def max_length(self, value: int) -> None:
        self.max_seq_length = value

    @older_keywords(sentences="inputs", activation_fct="activation_fn")
    @refuse_unknown_keywords
    def predict(
        self,
        inputs: Pairs,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        activation_fn: Function | None = None,
        apply_softmax: bool | None = False,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: Device | Sequence[Device] | None = None,
        pool: None = None,
        chunk_size: int | None = None,
        *,
        processing_kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """The scores of pairs, in their order.

        Args:
            inputs: (query, document) each; one pair gives one score, not in a list.
            prompt_name, prompt: what stands before each query, as in `SentenceTransformer.encode`.
            batch_size: checked, and without effect: pairs are packed by their tokens.
            show_progress_bar: without effect.
            activation_fn: for this call, (pairs, labels) float32 -> scores.
            apply_softmax: over the labels, behind the activation; without effect on one label.
            convert_to_numpy, convert_to_tensor: an array; a tensor on the model's device, which outranks it;
                a list of tensors where both are False.
            device, pool, chunk_size, processing_kwargs: as in `SentenceTransformer.encode`.

        Returns:
            (pairs,) float32, or (pairs, labels) of several.

        Raises:
            InputError: a pair is not two strings, or an option cannot be.
            NonFiniteError: a logit that is not finite even in float32.
        """
        positive_integer("batch_size", batch_size)
        without_processes(pool, chunk_size)
        if (there := one_device(device)) is not None:
            self.to(there)
        found: Any = inputs.tolist() if isinstance(inputs, np.ndarray) else inputs
        alone = (
            isinstance(found, (list, tuple)) and len(found) > 0 and all(isinstance(one, str) for one in found)
        )
        logits = self.reranker.score(
            [found] if alone else found,
            activation="Identity",
            prompt=self._prompt(prompt, prompt_name),
            max_length=processed_length(processing_kwargs) or self._max_length,
        )
        scores = (self.activation_fn if activation_fn is None else activation_fn)(
            logits.reshape(-1, self.num_labels)
        )
        if self.num_labels == 1 and scores.ndim > 1:
            scores = scores.squeeze(-1)
        if apply_softmax and scores.ndim > 1:
            scores = torch.softmax(scores, dim=1)
        return given_as(
            scores.detach(),
            alone=alone,
            to_numpy=convert_to_numpy,
            to_tensor=convert_to_tensor,
            device=self.reranker.plan.device,
        )

    @older_keywords(activation_fct="activation_fn")
    @refuse_unknown_keywords
    def rank(
        self,
        query: str,
        documents: Sequence[str],
        top_k: int | None = None,
        return_documents: bool = False,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        activation_fn: Function | None = None,
        device: Device | Sequence[Device] | None = None,
        pool: None = None,
        chunk_size: int | None = None,
    ) -> list[dict[str, Any]]:
        """The documents by their scores for one query, best first; equal ones in the order they came in.

        Args:
            query: the query.
            documents: the documents.
            top_k: only so many; None for all.
            return_documents: with their texts.
            prompt_name, prompt, batch_size, show_progress_bar, activation_fn, device, pool, chunk_size: as in
                `predict`.

        Returns:
            {"corpus_id": place, "score": float, "text": document where asked for} each.

        Raises:
            InputError: the model has several labels, of which none says what is better.
        """
        if self.num_labels != 1:
            raise InputError(
                f"{self.reranker.checkpoint.name} gives {self.num_labels} scores a pair, and it is not known "
                "which ranks. Use predict(), and sort by the label that is meant."
            )
        if not isinstance(query, str) or isinstance(documents, (str, bytes)):
            raise InputError("rank takes one query, a string, and a list of documents.")
        top = None if top_k is None else positive_integer("top_k", top_k)
        texts = list(documents)
        scores = self.predict(
            [(query, text) for text in texts],
            prompt_name,
            prompt,
            batch_size,
            show_progress_bar,
            activation_fn,
            convert_to_tensor=True,
            device=device,
            pool=pool,
            chunk_size=chunk_size,
        ).tolist()
        order = sorted(range(len(texts)), key=lambda place: -scores[place])
        return [
            {
                "corpus_id": place,
                "score": scores[place],
                **({"text": texts[place]} if return_documents else {}),
            }
            for place in order[:top]
        ]


def _module(name: str) -> torch.nn.Module:
    """The module of torch.nn that a reranker's activation names; code compares its class."""
    last = name.rpartition(".")[2]
    made: torch.nn.Module = torch.nn.Softmax(dim=-1) if last == "Softmax" else getattr(torch.nn, last)()
    return made
