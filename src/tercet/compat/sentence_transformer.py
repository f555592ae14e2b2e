"""The SentenceTransformer of sentence-transformers 6, over `tercet.load`."""

from __future__ import annotations

__all__ = ["SentenceTransformer"]

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor

from tercet.compat.keywords import older_keywords
from tercet.compat.sentence_inputs import Texts, as_texts
from tercet.compat.sentence_options import (
    Device,
    merged_prompts,
    model_id,
    one_device,
    processed_length,
    refusal_of_code,
    saved_similarity,
    wanted,
)
from tercet.compat.sentence_results import Precision, checked_precision, given_as, in_precision, watched
from tercet.compat.similarities import PAIRWISE, SIMILARITIES, Vectors, similarity_name
from tercet.embedder import load
from tercet.embedder.options import limited, positive_integer
from tercet.embedder.token_vectors import token_vectors
from tercet.errors import InputError, UnknownNameError, nearest
from tercet.model import position_limit
from tercet.precision.hardware import find_device
from tercet.quantization import Quantizer
from tercet.signatures import refuse_unknown_keywords
from tercet.text.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

OutputValue = Literal["sentence_embedding", "token_embeddings"] | None
_OUTPUT_VALUES = ("sentence_embedding", "token_embeddings")
_DOCUMENT_PROMPTS = ("document", "passage", "corpus")


