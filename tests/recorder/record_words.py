"""Records what sentence-transformers gives for stacks on WordEmbeddings; runs where it is installed.

python tests/recorder/record_words.py tests/recorded/words.npz
"""

from __future__ import annotations

__all__ = ["nltk_words", "word_stacks"]

import json
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import numpy as np  # noqa: E402
from nltk.tokenize import word_tokenize  # noqa: E402
from sentence_transformers import SentenceTransformer  # noqa: E402

from recorder import word_cases  # noqa: E402


def word_stacks(folder: Path) -> dict[str, np.ndarray]:
    """Name of a stack -> (texts, width), each text in a batch of its own; an LSTM takes no empty ones."""
    arrays = {}
    for number, name in enumerate(word_cases.CASES):
        model = SentenceTransformer(str(word_cases.write(folder / f"words{number}", name)), device="cpu")
        texts = word_cases.TEXTS[2:] if name.startswith("lstm") else word_cases.TEXTS
        rows = [model.encode([text], batch_size=1, show_progress_bar=False) for text in texts]
        arrays[name] = np.concatenate(rows)
    return arrays


def nltk_words() -> np.ndarray:
    """The words that NLTK finds in each text, as JSON: Tercet's own environment has no NLTK."""
    found = {text: word_tokenize(text, preserve_line=True) for text in word_cases.TEXTS}
    return np.array(json.dumps(found))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        np.savez_compressed(sys.argv[1], **word_stacks(Path(scratch)), nltk=nltk_words())
