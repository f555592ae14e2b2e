"""Records what sentence-transformers gives for stacks on BoW; runs where it is installed.

python tests/recorder/record_bags.py tests/recorded/bags.npz
"""

from __future__ import annotations

__all__ = ["bag_stacks"]

import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import numpy as np  # noqa: E402
from sentence_transformers import SentenceTransformer  # noqa: E402

from recorder import bag_cases  # noqa: E402


def bag_stacks(folder: Path) -> dict[str, np.ndarray]:
    """Name of a stack -> (2 * texts, width): the texts, and the texts behind a prompt."""
    arrays = {}
    for number, name in enumerate(bag_cases.CASES):
        model = SentenceTransformer(str(bag_cases.write(folder / f"bag{number}", name)), device="cpu")
        rows = [
            model.encode(list(bag_cases.TEXTS), prompt=prompt, show_progress_bar=False)
            for prompt in (None, bag_cases.PROMPT)
        ]
        arrays[name] = np.concatenate(rows)
    return arrays


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        np.savez_compressed(sys.argv[1], **bag_stacks(Path(scratch)))
