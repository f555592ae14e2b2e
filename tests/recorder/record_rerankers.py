"""Scores of sentence-transformers' CrossEncoder and FlagEmbedding's FlagReranker; part of record.py."""

from __future__ import annotations

__all__ = ["record"]

from pathlib import Path

import numpy as np
import torch
from FlagEmbedding import FlagReranker
from sentence_transformers import CrossEncoder

from recorder import rerankers

_RAW = torch.nn.Identity()


def record(folder: Path) -> dict[str, np.ndarray]:
    """Every array of rerankers.npz; `folder` takes the tiny checkpoints."""
    arrays: dict[str, np.ndarray] = {}
    for number, (name, case) in enumerate(rerankers.CROSS_ENCODERS.items()):
        path = rerankers.write(folder / f"cross{number}", name)
        for length in rerankers.LENGTHS:
            model = CrossEncoder(
                str(path), device="cpu", max_length=length, model_kwargs={"dtype": torch.float32}
            )
            pairs = [list(pair) for pair in rerankers.PAIRS]
            options = {"show_progress_bar": False, **case.predict}
            arrays[f"{name}/{length}"] = model.predict(pairs, **options)
            arrays[f"{name}/{length}/logits"] = model.predict(
                pairs, **{**options, "apply_softmax": False}, activation_fn=_RAW
            )
            if model.num_labels == 1 and length is None:
                query, documents = rerankers.RANKED
                ranked = model.rank(query, list(documents), top_k=3, show_progress_bar=False)
                arrays[f"{name}/rank"] = np.array([(one["corpus_id"], one["score"]) for one in ranked])
    for number, name in enumerate(rerankers.FLAG):
        path = rerankers.write(folder / f"flag{number}", name)
        model = FlagReranker(str(path), use_fp16=False, devices="cpu")
        model.model.float()
        for length in (64, 25):
            for normalize in (False, True):
                scores = model.compute_score(
                    [list(pair) for pair in rerankers.FILLED], max_length=length, normalize=normalize
                )
                arrays[f"{name}/{length}/{normalize}"] = np.array(scores)
    return arrays
