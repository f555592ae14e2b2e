"""Arithmetic of an encoder, to be set against what the chip could do."""

from __future__ import annotations

import json
from collections.abc import Iterable
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

    def flops(self, lengths: Iterable[int]) -> float:
        """Multiplications and additions of linear layers and attention, on real tokens alone.

        Heads, norms and activations are left out: at most a few hundredths.
        """
        linear = 8 * self.hidden * self.hidden + 4 * self.hidden * self.intermediate
        return float(sum(self.layers * (n * linear + 4 * n * n * self.hidden) for n in lengths))
