"""The classification head of an encoder, as transformers names its layers."""

from __future__ import annotations

__all__ = ["HEADS", "head_tensors", "num_labels"]

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tercet.checkpoint.header import TensorInfo
from tercet.errors import CheckpointError

# architecture -> (the layer behind the first token, its activation, the layer that makes logits)
HEADS = {
    "bert": ("pooler.dense", "tanh", "classifier"),
    "roberta": ("classifier.dense", "tanh", "classifier.out_proj"),
    "xlm-roberta": ("classifier.dense", "tanh", "classifier.out_proj"),
    "mpnet": ("classifier.dense", "tanh", "classifier.out_proj"),
    "electra": ("classifier.dense", "gelu", "classifier.out_proj"),
    "distilbert": ("pre_classifier", "relu", "classifier"),
}
_MOST_LABELS = 1 << 16


def head_tensors(
    folder: Path, architecture: str, tensors: Mapping[str, TensorInfo]
) -> tuple[dict[str, TensorInfo], dict[str, TensorInfo]]:
    """The head's tensors as "dense.weight", …, "out.bias", and all others by the names of the file."""
    dense, _, out = HEADS[architecture]
    head: dict[str, TensorInfo] = {}
    rest = dict(tensors)
    missing = []
    for layer, ours in ((dense, "dense"), (out, "out")):
        for kind in ("weight", "bias"):
            name = f"{layer}.{kind}"
            # Behind "bert." or "module.": the name alone tells, since no layer of an encoder is called so.
            found = [stored for stored in rest if stored == name or stored.endswith(f".{name}")]
            if len(found) == 1:
                head[f"{ours}.{kind}"] = rest.pop(found[0])
            else:
                missing.append(f"{name!r}" + (f" ({len(found)} times)" if found else ""))
    if missing:
        others = sorted(name for name in rest if "classifier" in name or "pooler" in name)
        raise CheckpointError(
            f"{folder}: a {architecture} reranker ends in {dense} and {out}; there is no {', '.join(missing)}"
            f"{' but ' + ', '.join(others[:4]) if others else ''}. If this is a model for embeddings, open "
            "it with tercet.load."
        )
    return head, rest


def num_labels(where: Path, config: Mapping[str, Any], out: TensorInfo) -> int:
    """How many scores a pair gets: the rows of the last layer, which config.json must agree with."""
    rows = out.shape[0] if len(out.shape) == 2 else 0
    named = config.get("id2label")
    said = config.get("num_labels", len(named) if isinstance(named, dict) else rows)
    if not 0 < rows <= _MOST_LABELS or said != rows:
        raise CheckpointError(
            f"{out.file}: {out.name!r} is {out.shape}, and {where} says {said!r} labels. "
            "Put the config.json that was saved with these weights beside them."
        )
    return rows
