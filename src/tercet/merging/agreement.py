"""What the merged models must have in common beside the names of their tensors: settings and vocabulary."""

from __future__ import annotations

__all__ = ["check_agreement", "check_classifier"]

import json
from collections.abc import Iterable, Sequence
from typing import Any

from tercet.checkpoint.hashing import hash_file
from tercet.checkpoint.paths import inside
from tercet.checkpoint.sentence_files import read_sentence_settings
from tercet.checkpoint.stack import read_stack
from tercet.errors import CheckpointError
from tercet.merging.folder import ENCODER, ModelFolder
from tercet.merging.tokenizer_file import read_tokenizer

# Settings of config.json by which the same weights mean something else.
_MEANING = (
    "model_type",
    "hidden_act",
    "hidden_activation",
    "activation",
    "num_attention_heads",
    "num_key_value_heads",
    "layer_norm_eps",
    "rms_norm_eps",
    "norm_eps",
    "position_embedding_type",
    "rope_theta",
    "rope_scaling",
    "local_attention",
    "global_attn_every_n_layers",
    "sliding_window",
    "pad_token_id",
    "num_labels",
)


def check_agreement(
    models: Sequence[ModelFolder],
    chosen: ModelFolder | None,
    donor: ModelFolder,
    *,
    vocabularies: bool = True,
) -> list[str]:
    """Notes on differences that were decided by `chosen`, the model whose settings are to be taken.

    Vocabularies are compared where `vocabularies` says so: not where they are to be put in order by token.

    Raises:
        CheckpointError: models differ in a setting or in their vocabulary and none was chosen.
    """
    differences: list[str] = []
    for other in models:
        if other is not donor:
            _check_width(donor, other)
            differences += _in_config(donor, other)
    with_modules = [model for model in models if model.has_modules]
    for other in with_modules[1:]:
        differences += _in_modules(with_modules[0], other)
    if differences and chosen is None:
        raise CheckpointError(
            "The models differ in what their weights mean:\n  "
            + "\n  ".join(differences[:12])
            + "\nSay whose settings the result shall have: settings_from: <one of the models>."
        )
    notes = [f"{one}; those of {donor.name} were taken." for one in differences]
    for other in models:
        if vocabularies and other is not donor:
            notes += _compare_vocabularies(donor, other)
    return notes


def check_classifier(donor: ModelFolder, models: Sequence[ModelFolder], encoder: Iterable[str]) -> None:
    """Of a reranker and an encoder: the result's weights must be of the kind that its settings say.

    Args:
        donor: whose settings the result has.
        models: all of the merge.
        encoder: names of the tensors that the result's encoder will have.

    Raises:
        CheckpointError: there will be a classifier that the settings do not know, or none where they want it.
    """
    made = any(map(_of_classifier, encoder))
    if made == _has_classifier(donor):
        return
    other = next((one.name for one in models if _has_classifier(one) == made), None)
    if made:
        raise CheckpointError(
            f"The result would have the classifier of the reranker {other} and the settings of {donor.name}, "
            f"which know none, and could not be opened. Write settings_from: {other} for a reranker, or "
            "missing: drop for an encoder."
        )
    mend = "" if other is None else f", or settings_from: {other} for an encoder"
    raise CheckpointError(
        f"The result would have the settings of the reranker {donor.name} without its classifier, and could "
        f"not be opened. Write missing: average for a reranker{mend}."
    )


def _has_classifier(model: ModelFolder) -> bool:
    part = model.parts.get(ENCODER)
    return part is not None and any(_of_classifier(info.name) for info in part.tensors.values())


def _of_classifier(name: str) -> bool:
    return "classifier." in name


def _check_width(left: ModelFolder, right: ModelFolder) -> None:
    sizes = [model.config.get("hidden_size") for model in (left, right)]
    if None not in sizes and sizes[0] != sizes[1]:
        raise CheckpointError(
            f"config.json: hidden_size is {sizes[0]!r} in {left.name}, {sizes[1]!r} in {right.name}. The "
            "models have different sizes and cannot be merged. Take models that were tuned from the same one."
        )


def _in_config(left: ModelFolder, right: ModelFolder) -> list[str]:
    return [
        f"config.json: {key} is {left.config[key]!r} in {left.name}, {right.config[key]!r} in {right.name}"
        for key in _MEANING
        if key in left.config and key in right.config and left.config[key] != right.config[key]
    ]


def _in_modules(left: ModelFolder, right: ModelFolder) -> list[str]:
    found = []
    before, after = _described(left), _described(right)
    for key in dict.fromkeys([*before, *after]):
        if before.get(key) != after.get(key):
            one, other = before.get(key, "not there"), after.get(key, "not there")
            found.append(f"{key} is {one} in {left.name}, {other} in {right.name}")
    return found


def _described(model: ModelFolder) -> dict[str, Any]:
    """The modules' settings and the sentence settings, under names that do not depend on versions."""
    stack = read_stack(model.folder)
    chains = {route: part.modules for route, part in stack.routes.items()} or {"": stack.modules}
    found: dict[str, Any] = {}
    for route, chain in chains.items():
        for number, spec in enumerate(chain, start=1):
            shown = json.dumps(dict(spec.config), sort_keys=True, default=str)
            found[f"module {number}{f' of {route}' if route else ''}"] = f"{spec.kind} {shown}"
    settings = read_sentence_settings(model.folder, model.encoder_path, task=None)
    for key in ("prompts", "default_prompt_name", "max_seq_length", "lowercase", "truncate_dim"):
        found[key] = repr(getattr(settings, key))
    return found


def _compare_vocabularies(left: ModelFolder, right: ModelFolder) -> list[str]:
    """A note where one of them does not say what its tokens are; a CheckpointError where they differ."""
    files = [
        inside(model.folder, f"{model.encoder_path}/tokenizer.json".lstrip("/"), said_by="modules.json")
        for model in (left, right)
    ]
    there = [file.is_file() for file in files]
    if not all(there):
        lacking = right.name if there[0] else left.name
        return [f"Vocabularies were not compared: {lacking} has no tokenizer.json."] if any(there) else []
    if hash_file(files[0]) == hash_file(files[1]):
        return []
    first, second = (read_tokenizer(file).ids for file in files)
    if first == second:
        return []
    differing = [token for token, number in first.items() if second.get(token) != number]
    differing += [token for token in second if token not in first]
    raise CheckpointError(
        f"{files[0]} and {files[1]} differ in {len(differing):,} of {max(len(first), len(second)):,} tokens "
        f"({', '.join(map(repr, differing[:4]))}): a row of one table is another word in the other. Put "
        "them in order with tokenizer_source: base, union, or one of the models."
    )
