"""FlagEmbedding's FlagModel: dense embeddings of an encoder, with instructions."""

from __future__ import annotations

__all__ = ["FlagModel"]

from collections.abc import Iterable
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from tercet.compat.absent import NoProcesses
from tercet.compat.flag_options import (
    Devices,
    check_format,
    instructed,
    length,
    open_embedder,
    sixteen_bits,
)
from tercet.embedder.options import positive_integer
from tercet.embeddings.arrays import to_numpy
from tercet.embeddings.ragged import cast
from tercet.errors import CheckpointError
from tercet.signatures import refuse_unknown_keywords
from tercet.text.tokenizer import Tokenizer


class FlagModel(NoProcesses):
    """An encoder under FlagEmbedding 1.4's names; what differs is in docs/migration.md.

    Attributes:
        embedder: the `tercet.Embedder` that does the work; `embedder.plan` says in what format, and why.
        target_devices: the device it runs on, in a list.
    """

    DEFAULT_POOLING_METHOD = "cls"

    @refuse_unknown_keywords
    def __init__(
        self,
        model_name_or_path: str,
        normalize_embeddings: bool = True,
        use_fp16: bool = True,
        use_bf16: bool = False,
        query_instruction_for_retrieval: str | None = None,
        query_instruction_format: str = "{}{}",
        devices: Devices = None,
        pooling_method: str | None = "cls",
        trust_remote_code: bool = False,
        cache_dir: str | None = None,
        batch_size: int = 256,
        query_max_length: int = 512,
        passage_max_length: int = 512,
        convert_to_numpy: bool = True,
        truncate_dim: int | None = None,
        *,
        passage_instruction_for_retrieval: str | None = None,
        passage_instruction_format: str = "{}{}",
    ) -> None:
        """Loads the checkpoint.

        Args:
            model_name_or_path: a folder or a hub id.
            normalize_embeddings: vectors of unit length.
            use_fp16, use_bf16: 16 bits on a GPU; on a CPU where that is faster without visible loss.
            query_instruction_for_retrieval, query_instruction_format: what `encode_queries` puts before a
                text, and how.
            devices: one device; None for the best that is there.
            pooling_method: "cls", "mean", "last_token" or what `tercet.load` knows; None for what the
                checkpoint says.
            trust_remote_code: no code of a checkpoint is ever run.
            cache_dir: of the hub's files.
            batch_size: checked only; a forward is laid out by tokens.
            query_max_length, passage_max_length: most tokens of a text.
            convert_to_numpy: NumPy arrays, or tensors on the device.
            truncate_dim: first so many columns, renormalised.
            passage_instruction_for_retrieval, passage_instruction_format: the same of `encode_corpus`.

        Raises:
            CheckpointError, SourceError: the model is not there or damaged.
            InputError: an option cannot be.
        """
        check_format("query_instruction_format", query_instruction_format)
        check_format("passage_instruction_format", passage_instruction_format)
        self.model_name_or_path = model_name_or_path
        self.normalize_embeddings = normalize_embeddings
        self.use_fp16 = use_fp16
        self.use_bf16 = use_bf16
        self.query_instruction_for_retrieval = query_instruction_for_retrieval
        self.query_instruction_format = query_instruction_format
        self.passage_instruction_for_retrieval = passage_instruction_for_retrieval
        self.passage_instruction_format = passage_instruction_format
        self.pooling_method = pooling_method
        self.batch_size = positive_integer("batch_size", batch_size)
        self.query_max_length = positive_integer("query_max_length", query_max_length)
        self.passage_max_length = positive_integer("passage_max_length", passage_max_length)
        self.convert_to_numpy = convert_to_numpy
        self.truncate_dim = truncate_dim
        self.embedder = open_embedder(
            model_name_or_path,
            use_fp16=use_fp16,
            use_bf16=use_bf16,
            devices=devices,
            pooling_method=pooling_method,
            trust_remote_code=trust_remote_code,
            cache_dir=cache_dir,
        )
        if "dense" not in self.embedder.outputs:
            raise CheckpointError(
                f"{model_name_or_path} makes {', '.join(self.embedder.outputs)} vectors, and FlagModel dense "
                "ones. Open it with tercet.load, or give a pooling_method such as 'cls'."
            )
        self.target_devices = [self.embedder.plan.device]

    @property
    def tokenizer(self) -> Tokenizer:
        """What makes token ids of texts."""
        return self.embedder.tokenizer

    @refuse_unknown_keywords
    def encode_queries(
        self,
        queries: str | Iterable[str],
        batch_size: int | None = None,
        max_length: int | None = None,
        convert_to_numpy: bool | None = None,
    ) -> NDArray[Any] | Tensor:
        """`encode` behind the query instruction, up to `query_max_length` tokens."""
        return self._encode(
            queries,
            batch_size,
            max_length,
            self.query_max_length,
            convert_to_numpy,
            self.query_instruction_for_retrieval,
            self.query_instruction_format,
        )

    @refuse_unknown_keywords
    def encode_corpus(
        self,
        corpus: str | Iterable[str],
        batch_size: int | None = None,
        max_length: int | None = None,
        convert_to_numpy: bool | None = None,
    ) -> NDArray[Any] | Tensor:
        """`encode` behind the passage instruction, up to `passage_max_length` tokens."""
        return self._encode(
            corpus,
            batch_size,
            max_length,
            self.passage_max_length,
            convert_to_numpy,
            self.passage_instruction_for_retrieval,
            self.passage_instruction_format,
        )

    @refuse_unknown_keywords
    def encode(
        self,
        sentences: str | Iterable[str],
        batch_size: int | None = None,
        max_length: int | None = None,
        convert_to_numpy: bool | None = None,
        *,
        instruction: str | None = None,
        instruction_format: str | None = None,
    ) -> NDArray[Any] | Tensor:
        """(texts, dim), the vectors of several texts in their order; (dim,) of one.

        Args:
            sentences: one text, or several.
            batch_size: checked only; a forward is laid out by tokens.
            max_length: most tokens of a text; `passage_max_length` where it is None.
            convert_to_numpy: an array, or a tensor on the device; None as the object says.
            instruction, instruction_format: put before each text, and how.

        Returns:
            float32; on a GPU in 16 bits, float16 (a tensor: the format that was asked for), and float32
            where tokens are averaged.
        """
        template = "{}{}" if instruction_format is None else instruction_format
        return self._encode(
            sentences,
            batch_size,
            max_length,
            self.passage_max_length,
            convert_to_numpy,
            instruction,
            template,
        )

    def _encode(
        self,
        sentences: str | Iterable[str],
        batch_size: int | None,
        max_length: int | None,
        usual: int,
        convert_to_numpy: bool | None,
        instruction: str | None,
        template: str,
    ) -> NDArray[Any] | Tensor:
        if batch_size is not None:
            positive_integer("batch_size", batch_size)
        texts, alone = instructed(sentences, instruction, template, name="instruction_format")
        dense = self.embedder.encode(
            texts,
            prompt="",
            max_length=length(max_length, usual, self.embedder),
            dimensions=self.truncate_dim,
            normalize=self.normalize_embeddings,
        ).dense
        assert dense is not None
        if alone:
            dense = dense[0]
        half = self._format()
        if self.convert_to_numpy if convert_to_numpy is None else convert_to_numpy:
            return to_numpy(cast("embeddings", dense, half) if half is torch.float16 else dense)
        dense = dense if half is None else cast("embeddings", dense, half)
        return dense.to(self.embedder.plan.device)

    def _format(self) -> torch.dtype | None:
        """The 16-bit format of the vectors; None for float32, which averages over tokens have there."""
        device = self.embedder.plan.device
        pooling = self.embedder.checkpoint.module("pooling")
        if pooling is None or not {"cls", "lasttoken"} >= set(pooling.config["modes"]):
            return None
        return sixteen_bits(device, use_fp16=self.use_fp16, use_bf16=self.use_bf16)
