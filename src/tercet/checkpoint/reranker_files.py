"""A folder of a reranker -> Checkpoint: an encoder with a classification head, as transformers saves it.

So bge-reranker, and the CrossEncoder folders of sentence-transformers, whose settings have moved over time:
`sbert_ce_default_activation_function` in config.json (before 4), `sentence_transformers.activation_fn` there
(4 and 5), `activation_fn` in config_sentence_transformers.json (6).
"""

from __future__ import annotations

__all__ = ["is_reranker", "open_reranker"]

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tercet.checkpoint.contents import Checkpoint, ModuleSpec
from tercet.checkpoint.decoder_files import DECODERS
from tercet.checkpoint.encoder_files import position_limit, read_encoder_config, sort_tensors
from tercet.checkpoint.header import TensorInfo
from tercet.checkpoint.logit_score import LogitStack, head_rows, logit_stack, read_chat
from tercet.checkpoint.paths import inside, read_json_file, read_json_object
from tercet.checkpoint.sentence_files import SentenceSettings, read_sentence_settings, text_limit
from tercet.checkpoint.source import Source
from tercet.checkpoint.stack import Stack, read_stack
from tercet.checkpoint.token_modules import LAYER_POOLING
from tercet.checkpoint.weights import Weights, find_weights
from tercet.checkpoint.widths import check_widths
from tercet.errors import CheckpointError, nearest

