"""Records what sentence-transformers' MultiVectorEncoder gives; runs where it is installed, without Tercet.

python tests/recorder/record_late.py tests/recorded/late.npz
"""

from __future__ import annotations

__all__ = ["late_vectors"]

import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from sentence_transformers import MultiVectorEncoder  # noqa: E402

from recorder import late_cases  # noqa: E402


def late_vectors(folder: Path) -> dict[str, np.ndarray]:
    """Vectors of each case's texts for each task laid end to end, and how many each text has."""
    arrays: dict[str, np.ndarray] = {}
    for number, name in enumerate(late_cases.CASES):
        path = late_cases.write(folder / f"late{number}", name)
        model = MultiVectorEncoder(str(path), device="cpu", model_kwargs={"dtype": torch.float32})
        for task, encode in (("query", model.encode_query), ("document", model.encode_document)):
            found = encode(list(late_cases.TEXTS), show_progress_bar=False)
            arrays[f"{name}/{task}/vectors"] = np.concatenate([rows.numpy() for rows in found])
            arrays[f"{name}/{task}/rows"] = np.array([len(rows) for rows in found])
    return arrays


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        np.savez_compressed(sys.argv[1], **late_vectors(Path(scratch)))
