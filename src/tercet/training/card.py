"""README.md of a trained model: what it was made of, and how."""

from __future__ import annotations

__all__ = ["model_card"]

import json
from collections.abc import Mapping

from tercet import __version__
from tercet.training.recipe import TrainRecipe


def model_card(
    recipe: TrainRecipe, steps: int, measured: Mapping[str, float], *, reranks: bool = False
) -> str:
    """The page, with the front matter that the hub reads; `reranks`: of a reranker."""
    task = "text-ranking" if reranks else "feature-extraction"
    loads = (
        "It scores pairs of texts in Tercet (`tercet.load_reranker`), in sentence-transformers "
        "(`CrossEncoder`) and in FlagEmbedding (`FlagReranker`)."
        if reranks
        else "It loads in Tercet (`tercet.load`), in sentence-transformers, and, where it has both "
        "sparse_linear.pt and colbert_linear.pt, in FlagEmbedding."
    )
    base = recipe.model
    lines = [
        "---",
        "library_name: sentence-transformers",
        f"base_model: {json.dumps(base)}",
        f"pipeline_tag: {task}",
        f"tags: [tercet, sentence-transformers, {task}]",
        "---",
        "",
        f"# A model trained from {base}",
        "",
        f"Made by Tercet {__version__} in {steps:,} steps. {loads}",
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
