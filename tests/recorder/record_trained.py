"""Records what the peers make of folders that `tercet train` saved; runs where they are, without Tercet.

    python tests/recorder/record_trained.py --out tests/recorded

reads trained.zip there, which train_folders.py wrote, and writes trained.npz beside it.
"""

from __future__ import annotations

__all__ = ["record"]

import argparse
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch

from recorder import trained_cases
from recorder.trained_cases import PAIRS, TEXTS, WEIGHTS


def record(archive: Path, folder: Path) -> dict[str, np.ndarray]:
    """The outputs for all texts, and the scores of each pair alone, where no padding takes part."""
    arrays: dict[str, np.ndarray] = {}
    for name, path in trained_cases.unpack(archive, folder).items():
        found = sentence_transformers_outputs(path)
        options = trained_cases.CASES[name].flag
        if options is not None:
            found |= flag_outputs(path, **options)
        arrays |= {f"{name}/{key}": value for key, value in found.items()}
    return arrays


def sentence_transformers_outputs(path: Path) -> dict[str, np.ndarray]:
    """Dense vectors of texts as they are, and with the folder's own prompts."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(path), device="cpu", model_kwargs={"dtype": torch.float32})
    texts = list(TEXTS)
    return {
        "sentence_transformers": model.encode(texts),
        "as queries": model.encode_query(texts),
        "as documents": model.encode_document(texts),
        "max_seq_length": np.array(model.max_seq_length),
    }


def flag_outputs(path: Path, **options: object) -> dict[str, np.ndarray]:
    """All three outputs and every score of FlagEmbedding."""
    from FlagEmbedding import BGEM3FlagModel

    model = BGEM3FlagModel(str(path), use_fp16=False, devices="cpu", **options)
    # transformers 5 keeps the dtype that a folder is stored in, whatever use_fp16 says.
    model.model.float()
    found = model.encode(
        list(TEXTS), max_length=60, return_dense=True, return_sparse=True, return_colbert_vecs=True
    )
    entries = [sorted((int(key), value) for key, value in text.items()) for text in found["lexical_weights"]]
    arrays = {
        "dense": found["dense_vecs"],
        "entries": np.array([len(text) for text in entries]),
        "token_ids": np.array([key for text in entries for key, _ in text], dtype=np.int64),
        "weights": np.array([value for text in entries for _, value in text], dtype=np.float32),
        "rows": np.array([len(rows) for rows in found["colbert_vecs"]]),
        "vectors": np.concatenate(found["colbert_vecs"]),
    }
    alone = [
        model.compute_score([list(pair)], weights_for_different_modes=list(WEIGHTS), max_passage_length=60)
        for pair in PAIRS
    ]
    for name in alone[0]:
        arrays[f"scores/{name}"] = np.array([np.ravel(scores[name])[0] for scores in alone], dtype=np.float32)
    return arrays


if __name__ == "__main__":
    import tempfile

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder with trained.zip")
    out = parser.parse_args().out
    with tempfile.TemporaryDirectory() as scratch:
        np.savez_compressed(out / "trained.npz", **record(out / "trained.zip", Path(scratch) / "folders"))
