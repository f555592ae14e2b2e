"""What a merge would do and need, from headers alone."""

from __future__ import annotations

__all__ = ["CheckedModel", "MergeCheck", "check_merge"]

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tercet.errors import CheckpointError
from tercet.merging.folder import ENCODER, ModelFolder
from tercet.merging.names import before_layers
from tercet.merging.planning import MergePlan
from tercet.merging.recipe import MergeRecipe
from tercet.merging.streaming import working_bytes
from tercet.precision.footprint import show_bytes
from tercet.precision.memory import host_memory
from tercet.signatures import refuse_unknown_keywords
from tercet.workflows.merge_plan import Fetch, disk_bytes, free_disk_bytes, plan_recipes, recipes_of
from tercet.workflows.merge_weights import check_examples

_FLOAT32 = 4


@dataclass(frozen=True, slots=True)
class CheckedModel:
    """One model of a merge.

    Attributes:
        bytes: of its weights.
        dtypes: of them, with how many numbers.
        layers: of its encoder.
        vocabulary: rows of its table of tokens; None where there is none.
        positions: tokens of its longest text, by config.json; None where that does not say.
    """

    bytes: int
    dtypes: Mapping[str, int]
    layers: int
    vocabulary: int | None
    positions: int | None


@dataclass(frozen=True, slots=True)
class MergeCheck:
    """What a merge would do, from headers alone; of several documents, the last one is the result.

    Attributes:
        method: its name.
        models: name -> what it is; results of other documents are left out.
        donor: whose names, settings and tokenizer the result has.
        tensors: how many the result has.
        dtypes: of them, with how many numbers.
        written_bytes: of all tensors of the result.
        disk_bytes: most that lies on disk at once beside the models: results of all documents, and settings.
        free_disk_bytes: where the result would lie.
        memory_bytes: most that the arithmetic takes beside what Python and torch do.
        trial_bytes: of the weights of the result in float32, as which it is tried out.
        free_memory_bytes: what this process could have now.
        notes: what a user should know.
    """

    method: str
    models: Mapping[str, CheckedModel]
    donor: str
    tensors: int
    dtypes: Mapping[str, int]
    written_bytes: int
    disk_bytes: int
    free_disk_bytes: int
    memory_bytes: int
    trial_bytes: int
    free_memory_bytes: int
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """For scripts."""
        found = asdict(self)
        found["settings_from"] = found.pop("donor")
        return found


@refuse_unknown_keywords
def check_merge(
    recipe: str | Path | MergeRecipe,
    out: str | Path | None = None,
    *,
    token: str | None = None,
    local_files_only: bool = False,
    cache_folder: str | Path | None = None,
    confirm: Callable[[int], bool] | None = None,
) -> MergeCheck:
    """What a merge would do and need: names, sizes, settings and vocabularies compared, no weight read.

    Args:
        recipe: a YAML file as mergekit has them, or one that was read.
        out: where the result would lie: its disk is looked at, and whether anything is in the way; None for
            the disk of the current folder alone.
        token, local_files_only, cache_folder, confirm: for models of the hub, as in `tercet.load`.

    Raises:
        InputError, CheckpointError: as `merge` would.
    """
    recipes = recipes_of(recipe)
    for one in recipes:
        check_examples(one, recipes)
    plans, notes = plan_recipes(recipes, Fetch(token, local_files_only, cache_folder, confirm))
    last = plans[-1]
    results = {one.name for one in recipes if one.name is not None}
    models = {
        str(name): _checked(model)
        for plan in plans
        for name, model in plan.models.items()
        if name.source not in results
    }
    dtypes: dict[str, int] = {}
    for tensor in last.tensors:
        dtypes[tensor.dtype] = dtypes.get(tensor.dtype, 0) + tensor.task.numbers
    needed, free = disk_bytes(plans), free_disk_bytes(Path(out or "."))
    trial, memory = _FLOAT32 * sum(dtypes.values()), host_memory().free_bytes
    if (
        out is not None
        and (taken := Path(out)).exists()
        and not (taken.is_dir() and not any(taken.iterdir()))
    ):
        notes.append(
            f"{out} exists and is not an empty folder: name a new one, or merge with --overwrite "
            "(overwrite=True), which replaces all that it holds."
            if taken.is_dir()
            else f"{out} is a file, where the result needs a folder: name another place."
        )
    if needed > free:
        notes.append(f"The disk has {show_bytes(free)} free, too little for {show_bytes(needed)}.")
    working = max((_working(plan) for plan in plans), default=0)
    if max(working, trial) > memory:
        mend = " Leave out the trial (--no-try)." if working <= memory else ""
        notes.append(f"{show_bytes(memory)} of memory are free, too little for what is needed.{mend}")
    return MergeCheck(
        method=last.recipe.method,
        models=models,
        donor=last.donor.name,
        tensors=len(last.tensors),
        dtypes=dtypes,
        written_bytes=last.written_bytes,
        disk_bytes=needed,
        free_disk_bytes=free,
        memory_bytes=working,
        trial_bytes=trial,
        free_memory_bytes=memory,
        notes=tuple(dict.fromkeys(notes)),
    )


def _working(plan: MergePlan) -> int:
    return max(
        (working_bytes(t.method, t.task, len(t.sources)) for t in plan.tensors if t.method is not None),
        default=0,
    )


def _checked(model: ModelFolder) -> CheckedModel:
    infos = [info for part in model.parts.values() for info in part.tensors.values()]
    dtypes: dict[str, int] = {}
    for info in infos:
        dtypes[info.dtype] = dtypes.get(info.dtype, 0) + info.numbers
    return CheckedModel(
        bytes=sum(info.num_bytes for info in infos),
        dtypes=dtypes,
        layers=model.layers,
        vocabulary=_vocabulary(model),
        positions=_setting(model, ("max_position_embeddings", "n_positions")),
    )


def _vocabulary(model: ModelFolder) -> int | None:
    """Rows of the largest table of the encoder, which is that of tokens."""
    tables = [
        info.shape[0]
        for place, info in model.parts[ENCODER].tensors.items()
        if before_layers(place.pattern) and len(info.shape) == 2 and "position" not in place.pattern
    ]
    return max(tables, default=None)


def _setting(model: ModelFolder, keys: Sequence[str]) -> int | None:
    for key in keys:
        value = model.config.get(key)
        if value is None:
            continue
        if type(value) is not int:
            raise CheckpointError(
                f"{model.folder / model.encoder_path / 'config.json'}: {key} is {value!r}, expected a whole "
                "number."
            )
        return value
    return None
