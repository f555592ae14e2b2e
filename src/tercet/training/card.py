"""README.md of a trained model: what it was made of, and how."""

from __future__ import annotations

__all__ = ["model_card"]

import json
from collections.abc import Mapping

from tercet import __version__
from tercet.training.recipe import TrainRecipe


def model_card(recipe: TrainRecipe, steps: int, measured: Mapping[str, float]) -> str:
    """The page, with the front matter that the hub reads."""
    base = recipe.model
    lines = [
        "---",
        "library_name: sentence-transformers",
        f"base_model: {json.dumps(base)}",
        "pipeline_tag: feature-extraction",
        "tags: [tercet, sentence-transformers, feature-extraction]",
        "---",
        "",
        f"# A model trained from {base}",
        "",
        f"Made by Tercet {__version__} in {steps:,} steps. It loads in Tercet (`tercet.load`), in "
        "sentence-transformers, and, where it has both sparse_linear.pt and colbert_linear.pt, in "
        "FlagEmbedding.",
        "",
    ]
    values = {name: value for name, value in measured.items() if name != "chosen"}
    if values and recipe.validation is not None:
        lines += [f"Measured on {recipe.validation.collection}:", "", "| | |", "|---|---|"]
        lines += [f"| {name} | {value:.4f} |" for name, value in values.items()] + [""]
    lines += [
        "The recipe:",
        "",
        "```json",
        json.dumps(recipe.to_dict(), indent=1, ensure_ascii=False),
        "```",
        "",
    ]
    return "\n".join(lines)
