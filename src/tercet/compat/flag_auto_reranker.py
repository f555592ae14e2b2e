"""FlagEmbedding's FlagAutoReranker: the class that fits a reranker."""

from __future__ import annotations

__all__ = ["FlagAutoReranker", "RerankerModelClass"]

from enum import Enum

from tercet.compat.flag_options import Devices
from tercet.compat.flag_reranker import FlagReranker
from tercet.errors import InputError, nearest
from tercet.signatures import refuse_unknown_keywords


class RerankerModelClass(Enum):
    """The kinds of rerankers under FlagEmbedding's names."""

    ENCODER_ONLY_BASE = "encoder-only-base"
    DECODER_ONLY_BASE = "decoder-only-base"
    DECODER_ONLY_LAYERWISE = "decoder-only-layerwise"
    DECODER_ONLY_LIGHTWEIGHT = "decoder-only-lightweight"


class FlagAutoReranker:
    """Makes a `FlagReranker`."""

    def __init__(self) -> None:
        raise InputError(
            "FlagAutoReranker makes no objects of its own. Call FlagAutoReranker.from_finetuned(model)."
        )

    @classmethod
    @refuse_unknown_keywords
    def from_finetuned(
        cls,
        model_name_or_path: str,
        model_class: str | RerankerModelClass | None = None,
        use_fp16: bool = False,
        trust_remote_code: bool | None = None,
        *,
        query_instruction_for_rerank: str | None = None,
        query_instruction_format: str = "{}{}",
        passage_instruction_for_rerank: str | None = None,
        passage_instruction_format: str = "{}{}",
        cache_dir: str | None = None,
        devices: Devices = None,
        batch_size: int = 128,
        query_max_length: int | None = None,
        max_length: int = 512,
        normalize: bool = False,
    ) -> FlagReranker:
        """The reranker, whatever its folder is called.

        Args:
            model_name_or_path: a folder or a hub id.
            model_class: "encoder-only-base", or None, which means the same.

        The others are those of `FlagReranker`.

        Raises:
            InputError: `model_class` is a decoder's, or an option cannot be.
            CheckpointError, SourceError: the model is not there, damaged, or no encoder with a classifier.
        """
        if model_class is not None:
            # An enum of FlagEmbedding's own has the same values.
            value = getattr(model_class, "value", model_class)
            known = [kind.value for kind in RerankerModelClass]
            if value not in known:
                raise InputError(f"model_class is {model_class!r}. {nearest(str(value), known)}")
            if value != RerankerModelClass.ENCODER_ONLY_BASE.value:
                raise InputError(
                    f"model_class is {value!r}, a decoder's, and only encoders are read here: "
                    "'encoder-only-base'."
                )
        return FlagReranker(
            model_name_or_path,
            use_fp16,
            query_instruction_for_rerank,
            query_instruction_format,
            passage_instruction_for_rerank,
            passage_instruction_format,
            bool(trust_remote_code),
            cache_dir,
            devices,
            batch_size,
            query_max_length,
            max_length,
            normalize,
        )
