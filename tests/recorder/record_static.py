"""What sentence-transformers gives for static embeddings, in float32."""

from __future__ import annotations

__all__ = ["static_stacks"]

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer

from recorder import static


def static_stacks(folder: Path) -> dict[str, np.ndarray]:
    """Name of a case -> (texts, width)."""
    arrays = {}
    for number, case in enumerate(static.CASES):
        path = static.write(folder / f"static{number}", case.name)
        if case.whole_numbers:
            _as_float32(path)
        model = SentenceTransformer(str(path), device="cpu").float()
        arrays[case.name] = model.encode(list(static.TEXTS), show_progress_bar=False, **case.encode)
    return arrays


def _as_float32(path: Path) -> None:
    """The same numbers in a format that the peer opens."""
    [file] = path.rglob("model.safetensors")
    tensors = load_file(file)
    save_file({n: t.float() if t.dtype == torch.int8 else t for n, t in tensors.items()}, file)
