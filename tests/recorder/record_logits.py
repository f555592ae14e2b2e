"""What sentence-transformers' CrossEncoder gives for language models with a LogitScore.

python tests/recorder/record_logits.py tests/recorded/logits.npz
"""

from __future__ import annotations

__all__ = ["logit_scores"]

import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from sentence_transformers import CrossEncoder  # noqa: E402

from recorder import logit_cases  # noqa: E402


def logit_scores(folder: Path) -> dict[str, np.ndarray]:
    """Case -> (pairs,) scores."""
    arrays: dict[str, np.ndarray] = {}
    for number, (name, case) in enumerate(logit_cases.CASES.items()):
        path = logit_cases.write(folder / f"logits{number}", name)
        model = CrossEncoder(str(path), device="cpu", model_kwargs={"dtype": torch.float32})
        pairs = [list(pair) for pair in logit_cases.PAIRS]
        arrays[name] = model.predict(pairs, show_progress_bar=False, **case.predict)
    return arrays


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        np.savez_compressed(sys.argv[1], **logit_scores(Path(place)))
