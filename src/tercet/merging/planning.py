"""A recipe and the headers of its models -> which tensors are made of which, and how."""

from __future__ import annotations

__all__ = ["MergePlan", "PlannedTensor", "plan_merge"]

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import reduce
from pathlib import Path

import torch

from tercet.checkpoint.header import TensorInfo
from tercet.errors import CheckpointError, InputError
from tercet.merging.agreement import check_agreement, check_classifier
from tercet.merging.folder import ENCODER, ModelFolder
from tercet.merging.method import Method, Parameter, Task
from tercet.merging.methods import METHODS
from tercet.merging.names import Place, before_layers, in_layer
from tercet.merging.recipe import MergeRecipe, ModelName, Slice, SliceSource
from tercet.merging.settings import resolve
from tercet.merging.statistics_inputs import GatheredInput, GatheredStatistics
from tercet.merging.streaming import check_inputs, working_bytes
from tercet.merging.towers import by_tower
from tercet.merging.vocabulary import Vocabulary, align_vocabularies
from tercet.precision.footprint import show_bytes

_SHOWN = 12


@dataclass(frozen=True, slots=True)
class PlannedTensor:
    """One tensor of the output.

    Attributes:
        part: key of the part that it belongs to.
        name: in the output's file.
        shown: the same with its part, for reports.
        dtype: torch's name of the dtype that is written.
        inputs: what it is made of, the base apart where the method treats it so.
        base: the base model's, or None.
        method: how; None where it is copied from the first of `inputs`.
        task: what the method is told.
    """

    part: str
    name: str
    shown: str
    dtype: str
    inputs: tuple[TensorInfo, ...]
    base: TensorInfo | None
    method: Method | None
    task: Task

    @property
    def sources(self) -> tuple[TensorInfo, ...]:
        """All tensors that are read."""
        return self.inputs if self.base is None else (*self.inputs, self.base)


