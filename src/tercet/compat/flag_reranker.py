"""FlagEmbedding's FlagReranker: scores of (query, passage) by a cross-encoder."""

from __future__ import annotations

__all__ = ["FlagReranker"]

from collections.abc import Sequence

from tercet.compat.absent import NoProcesses
from tercet.compat.flag_options import (
    Devices,
    check_format,
    instructed,
    one_device,
    precision_wish,
    tell_of_code,
)
from tercet.compat.flag_results import checked_pairs
from tercet.embedder.options import positive_integer
from tercet.errors import InputError
from tercet.model import position_limit
from tercet.reranker import load_reranker
from tercet.signatures import refuse_unknown_keywords
from tercet.text.tokenizer import Tokenizer


class FlagReranker(NoProcesses):
    """A cross-encoder under FlagEmbedding 1.4's names; what differs is in docs/migration.md.

    Attributes:
        reranker: the `tercet.Reranker` that does the work; `reranker.plan` says in what format, and why.
        target_devices: the device it runs on, in a list.
    """

    @refuse_unknown_keywords
    def __init__(
        self,
        model_name_or_path: str,
        use_fp16: bool = False,
        query_instruction_for_rerank: str | None = None,
        query_instruction_format: str = "{}{}",
        passage_instruction_for_rerank: str | None = None,
        passage_instruction_format: str = "{}{}",
        trust_remote_code: bool = False,
        cache_dir: str | None = None,
        devices: Devices = None,
        batch_size: int = 128,
        query_max_length: int | None = None,
        max_length: int = 512,
        normalize: bool = False,
    ) -> None:
        """Loads the checkpoint.

        Args:
            model_name_or_path: a folder or a hub id.
            use_fp16: 16 bits on a GPU; on a CPU where that is faster without visible loss.
            query_instruction_for_rerank, query_instruction_format: what stands before a query, and how.
            passage_instruction_for_rerank, passage_instruction_format: the same of a passage.
            trust_remote_code: no code of a checkpoint is ever run.
            cache_dir: of the hub's files.
            devices: one device; None for the best that is there.
            batch_size: checked only; a forward is laid out by tokens.
            query_max_length: most tokens of a query; None for 3/4 of a pair's.
            max_length: most tokens of a pair; of a longer one the passage is cut.
            normalize: scores between 0 and 1, by a sigmoid.

        Raises:
            CheckpointError, SourceError: the model is not there, damaged, or no reranker.
            InputError: an option cannot be, or the model gives several scores a pair, or is a language model.
        """
        check_format("query_instruction_format", query_instruction_format)
        check_format("passage_instruction_format", passage_instruction_format)
        self.model_name_or_path = model_name_or_path
        self.use_fp16 = use_fp16
        self.query_instruction_for_rerank = query_instruction_for_rerank
        self.query_instruction_format = query_instruction_format
        self.passage_instruction_for_rerank = passage_instruction_for_rerank
        self.passage_instruction_format = passage_instruction_format
        self.batch_size = positive_integer("batch_size", batch_size)
        self.query_max_length = (
            None if query_max_length is None else positive_integer("query_max_length", query_max_length)
        )
        self.max_length = positive_integer("max_length", max_length)
        self.normalize = normalize
        device = one_device(devices)
        tell_of_code(trust_remote_code)
        self.reranker = load_reranker(
            model_name_or_path,
            precision=precision_wish(device, use_fp16=use_fp16),
            device=device,
            cache_folder=cache_dir,
        )
        if any(module.kind == "logit_score" for module in self.reranker.checkpoint.modules):
            raise InputError(
                f"{model_name_or_path} is a language model that scores (LogitScore), and its pairs "
                "are put together by a rule of its own. Open it with tercet.compat.CrossEncoder or "
                "tercet.load_reranker."
            )
        if self.reranker.num_labels != 1:
            raise InputError(
                f"{model_name_or_path} gives {self.reranker.num_labels} scores a pair, FlagReranker takes "
                "one. Load it with tercet.load_reranker, whose score() gives all of them."
            )
        self.target_devices = [self.reranker.plan.device]

    @property
    def tokenizer(self) -> Tokenizer:
        """What makes token ids of texts."""
        return self.reranker.tokenizer

    @refuse_unknown_keywords
    def compute_score(
        self,
        sentence_pairs: Sequence[Sequence[str]] | tuple[str, str],
        *,
        batch_size: int | None = None,
        query_max_length: int | None = None,
        max_length: int | None = None,
        normalize: bool | None = None,
    ) -> list[float]:
        """The score of each pair (query, passage), in a list also for one pair.

        Args:
            sentence_pairs: one pair, or several.
            batch_size: checked only.
            query_max_length, max_length, normalize: None as the object says.

        Raises:
            InputError: what is given is no pair.
        """
        if batch_size is not None:
            positive_integer("batch_size", batch_size)
        pairs, _ = checked_pairs(sentence_pairs)
        queries, _ = instructed(
            [query for query, _ in pairs],
            self.query_instruction_for_rerank,
            self.query_instruction_format,
            name="query_instruction_format",
        )
        passages, _ = instructed(
            [passage for _, passage in pairs],
            self.passage_instruction_for_rerank,
            self.passage_instruction_format,
            name="passage_instruction_format",
        )
        usual = min(self.max_length, position_limit(self.reranker.checkpoint))
        scores = self.reranker.score(
            list(zip(queries, passages, strict=True)),
            activation="Sigmoid" if (self.normalize if normalize is None else normalize) else "Identity",
            prompt="",
            max_length=usual if max_length is None else max_length,
            truncation="only_second",
            query_max_length=self.query_max_length if query_max_length is None else query_max_length,
        )
        found: list[float] = scores.tolist()
        return found
