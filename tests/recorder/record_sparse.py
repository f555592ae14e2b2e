"""Records what sentence-transformers' SparseEncoder gives; runs where it is installed, without Tercet.

python tests/recorder/record_sparse.py tests/recorded/sparse_encoder.npz tests/recorded/sparse_calls.npz
"""

from __future__ import annotations

__all__ = ["sparse_calls_answers", "sparse_vectors"]

import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from sentence_transformers import SparseEncoder  # noqa: E402

from recorder import cases, sentence_calls, sparse_calls, sparse_cases  # noqa: E402


def sparse_vectors(folder: Path) -> dict[str, np.ndarray]:
    """Ids and weights of each case's texts laid end to end, how many each text has, and the vocabulary."""
    arrays: dict[str, np.ndarray] = {}
    for number, (name, case) in enumerate(sparse_cases.CASES.items()):
        path = sparse_cases.write(folder / f"sparse{number}", name)
        model = SparseEncoder(str(path), device="cpu", model_kwargs={"dtype": torch.float32})
        found = model.encode(
            list(cases.TEXTS), convert_to_sparse_tensor=False, show_progress_bar=False, **case.encode
        ).numpy()
        texts, ids = found.nonzero()
        arrays[f"{name}/token_ids"] = ids.astype(np.int32)
        arrays[f"{name}/weights"] = found[texts, ids]
        arrays[f"{name}/entries"] = np.bincount(texts, minlength=len(found)).astype(np.int32)
        arrays[f"{name}/vocabulary"] = np.array(found.shape[1])
    return arrays


def sparse_calls_answers(folder: Path) -> dict[str, np.ndarray]:
    """What the class answers to each call of each folder, and the signatures of its methods."""
    arrays: dict[str, np.ndarray] = {}
    for number, name in enumerate(sparse_calls.FOLDERS):
        path = sparse_calls.write(folder / f"sparse_calls{number}", name)
        found = sparse_calls.answers(SparseEncoder, path)
        arrays |= {f"{name}/{call}": value for call, value in found.items()}
    return arrays | {
        f"signature/{method}": sentence_calls.signature(SparseEncoder, method)
        for method in sparse_calls.METHODS
    }


if __name__ == "__main__":
    for place, made in zip(sys.argv[1:], (sparse_vectors, sparse_calls_answers), strict=False):
        with tempfile.TemporaryDirectory() as scratch:
            np.savez_compressed(place, **made(Path(scratch)))
