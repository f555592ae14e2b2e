"""An encoder's folder as that of a reranker: with a random classification head, by transformers' names."""

from __future__ import annotations

__all__ = ["write_new_reranker"]

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from tercet.checkpoint.layout import open_checkpoint
from tercet.checkpoint.paths import read_json_object
from tercet.checkpoint.source import Source
from tercet.checkpoint.writer import copy_settings, write_aside, write_tensors
from tercet.errors import CheckpointError
from tercet.precision.dtype import DType
from tercet.training.body import warn_of_narrow_weights


class _Kind(NamedTuple):
    """A reranker of transformers.

    Attributes:
        name: of its class.
        prefix: of the encoder's tensors.
        dense, out: the layer behind the first token, and the one of logits.
    """

    name: str
    prefix: str
    dense: str
    out: str


_KINDS = {
    "bert": _Kind("BertForSequenceClassification", "bert", "bert.pooler.dense", "classifier"),
    "roberta": _Kind(
        "RobertaForSequenceClassification", "roberta", "classifier.dense", "classifier.out_proj"
    ),
    "xlm-roberta": _Kind(
        "XLMRobertaForSequenceClassification", "roberta", "classifier.dense", "classifier.out_proj"
    ),
    "mpnet": _Kind("MPNetForSequenceClassification", "mpnet", "classifier.dense", "classifier.out_proj"),
    "electra": _Kind(
        "ElectraForSequenceClassification", "electra", "classifier.dense", "classifier.out_proj"
    ),
    "distilbert": _Kind("DistilBertForSequenceClassification", "distilbert", "pre_classifier", "classifier"),
}
_SPREAD = 0.02  # transformers' initializer_range
# Of a stack for embeddings, which a reranker is not.
_STACK = ("modules.json", "config_sentence_transformers.json", "sentence_bert_config.json", "README.md")


def write_new_reranker(source: Source, folder: Path, seed: int) -> Path:
    """The folder, now holding the encoder in float32, its tokenizer, and a head of one score.

    The layer behind the first token is the encoder's own (BERT's pooler) where its file has one, as
    transformers begins; all else of the head is random.

    Args:
        source: of an encoder, alone or in a stack for embeddings, of which nothing else is taken.
        folder: new.
        seed: of random weights.

    Raises:
        CheckpointError: the source is damaged, or of an architecture of which no reranker is known.
    """
    checkpoint = open_checkpoint(source)
    if checkpoint.architecture not in _KINDS or checkpoint.routes is not None:
        raise CheckpointError(
            f"{checkpoint.name} cannot be made a reranker: there is none of its architecture. Encoders that "
            f"can: {', '.join(_KINDS)}."
        )
    if checkpoint.lowercase:
        raise CheckpointError(
            f"{checkpoint.name} cannot be made a reranker: sentence_bert_config.json lowercases texts, which "
            "a reranker's folder cannot say. Put it into the tokenizer, and set do_lower_case to false."
        )
    warn_of_narrow_weights(checkpoint)
    kind = _KINDS[checkpoint.architecture]
    width = int(checkpoint.config["hidden_size"])
    generator = torch.Generator().manual_seed(seed)

    def drawn(rows: int) -> Tensor:
        return torch.empty(rows, width).normal_(0.0, _SPREAD, generator=generator)

    head = {
        f"{kind.dense}.weight": drawn(width),
        f"{kind.dense}.bias": torch.zeros(width),
        f"{kind.out}.weight": drawn(1),
        f"{kind.out}.bias": torch.zeros(1),
    }
    for name, info in checkpoint.ignored.items():
        own = name if name.startswith(f"{kind.prefix}.") else f"{kind.prefix}.{name}"
        if own in head and own.startswith(kind.dense) and tuple(head[own].shape) == tuple(info.shape):
            head[own] = checkpoint.read(info, DType.FLOAT32)
    body = {f"{kind.prefix}.{name}": info for name, info in checkpoint.tensors.items()}
    plan = {name: ("float32", tuple(info.shape)) for name, info in body.items()}
    plan |= {name: ("float32", tuple(values.shape)) for name, values in head.items()}

    def stream() -> Iterator[tuple[str, Tensor]]:
        for name, info in body.items():
            yield name, checkpoint.read(info, DType.FLOAT32)
            checkpoint.release(info)
        yield from head.items()

    with write_aside(folder) as aside:
        copy_settings(checkpoint.folder / checkpoint.encoder_path, "", aside)
        for name in _STACK:
            (aside / name).unlink(missing_ok=True)
        _write_config(aside / "config.json", kind)
        rows = checkpoint.config.get("type_vocab_size", 1)
        _write_tokenizer_config(aside / "tokenizer_config.json", checkpoint.max_length, types=rows > 1)
        write_tensors(aside, plan, stream())
    checkpoint.close()
    return folder


def _write_config(path: Path, kind: _Kind) -> None:
    """config.json of the class, with one label, in float32."""
    config = read_json_object(path)
    keys = [key for key in ("dtype", "torch_dtype") if key in config] or ["torch_dtype"]
    config |= dict.fromkeys(keys, "float32")
    config |= {"architectures": [kind.name], "id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
    config.pop("num_labels", None)
    _write_json(path, config)


def _write_tokenizer_config(path: Path, max_length: int, *, types: bool) -> None:
    """What was said of lengths elsewhere, and outright whether query and document are told apart."""
    config = read_json_object(path) if path.is_file() else {}
    # Releases of transformers differ in what follows from the tokenizer's class.
    names = ["input_ids", "token_type_ids", "attention_mask"] if types else ["input_ids", "attention_mask"]
    config |= {"model_max_length": max_length, "model_input_names": names}
    _write_json(path, config)


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
