"""Records what the peers make of rerankers that `tercet train` saved; runs where they are, without Tercet.

    python tests/recorder/record_trained_rerankers.py --out tests/recorded

reads trained_rerankers.zip there, which train_folders.py wrote, and writes trained_rerankers.npz beside it.
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

from recorder.trained_reranker_cases import ARCHIVE, LENGTHS, PAIRS, unpack


def record(archive: Path, folder: Path) -> dict[str, np.ndarray]:
    """Scores of both peers for all pairs: as they come, and logits."""
    from FlagEmbedding import FlagReranker
    from sentence_transformers import CrossEncoder

    pairs = [list(pair) for pair in PAIRS]
    arrays: dict[str, np.ndarray] = {}
    for name, path in unpack(archive, folder).items():
        # Left to itself, transformers 5 computes in the dtype that a folder is stored in.
        options = {"device": "cpu", "model_kwargs": {"dtype": torch.float32}}
        model = CrossEncoder(str(path), **options)
        arrays[f"{name}/max_length"] = np.array(model.max_seq_length)
        arrays[f"{name}/scores"] = model.predict(pairs, show_progress_bar=False)
        for length in LENGTHS:
            cut = CrossEncoder(str(path), max_length=length, **options)
            arrays[f"{name}/logits/{length}"] = cut.predict(
                pairs, activation_fn=torch.nn.Identity(), show_progress_bar=False
            )
        flag = FlagReranker(str(path), use_fp16=False, devices="cpu")
        flag.model.float()
        for length in LENGTHS:
            arrays[f"{name}/flag/{length}"] = np.array(flag.compute_score(pairs, max_length=length))
    return arrays


if __name__ == "__main__":
    import tempfile

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help=f"folder with {ARCHIVE}")
    out = parser.parse_args().out
    with tempfile.TemporaryDirectory() as scratch:
        found = record(out / ARCHIVE, Path(scratch) / "folders")
        np.savez_compressed(out / "trained_rerankers.npz", **found)
