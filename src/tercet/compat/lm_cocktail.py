"""FlagEmbedding's LM_Cocktail: models mixed by weights, given or found from a few examples."""

from __future__ import annotations

__all__ = ["mix_models", "mix_models_with_data"]

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tercet.checkpoint.reranker_files import is_reranker
from tercet.checkpoint.source import find
from tercet.compat.keywords import older_keywords
from tercet.embedder import Embedder, load
from tercet.errors import InputError
from tercet.merging.examples_recipe import ExamplesRecipe
from tercet.merging.recipe import parse_recipes
from tercet.reranker import Reranker, load_reranker
from tercet.signatures import refuse_unknown_keywords
from tercet.workflows.merge import merge
from tercet.workflows.merge_weights import example_losses, weights_of

_KINDS = ("encoder", "reranker")


@refuse_unknown_keywords
def mix_models(
    model_names_or_paths: Sequence[str],
    model_type: str,
    weights: Sequence[float],
    output_path: str | None = None,
) -> Embedder | Reranker:
    """The models' weighted sum, written to `output_path` and loaded.

    Args:
        model_names_or_paths: folders or hub ids; settings are those of the first.
        model_type: "encoder" or "reranker".
        weights: of each; 1 in all.
        output_path: a new folder, which is needed here.

    Raises:
        InputError: other weights, another type, or no folder.
        CheckpointError, OutputError, PrecisionError: as `tercet.merge`.
    """
    names = _checked(model_names_or_paths, model_type, output_path)
    numbers = [float(weight) for weight in weights]
    if len(numbers) != len(names) or abs(sum(numbers) - 1) > 1e-3:
        raise InputError(
            f"weights is {numbers} for {len(names)} models: give one for each, 1 in all. For any other sum "
            "use tercet.merge with merge_method: linear and normalize: false."
        )
    return _mixed(names, model_type, numbers, str(output_path))


@older_keywords(example_data="example_ata")
@refuse_unknown_keywords
def mix_models_with_data(
    model_names_or_paths: Sequence[str],
    model_type: str,
    example_ata: Sequence[Mapping[str, Any]],
    temperature: float = 5.0,
    batch_size: int = 2,
    max_input_length: int = 2048,
    neg_number: int = 7,
    output_path: str | None = None,
) -> Embedder | Reranker:
    """The models' sum by the weights softmax(-loss / temperature), written to `output_path` and loaded.

    Args:
        model_names_or_paths: folders or hub ids; settings are those of the first.
        model_type: "encoder" or "reranker".
        example_ata: each {"query": ..., "pos": [...], "neg": [...]}; also under the name example_data.
        temperature: the larger, the more alike the weights.
        batch_size: queries whose passages are told apart together.
        max_input_length: most tokens of a text; never more than the model takes.
        neg_number: negatives of a query, drawn where it has more.
        output_path: a new folder, which is needed here.

    Raises:
        InputError: examples that cannot be read, another type, or no folder.
        CheckpointError, OutputError, PrecisionError: as `tercet.merge`.
    """
    names = _checked(model_names_or_paths, model_type, output_path)
    for keyword, value in (
        ("temperature", temperature),
        ("batch_size", batch_size),
        ("max_input_length", max_input_length),
        ("neg_number", neg_number),
    ):
        if isinstance(value, bool) or not value > 0:
            raise InputError(f"{keyword} is {value!r}, expected a number above 0.")
    wish = ExamplesRecipe("", float(temperature), batch_size, neg_number, max_input_length)
    losses = [example_losses(find(name).folder, example_ata, wish) for name in names]
    return _mixed(names, model_type, weights_of(losses, wish.temperature), str(output_path))


def _checked(names: Sequence[str], kind: str, output_path: str | None) -> list[str]:
    if kind not in _KINDS:
        raise InputError(
            f"model_type is {kind!r}; known here: {', '.join(_KINDS)}. Decoders are merged by tercet merge "
            "with merge_method: linear."
        )
    if isinstance(names, str) or not names:
        raise InputError(f"model_names_or_paths is {names!r}, expected a list of folders or hub ids.")
    if output_path is None:
        raise InputError("output_path is needed: a mixed model is a folder here, which is then loaded.")
    for name in names:
        if is_reranker(find(name).folder) != (kind == "reranker"):
            what, other = ("a", "reranker") if kind == "encoder" else ("no", "encoder")
            raise InputError(
                f"{name} is {what} reranker: pass model_type={other!r}, and models of one type. Nothing "
                "was written."
            )
    return [str(name) for name in names]


def _mixed(names: Sequence[str], kind: str, weights: Sequence[float], output: str) -> Embedder | Reranker:
    entries = [
        {"model": {"model": {"path": name}}, "parameters": {"weight": weight}}
        for name, weight in zip(names, weights, strict=True)
    ]
    recipe = {
        "merge_method": "lm_cocktail",
        "settings_from": {"model": {"path": names[0]}},
        "models": entries,
    }
    # YAML reads JSON
    [parsed] = parse_recipes(json.dumps(recipe, indent=2, ensure_ascii=False), where="mix_models")
    folder: Path = merge(parsed, output).folder
    return load_reranker(folder) if kind == "reranker" else load(folder)
