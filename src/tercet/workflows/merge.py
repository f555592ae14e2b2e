"""Models merged by a recipe into a folder that is tried out, described and complete."""

from __future__ import annotations

__all__ = ["Merged", "merge"]

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from tercet.checkpoint.hashing import hash_file, hash_weights
from tercet.checkpoint.held import remove_abandoned
from tercet.checkpoint.paths import read_json_object
from tercet.checkpoint.source import Source
from tercet.checkpoint.writer import copy_settings, write_aside
from tercet.errors import OutputError
from tercet.evaluation.auditing.texts import AuditTexts, open_texts
from tercet.merging.executor import run_merge
from tercet.merging.folder import ENCODER, ModelFolder, open_folder
from tercet.merging.planning import MergePlan
from tercet.merging.recipe import MergeRecipe
from tercet.merging.report import MergeReport
from tercet.signatures import refuse_unknown_keywords
from tercet.workflows.merge_audit import ParentAudit, audit_merge, check_auditable
from tercet.workflows.merge_card import merge_card
from tercet.workflows.merge_plan import Fetch, check_space, plan_recipe, plan_recipes, recipes_of
from tercet.workflows.merge_tokenizer import write_tokenizer
from tercet.workflows.merge_weights import solve_weights
from tercet.workflows.merged_model import try_model

_SHARD_BYTES = 5_000_000_000
_REPORT, _RECIPE = "merge_report.json", "merge_recipe.yml"
# What other libraries call the number of layers.
_LAYER_KEYS = ("num_hidden_layers", "n_layers", "n_layer", "num_layers")

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Merged:
    """A finished merge.

    Attributes:
        folder: the result.
        report: what rounding cost, tensor by tensor, and notes.
        tried: what the result was found to do, or that it was not tried.
        audit: the result against each model that it was made of, where that was asked for.
    """

    folder: Path
    report: MergeReport
    tried: str
    audit: tuple[ParentAudit, ...] = ()


@refuse_unknown_keywords
def merge(
    recipe: str | Path | MergeRecipe,
    out: str | Path,
    *,
    overwrite: bool = False,
    allow_overflow: bool = False,
    try_out: bool = True,
    audit: str | Path | None = None,
    token: str | None = None,
    local_files_only: bool = False,
    cache_folder: str | Path | None = None,
    max_shard_bytes: int = _SHARD_BYTES,
    confirm: Callable[[int], bool] | None = None,
    progress: Progress = lambda written, total: None,
) -> Merged:
    """Models merged into a new folder: weights, modules, heads, tokenizer, settings, report and card.

    Args:
        recipe: a YAML file as mergekit has them, or one that was read.
        out: a new or empty folder; written aside, and renamed when all is good.
        overwrite: replace what `out` holds, all of it.
        allow_overflow: write the largest number of the format for results beyond it, and count them.
        try_out: load the result and give it ten texts before it is kept.
        audit: texts on which vectors and rankings of the result are compared with those of its parents: a
            .jsonl or .txt file, or a collection's folder, as `tercet.audit` takes them.
        token, local_files_only, cache_folder, confirm: for models of the hub, as in `tercet.load`.
        max_shard_bytes: most bytes of tensors in one file.
        progress: told the bytes that are written, and how many there will be.

    Raises:
        InputError: the recipe cannot be used.
        CheckpointError: the models do not fit together, or the result is not good.
        PrecisionError: a result is no number, or beyond the range of its format.
        OutputError: `out` holds files, or cannot be written.
    """
    recipes = recipes_of(recipe)
    out = Path(out)
    _check_out(out, recipes, overwrite=overwrite)
    remove_abandoned(out)  # before it is seen how much room there is
    fetch = Fetch(token, local_files_only, cache_folder, confirm)
    plans, _ = plan_recipes(recipes, fetch)
    check_space(plans, out)
    texts = None
    if audit is not None:
        texts = open_texts(audit)
        check_auditable(plans[-1])
    if any(one.examples is not None for one in recipes):
        recipes = tuple(solve_weights(one, fetch, recipes) for one in recipes)
        plans, _ = plan_recipes(recipes, fetch)
    options = _Options(out, allow_overflow, try_out, texts, max_shard_bytes, progress)
    made: dict[str, ModelFolder] = {}
    with write_aside(out, overwrite=overwrite) as aside:
        if len(recipes) == 1:
            return _written(plans[0], aside, options)
        with tempfile.TemporaryDirectory(prefix=".parts.", dir=aside) as parts:
            for number, part in enumerate(recipes[:-1]):
                folder = Path(parts) / f"{number}"
                folder.mkdir()
                _written(plan_recipe(part, fetch, made), folder, replace(options, try_out=False, texts=None))
                made[str(part.name)] = open_folder(Source(folder, str(part.name), None))
            return _written(plan_recipe(recipes[-1], fetch, made), aside, options)


