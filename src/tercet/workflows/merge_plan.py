"""Recipes and the headers of their models -> plans, and the disk that they need; nothing is written."""

from __future__ import annotations

__all__ = [
    "Fetch",
    "check_space",
    "disk_bytes",
    "free_disk_bytes",
    "plan_recipe",
    "plan_recipes",
    "recipes_of",
]

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tercet.checkpoint.header import TensorInfo
from tercet.checkpoint.source import Source, find
from tercet.checkpoint.writer import settings_files
from tercet.errors import OutputError
from tercet.merging.examples_recipe import with_weights
from tercet.merging.folder import ModelFolder, Part, open_folder
from tercet.merging.lora import fold_adapter
from tercet.merging.names import Place, place_of
from tercet.merging.planning import MergePlan, plan_merge
from tercet.merging.recipe import MergeRecipe, ModelName, read_recipes
from tercet.precision.footprint import show_bytes

# The card, the report and the configuration.
_WRITTEN_BESIDE = 1 << 20


@dataclass(frozen=True, slots=True)
class Fetch:
    """Where a model of a recipe comes from; the options are those of `tercet.load`."""

    token: str | None
    local_files_only: bool
    cache_folder: str | Path | None
    confirm: Callable[[int], bool] | None

    def __call__(self, model: ModelName) -> Source:
        """Its folder."""
        return find(
            model.source,
            revision=model.revision,
            token=self.token,
            local_files_only=self.local_files_only,
            cache_folder=self.cache_folder,
            confirm=self.confirm,
        )


def recipes_of(recipe: str | Path | MergeRecipe) -> tuple[MergeRecipe, ...]:
    """Every document, the result last."""
    return (recipe,) if isinstance(recipe, MergeRecipe) else read_recipes(recipe)


def plan_recipe(recipe: MergeRecipe, fetch: Fetch, made: Mapping[str, ModelFolder]) -> MergePlan:
    """The plan of one document; `made` are the results that it may name."""
    if recipe.examples is not None:
        # which weights there will be changes nothing here
        count = len(recipe.slices[0].sources)
        recipe = with_weights(recipe, [1 / count] * count)
    models: dict[ModelName, ModelFolder] = {}
    for name in recipe.models():
        if name.source in made:
            models[name] = made[name.source]
        else:
            source = fetch(name)
            models[name] = open_folder(Source(source.folder, str(name), source.revision))
        if name.lora is not None:
            models[name] = fold_adapter(models[name], Path(name.lora))
    return plan_merge(recipe, models)


def plan_recipes(recipes: Sequence[MergeRecipe], fetch: Fetch) -> tuple[list[MergePlan], list[str]]:
    """The plans of the documents, and notes; one that names another is planned on what that will be.

    What is made of a result with a new vocabulary has no plan before that is there, which a note says.
    """
    made: dict[str, ModelFolder] = {}
    opaque: set[str] = set()
    plans: list[MergePlan] = []
    notes: list[str] = []
    for recipe in recipes:
        unknown = [model.source for model in recipe.models() if model.source in opaque]
        if unknown:
            notes.append(f"{recipe.where} was not looked at: {unknown[0]} gets a vocabulary of its own.")
        else:
            plan = plan_recipe(recipe, fetch, made)
            plans.append(plan)
            notes += plan.notes
        if recipe.name is None:
            continue
        if unknown or recipe.tokenizer is not None:
            opaque.add(recipe.name)
        else:
            made[recipe.name] = _to_come(plan, recipe.name)
    return plans, notes


def disk_bytes(plans: Sequence[MergePlan]) -> int:
    """What is written beside whatever is there: results of all documents at once, weights and settings."""
    return sum(
        plan.written_bytes
        + _WRITTEN_BESIDE
        + sum(
            path.stat().st_size
            for relative in plan.donor.folders
            for path in settings_files(plan.donor.folder, relative)
        )
        for plan in plans
    )


def free_disk_bytes(out: Path) -> int:
    """What the disk of a folder has that may not be there yet."""
    place = out.absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def check_space(plans: Sequence[MergePlan], out: Path) -> None:
    """An OutputError where the disk of `out` cannot take the merge."""
    needed, free = disk_bytes(plans), free_disk_bytes(out)
    if needed > free:
        raise OutputError(
            f"{out} would take {show_bytes(needed)}, its disk has {show_bytes(free)} free. Free some space, "
            "name another place, or write fewer bytes a number (out_dtype: bfloat16); nothing was written."
        )


def _to_come(plan: MergePlan, name: str) -> ModelFolder:
    """What `open_folder` will find when the plan is carried out; there is nothing to read yet."""
    parts: dict[str, Part] = {}
    for key in dict.fromkeys(tensor.part for tensor in plan.tensors):
        owner = next(m for m in (plan.donor, *plan.models.values()) if key in m.parts)
        tensors: dict[Place, TensorInfo] = {}
        stored: dict[str, str] = {}
        for tensor in plan.tensors:
            if tensor.part == key:
                place, pattern = place_of(tensor.name)
                tensors[place] = TensorInfo(tensor.name, tensor.dtype, tensor.task.shape, Path(name), None)
                stored.setdefault(place.pattern, pattern)
        parts[key] = Part(owner.parts[key].path, tensors, stored)
    return replace(plan.donor, name=name, revision=None, parts=parts)
