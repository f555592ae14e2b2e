"""FlagEmbedding's FlagAutoModel: the class and settings that fit a model, by its name or by what it holds."""

from __future__ import annotations

__all__ = ["EmbedderModelClass", "FlagAutoModel"]

from enum import Enum
from pathlib import Path
from typing import Any

from tercet.checkpoint.layout import open_checkpoint
from tercet.checkpoint.source import find
from tercet.compat.bge_m3 import BGEM3FlagModel
from tercet.compat.flag_model import FlagModel
from tercet.compat.flag_options import Devices
from tercet.errors import InputError, nearest
from tercet.signatures import refuse_unknown_keywords


class EmbedderModelClass(Enum):
    """The kinds of embedders under FlagEmbedding's names."""

    ENCODER_ONLY_BASE = "encoder-only-base"
    ENCODER_ONLY_M3 = "encoder-only-m3"
    DECODER_ONLY_BASE = "decoder-only-base"
    DECODER_ONLY_ICL = "decoder-only-icl"
    DECODER_ONLY_PSEUDO_MOE = "decoder-only-pseudo_moe"


_SIZES = ("large", "base", "small")
# Published encoders, by how their vectors are pooled, where a name says it and a folder may not.
_CLS = (
    *(f"bge-{size}-{of}" for size in _SIZES for of in ("en", "zh", "en-v1.5", "zh-v1.5")),
    *(f"gte-{size}-zh" for size in _SIZES),
    "gte-multilingual-base",
    "gte-large-en-v1.5",
    "gte-base-en-v1.5",
    "bce-embedding-base_v1",
)
_MEAN = (
    *(f"{family}{size}" for family in ("e5-", "multilingual-e5-", "gte-") for size in _SIZES),
    *(f"e5-{size}-v2" for size in _SIZES),
    "multilingual-e5-large-instruct",
)
_POOLING = {**dict.fromkeys(_CLS, "cls"), **dict.fromkeys(_MEAN, "mean"), "bge-m3": "cls"}
_FORMATS = {"multilingual-e5-large-instruct": "Instruct: {}\nQuery: {}"}
_DECODERS = (
    "bge-reasoner-embed-qwen3-8b-0923",
    "bge-code-v1",
    "bge-en-icl",
    "bge-multilingual-gemma2",
    *(f"Qwen3-Embedding-{size}" for size in ("0.6B", "4B", "8B")),
    "e5-mistral-7b-instruct",
    *(f"gte-Qwen{size}-instruct" for size in ("2-7B", "2-1.5B", "1.5-7B")),
    "SFR-Embedding-2_R",
    "SFR-Embedding-Mistral",
    "Linq-Embed-Mistral",
)
_ENCODERS = (EmbedderModelClass.ENCODER_ONLY_BASE, EmbedderModelClass.ENCODER_ONLY_M3)


