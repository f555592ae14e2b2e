"""What sentence-transformers gives for stacks with modules over token vectors, one text at a time."""

from __future__ import annotations

__all__ = ["module_stacks"]

from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import LSTM

from recorder import modules


def module_stacks(folder: Path) -> dict[str, np.ndarray]:
    """Name of a stack -> (texts, width), each text in a batch of its own."""
    arrays = {}
    for number, case in enumerate(modules.STACKS):
        path = modules.write(folder / f"modules{number}", case.name)
        model = SentenceTransformer(str(path), device="cpu", model_kwargs={"dtype": torch.float32})
        # Behind a Transformer its LSTM finds no lengths (KeyError): they are told here.
        model[0].register_forward_hook(_with_lengths)
        rows = [
            model.encode([text], batch_size=1, show_progress_bar=False, **case.encode)
            for text in modules.TEXTS
        ]
        arrays[case.name] = np.concatenate(rows)
    for number, case in enumerate(modules.ROUTED):
        path = modules.write(folder / f"routed{number}", case.name)
        model = SentenceTransformer(str(path), device="cpu", model_kwargs={"dtype": torch.float32})
        if isinstance(model[1] if len(model) > 1 else None, LSTM):
            model[0].register_forward_hook(_with_lengths)
        for task in modules.TASKS:
            found = model.encode(list(modules.TEXTS), task=task, show_progress_bar=False)
            arrays[f"{case.name}/{task}"] = found
    return arrays


def _with_lengths(module: torch.nn.Module, inputs: Any, features: dict[str, Any]) -> dict[str, Any]:
    return {**features, "sentence_lengths": features["attention_mask"].sum(dim=1)}
