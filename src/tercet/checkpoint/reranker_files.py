"""A folder of a reranker -> Checkpoint: an encoder with a classification head, as transformers saves it.

So bge-reranker, and the CrossEncoder folders of sentence-transformers, some of which end in other modules.
"""

from __future__ import annotations

__all__ = ["is_reranker", "open_reranker"]

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tercet.checkpoint.classification_head import HEADS, head_tensors, num_labels
from tercet.checkpoint.contents import Checkpoint, ModuleSpec
from tercet.checkpoint.decoder_files import DECODERS
from tercet.checkpoint.encoder_files import position_limit, read_encoder_config, sort_tensors
from tercet.checkpoint.logit_score import LogitStack, head_rows, logit_stack, read_chat
from tercet.checkpoint.paths import inside, read_json_file, read_json_object
from tercet.checkpoint.reranker_settings import TOP, read_activation, read_settings, settings_of
from tercet.checkpoint.sentence_files import SentenceSettings, read_sentence_settings, text_limit
from tercet.checkpoint.source import Source
from tercet.checkpoint.stack import Stack, read_stack
from tercet.checkpoint.token_modules import LAYER_POOLING
from tercet.checkpoint.weights import Weights, find_weights
from tercet.checkpoint.widths import check_widths
from tercet.errors import CheckpointError


def open_reranker(source: Source | str | Path) -> Checkpoint:
    """What the folder holds, from configurations and headers alone; the last module makes the scores.

    Args:
        source: what `find` gave back, or a folder.

    Raises:
        CheckpointError: a file is missing or damaged, or the folder holds another kind of model.
    """
    if not isinstance(source, Source):
        source = Source(Path(source), str(source), None)
    folder = source.folder
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder. Give the folder of a model, or its id on the hub.")
    if (logits := logit_stack(folder)) is not None:
        return _open_logit_score(source, logits)
    stack = _stack(source)
    if stack.modules:
        return _open_stack(source, stack)
    place = stack.encoder_path
    start = f"{place}/" if place else ""
    where = folder / f"{start}config.json"
    _refuse_decoders(where)
    architecture, config = read_encoder_config(folder, place)
    if architecture not in HEADS:
        raise CheckpointError(
            f"{where} describes a model of type {architecture!r}, of which no reranker is known. "
            f"Supported: {', '.join(HEADS)}."
        )
    top = _object(folder, TOP)
    if (kind := top.get("model_type") or "CrossEncoder") != "CrossEncoder":
        raise CheckpointError(
            f"{folder / TOP}: this is a {kind}, not a CrossEncoder: it has no head that scores a pair. "
            "Open it with tercet.load, or `tercet embed` on the command line."
        )
    settings = read_settings(folder, start, top)

    weights = find_weights(folder, place, source.remote)
    head, rest = head_tensors(folder, architecture, weights.tensors)
    labels = num_labels(where, config, head["out.weight"])
    spec = ModuleSpec(
        "classification",
        weights.files[0].name,
        {
            "labels": labels,
            "hidden_activation": HEADS[architecture][1],
            "activation": read_activation(folder, where, config, top),
        },
        head,
    )
    of_encoder = replace(weights, tensors=rest)
    return _described(source, place, architecture, config, settings, of_encoder, (spec,))


def is_reranker(source: Source | str | Path) -> bool:
    """Whether the folder says that it scores pairs: a CrossEncoder, or a plain one with a classifier.

    What has modules and is no CrossEncoder makes vectors, whatever its encoder was trained as.

    Raises:
        CheckpointError: a file is damaged.
    """
    if not isinstance(source, Source):
        source = Source(Path(source), str(source), None)
    folder = source.folder
    kind = _object(folder, TOP).get("model_type")
    if kind is not None:
        return bool(kind == "CrossEncoder")
    if inside(folder, "modules.json", said_by="modules.json").is_file():
        return False
    classes = _object(folder, "config.json").get("architectures")
    if isinstance(classes, list) and classes:
        return str(classes[0]).endswith("ForSequenceClassification")
    # Without a class the weights tell, if they can be read; where they cannot, whoever opens them says why.
    if not (folder / "config.json").is_file():
        return False
    names = find_weights(folder, "", source.remote).tensors
    return any("classifier." in name for name in names)


def _stack(source: Source) -> Stack:
    """What modules.json describes: a Transformer alone, or one with modules that end in a Dense of scores."""
    folder = source.folder
    path = inside(folder, "modules.json", said_by="modules.json")
    if not path.is_file():
        return Stack("", ())
    entries = read_json_file(path)
    entries = entries if isinstance(entries, list) else []  # what it is instead, read_stack says
    names = [str(entry.get("type")) for entry in entries if isinstance(entry, dict)]
    kinds = [name.rsplit(".", 1)[-1] for name in names]
    stack = read_stack(folder, source.remote, end="scores")
    if stack.modules and not stack.modules[-1].config.get("scores"):
        raise CheckpointError(
            f"{path} has the modules {', '.join(kinds)}; a reranker is one Transformer with a classification "
            "head, or ends in a Dense whose module_output_name is 'scores'. If this is a model for "
            "embeddings, open it with tercet.load, or `tercet embed` on the command line."
        )
    return stack


