"""Records what PyLate gives; runs where it is installed, without Tercet.

PyLate pins other versions of sentence-transformers and transformers than the other recorders need, so it has
an environment of its own (pip install pylate==1.6.0), and is not among what `make twins` records anew:

python tests/recorder/record_pylate.py tests/recorded/pylate.npz
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import numpy as np  # noqa: E402
from pylate import models  # noqa: E402

from recorder import late_cases  # noqa: E402


def pylate_vectors(folder: Path) -> dict[str, np.ndarray]:
    """Vectors of each case's texts for each task laid end to end, and how many each text has."""
    arrays: dict[str, np.ndarray] = {}
    for number, name in enumerate(late_cases.PYLATE):
        model = models.ColBERT(str(late_cases.write(folder / f"late{number}", name)), device="cpu")
        for task in late_cases.TASKS:
            found = model.encode(list(late_cases.TEXTS), is_query=task == "query", show_progress_bar=False)
            arrays[f"{name}/{task}/vectors"] = np.concatenate(found)
            arrays[f"{name}/{task}/rows"] = np.array([len(rows) for rows in found])
    return arrays


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        np.savez_compressed(sys.argv[1], **pylate_vectors(Path(scratch)))