# architecture -> (the layer behind the first token, its activation, the layer that makes logits)
_HEADS = {
    "bert": ("pooler.dense", "tanh", "classifier"),
    "roberta": ("classifier.dense", "tanh", "classifier.out_proj"),
    "xlm-roberta": ("classifier.dense", "tanh", "classifier.out_proj"),
    "mpnet": ("classifier.dense", "tanh", "classifier.out_proj"),
    "electra": ("classifier.dense", "gelu", "classifier.out_proj"),
    "distilbert": ("pre_classifier", "relu", "classifier"),
}
_MOST_LABELS = 1 << 16
_TOP, _TRANSFORMER = "config_sentence_transformers.json", "sentence_bert_config.json"
# What sentence_bert_config.json may say; another value would change what comes out.
_ONLY: Mapping[str, tuple[object, ...]] = {
    "transformer_task": ("sequence-classification",),
    "module_output_name": ("scores",),
    "modality_config": ({"text": {"method": "forward", "method_output_name": "logits"}},),
    "processing_kwargs": (None, {}),
    "query_expansion": (None, False),
    "query_length": (None,),
    "document_length": (None,),
}
_SETTINGS = {*_ONLY, "max_seq_length", "do_lower_case", "unpad_inputs"}


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
    if architecture not in _HEADS:
        raise CheckpointError(
            f"{where} describes a model of type {architecture!r}, of which no reranker is known. "
            f"Supported: {', '.join(_HEADS)}."
        )
    top = _object(folder, _TOP)
    if (kind := top.get("model_type") or "CrossEncoder") != "CrossEncoder":
        raise CheckpointError(
            f"{folder / _TOP}: this is a {kind}, not a CrossEncoder: it has no head that scores a pair. "
            "Open it with tercet.load."
        )
    settings = _settings(folder, start, top)

    weights = find_weights(folder, place, source.remote)
    head, rest = _head(folder, architecture, weights.tensors)
    labels = _labels(where, config, head["out.weight"])
    spec = ModuleSpec(
        "classification",
        weights.files[0].name,
        {
            "labels": labels,
            "hidden_activation": _HEADS[architecture][1],
            "activation": _activation(folder, where, config, top),
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
    kind = _object(folder, _TOP).get("model_type")
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
            "embeddings, open it with tercet.load."
        )
    return stack


def _open_stack(source: Source, stack: Stack) -> Checkpoint:
    """A CrossEncoder of Transformer, Pooling, and modules that end in a Dense of scores."""
    folder, place = source.folder, stack.encoder_path
    top = _object(folder, _TOP)
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
    ending = {"labels": last.config["out_features"], "activation": _activation(folder, where, config, top)}
    modules = (*stack.modules[:-1], replace(last, config={**last.config, **ending}))
    return _described(source, place, architecture, config, settings, weights, modules, stack.notes)


def _open_logit_score(source: Source, stack: LogitStack) -> Checkpoint:
    """A CrossEncoder of a language model and a LogitScore."""
    folder, place = source.folder, stack.encoder_path
    start = f"{place}/" if place else ""
    where = folder / f"{start}config.json"
    top = _object(folder, _TOP)
    architecture, config = read_encoder_config(folder, place)
    if architecture not in DECODERS:
        raise CheckpointError(
            f"{where} describes a model of type {architecture!r}, and in front of a LogitScore only "
            f"{', '.join(DECODERS)} is known. Use sentence-transformers' CrossEncoder for this model."
        )
    found, chat = read_chat(folder, place, _object(folder, f"{start}tokenizer_config.json"))
    settings = _checked(folder, folder / f"{start}{_TRANSFORMER}", found, top)
    weights = find_weights(folder, place, source.remote)
    head, name = head_rows(folder, stack, config, weights.tensors)
    rest = {stored: info for stored, info in weights.tensors.items() if stored != name}
    ending = {
        "labels": 1,
        "true": stack.true,
        "false": stack.false,
        "activation": _activation(folder, where, config, top),
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


def _settings(folder: Path, start: str, top: Mapping[str, Any]) -> SentenceSettings:
    path, found = folder / f"{start}{_TRANSFORMER}", _object(folder, f"{start}{_TRANSFORMER}")
    for key, value in found.items():
        if key not in _SETTINGS:
            raise CheckpointError(
                f"{path}: the setting {key!r} is not known, so it is not known what it changes. "
                f"{nearest(key, _SETTINGS)} Remove it if it does not matter."
            )
        if key in _ONLY and value not in _ONLY[key]:
            raise CheckpointError(
                f"{path}: {key!r} is {value!r}; of a reranker only {_ONLY[key][0]!r} is supported. "
                "Use sentence-transformers for this model."
            )
    return _checked(folder, path, found, top)


def _checked(folder: Path, path: Path, found: Mapping[str, Any], top: Mapping[str, Any]) -> SentenceSettings:
    """The length and case of the Transformer's settings, and the prompts."""
    length = found.get("max_seq_length")
    if length is not None and (type(length) is not int or length < 1):
        raise CheckpointError(f"{path}: 'max_seq_length' is {length!r}, expected a positive number.")
    prompts = top.get("prompts") or {}
    if not isinstance(prompts, dict) or not all(isinstance(text, str | None) for text in prompts.values()):
        raise CheckpointError(f"{folder / _TOP}: 'prompts' is {prompts!r}, expected texts by name.")
    prompts = {name: text or "" for name, text in prompts.items()}
    default = top.get("default_prompt_name")
    if default is not None and (not isinstance(default, str) or default not in prompts):
        raise CheckpointError(
            f"{folder / _TOP}: default_prompt_name {default!r} is none of the prompts. "
            f"{nearest(str(default), prompts)} Correct the file."
        )
    return SentenceSettings(length, found.get("do_lower_case") is True, prompts, default)


def _head(
    folder: Path, architecture: str, tensors: Mapping[str, TensorInfo]
) -> tuple[dict[str, TensorInfo], dict[str, TensorInfo]]:
    """The head's tensors as "dense.weight", …, "out.bias", and all others by the names of the file."""
    dense, _, out = _HEADS[architecture]
    head: dict[str, TensorInfo] = {}
    rest = dict(tensors)
    missing = []
    for layer, ours in ((dense, "dense"), (out, "out")):
        for kind in ("weight", "bias"):
            name = f"{layer}.{kind}"
            # Behind "bert." or "module.": the name alone tells, since no layer of an encoder is called so.
            found = [stored for stored in rest if stored == name or stored.endswith(f".{name}")]
            if len(found) == 1:
                head[f"{ours}.{kind}"] = rest.pop(found[0])
            else:
                missing.append(f"{name!r}" + (f" ({len(found)} times)" if found else ""))
    if missing:
        others = sorted(name for name in rest if "classifier" in name or "pooler" in name)
        raise CheckpointError(
            f"{folder}: a {architecture} reranker ends in {dense} and {out}; there is no {', '.join(missing)}"
            f"{' but ' + ', '.join(others[:4]) if others else ''}. If this is a model for embeddings, open "
            "it with tercet.load."
        )
    return head, rest


def _labels(where: Path, config: Mapping[str, Any], out: TensorInfo) -> int:
    """How many scores a pair gets: the rows of the last layer, which config.json must agree with."""
    rows = out.shape[0] if len(out.shape) == 2 else 0
    named = config.get("id2label")
    said = config.get("num_labels", len(named) if isinstance(named, dict) else rows)
    if not 0 < rows <= _MOST_LABELS or said != rows:
        raise CheckpointError(
            f"{out.file}: {out.name!r} is {out.shape}, and {where} says {said!r} labels. "
            "Put the config.json that was saved with these weights beside them."
        )
    return rows


def _activation(folder: Path, where: Path, config: Mapping[str, Any], top: Mapping[str, Any]) -> str | None:
    """The name of what becomes of logits, wherever a version of sentence-transformers has put it."""
    inner = config.get("sentence_transformers")
    places = (
        (folder / _TOP, top.get("activation_fn")),
        (where, inner.get("activation_fn") if isinstance(inner, dict) else None),
        (where, config.get("sbert_ce_default_activation_function")),
    )
    for path, found in places:
        if found is not None:
            if not isinstance(found, str):
                raise CheckpointError(f"{path}: the activation is {found!r}, expected a name. Correct it.")
            return found
    return None