class FlagAutoModel:
    """Makes a `FlagModel` or a `BGEM3FlagModel`."""

    def __init__(self) -> None:
        raise InputError(
            "FlagAutoModel makes no objects of its own. Call FlagAutoModel.from_finetuned(model)."
        )

    @classmethod
    @refuse_unknown_keywords
    def from_finetuned(
        cls,
        model_name_or_path: str,
        model_class: str | EmbedderModelClass | None = None,
        normalize_embeddings: bool = True,
        use_fp16: bool = True,
        use_bf16: bool = False,
        query_instruction_for_retrieval: str | None = None,
        devices: Devices = None,
        pooling_method: str | None = None,
        trust_remote_code: bool | None = None,
        query_instruction_format: str | None = None,
        truncate_dim: int | None = None,
        *,
        cache_dir: str | None = None,
        batch_size: int = 256,
        query_max_length: int = 512,
        passage_max_length: int = 512,
        passage_instruction_for_retrieval: str | None = None,
        passage_instruction_format: str = "{}{}",
        convert_to_numpy: bool | None = None,
        colbert_dim: int | None = None,
        return_dense: bool | None = None,
        return_sparse: bool | None = None,
        return_colbert_vecs: bool | None = None,
    ) -> FlagModel | BGEM3FlagModel:
        """The model, loaded by the class that fits.

        Args:
            model_name_or_path: a folder or a hub id. Of a folder "checkpoint-N" the name above counts.
            model_class: "encoder-only-base" or "encoder-only-m3"; None finds it by the name of a published
                model, and of any other by what the folder holds.
            pooling_method, query_instruction_format: None for the published model's, else the checkpoint's
                own pooling and "{}{}".
            convert_to_numpy: of `FlagModel` alone.
            colbert_dim, return_dense, return_sparse, return_colbert_vecs: of `BGEM3FlagModel` alone.

        The others are those of the two classes.

        Raises:
            InputError: the model is a decoder, or an option is not one of the class's.
        """
        name = _name(model_name_or_path)
        if model_class is not None:
            kind, name = _kind(model_class), ""
        elif name in _DECODERS:
            kind = EmbedderModelClass.DECODER_ONLY_BASE
        elif name == "bge-m3":
            kind = EmbedderModelClass.ENCODER_ONLY_M3
        elif name in _POOLING:
            kind = EmbedderModelClass.ENCODER_ONLY_BASE
        else:
            checkpoint = open_checkpoint(find(model_name_or_path, cache_folder=cache_dir, headers_only=True))
            kind = EmbedderModelClass(f"encoder-only-{'m3' if checkpoint.layout == 'bge-m3' else 'base'}")
        if kind not in _ENCODERS:
            raise InputError(
                f"{model_name_or_path} is a decoder ({kind.value}), and only encoders are read here: "
                f"{' and '.join(kind.value for kind in _ENCODERS)}. Pass model_class if its name misleads; "
                "folders of sentence-transformers with a Qwen3 are opened by tercet.load."
            )
        is_m3 = kind is EmbedderModelClass.ENCODER_ONLY_M3
        if pooling_method is None:
            pooling_method = _POOLING.get(name, "cls" if is_m3 or model_class is not None else None)
        if query_instruction_format is None:
            query_instruction_format = _FORMATS.get(name, "{}{}")
        of_one_class = {
            "convert_to_numpy": convert_to_numpy,
            "colbert_dim": colbert_dim,
            "return_dense": return_dense,
            "return_sparse": return_sparse,
            "return_colbert_vecs": return_colbert_vecs,
        }
        options: dict[str, Any] = {name: value for name, value in of_one_class.items() if value is not None}
        make: type[FlagModel] | type[BGEM3FlagModel] = BGEM3FlagModel if is_m3 else FlagModel
        return make(
            model_name_or_path,
            normalize_embeddings=normalize_embeddings,
            use_fp16=use_fp16,
            use_bf16=use_bf16,
            query_instruction_for_retrieval=query_instruction_for_retrieval,
            query_instruction_format=query_instruction_format,
            devices=devices,
            pooling_method=pooling_method,
            trust_remote_code=bool(trust_remote_code),
            cache_dir=cache_dir,
            batch_size=batch_size,
            query_max_length=query_max_length,
            passage_max_length=passage_max_length,
            truncate_dim=truncate_dim,
            passage_instruction_for_retrieval=passage_instruction_for_retrieval,
            passage_instruction_format=passage_instruction_format,
            **options,
        )


def _name(model: str) -> str:
    """The last part of a path or id; of a training checkpoint's folder, that of the folder above."""
    path = Path(model)
    return path.parent.name if path.name.startswith("checkpoint-") else path.name


def _kind(model_class: str | EmbedderModelClass) -> EmbedderModelClass:
    # An enum of FlagEmbedding's own has the same values.
    value = getattr(model_class, "value", model_class)
    known = {kind.value: kind for kind in EmbedderModelClass}
    if value not in known:
        raise InputError(f"model_class is {model_class!r}. {nearest(str(value), known)}")
    return known[value]
