"""What sentence-transformers gives for routes with encoders of their own, and for SparseStaticEmbedding.

python tests/recorder/record_own_encoders.py tests/recorded/own_encoders.npz
"""

from __future__ import annotations

__all__ = ["own_encoders_vectors"]

import contextlib
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from sentence_transformers import SentenceTransformer, SparseEncoder  # noqa: E402

from recorder import own_encoders  # noqa: E402


def own_encoders_vectors(folder: Path) -> dict[str, np.ndarray]:
    """Case and task -> (texts, width); of sparse vectors ids and weights, end to end, and how many each has.

    Of no task the name of the one that gives the same.
    """
    arrays: dict[str, np.ndarray] = {}
    for number, (name, case) in enumerate(own_encoders.CASES.items()):
        path = own_encoders.write(folder / f"own{number}", name)
        kind: Any = SparseEncoder if case.sparse else SentenceTransformer
        # That library looks for idf.json in the working folder, or on the hub.
        listed = next(path.rglob("idf.json"), None)
        with contextlib.chdir(path if listed is None else listed.parent):
            model = kind(str(path), device="cpu", model_kwargs={"dtype": torch.float32})
        rows: dict[str | None, np.ndarray] = {}
        for task in reversed(own_encoders.tasks(name)):
            encode = {None: model.encode, "query": model.encode_query, "document": model.encode_document}
            options: dict[str, Any] = {"convert_to_sparse_tensor": False} if case.sparse else {}
            options |= {"show_progress_bar": False, **case.encode}
            found = np.asarray(encode[task](list(own_encoders.TEXTS), **options))
            key, same = f"{name}/{task}", [one for one, other in rows.items() if np.array_equal(found, other)]
            rows[task] = found
            if same:
                arrays[key] = np.array(same[0])
            elif not case.sparse:
                arrays[key] = found
            else:
                texts, ids = found.nonzero()
                arrays[f"{key}/token_ids"] = ids.astype(np.int16)
                arrays[f"{key}/weights"] = found[texts, ids]
                arrays[f"{key}/entries"] = np.bincount(texts, minlength=len(found)).astype(np.int16)
    return arrays


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        np.savez_compressed(sys.argv[1], **own_encoders_vectors(Path(scratch)))