@dataclass(frozen=True, slots=True)
class MergePlan:
    """What a merge will do; no weight read.

    Attributes:
        recipe: what was asked for.
        models: by their names, in the order of the recipe.
        donor: the model whose names, settings and tokenizer the result has.
        tensors: in the order of the output's parts and names.
        layers: of each layer of the output the model and layer that it is first made of.
        notes: what a user should know.
        vocabulary: the tokenizer that the recipe asks for; None for the donor's.
        statistics: model -> the file of what was gathered with it, for methods that need such.
    """

    recipe: MergeRecipe
    models: Mapping[ModelName, ModelFolder]
    donor: ModelFolder
    tensors: tuple[PlannedTensor, ...]
    layers: tuple[tuple[ModelFolder, int], ...]
    notes: tuple[str, ...]
    vocabulary: Vocabulary | None = None
    statistics: Mapping[str, Path] = field(default_factory=dict)

    @property
    def written_bytes(self) -> int:
        """Bytes of all tensors of the output."""
        return sum(t.task.numbers * getattr(torch, t.dtype).itemsize for t in self.tensors)


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A tensor of the output: its place there, its slice, its place in each source, and t."""

    part: str
    place: Place
    slice: Slice
    sources: tuple[tuple[SliceSource, Place], ...]
    t: float


def plan_merge(recipe: MergeRecipe, models: Mapping[ModelName, ModelFolder]) -> MergePlan:
    """The plan, from configurations and headers alone.

    Raises:
        CheckpointError: models do not fit together: a tensor without a partner, other sizes, other settings.
        InputError: the recipe asks for layers that are not there, or leaves a parameter open.
    """
    method = METHODS[recipe.method]
    chosen = None
    if recipe.settings_from is not None:
        if recipe.settings_from not in models:
            known = ", ".join(map(str, models))
            raise InputError(f"{recipe.where}: settings_from is {recipe.settings_from}, none of {known}.")
        chosen = models[recipe.settings_from]
    if recipe.missing == "base" and all(
        one is None for one in (recipe.base, *(s.base for s in recipe.slices))
    ):
        raise InputError(
            f"{recipe.where}: missing: base takes tensors from the base model, and there is no base_model. "
            "Name one, or choose missing: average or drop."
        )
    donor = chosen or _donor(recipe, models)
    notes = list(recipe.notes)
    notes += check_agreement(list(models.values()), chosen, donor, vocabularies=recipe.tokenizer is None)
    models, vocabulary, said = align_vocabularies(recipe, models)
    notes += said
    planned: list[PlannedTensor] = []
    alone: list[str] = []
    layers: list[tuple[ModelFolder, int]] = []
    gathered = None if method.statistics is None else GatheredStatistics(method.statistics, recipe.where)
    for inner, inside in by_tower(recipe, models, donor):
        slices = [_whole(part, inside, inner) for part in inner.slices]
        for wanted in _wanted(inner, slices, inside, method):
            found = _planned(wanted, inner, inside, donor, method, alone, notes, gathered)
            if found is not None:
                planned.append(found)
        layers += [
            (models[part.sources[0].model], layer)
            for part in slices
            for layer in range(*_range(part.sources[0], inside))
        ]
    if alone:
        more = f"\n  and {len(alone) - _SHOWN} more" if len(alone) > _SHOWN else ""
        raise CheckpointError(
            "Tensors that not all models have:\n  "
            + "\n  ".join(alone[:_SHOWN])
            + more
            + "\nSay what to do with them: missing: base (that of the base model), drop, or average (the "
            "mean of those that have it)."
        )
    encoder = [tensor.name for tensor in planned if tensor.part == ENCODER]
    check_classifier(donor, list(models.values()), encoder)
    for tensor in planned:
        _begin(tensor)
    if gathered is not None:
        notes += [note for note in (gathered.note(), _held(method, planned)) if note is not None]
    return MergePlan(
        recipe,
        models,
        donor,
        tuple(planned),
        tuple(layers),
        tuple(dict.fromkeys(notes)),
        vocabulary,
        {} if gathered is None else gathered.files,
    )


def _begin(tensor: PlannedTensor) -> None:
    """Lets the method look at its parameters, up to its first pass: what it refuses is known before any work.

    One that holds matrices would begin by reading them; the tensors that have none tell as much.
    """
    if tensor.method is None or (tensor.method.held is not None and tensor.task.statistics):
        return
    steps = tensor.method.steps(tensor.task)
    with suppress(StopIteration):
        next(steps)
    steps.close()


def _held(method: Method, tensors: Sequence[PlannedTensor]) -> str | None:
    """What a method takes that holds more of a tensor than a chunk; None of one that does not."""
    if method.held is None:
        return None
    sizes = {t.task.shape[-1]: t for t in tensors if t.method is method and t.task.statistics}
    if not sizes:
        return None
    widest = sizes[max(sizes)]
    most = working_bytes(method, widest.task, len(widest.inputs))
    return (
        f"{method.name} holds two Gram matrices of the widest layer in float64, and blocks of rows: at most "
        f"{show_bytes(most)} for {widest.shown}, which has {max(sizes):,} inputs."
    )


def _donor(recipe: MergeRecipe, models: Mapping[ModelName, ModelFolder]) -> ModelFolder:
    """The base, or the first model; one with modules.json where there is any."""
    order = [*([recipe.base] if recipe.base is not None else []), *models]
    return next((models[one] for one in order if models[one].has_modules), models[order[0]])


def _range(source: SliceSource, models: Mapping[ModelName, ModelFolder]) -> tuple[int, int]:
    assert source.layers is not None
    return source.layers


def _whole(part: Slice, models: Mapping[ModelName, ModelFolder], recipe: MergeRecipe) -> Slice:
    """The slice with the range of each source, checked."""
    sources = []
    for source in part.sources:
        layers = models[source.model].layers
        wanted = source.layers or (0, layers)
        if wanted[1] > layers:
            raise InputError(
                f"{recipe.where}: layer_range {list(wanted)} of {source.model}, which has {layers} layers."
            )
        sources.append(SliceSource(source.model, wanted, source.parameters))
    counts = {str(s.model): s.layers[1] - s.layers[0] for s in sources if s.layers is not None}
    if len(set(counts.values())) > 1:
        shown = ", ".join(f"{name} has {count}" for name, count in counts.items())
        raise CheckpointError(
            f"The models have different numbers of layers: {shown}. Say which belong together with slices."
        )
    return Slice(tuple(sources), part.base, part.parameters)


def _wanted(
    recipe: MergeRecipe, slices: Sequence[Slice], models: Mapping[ModelName, ModelFolder], method: Method
) -> Iterator[_Wanted]:
    """Every tensor that the output could have, whether or not all have it."""
    first, last = slices[0], slices[-1]
    keys = dict.fromkeys(key for model in models.values() for key in model.parts)
    reached = 0
    for part in slices:
        whole = _with_base(part, recipe, method)
        start, end = _range(part.sources[0], models)
        for offset in range(end - start):
            t = offset / (end - start - 1) if end - start > 1 else 1.0
            layers = [(source, _range(source, models)[0] + offset) for source in whole.sources]
            patterns = dict.fromkeys(
                place.pattern
                for source, layer in layers
                for place in models[source.model].parts[ENCODER].tensors
                if place.layer == layer
            )
            for pattern in patterns:
                sources = tuple((source, Place(pattern, layer)) for source, layer in layers)
                yield _Wanted(ENCODER, Place(pattern, reached + offset), whole, sources, t)
        reached += end - start
    for key in keys:
        places = dict.fromkeys(
            place
            for model in models.values()
            if key in model.parts
            for place in model.parts[key].tensors
            if key != ENCODER or place.layer is None
        )
        for place in places:
            # mergekit's rule: what comes before the layers is the first slice's, the rest the last one's
            part = _with_base(
                first if key == ENCODER and before_layers(place.pattern) else last, recipe, method
            )
            yield _Wanted(key, place, part, tuple((source, place) for source in part.sources), 0.0)


def _with_base(part: Slice, recipe: MergeRecipe, method: Method) -> Slice:
    """The slice with its base among the sources, last where it is not listed."""
    base = part.base or recipe.base
    if base is None or any(source.model == base for source in part.sources):
        return Slice(part.sources, base, part.parameters)
    return Slice((*part.sources, SliceSource(base, part.sources[0].layers)), base, part.parameters)


def _planned(
    wanted: _Wanted,
    recipe: MergeRecipe,
    models: Mapping[ModelName, ModelFolder],
    donor: ModelFolder,
    method: Method,
    alone: list[str],
    notes: list[str],
    gathered: GatheredStatistics | None,
) -> PlannedTensor | None:
    """The tensor, or None where it is left out; one that lacks a partner without a rule goes into `alone`."""
    found = []
    for source, place in wanted.sources:
        part = models[source.model].parts.get(wanted.part)
        found.append((source, None if part is None else part.tensors.get(place)))
    having = [(source, info) for source, info in found if info is not None]
    if not having:
        return None  # only models of other slices have it
    shown, name = _names(wanted, models, donor)
    if wanted.part not in donor.parts and not wanted.part.endswith(".pt"):
        notes.append(f"{shown} was left out: {donor.name} has no such module.")
        return None
    infos = [info for _, info in having]
    if not all(info.is_float for info in infos):
        return _copied(wanted, shown, name, infos, donor, alone=len(having) < len(found))
    if len({info.shape for info in infos}) > 1:
        raise CheckpointError(_sizes(shown, having))
    dtype = str(recipe.out_dtype or recipe.dtype or "") or _promoted(infos)
    chosen = method
    if len(having) < len(found):
        lacking = ", ".join(str(source.model) for source, info in found if info is None)
        if recipe.missing == "error":
            alone.append(f"{shown} {infos[0].shape}: not in {lacking}")
            return None
        having = [one for one in having if one[0].model == wanted.slice.base or recipe.missing == "average"]
        if recipe.missing == "drop" or not having:
            notes.append(f"{shown} was left out: it is not in {lacking}.")
            return None
        notes.append(f"{shown} is not in {lacking}: missing: {recipe.missing}.")
        weights = tuple({"weight": 1.0} for _ in having)
        task = Task(shown, infos[0].shape, {"normalize": True}, weights, recipe.seed)
        inputs = tuple(info for _, info in having)
        return PlannedTensor(wanted.part, name, shown, dtype, inputs, None, METHODS["linear"], task)
    apart = wanted.slice.base is not None and method.base != "input"
    inputs_of = [(s, i) for s, i in having if not apart or s.model != wanted.slice.base]
    base = next((info for s, info in having if apart and s.model == wanted.slice.base), None)
    check_inputs(method, len(inputs_of), has_base=base is not None, where=recipe.where)
    task = _task(wanted, recipe, chosen, shown, inputs_of)
    if gathered is not None:
        places = {id(source): place for source, place in wanted.sources}
        named = [
            GatheredInput(models[source.model], places[id(source)], info, own["statistics"])
            for (source, info), own in zip(inputs_of, task.of_inputs, strict=True)
        ]
        task = replace(task, statistics=gathered.of(wanted.part, shown, named))
    return PlannedTensor(
        wanted.part, name, shown, dtype, tuple(info for _, info in inputs_of), base, chosen, task
    )


def _task(
    wanted: _Wanted,
    recipe: MergeRecipe,
    method: Method,
    shown: str,
    inputs: Sequence[tuple[SliceSource, TensorInfo]],
) -> Task:
    """What the method is told: a parameter is the source's, the slice's, the module's or the recipe's."""
    shared_levels = [wanted.slice.parameters, recipe.module_parameters, recipe.parameters]

    def value(parameter: Parameter, source: SliceSource | None, tensor: str) -> object:
        levels = shared_levels if source is None else [source.parameters, *shared_levels]
        model = None if source is None else str(source.model)
        return resolve(parameter, levels, tensor, wanted.t, recipe.where, model)

    own = [parameter for parameter in method.parameters if parameter.per_input]
    shared = {p.name: value(p, None, shown) for p in method.parameters if not p.per_input}
    inner = [_inner(wanted, info) for _, info in inputs]
    of_inputs = tuple(
        {parameter.name: value(parameter, source, name) for parameter in own}
        for (source, _), name in zip(inputs, inner, strict=True)
    )
    return Task(shown, inputs[0][1].shape, shared, of_inputs, recipe.seed)


def _inner(wanted: _Wanted, info: TensorInfo) -> str:
    """The name by which filters of one model know a tensor: that of its file, with its part."""
    return info.name if wanted.part == ENCODER else f"{wanted.part.removesuffix('.pt')}.{info.name}"


def _names(wanted: _Wanted, models: Mapping[ModelName, ModelFolder], donor: ModelFolder) -> tuple[str, str]:
    """What the tensor is called in reports, and in the output's file."""
    part = donor.parts.get(wanted.part)
    stored = None if part is None else part.stored.get(wanted.place.pattern)
    if stored is None:
        others = (model.parts.get(wanted.part) for model in models.values())
        stored = next(
            o.stored[wanted.place.pattern] for o in others if o and wanted.place.pattern in o.stored
        )
    name = in_layer(stored, wanted.place.layer)
    return (name if wanted.part == ENCODER else f"{wanted.part.removesuffix('.pt')}.{name}"), name