@dataclass(frozen=True, slots=True)
class _Options:
    out: Path
    allow_overflow: bool
    try_out: bool
    texts: AuditTexts | None
    max_shard_bytes: int
    progress: Progress


def _check_out(out: Path, recipes: Sequence[MergeRecipe], *, overwrite: bool) -> None:
    """An OutputError where something is in the way, or would be lost that is no earlier result."""
    if not out.is_dir() or not any(out.iterdir()):
        return
    if not overwrite:
        raise OutputError(
            f"{out} exists and is not an empty folder. Name a new one, or pass overwrite=True (--overwrite) "
            "to replace all that it holds; nothing was written."
        )
    if not any(any(out.glob(pattern)) for pattern in ("config.json", "modules.json", "*.safetensors")):
        raise OutputError(
            f"{out} holds no model, so it is not replaced. Remove it yourself, or name another; nothing was "
            "written."
        )
    for model in (model for recipe in recipes for model in recipe.models()):
        if Path(model.source).resolve().is_relative_to(out.resolve()):
            raise OutputError(
                f"{model} would go with {out}, which was to be replaced. Name another folder; nothing was "
                "written."
            )


def _written(plan: MergePlan, folder: Path, options: _Options) -> Merged:
    """The merge of one document, in `folder`; `options.out` is what the result will be called."""
    recipe, total = plan.recipe, plan.written_bytes
    for relative in plan.donor.folders:
        copy_settings(plan.donor.folder, relative, folder)
    report = run_merge(
        plan,
        folder,
        allow_overflow=options.allow_overflow,
        max_shard_bytes=options.max_shard_bytes,
        progress=lambda written: options.progress(written, total),
    )
    _write_config(plan, folder)
    write_tokenizer(plan, folder)
    tried = "Not tried."
    if options.try_out:
        tried = try_model(folder, plan.donor.encoder_path, named=str(options.out))
    parents = {str(name): model for name, model in plan.models.items()}
    audit = audit_merge(folder, parents, options.texts) if options.texts is not None else []
    hashes = {
        str(name): {"revision": model.revision, "sha256": hash_weights(model.folder, model.files)}
        for name, model in plan.models.items()
    }
    for name, model in plan.models.items():
        if model.adapter is not None:
            hashes[str(name)]["adapter_sha256"] = hash_weights(model.adapter, model.adapter_files)
    for model_name, path in plan.statistics.items():
        hashes[model_name]["statistics_sha256"] = hash_file(path)
    (folder / _RECIPE).write_text(recipe.text.rstrip("\n") + "\n", encoding="utf-8")
    found = {
        "method": recipe.method,
        "models": hashes,
        "settings_from": plan.donor.name,
        "seed": recipe.seed,
        "tried": tried,
        **report.to_json(),
        **({"audit": [one.to_json() for one in audit]} if audit else {}),
    }
    (folder / _REPORT).write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(
        merge_card(plan, report, hashes, tried, options.out.name, audit), encoding="utf-8"
    )
    return Merged(options.out, report, tried, tuple(audit))


def _write_config(plan: MergePlan, folder: Path) -> None:
    """config.json of the donor, with the dtype of the bytes beside it and the number of layers they have."""
    path = folder / plan.donor.encoder_path / "config.json"
    if not path.is_file():
        return
    config = read_json_object(path)
    before = dict(config)
    dtypes = [getattr(torch, t.dtype) for t in plan.tensors if t.part == ENCODER and t.method is not None]
    if dtypes:
        # the widest, in which all are held as they are
        widest = dtypes[0]
        for dtype in dtypes[1:]:
            widest = torch.promote_types(widest, dtype)
        keys: list[str] = [key for key in ("dtype", "torch_dtype") if key in config]
        for key in keys or ["torch_dtype"]:
            config[key] = str(widest).removeprefix("torch.")
    cut = len(plan.recipe.slices) > 1 or any(s.layers for p in plan.recipe.slices for s in p.sources)
    if cut and len(plan.recipe.modules) < 2:
        for key in _LAYER_KEYS:
            if key in config:
                config[key] = len(plan.layers)
        if isinstance(config.get("layer_types"), list):
            config["layer_types"] = [model.config["layer_types"][layer] for model, layer in plan.layers]
    if config != before:
        path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