def _open_stack(source: Source, stack: Stack) -> Checkpoint:
    """A CrossEncoder of Transformer, Pooling, and modules that end in a Dense of scores."""
    folder, place = source.folder, stack.encoder_path
    top = _object(folder, TOP)
    start = f"{place}/" if place else ""
    where = folder / f"{start}config.json"
    _refuse_decoders(where)
    architecture, config = read_encoder_config(folder, place)
    for module in stack.modules:
        faults = {
            "a Dense of scores that is not the last module": module.config.get("scores")
            and module is not stack.modules[-1],
            "a Pooling that leaves prompts out": not module.config.get("include_prompt", True),
            "a WeightedLayerPooling": module.kind == LAYER_POOLING,
        }
        for fault, found in faults.items():
            if found:
                raise CheckpointError(
                    f"{folder / module.where} is {fault}, which a reranker cannot have here. "
                    "Use sentence-transformers for this model."
                )
    check_widths(folder, stack, config["hidden_size"])
    settings = read_sentence_settings(folder, place)
    weights = find_weights(folder, place, source.remote)
    last = stack.modules[-1]
    ending = {
        "labels": last.config["out_features"],
        "activation": read_activation(folder, where, config, top),
    }
    modules = (*stack.modules[:-1], replace(last, config={**last.config, **ending}))
    return _described(source, place, architecture, config, settings, weights, modules, stack.notes)


def _open_logit_score(source: Source, stack: LogitStack) -> Checkpoint:
    """A CrossEncoder of a language model and a LogitScore."""
    folder, place = source.folder, stack.encoder_path
    start = f"{place}/" if place else ""
    where = folder / f"{start}config.json"
    top = _object(folder, TOP)
    architecture, config = read_encoder_config(folder, place)
    if architecture not in DECODERS:
        raise CheckpointError(
            f"{where} describes a model of type {architecture!r}, and in front of a LogitScore only "
            f"{', '.join(DECODERS)} is known. Use sentence-transformers' CrossEncoder for this model."
        )
    found, chat = read_chat(folder, place, _object(folder, f"{start}tokenizer_config.json"))
    settings = settings_of(folder, start, found, top)
    weights = find_weights(folder, place, source.remote)
    head, name = head_rows(folder, stack, config, weights.tensors)
    rest = {stored: info for stored, info in weights.tensors.items() if stored != name}
    ending = {
        "labels": 1,
        "true": stack.true,
        "false": stack.false,
        "activation": read_activation(folder, where, config, top),
        "chat": chat,
    }
    spec = ModuleSpec("logit_score", stack.where, ending, {"head": head}, as_stored=("head",))
    of_encoder = replace(weights, tensors=rest)
    return _described(source, place, architecture, config, settings, of_encoder, (spec,))


def _described(
    source: Source,
    place: str,
    architecture: str,
    config: Mapping[str, Any],
    settings: SentenceSettings,
    weights: Weights,
    modules: tuple[ModuleSpec, ...],
    found: tuple[str, ...] = (),
) -> Checkpoint:
    """The checkpoint of an encoder, whose are the tensors of `weights`, and the modules behind it."""
    folder, start = source.folder, f"{place}/" if place else ""
    tensors, ignored = sort_tensors(weights.tensors)
    tokenizer_config = _object(folder, f"{start}tokenizer_config.json")
    tokenizer_file = inside(folder, f"{start}tokenizer.json", said_by="modules.json")
    max_length, note = text_limit(settings, tokenizer_config, position_limit(architecture, config))
    notes = [*found, *settings.notes, *([note] if note else [])]
    if ignored:
        notes.append(f"Not used by a reranker: {', '.join(sorted(ignored))}.")
    return Checkpoint(
        folder=folder,
        name=source.name,
        layout="reranker",
        architecture=architecture,
        config=config,
        tensors=tensors,
        modules=modules,
        tokenizer_file=tokenizer_file if tokenizer_file.is_file() else None,
        tokenizer_config=tokenizer_config,
        max_length=max_length,
        lowercase=settings.lowercase,
        prompts=settings.prompts,
        default_prompt_name=settings.default_prompt_name,
        notes=tuple(notes),
        revision=source.revision,
        encoder_path=place,
        file_format=weights.file_format,
        files=weights.files,
        ignored=ignored,
    )


def _refuse_decoders(where: Path) -> None:
    classes = read_json_object(where).get("architectures") if where.is_file() else None
    first = classes[0] if isinstance(classes, list) and classes else ""
    if isinstance(first, str) and first.endswith(("ForCausalLM", "ForConditionalGeneration")):
        raise CheckpointError(
            f"{where} describes a {first}, and nothing says how a language model scores a pair. A folder of "
            "sentence-transformers with a LogitScore behind it is a reranker, and so is an encoder with a "
            "classification head (…ForSequenceClassification). Use FlagEmbedding's FlagLLMReranker, or save "
            "it with sentence-transformers' CrossEncoder."
        )


def _object(folder: Path, relative: str) -> dict[str, Any]:
    path = inside(folder, relative, said_by="modules.json")
    return read_json_object(path) if path.is_file() else {}