def _copied(
    wanted: _Wanted, shown: str, name: str, infos: Sequence[TensorInfo], donor: ModelFolder, *, alone: bool
) -> PlannedTensor | None:
    """A buffer of integers, which the executor compares and copies; one that some lack is the donor's."""
    part = donor.parts.get(wanted.part)
    kept = None if part is None else part.tensors.get(wanted.place)
    if alone:
        if kept is None or kept.is_float:
            return None
        infos = [kept]
    if len({(info.shape, info.dtype) for info in infos}) > 1:
        shapes = ", ".join(f"{info.shape} in {info.dtype}" for info in infos)
        raise CheckpointError(f"{shown} is {shapes}. Only tensors of one size and kind are merged.")
    task = Task(shown, infos[0].shape, {}, tuple({} for _ in infos))
    return PlannedTensor(wanted.part, name, shown, infos[0].dtype, tuple(infos), None, None, task)


def _promoted(infos: Sequence[TensorInfo]) -> str:
    """The narrowest dtype that holds the numbers of all."""
    dtypes = [getattr(torch, info.dtype) for info in infos]
    if len(set(dtypes)) > 1 and any(dtype.itemsize == 1 for dtype in dtypes):
        return "float32"
    return str(reduce(torch.promote_types, dtypes)).removeprefix("torch.")


def _sizes(shown: str, having: Sequence[tuple[SliceSource, TensorInfo]]) -> str:
    sizes = ", ".join(f"{info.shape} in {source.model}" for source, info in having)
    if "position" in shown:
        mend = "The models take texts of different lengths; merge models that take the same."
    elif "word_embeddings" in shown or "embed_tokens" in shown or "tok_embeddings" in shown:
        mend = "The models have different vocabularies: tokenizer_source: union (or base) puts them in order."
    else:
        mend = "The models have different sizes and cannot be merged."
    return f"{shown} is {sizes}. {mend}"
