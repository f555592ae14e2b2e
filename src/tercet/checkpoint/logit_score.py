"""LogitScore folders of sentence-transformers: a language model, of which logits of tokens are scores."""

from __future__ import annotations

__all__ = ["LogitStack", "head_rows", "logit_stack", "read_chat"]

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tercet.checkpoint.header import TensorInfo
from tercet.checkpoint.module_files import module_settings, nothing_left, only_known
from tercet.checkpoint.paths import inside, plain, read_json_file, read_json_object
from tercet.errors import CheckpointError

_LOGITS = "causal_logits"
_ELSE = "Use sentence-transformers' CrossEncoder for this model."
_TEMPLATE_FILE = "chat_template.jinja"
_MOST_CHARACTERS = 1 << 20
_TRANSFORMER, _TOKENIZER = "sentence_bert_config.json", "tokenizer_config.json"
_FORWARD = {"method": "forward", "method_output_name": "logits"}
_KNOWN = {
    "transformer_task",
    "modality_config",
    "module_output_name",
    "processing_kwargs",
    "unpad_inputs",
    "max_seq_length",
    "do_lower_case",
}
# What processing_kwargs may say of texts; None for anything.
_TEXT: Mapping[str, tuple[object, ...] | None] = {
    "truncation": (True, "longest_first"),
    "padding": None,
    "padding_side": ("left",),
    "logits_to_keep": (1,),
    "return_tensors": None,
    "max_length": None,
}
# Arguments of apply_chat_template that are no variables of a template.
_NOT_FOR_TEMPLATES = {
    "chat_template",
    "continue_final_message",
    "max_length",
    "messages",
    "padding",
    "return_assistant_tokens_mask",
    "return_dict",
    "return_tensors",
    "sanitize_control_tokens",
    "tokenize",
    "tokenizer_kwargs",
    "truncation",
}
# A template that has one of these wants content as a list of parts.
_STRUCTURED = ("content[0]", ".type", "'type'", '"type"', "item.type", "message.content[")


@dataclass(frozen=True, slots=True)
class LogitStack:
    """What modules.json says: the folder of the language model, that of the score, and its tokens.

    Attributes:
        encoder_path, where: folders, relative to the root.
        true, false: ids of tokens; `false` is None where one logit alone is the score.
    """

    encoder_path: str
    where: str
    true: int
    false: int | None


