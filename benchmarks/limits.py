"""Arithmetic of an encoder, to be set against what the chip could do."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Sizes:
    """What decides how much there is to multiply."""

    layers: int
    hidden: int
    intermediate: int

    @classmethod
    def of(cls, folder: Path) -> Sizes:
        """As a checkpoint's config.json has them."""
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return cls(config["num_hidden_layers"], config["hidden_size"], config["intermediate_size"])

    def parts(self, lengths: Sequence[int]) -> dict[str, float]:
        """Multiplications and additions of each product and of attention, on real tokens alone.

        Heads, norms and activations are left out: at most a few hundredths.
        """
        tokens = self.layers * sum(lengths)
        return {
            "qkv": 6.0 * tokens * self.hidden**2,
            "attention": 4.0 * self.layers * self.hidden * sum(n * n for n in lengths),
            "attention_out": 2.0 * tokens * self.hidden**2,
            "up": 2.0 * tokens * self.hidden * self.intermediate,
            "down": 2.0 * tokens * self.hidden * self.intermediate,
        }

    def flops(self, lengths: Iterable[int]) -> float:
        """Of all parts together."""
        return sum(self.parts(list(lengths)).values())

    def least_seconds(self, lengths: Iterable[int], linear_rate: float, attention_rate: float) -> float:
        """The physical limit: linear layers at one rate, attention at another, both in GFLOP/s."""
        parts = self.parts(list(lengths))
        attention = parts.pop("attention")
        return 1e-9 * (sum(parts.values()) / linear_rate + attention / attention_rate)
