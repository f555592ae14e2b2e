"""What the peers' own classes give after their weights were merged by hand; runs without Tercet.

    python tests/recorder/record_merged_kinds.py tests/recorded/merged_kinds.npz

records this file alone.
"""

from __future__ import annotations

__all__ = ["answers", "merged_by_hand", "network", "open_with", "record"]

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from FlagEmbedding import BGEM3FlagModel, FlagReranker  # noqa: E402
from sentence_transformers import CrossEncoder, SentenceTransformer, SparseEncoder  # noqa: E402

from recorder import merged_kinds  # noqa: E402
from recorder.merged_kinds import KINDS  # noqa: E402

Arrays = dict[str, np.ndarray]
_SENTENCE = {
    "SentenceTransformer": SentenceTransformer,
    "CrossEncoder": CrossEncoder,
    "SparseEncoder": SparseEncoder,
}


def record(folder: Path) -> Arrays:
    """Every array of merged_kinds.npz; `folder` takes the tiny checkpoints."""
    arrays: Arrays = {}
    for name, kind in KINDS.items():
        for method in ("linear", kind.second):
            folders = merged_kinds.write(folder / name / method, name, method)
            for peer in kind.peers:
                model = merged_by_hand(peer, folders, method)
                for key, value in answers(peer, model).items():
                    arrays[f"{name}/{method}/{peer}/{key}"] = value
                if not kind.here:
                    tensors = _stored(model)
                    arrays[f"{name}/{method}/digests"] = merged_kinds.digests(tensors)
                    arrays[f"{name}/{method}/sketches"] = merged_kinds.sketches(tensors)
    return arrays


def open_with(peer: str, folder: Path) -> Any:
    """The folder opened by one of the peers' classes, in float32."""
    if peer in _SENTENCE:
        return _SENTENCE[peer](str(folder), device="cpu", model_kwargs={"dtype": torch.float32})
    if peer == "BGEM3FlagModel":
        return BGEM3FlagModel(str(folder), use_fp16=False, devices="cpu", colbert_dim=16)
    return FlagReranker(str(folder), use_fp16=False, devices="cpu")


def merged_by_hand(peer: str, folders: Sequence[Path], method: str) -> Any:
    """The first model, opened by the peer, with each of its weights merged with those of the others."""
    models = [open_with(peer, folder) for folder in folders]
    states = [network(peer, model).state_dict() for model in models]
    made = {}
    for name, first in states[0].items():
        tensors = [state[name].numpy() for state in states]
        made[name] = torch.from_numpy(merged_kinds.by_hand(method, tensors)).to(first.dtype)
    network(peer, models[0]).load_state_dict(made)
    return models[0]


def network(peer: str, model: Any) -> torch.nn.Module:
    """The torch module with all weights of a peer's model."""
    return model.model if peer in ("BGEM3FlagModel", "FlagReranker") else model


def answers(peer: str, model: Any) -> Arrays:
    """All that it makes of the texts, or of pairs."""
    texts = list(merged_kinds.TEXTS)
    if peer == "SentenceTransformer":
        return {"dense": model.encode(texts, show_progress_bar=False)}
    if peer == "SparseEncoder":
        found = model.encode(texts, convert_to_sparse_tensor=False, show_progress_bar=False).numpy()
        rows, columns = found.nonzero()
        return {
            "entries": np.bincount(rows, minlength=len(found)),
            "token_ids": columns,
            "weights": found[rows, columns],
        }
    if peer == "CrossEncoder":
        pairs = [list(pair) for pair in merged_kinds.FLAG_PAIRS]
        return {"scores": model.predict(pairs, show_progress_bar=False, activation_fn=torch.nn.Identity())}
    if peer == "FlagReranker":
        model.model.float()
        return {"scores": np.array(model.compute_score([list(pair) for pair in merged_kinds.FLAG_PAIRS]))}
    found = model.encode(
        texts, max_length=60, return_dense=True, return_sparse=True, return_colbert_vecs=True
    )
    words = [sorted((int(key), value) for key, value in one.items()) for one in found["lexical_weights"]]
    return {
        "dense": found["dense_vecs"],
        "entries": np.array([len(one) for one in words]),
        "token_ids": np.array([key for one in words for key, _ in one], dtype=np.int64),
        "weights": np.array([value for one in words for _, value in one], dtype=np.float32),
        "rows": np.array([len(rows) for rows in found["colbert_vecs"]]),
        "vectors": np.concatenate(found["colbert_vecs"]),
    }


def _stored(model: SentenceTransformer) -> dict[str, np.ndarray]:
    """Module's place and tensor's name, as they are in the files -> the tensor."""
    found = {}
    for place, module in enumerate(model):
        inner = module.auto_model if place == 0 else module
        for name, tensor in inner.state_dict().items():
            found[f"{place}/{name}"] = tensor.numpy()
    return found


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        np.savez_compressed(sys.argv[1], **record(Path(scratch)))
