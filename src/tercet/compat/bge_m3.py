"""FlagEmbedding's BGEM3FlagModel: dense, lexical and multi-vector embeddings of BGE-M3 and their scores."""

from __future__ import annotations

__all__ = ["BGEM3FlagModel"]

from collections.abc import Iterable, Mapping, Sequence
from math import nan
from typing import Any

import numpy as np
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
from tercet.compat.flag_results import (
    Lexical,
    checked_pairs,
    checked_weights,
    colbert_arrays,
    lexical_dicts,
    lexical_list,
    lexical_scores,
)
from tercet.embedder.options import positive_integer
from tercet.embeddings import Embeddings, MultiVectors
from tercet.embeddings.arrays import to_numpy
from tercet.embeddings.ragged import cast
from tercet.errors import InputError
from tercet.scoring import maxsim, score_pairs
from tercet.signatures import refuse_unknown_keywords
from tercet.text.tokenizer import Tokenizer

_ALL = ("dense", "sparse", "multivector")
_SCORES = ("colbert", "sparse", "dense", "sparse+dense", "colbert+sparse+dense")


class BGEM3FlagModel(NoProcesses):
    """BGE-M3 under FlagEmbedding 1.4's names; what differs is in docs/migration.md.

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
        colbert_dim: int = -1,
        batch_size: int = 256,
        query_max_length: int = 512,
        passage_max_length: int = 512,
        return_dense: bool = True,
        return_sparse: bool = False,
        return_colbert_vecs: bool = False,
        truncate_dim: int | None = None,
        *,
        passage_instruction_for_retrieval: str | None = None,
        passage_instruction_format: str = "{}{}",
    ) -> None:
        """Loads the checkpoint.

        Args:
            model_name_or_path: a folder or a hub id.
            normalize_embeddings: dense vectors and those of tokens of unit length.
            use_fp16, use_bf16: 16 bits on a GPU; on a CPU where that is faster without visible loss.
            query_instruction_for_retrieval, query_instruction_format: what `encode_queries` puts before a
                text, and how.
            devices: one device; None for the best that is there.
            pooling_method: of the dense vector: "cls", "mean", "last_token"; None for the checkpoint's own.
            trust_remote_code: no code of a checkpoint is ever run.
            cache_dir: of the hub's files.
            colbert_dim: width of the multi-vectors; -1 for what the checkpoint has.
            batch_size: pairs that `compute_score` holds at once; a forward is laid out by tokens.
            query_max_length, passage_max_length: most tokens of a text.
            return_dense, return_sparse, return_colbert_vecs: what to give back where a call does not say.
            truncate_dim: first so many columns of dense and multi-vectors, renormalised.
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
        self.return_dense = return_dense
        self.return_sparse = return_sparse
        self.return_colbert_vecs = return_colbert_vecs
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
        self.target_devices = [self.embedder.plan.device]
        head = self.embedder.checkpoint.module("colbert_linear")
        if colbert_dim > 0 and head is not None and head.tensors["weight"].shape[0] != colbert_dim:
            raise InputError(
                f"colbert_dim={colbert_dim}: {model_name_or_path}'s {head.where} makes vectors of "
                f"{head.tensors['weight'].shape[0]}. Leave colbert_dim out; truncate_dim shortens vectors."
            )

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
        return_dense: bool | None = None,
        return_sparse: bool | None = None,
        return_colbert_vecs: bool | None = None,
        *,
        convert_to_numpy: bool | None = None,
    ) -> dict[str, Any]:
        """`encode` behind the query instruction, up to `query_max_length` tokens."""
        return self.encode(
            queries,
            batch_size,
            self.query_max_length if max_length is None else max_length,
            return_dense,
            return_sparse,
            return_colbert_vecs,
            convert_to_numpy=convert_to_numpy,
            instruction=self.query_instruction_for_retrieval,
            instruction_format=self.query_instruction_format,
        )

    @refuse_unknown_keywords
    def encode_corpus(
        self,
        corpus: str | Iterable[str],
        batch_size: int | None = None,
        max_length: int | None = None,
        return_dense: bool | None = None,
        return_sparse: bool | None = None,
        return_colbert_vecs: bool | None = None,
        *,
        convert_to_numpy: bool | None = None,
    ) -> dict[str, Any]:
        """`encode` behind the passage instruction, up to `passage_max_length` tokens."""
        return self.encode(
            corpus,
            batch_size,
            max_length,
            return_dense,
            return_sparse,
            return_colbert_vecs,
            convert_to_numpy=convert_to_numpy,
            instruction=self.passage_instruction_for_retrieval,
            instruction_format=self.passage_instruction_format,
        )

    @refuse_unknown_keywords
    def encode(
        self,
        sentences: str | Iterable[str],
        batch_size: int | None = None,
        max_length: int | None = None,
        return_dense: bool | None = None,
        return_sparse: bool | None = None,
        return_colbert_vecs: bool | None = None,
        *,
        convert_to_numpy: bool | None = None,
        instruction: str | None = None,
        instruction_format: str | None = None,
    ) -> dict[str, Any]:
        """The outputs that are asked for, of one text (values alone) or of several (in lists and rows).

        Args:
            sentences: one text, or several.
            batch_size: checked only; a forward is laid out by tokens.
            max_length: most tokens of a text; `passage_max_length` where it is None.
            return_dense, return_sparse, return_colbert_vecs: what to give back; None as the object says.
            convert_to_numpy: True or None: results are NumPy's, as FlagEmbedding's are whatever it is.
            instruction, instruction_format: put before each text, and how.

        Returns:
            "dense_vecs" (texts, dim), float32, or float16 where `use_fp16` runs on an accelerator;
            "lexical_weights", a list of {str(token id): weight} in Python's floats; "colbert_vecs", a list of
            (tokens - 1, dim) float32. What was not asked for is None.

        Raises:
            CheckpointError: an output whose head the checkpoint does not have.
        """
        if batch_size is not None:
            positive_integer("batch_size", batch_size)
        if convert_to_numpy is False:
            raise InputError(
                "convert_to_numpy=False: BGEM3FlagModel gives NumPy arrays only. Pass the arrays to "
                "torch.from_numpy, or take .embedder, which gives tensors."
            )
        dense = self.return_dense if return_dense is None else return_dense
        sparse = self.return_sparse if return_sparse is None else return_sparse
        colbert = self.return_colbert_vecs if return_colbert_vecs is None else return_colbert_vecs
        outputs = [name for name, asked in zip(_ALL, (dense, sparse, colbert), strict=True) if asked]
        if not outputs:
            raise InputError(
                "return_dense, return_sparse and return_colbert_vecs are all false. Set one of them to True."
            )
        template = "{}{}" if instruction_format is None else instruction_format
        texts, alone = instructed(sentences, instruction, template, name="instruction_format")
        found = self._embed(texts, outputs, max_length, self.passage_max_length)
        values = {
            "dense_vecs": self._dense(found.dense),
            "lexical_weights": lexical_dicts(found.sparse),
            "colbert_vecs": colbert_arrays(found.multivector),
        }
        if alone:
            return {name: None if value is None else value[0] for name, value in values.items()}
        return values

    @refuse_unknown_keywords
    def compute_score(
        self,
        sentence_pairs: Sequence[Sequence[str]] | tuple[str, str],
        batch_size: int | None = None,
        max_query_length: int | None = None,
        max_passage_length: int | None = None,
        weights_for_different_modes: Sequence[float] | None = None,
    ) -> dict[str, Any] | list[Any]:
        """Scores of each pair (query, passage) by every kind and their weighted sums; no instruction is put.

        Args:
            sentence_pairs: one pair, or several.
            batch_size: pairs whose vectors are held at once.
            max_query_length, max_passage_length: most tokens; None as the object says.
            weights_for_different_modes: of dense, sparse and colbert; equal ones for None.

        Returns:
            "colbert", "sparse", "dense", "sparse+dense" and "colbert+sparse+dense", each with a list of
            floats in the order of the pairs, or one float for one pair; [] for no pairs.

        Raises:
            InputError: what is given is no pair, or the weights add up to 0.
            CheckpointError: the checkpoint lacks a head.
        """
        step = positive_integer("batch_size", self.batch_size if batch_size is None else batch_size)
        pairs, alone = checked_pairs(sentence_pairs)
        if not pairs:
            return []
        weights = checked_weights(weights_for_different_modes)
        scores: dict[str, list[float]] = {name: [] for name in _SCORES}
        for start in range(0, len(pairs), step):
            queries, passages = zip(*pairs[start : start + step], strict=True)
            found = score_pairs(
                self._once(queries, max_query_length, self.query_max_length),
                self._once(passages, max_passage_length, self.passage_max_length),
                weights=weights,
            ).to_dict()
            for name in _SCORES:
                # The mean of dense and sparse without a weight on either is none, as there.
                scores[name] += found.get(name, [nan] * len(queries))
        return {name: values[0] for name, values in scores.items()} if alone else dict(scores)

    @refuse_unknown_keywords
    def convert_id_to_token(
        self, lexical_weights: Lexical | Sequence[Lexical]
    ) -> dict[str, float] | list[dict[str, float]]:
        """The weights by the text of each token: a dict for one text (alone or in a list), else a list.

        A token whose text is taken, or which has none, is named as the vocabulary has it, and if that is
        taken, too, with its id behind: no weight is lost.
        """
        named = [self._named(weights) for weights in lexical_list(lexical_weights)]
        return named[0] if len(named) == 1 else named

    @refuse_unknown_keywords
    def compute_lexical_matching_score(
        self,
        lexical_weights_1: Lexical | Sequence[Lexical],
        lexical_weights_2: Lexical | Sequence[Lexical],
    ) -> float | NDArray[np.float64]:
        """The sum over shared tokens of both weights' product, in float64.

        Returns:
            A float for two dicts, (first, second) for two lists.

        Raises:
            InputError: a dict and a list.
        """
        if isinstance(lexical_weights_1, Mapping) and isinstance(lexical_weights_2, Mapping):
            return float(lexical_scores([lexical_weights_1], [lexical_weights_2])[0, 0])
        if isinstance(lexical_weights_1, Mapping) or isinstance(lexical_weights_2, Mapping):
            raise InputError(
                "compute_lexical_matching_score takes two dicts of weights or two lists of such dicts, not "
                "one of each. Put the dict into a list."
            )
        return to_numpy(lexical_scores(lexical_list(lexical_weights_1), lexical_list(lexical_weights_2)))

    @refuse_unknown_keywords
    def colbert_score(self, q_reps: NDArray[Any], p_reps: NDArray[Any]) -> Tensor:
        """(), late interaction of a query's (tokens, dim) with a passage's: the mean over the query."""
        query, passage = torch.as_tensor(q_reps), torch.as_tensor(p_reps)
        offsets = torch.tensor([0, len(passage)], device=passage.device)
        return maxsim(query, MultiVectors(passage, offsets))[0]

    def _embed(
        self, texts: Sequence[str], outputs: Sequence[str], max_length: int | None, usual: int
    ) -> Embeddings:
        return self.embedder.encode(
            texts,
            outputs=outputs,
            prompt="",
            max_length=length(max_length, usual, self.embedder),
            dimensions=self.truncate_dim,
            normalize=self.normalize_embeddings,
        )

    def _once(self, texts: Sequence[str], max_length: int | None, usual: int) -> Embeddings:
        """Embeddings of the texts, each different one computed once."""
        places = {text: place for place, text in enumerate(dict.fromkeys(texts))}
        return self._embed(list(places), _ALL, max_length, usual)[[places[text] for text in texts]]

    def _dense(self, dense: Tensor | None) -> NDArray[Any] | None:
        if dense is None:
            return None
        half = sixteen_bits(self.embedder.plan.device, use_fp16=self.use_fp16, use_bf16=self.use_bf16)
        return to_numpy(cast("dense_vecs", dense, torch.float16) if half is torch.float16 else dense)

    def _named(self, weights: Lexical) -> dict[str, float]:
        named: dict[str, float] = {}
        for key, weight in weights.items():
            if not str(key).isdecimal():
                raise InputError(f"{key!r} is no token id. Pass the weights as encode gives them.")
            token_id = int(key)
            spelled = self.tokenizer.id_to_token(token_id)
            name = self.tokenizer.decode([token_id]) or spelled
            for other in (spelled, f"{spelled}<{token_id}>"):
                if name in named:
                    name = other
            named[name] = weight
        return named