class SentenceTransformer:
    """A model of sentence vectors, called as sentence-transformers' class of this name is called.

    docs/migration.md lists what differs. What that class has beyond encoding (training, saving, modules by
    number) is not here; what Tercet has beyond that class is in `embedder`.

    Attributes:
        embedder: what `tercet.load` gave: its `plan` says in which precision it runs and why.
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
        if model_name_or_path is None or modules is not None:
            raise InputError(
                "A model is loaded from its folder or from the hub, not made of modules: pass "
                "model_name_or_path."
            )
        if trust_remote_code:
            raise InputError(refusal_of_code("trust_remote_code"))
        if model_card_data is not None:
            raise InputError(
                "model_card_data belongs to training, which this class does not do. Leave it out."
            )
        if backend != "torch":
            raise InputError(
                f"backend is {backend!r}. Leave it out: the plan chooses the engine that is fastest here, "
                "and a precision is asked for as in model_kwargs={'dtype': 'int8'}."
            )
        if token is False:
            raise InputError("token=False cannot be: pass None, and log out with 'hf auth logout'.")
        wish = wanted(model_kwargs, processor_kwargs, config_kwargs)
        asked_similarity = similarity_name(similarity_fn_name)
        self._max_length: int | None = None
        self._dimensions: int | None = None
        self.truncate_dim = truncate_dim
        self._load = partial(
            load,
            model_id(model_name_or_path),
            outputs="dense",
            revision=revision,
            token=token if isinstance(token, str) else None,
            local_files_only=local_files_only,
            cache_folder=cache_folder,
        )
        self._precision = wish.precision
        self.embedder = self._load(
            precision=wish.precision, device=device if wish.device is None else wish.device
        )
        checkpoint = self.embedder.checkpoint
        self.prompts = merged_prompts(prompts, checkpoint)
        self.default_prompt_name = default_prompt_name or checkpoint.default_prompt_name
        if self.default_prompt_name is not None and self.default_prompt_name not in self.prompts:
            raise InputError(
                f"default_prompt_name {self.default_prompt_name!r} is none of the prompts. "
                f"{nearest(str(self.default_prompt_name), self.prompts)}"
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
        if pool is not None or chunk_size is not None:
            raise InputError(
                "pool and chunk_size belong to processes, and none are started: one process uses all cores. "
                "Leave them out; for several GPUs make one object a GPU, and give each its share of texts."
            )
        there = one_device(device)
        if there is not None:
            self.to(there)
        prompt = self._prompt(prompt, prompt_name)
        max_length = processed_length(processing_kwargs) or self._max_length
        if output_value == "token_embeddings":
            rows = [text["token_embeddings"] for text in self._tokens(texts, prompt, max_length)]
            return rows[0] if alone else rows
        whole = self.embedder.checkpoint.dense_dim
        dimensions = _checked_dimensions(self.truncate_dim if truncate_dim is None else truncate_dim)
        dimensions = whole if dimensions is None else min(dimensions, whole)
        options: dict[str, Any] = {
            "prompt": prompt,
            "max_length": max_length,
            # Cut and normalised is one step there; cut alone is not what `dimensions` means.
            "dimensions": dimensions if normalize_embeddings else whole,
            "normalize": True if normalize_embeddings else None,
        }
        role = {"query": self.embedder.encode_query, "document": self.embedder.encode_document}
        encode = role.get(task or "", self.embedder.encode)

        def vectors(part: Sequence[str]) -> Tensor:
            dense = encode(part, **options).dense
            assert dense is not None
            return dense if dense.shape[1] == dimensions else dense[:, :dimensions].contiguous()

        if show_progress_bar is None:
            show_progress_bar = logger.getEffectiveLevel() in (logging.INFO, logging.DEBUG)
        made = watched(vectors, texts, shown=show_progress_bar)
        if output_value is None:
            features = self._tokens(texts, prompt, max_length)
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

    @property
    def max_seq_length(self) -> int:
        """Most tokens of a text, special tokens included; never more than the model has positions for."""
        return self._max_length or self.embedder.max_length

    @max_seq_length.setter
    def max_seq_length(self, value: int) -> None:
        checkpoint = self.embedder.checkpoint
        self._max_length = limited(
            positive_integer("max_seq_length", value), position_limit(checkpoint), checkpoint.name
        )

    def get_max_seq_length(self) -> int:
        """`max_seq_length`."""
        return self.max_seq_length

    @property
    def tokenizer(self) -> Tokenizer:
        """Tercet's tokenizer: `encode(texts, max_length=...).ids` are the token ids of each text."""
        return self.embedder.tokenizer

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return torch.device(self.embedder.plan.device)

    @property
    def dtype(self) -> torch.dtype:
        """What the model computes in, as planned; vectors come out in float32 whatever it is."""
        return self.embedder.plan.precision.compute.torch

    def to(self, device: Device | torch.dtype | None = None, dtype: torch.dtype | None = None) -> Self:
        """The model on another device or in another precision: it is loaded anew, as a whole.

        What is asked for already costs nothing.
        """
        if isinstance(device, torch.dtype):
            device, dtype = None, device
        name = self.embedder.plan.device if device is None else find_device(device)
        precision = self._precision if dtype is None else dtype
        if name != self.embedder.plan.device or precision != self._precision:
            self.embedder = self._load(precision=precision, device=name)
            self._precision = precision
        return self

    def cpu(self) -> Self:
        """The model on the CPU."""
        return self.to("cpu")

    def cuda(self, device: int | None = None) -> Self:
        """The model on a GPU."""
        return self.to("cuda" if device is None else f"cuda:{device}")

    def half(self) -> Self:
        """The model in float16."""
        return self.to(torch.float16)

    def bfloat16(self) -> Self:
        """The model in bfloat16."""
        return self.to(torch.bfloat16)

    def float(self) -> Self:
        """The model in float32."""
        return self.to(torch.float32)

    def eval(self) -> Self:
        """The model, which is never in training."""
        return self

    def _tokens(self, texts: Sequence[str], prompt: str, max_length: int | None) -> list[dict[str, Tensor]]:
        """Each text's token ids and vectors, on the model's device, under that library's names."""
        found = token_vectors(self.embedder, texts, prompt=prompt, max_length=max_length)
        return [
            {
                "input_ids": torch.tensor(ids, device=self.device),
                "attention_mask": torch.ones(len(ids), dtype=torch.int64, device=self.device),
                "token_embeddings": one.vectors.to(self.device),
            }
            for ids, one in zip(found.ids, found.vectors, strict=True)
        ]

    def _prompt(self, prompt: str | None, prompt_name: str | None) -> str:
        """The text before each text: the prompt itself, the one named, or the default."""
        if prompt is not None:
            if prompt_name is not None:
                logger.warning(
                    "Both prompt and prompt_name were given; prompt_name=%r is not used.", prompt_name
                )
            return prompt
        name = self.default_prompt_name if prompt_name is None else prompt_name
        if name is None:
            return ""
        if name not in self.prompts:
            raise UnknownNameError(
                f"There is no prompt named {name!r}. {nearest(str(name), self.prompts)} "
                "Pass prompt='the text itself', or prompts={name: text} when the model is loaded."
            )
        return self.prompts[name]


def _checked_dimensions(value: int | None) -> int | None:
    return None if value is None else positive_integer("truncate_dim", value)