def logit_stack(folder: Path) -> LogitStack | None:
    """A Transformer and a LogitScore; None where modules.json has none.

    Raises:
        CheckpointError: there is another module, or the settings of the score cannot be.
    """
    path = inside(folder, "modules.json", said_by="modules.json")
    entries = read_json_file(path) if path.is_file() else None
    named = [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    kinds = [str(entry.get("type")).rsplit(".", 1)[-1] for entry in named]
    if "LogitScore" not in kinds:
        return None
    places = [entry.get("path") for entry in named]
    foreign = [one for one in named if not str(one.get("type")).startswith("sentence_transformers.")]
    if kinds != ["Transformer", "LogitScore"] or foreign or not all(isinstance(one, str) for one in places):
        raise CheckpointError(
            f"{path} has the modules {', '.join(kinds)}; a LogitScore stands behind one Transformer of "
            f"sentence-transformers, and nothing else. {_ELSE}"
        )
    first, where = (plain(str(place)) for place in places)
    inside(folder, first, said_by=path.name)
    settings, config = module_settings(folder, where)
    true, false = config.pop("true_token_id", None), config.pop("false_token_id", None)
    reads = config.pop("module_input_name", _LOGITS)
    nothing_left(settings, config, {"true_token_id", "false_token_id", "module_input_name"})
    for key, value in (("true_token_id", true), ("false_token_id", 0 if false is None else false)):
        if type(value) is not int or value < 0:
            raise CheckpointError(f"{settings}: {key!r} is {value!r}, expected a token's number. Correct it.")
    if reads != _LOGITS:
        raise CheckpointError(f"{settings}: 'module_input_name' is {reads!r}, not {_LOGITS!r}. {_ELSE}")
    return LogitStack(first, where, true, false)


def head_rows(
    folder: Path, stack: LogitStack, config: Mapping[str, Any], tensors: Mapping[str, TensorInfo]
) -> tuple[TensorInfo, str | None]:
    """The matrix of the language model's head, and the stored name of it where it is no table of embeddings.

    Raises:
        CheckpointError: there is none, or it has no row for a token.
    """
    own = [name for name in tensors if name.rsplit("lm_head.weight", 1)[-1] == "" and "lm_head" in name]
    tables = [name for name in tensors if name.endswith("embed_tokens.weight")]
    if not own and not config["tie_word_embeddings"]:
        raise CheckpointError(
            f"{folder}: there is no 'lm_head.weight', which the score is made with, and config.json does not "
            "say that the embeddings are it (tie_word_embeddings). Fetch or save the model again."
        )
    found = own or tables
    if len(found) != 1:
        raise CheckpointError(
            f"{folder}: {' and '.join(found) or 'no tensor'} may be the head. Fetch it again."
        )
    info = tensors[found[0]]
    shape = int(config["vocab_size"]), int(config["hidden_size"])
    if info.shape != shape:
        raise CheckpointError(
            f"{info.file}: {info.name!r} is {info.shape}, config.json makes it {shape}. Put the config.json "
            "that was saved with these weights beside them."
        )
    for key, token in (("true_token_id", stack.true), ("false_token_id", stack.false)):
        if token is not None and token >= shape[0]:
            raise CheckpointError(
                f"{folder / stack.where}: {key} is {token}, and the model has {shape[0]:,} tokens. The "
                "module belongs to another model; correct it."
            )
    return info, found[0] if own else None


def read_chat(
    folder: Path, relative: str, tokenizer_config: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Settings of the Transformer, and how pairs are put into a chat template; None where they are not.

    Args:
        folder: the root.
        relative: the Transformer's folder in it.
        tokenizer_config: its tokenizer_config.json.

    Returns:
        sentence_bert_config.json, with `max_length` of processing_kwargs as `max_seq_length`; and template,
        structured (whether content is a list of parts), arguments (variables of the template), restores
        (whether what it ends in survives truncation) and where, for messages.

    Raises:
        CheckpointError: a setting asks for what is not done here, or there is no template.
    """
    start = f"{relative}/" if relative else ""
    path = inside(folder, f"{start}{_TRANSFORMER}", said_by="modules.json")
    settings = read_json_object(path) if path.is_file() else {}
    only_known(path, settings, _KNOWN, {})
    for key, wanted in (("transformer_task", "text-generation"), ("module_output_name", _LOGITS)):
        if settings.get(key, None if key == "transformer_task" else wanted) != wanted:
            raise CheckpointError(
                f"{path}: {key!r} is {settings.get(key)!r}; in front of a LogitScore it is {wanted!r}. "
                f"{_ELSE}"
            )
    processing = _parts(path, "processing_kwargs", settings.get("processing_kwargs"))
    chat = dict(_parts(path, "chat_template", processing.pop("chat_template", None)))
    for part in ("text", "common"):
        for key, value in _parts(path, part, processing.pop(part, None)).items():
            allowed = _TEXT.get(key, ())
            if allowed is not None and value not in allowed:
                raise CheckpointError(
                    f"{path}: processing_kwargs has {key!r} = {value!r}, which is not supported. {_ELSE}"
                )
            if key == "max_length" and value is not None:
                settings["max_seq_length"] = value
    if processing:
        raise CheckpointError(f"{path}: processing_kwargs has {next(iter(processing))!r}. {_ELSE}")
    modalities = settings.get("modality_config") or {"text": _FORWARD}
    kinds = _parts(path, "modality_config", modalities)
    for name, entry in kinds.items():
        plain_entry = {key: value for key, value in _parts(path, name, entry).items() if key != "format"}
        if name not in ("text", "message") or plain_entry not in (
            _FORWARD,
            {**_FORWARD, "method_output_name": ["logits"]},
        ):
            raise CheckpointError(
                f"{path}: modality_config has {name!r} by {entry!r}; texts and messages that go through "
                f"'forward' to 'logits' are supported. {_ELSE}"
            )
    if "message" not in kinds:
        return settings, None
    return settings, _chat(
        path, start, folder, tokenizer_config, kinds["message"].get("format", "auto"), chat
    )


def _chat(
    path: Path,
    start: str,
    folder: Path,
    tokenizer_config: Mapping[str, Any],
    form: object,
    chat: dict[str, Any],
) -> dict[str, Any]:
    restores = chat.pop("restore_suffix", True)
    bad = [key for key in chat if key in _NOT_FOR_TEMPLATES or not key.isidentifier()]
    if bad or type(restores) is not bool or form not in ("flat", "structured", "auto"):
        what = f"chat_template has {bad[0]!r}" if bad else f"{form!r} or restore_suffix {restores!r}"
        raise CheckpointError(f"{path}: {what}, which is not supported of a chat template here. {_ELSE}")
    if tokenizer_config.get("truncation_side", "right") != "right":
        raise CheckpointError(
            f"{folder / start / _TOKENIZER}: truncation_side is not 'right'; here the end is cut. {_ELSE}"
        )
    file = inside(folder, f"{start}{_TEMPLATE_FILE}", said_by="modules.json")
    where: object = file
    if file.is_file():
        if file.stat().st_size > _MOST_CHARACTERS:
            raise CheckpointError(f"{file} has more than {_MOST_CHARACTERS:,} bytes. Fetch the file again.")
        try:
            template: object = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise CheckpointError(f"{file}: could not be read: {error}. Fetch it again.") from None
    else:
        template, where = tokenizer_config.get("chat_template"), folder / start / _TOKENIZER
    if isinstance(template, list):
        named = {one.get("name"): one.get("template") for one in template if isinstance(one, dict)}
        template = named.get("default")
    if not isinstance(template, str) or not template:
        raise CheckpointError(
            f"{path}: pairs are put into a chat template, and there is none: neither {_TEMPLATE_FILE} nor "
            "chat_template in tokenizer_config.json. Fetch the file that was saved with the model."
        )
    if form == "auto":
        form = "structured" if any(sign in template for sign in _STRUCTURED) else "flat"
    return {
        "template": template,
        "structured": form == "structured",
        "arguments": chat,
        "restores": restores,
        "where": str(where),
    }


def _parts(path: Path, name: str, found: object) -> dict[str, Any]:
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: {name!r} is {found!r}, expected a JSON object. Correct the file.")
    return dict(found)
