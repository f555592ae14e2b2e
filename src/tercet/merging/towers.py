"""Models of several towers, such as CLIP or T5: which entry of `modules` merges which of their tensors."""

from __future__ import annotations

__all__ = ["by_tower"]

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from tercet.checkpoint.encoder_files import own_name
from tercet.errors import InputError
from tercet.merging.folder import ENCODER, ModelFolder
from tercet.merging.names import Place
from tercet.merging.recipe import MergeRecipe, ModelName, ModuleRecipe

Models = Mapping[ModelName, ModelFolder]
# Entries that take what no other claims: mergekit's for what is in no layer, and that of T5's embeddings.
_REST = ("default", "encoder")


def by_tower(recipe: MergeRecipe, models: Models, donor: ModelFolder) -> list[tuple[MergeRecipe, Models]]:
    """The merge in parts, each with one row of layers at most: a recipe, and its tensors of every model.

    An entry of `modules` is called as mergekit calls it, by what stands before the number of a layer
    ("text_model.encoder.layers"), or by the beginning of that ("text_model"); "default" takes the rest.

    Raises:
        InputError: an entry has no tensors, or a tensor no entry; layers of one of several towers are cut.
    """
    places = dict.fromkeys(place for model in models.values() for place in model.parts[ENCODER].tensors)
    towers = list(dict.fromkeys(_tower(place) for place in places if place.layer is not None))
    entries = recipe.modules or (ModuleRecipe("default", recipe.slices, {}),)
    if [entry.name for entry in entries] == ["default"] and len(towers) < 2:
        return [(recipe, models)]
    owners = _owners(recipe, [entry.name for entry in entries], towers, list(places))
    # It has what is not of the encoder, too.
    rest = next((name for name in _REST if any(e.name == name for e in entries)), entries[0].name)
    parts: list[tuple[MergeRecipe, Models]] = []
    for entry in entries:
        if entry.name not in owners.values() and entry.name != rest:
            raise InputError(
                f"{recipe.where}, modules.{entry.name}: no tensor is called so. The towers are "
                f"{', '.join(towers)}."
            )
        own = [tower for tower in towers if owners[tower] == entry.name]
        if any(source.layers is not None for part in entry.slices for source in part.sources):
            _check_cut(recipe, entry, own, donor)
        inner = replace(recipe, slices=entry.slices, module_parameters=entry.parameters)
        outside = (place.pattern for place in places if place.layer is None)
        loose = {pattern for pattern in outside if owners[pattern] == entry.name}
        for number, tower in enumerate(own or [None]):
            kept = _of(tower, loose if number == 0 else set())
            beside = number == 0 and entry.name == rest
            parts.append((inner, {name: _only(one, kept, beside) for name, one in models.items()}))
    return parts


def _owners(
    recipe: MergeRecipe, entries: Sequence[str], towers: Sequence[str], places: Sequence[Place]
) -> dict[str, str]:
    """Tower, or name of a tensor that is in no layer -> the entry that it belongs to."""
    names = {own_name(entry): entry for entry in entries}
    rest = next((name for name in _REST if name in entries), None)
    owners: dict[str, str] = {}
    for one in (*towers, *(place.pattern for place in places if place.layer is None)):
        fitting = [name for name in names if one == name or one.startswith(f"{name}.")]
        # A row of layers is named; without modules all are merged alike.
        other = rest if one not in towers or not recipe.modules else None
        found = names[max(fitting, key=len)] if fitting else other
        if found is None:
            raise InputError(
                f"{recipe.where}: modules has no entry for {one}. Give one for each tower "
                f"({', '.join(towers)}), by its name or the beginning of it, and default for the rest; or "
                "list models instead."
            )
        owners[one] = found
    return owners


def _check_cut(recipe: MergeRecipe, entry: ModuleRecipe, own: Sequence[str], donor: ModelFolder) -> None:
    """An InputError where it is not clear which layers are meant, or config.json would say another number."""
    if len(own) != 1:
        raise InputError(
            f"{recipe.where}: layer_range of a model with several towers ({', '.join(own)}). Give modules, "
            "with an entry for each."
        )
    layers = [p.layer for p in donor.parts[ENCODER].tensors if p.layer is not None and _tower(p) == own[0]]
    depth = max(layers, default=-1) + 1
    ranges = [part.sources[0].layers or (0, depth) for part in entry.slices]
    made = sum(end - start for start, end in ranges)
    if made != depth:
        raise InputError(
            f"{recipe.where}, modules.{entry.name}: its slices have {made} layers, {donor.name} has {depth}. "
            "The depth of one of several towers cannot be changed; give as many."
        )


def _of(tower: str | None, loose: set[str]) -> Callable[[Place], bool]:
    return lambda place: place.pattern in loose if place.layer is None else _tower(place) == tower


def _only(model: ModelFolder, kept: Callable[[Place], bool], beside: bool) -> ModelFolder:
    """The model with some tensors of its encoder, and its other parts if `beside` says so."""
    encoder = model.parts[ENCODER]
    some = {place: info for place, info in encoder.tensors.items() if kept(place)}
    return replace(model, parts={**(model.parts if beside else {}), ENCODER: replace(encoder, tensors=some)})


def _tower(place: Place) -> str:
    """What stands before the number of a layer."""
    return place.pattern.partition("{}")[0].rstrip(".")
