"""Records what sentence-transformers' CrossEncoder gives for stacks that end in a Dense of scores.

python tests/recorder/record_score_stacks.py tests/recorded/score_stacks.npz
"""

from __future__ import annotations

__all__ = ["stack_scores"]

import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from sentence_transformers import CrossEncoder  # noqa: E402

from recorder import score_stacks  # noqa: E402


def stack_scores(folder: Path) -> dict[str, np.ndarray]:
    """Name of a stack -> scores of the pairs, each alone."""
    arrays = {}
    for number, name in enumerate(score_stacks.CASES):
        path = score_stacks.write(folder / f"scores{number}", name)
        model = CrossEncoder(str(path), device="cpu", model_kwargs={"dtype": torch.float32})
        pairs = [list(pair) for pair in score_stacks.PAIRS]
        arrays[name] = model.predict(pairs, batch_size=1, show_progress_bar=False)
    return arrays


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        np.savez_compressed(sys.argv[1], **stack_scores(Path(scratch)))
