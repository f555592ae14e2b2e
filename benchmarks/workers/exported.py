"""What the workers of exported graphs share: tokens, batches by a budget, pooling.

Texts are sorted by length and batched by a budget of padded tokens. That is better batching than the users of
these runtimes have from sentence-transformers or optimum; they are given it, so that what is compared is the
runtimes and not their callers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

BUDGET = 1024


class Exported:
    """Text to dense vectors around a function (input_ids, attention_mask) -> last hidden state."""

    def __init__(self, folder: str, forward: Callable[[Any, Any], Any]) -> None:
        self.tokenizer = Tokenizer.from_file(str(Path(folder, "tokenizer.json")))
        self.tokenizer.no_padding()
        config = json.loads(Path(folder, "1_Pooling", "config.json").read_text(encoding="utf-8"))
        self.mean = bool(config.get("pooling_mode_mean_tokens")) or config.get("pooling_mode") == "mean"
        self.pad = json.loads(Path(folder, "config.json").read_text(encoding="utf-8"))["pad_token_id"]
        self.forward = forward

    def encode(self, texts: Sequence[str], max_length: int) -> Any:
        """(texts, dim) float32, unit length, in the order of the texts."""
        rows = self._tokens(texts, max_length)
        found: list[Any] = [None] * len(rows)
        for batch in batches([len(row) for row in rows]):
            width = max(len(rows[i]) for i in batch)
            ids = np.full((len(batch), width), self.pad, dtype=np.int64)
            mask = np.zeros((len(batch), width), dtype=np.int64)
            for place, i in enumerate(batch):
                ids[place, : len(rows[i])] = rows[i]
                mask[place, : len(rows[i])] = 1
            hidden = self.forward(ids, mask)
            if self.mean:
                weights = mask.astype(np.float32)
                pooled = np.einsum("bth,bt->bh", hidden, weights) / weights.sum(1, keepdims=True)
            else:
                pooled = hidden[:, 0]
            pooled = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
            for place, i in enumerate(batch):
                found[i] = pooled[place]
        return np.stack(found).astype(np.float32)

    def computed(self, texts: Sequence[str], max_length: int) -> int:
        """Tokens of the texts with the padding that their batches give them."""
        lengths = [len(row) for row in self._tokens(texts, max_length)]
        return sum(len(batch) * max(lengths[i] for i in batch) for batch in batches(lengths))

    def _tokens(self, texts: Sequence[str], max_length: int) -> list[list[int]]:
        self.tokenizer.enable_truncation(max_length)
        return [row.ids for row in self.tokenizer.encode_batch_fast(list(texts))]


def batches(lengths: Sequence[int], budget: int = BUDGET) -> Iterator[list[int]]:
    """Indices of texts, longest first, as many together as keep the padded batch within the budget."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batch and (len(batch) + 1) * lengths[batch[0]] > budget:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
