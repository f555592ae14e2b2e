"""What transformers and sentence-transformers give for decoders.

python tests/recorder/record_decoders.py tests/recorded/decoders.npz
"""

from __future__ import annotations

__all__ = ["decoder_vectors"]

import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from sentence_transformers import SentenceTransformer  # noqa: E402
from transformers import AutoModel, AutoTokenizer  # noqa: E402

from recorder import decoder_cases  # noqa: E402


def decoder_vectors(folder: Path) -> dict[str, np.ndarray]:
    """Token ids and hidden states of bodies, a text at a time, end to end; vectors of embedders by task."""
    arrays: dict[str, np.ndarray] = {}
    for number, name in enumerate(decoder_cases.BODIES):
        path = decoder_cases.write_body(folder / f"body{number}", name)
        tokenizer = AutoTokenizer.from_pretrained(path)
        model = AutoModel.from_pretrained(path, dtype=torch.float32).eval()
        limit = min(tokenizer.model_max_length, model.config.max_position_embeddings)
        ids, hidden = [], []
        for text in filter(None, decoder_cases.TEXTS):
            inputs = tokenizer(text, truncation=True, max_length=limit, return_tensors="pt")
            with torch.no_grad():
                hidden.append(model(**inputs).last_hidden_state[0].numpy())
            ids.append(inputs["input_ids"][0].numpy())
        arrays[f"{name}/ids"] = np.concatenate(ids).astype(np.int16)
        arrays[f"{name}/lengths"] = np.array([len(row) for row in ids])
        # Every few rows: the last of a text has seen all others.
        arrays[f"{name}/hidden"] = np.concatenate(hidden)[:: decoder_cases.EVERY]
    for number, name in enumerate(decoder_cases.EMBEDDERS):
        path = decoder_cases.write_embedder(folder / f"embedder{number}", name)
        model = SentenceTransformer(str(path), device="cpu", model_kwargs={"dtype": torch.float32})
        for task, encode in (("query", model.encode_query), ("document", model.encode_document)):
            arrays[f"{name}/{task}"] = encode(list(decoder_cases.TEXTS), show_progress_bar=False)
    return arrays


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        np.savez_compressed(sys.argv[1], **decoder_vectors(Path(place)))
