"""What a recipe says of the examples that decide the weights of its models, and the recipe with weights."""

from __future__ import annotations

__all__ = ["ExamplesRecipe", "parse_examples", "with_weights"]

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from tercet.errors import InputError, UnknownNameError, nearest

if TYPE_CHECKING:
    from tercet.merging.recipe import MergeRecipe


@dataclass(frozen=True, slots=True)
class ExamplesRecipe:
    """Examples, and how they decide; defaults are LM-Cocktail's.

    Attributes:
        file: JSON lines of query, pos and neg, as for training.
        temperature: of the softmax over the models' losses: the larger, the more alike the weights.
        batch_size: queries whose passages are told apart together.
        negatives: of each query, drawn with the recipe's seed where it has more.
        max_length: most tokens of a text.
    """

    file: str
    temperature: float = 5.0
    batch_size: int = 2
    negatives: int = 7
    max_length: int = 2048


def parse_examples(value: Any, method: str, where: str) -> ExamplesRecipe | None:
    """The entry `examples`: a file, or its settings; None where there is none.

    Raises:
        InputError: another method, an unknown key, or a value that cannot be.
    """
    if value is None:
        return None
    if method != "lm_cocktail":
        raise InputError(
            f"{where}: examples decide the weights of lm_cocktail, not of {method}. Leave them out, or "
            "change merge_method."
        )
    given = {"file": value} if isinstance(value, str) else value
    known = [one.name for one in fields(ExamplesRecipe)]
    if not isinstance(given, Mapping) or not isinstance(given.get("file"), str):
        raise InputError(f"{where}: examples is {value!r}, expected a file of JSON lines, or {{file: ...}}.")
    for key, one in given.items():
        if key not in known:
            raise UnknownNameError(f"{where}, examples: there is no key {key!r}. {nearest(str(key), known)}")
        if key != "file" and (isinstance(one, bool) or not isinstance(one, int | float) or not 0 < one < 1e9):
            raise InputError(f"{where}, examples: {key} is {one!r}, expected a number above 0.")
        if key not in ("file", "temperature") and not isinstance(one, int):
            raise InputError(f"{where}, examples: {key} is {one!r}, expected a whole number.")
    return ExamplesRecipe(**given)


def with_weights(recipe: MergeRecipe, weights: Sequence[float], comment: str = "") -> MergeRecipe:
    """The recipe with these weights in place of its examples, in its text too, under a comment."""
    from tercet.extras import require

    yaml = require("yaml", extra="merge", purpose="A merge recipe")
    [part] = recipe.slices
    sources = tuple(
        replace(source, parameters={**source.parameters, "weight": weight})
        for source, weight in zip(part.sources, weights, strict=True)
    )
    document = yaml.safe_load(recipe.text)
    del document["examples"]
    for entry, weight in zip(document["models"], weights, strict=True):
        entry["parameters"] = {**(entry.get("parameters") or {}), "weight": weight}
    text = comment + yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
    return replace(recipe, slices=(replace(part, sources=sources),), examples=None, text=text)
