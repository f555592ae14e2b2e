"""The settings that sentence-transformers keeps beside a model: prompts, length, case."""

from __future__ import annotations

__all__ = ["SentenceSettings", "read_sentence_settings", "refuse_other_types", "text_limit"]

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tercet.checkpoint.module_files import only_known
from tercet.checkpoint.paths import inside, read_json_object
from tercet.errors import CheckpointError, nearest

_NAMES = tuple(
    f"sentence_{kind}_config.json"
    for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
# What an encoder gives, by sentence-transformers' name of its task, and what that output is called.
_TASKS = {"feature-extraction": "last_hidden_state", "fill-mask": "logits"}
# Settings that another value than these would change what comes out.
_ONLY: Mapping[str, tuple[object, ...]] = {
    "module_output_name": ("token_embeddings",),
    "query_length": (None,),
    "document_length": (None,),
    "query_expansion": (None, False),
    "processing_kwargs": (None, {}),
}
# Arguments of transformers that change speed or format, never the meaning of a vector.
_HARMLESS_ARGS = {
    "add_pooling_layer",
    "attn_implementation",
    "low_cpu_mem_usage",
    "output_hidden_states",
    "trust_remote_code",
    "use_cache",
    "use_fast",
}
_DTYPE_ARGS = ("dtype", "torch_dtype")
_HIDDEN_STATES = "output_hidden_states"
_ARGS = ("model_args", "tokenizer_args", "config_args")
_KNOWN = {
    *_ONLY,
    *_ARGS,
    "transformer_task",
    "max_seq_length",
    "do_lower_case",
    "modality_config",
    "unpad_inputs",
}
# transformers writes 10**30 for "no limit".
_NO_LIMIT = 10**9


@dataclass(frozen=True, slots=True)
class SentenceSettings:
    """What the files say; the defaults where there are none.

    `hidden_states`: whether the encoder is to give those of all layers, for a WeightedLayerPooling.
    """

    max_seq_length: int | None = None
    lowercase: bool = False
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    truncate_dim: int | None = None
    max_active_dims: int | None = None
    notes: tuple[str, ...] = ()
    hidden_states: bool = False


def read_sentence_settings(
    folder: Path,
    relative: str,
    *,
    task: str | None = "feature-extraction",
    usual: str = "feature-extraction",
    elsewhere: Collection[str] = (),
) -> SentenceSettings:
    """The settings of the root folder and of the encoder's.

    Args:
        folder: the root.
        relative: the encoder's folder in it.
        task: what the modules behind the encoder take: "feature-extraction" or "fill-mask"; None for either.
        usual: the encoder's task where nothing is said.
        elsewhere: settings that are read elsewhere.

    Raises:
        CheckpointError: a setting asks for what is not done here.
    """
    notes: list[str] = []
    max_seq_length, lowercase, hidden_states = None, False, False
    names = (f"{relative}/{name}" if relative else name for name in _NAMES)
    path = next((p for name in names if (p := inside(folder, name, said_by="modules.json")).is_file()), None)
    if path is None:
        _check_task(folder / "modules.json", usual, task)
    else:
        settings = {key: value for key, value in read_json_object(path).items() if key not in elsewhere}
        found = _check_task(path, settings.get("transformer_task", usual), task)
        _check_transformer(path, settings, found, notes)
        max_seq_length = length_of(path, "max_seq_length", settings.get("max_seq_length"))
        lowercase = bool(settings.get("do_lower_case", False))
        hidden_states = any((settings.get(group) or {}).get(_HIDDEN_STATES) is True for group in _ARGS)

    path, top = _top(folder)
    prompts, default = prompts_of(path, top)
    dimensions = length_of(path, "truncate_dim", top.get("truncate_dim"))
    active = length_of(path, "max_active_dims", top.get("max_active_dims"))
    return SentenceSettings(
        max_seq_length, lowercase, prompts, default, dimensions, active, tuple(notes), hidden_states
    )


def refuse_other_types(folder: Path, *, sparse: bool, late: bool = False) -> None:
    """An error where the folder says that it is no model of sentence vectors, or none of such as it makes.

    `sparse`: whether one of its modules gives sparse vectors, or the user chose the pooling. `late`:
    whether it is a model of late interaction.
    """
    path, top = _top(folder)
    kind = top.get("model_type") or "SentenceTransformer"
    if kind == "SparseEncoder" and not sparse:
        raise CheckpointError(
            f"{path}: this is a SparseEncoder, and no module of it that is known here gives sparse vectors. "
            "Open it with sentence_transformers.SparseEncoder, or pass pooling='splade' if it ends in a "
            "masked-language head."
        )
    if not late and kind not in ("SentenceTransformer", "SparseEncoder"):
        reranker = "tercet.load_reranker, or `tercet rerank` on the command line"
        opener = reranker if kind == "CrossEncoder" else f"sentence_transformers.{kind}"
        raise CheckpointError(
            f"{path}: this is a {kind}, not a model of dense or sparse sentence vectors. Open it with "
            f"{opener}; Tercet reads SentenceTransformer, SparseEncoder and BGE-M3 folders."
        )


def _top(folder: Path) -> tuple[Path, dict[str, Any]]:
    name = "config_sentence_transformers.json"
    path = inside(folder, name, said_by=name)
    return path, read_json_object(path) if path.is_file() else {}


def text_limit(
    settings: SentenceSettings, tokenizer_config: Mapping[str, Any], positions: int
) -> tuple[int, str | None]:
    """Longest text in tokens, and a note where the model's own files ask for more than its positions hold.

    `max_seq_length` rules where it is given, else the tokenizer's `model_max_length`.
    """
    asked = settings.max_seq_length
    if asked is None:
        found = tokenizer_config.get("model_max_length")
        usable = isinstance(found, (int, float)) and not isinstance(found, bool) and 0 < found < _NO_LIMIT
        asked = int(found) if usable and found is not None else positions
    if asked > positions:
        return positions, (
            f"The model's settings allow {asked:,} tokens, its position table holds {positions:,}: "
            "longer texts are cut there."
        )
    return asked, None


def _check_task(path: Path, found: object, expected: str | None) -> str:
    """The encoder's task, which must be what the modules behind it take."""
    if not isinstance(found, str) or found not in _TASKS:
        raise CheckpointError(
            f"{path}: 'transformer_task' is {found!r}; only {' and '.join(map(repr, _TASKS))} are supported. "
            "Use sentence-transformers for this model."
        )
    if expected in (None, found):
        return found
    raise CheckpointError(
        f"{path}: 'transformer_task' is {found!r}, which gives {_TASKS[found]}; the modules behind it take "
        f"{_TASKS[str(expected)]} ({expected!r}). 'fill-mask' and SpladePooling belong together: save the "
        "model again, or pass pooling='splade' or pooling='mean' to say which is meant."
    )


def _check_transformer(path: Path, settings: Mapping[str, Any], task: str, notes: list[str]) -> None:
    only_known(path, settings, _KNOWN, _ONLY)
    modalities = settings.get("modality_config")
    if isinstance(modalities, dict) and "message" in modalities:
        raise CheckpointError(
            f"{path}: modality_config has 'message': texts are put into a chat template before they are "
            "embedded, which is not done here. Use sentence-transformers for this model."
        )
    if modalities is not None:
        text = modalities.get("text") if isinstance(modalities, dict) else None
        expected = {"method": "forward", "method_output_name": _TASKS[task]}
        if not isinstance(text, dict) or any(
            text.get(key, value) not in (value, [value]) for key, value in expected.items()
        ):
            raise CheckpointError(
                f"{path}: modality_config is {modalities!r}; a model whose text goes through 'forward' to "
                f"{_TASKS[task]!r} is supported. Use sentence-transformers for this model."
            )
    for group in _ARGS:
        arguments = settings.get(group) or {}
        if not isinstance(arguments, dict):
            raise CheckpointError(f"{path}: {group!r} is {arguments!r}, expected a JSON object.")
        for key, value in arguments.items():
            if key in _DTYPE_ARGS:
                notes.append(
                    f"{path.name} asks for {key} {value!r} in {group}; ignored: the precision is "
                    "chosen on loading."
                )
            elif key not in _HARMLESS_ARGS:
                raise CheckpointError(
                    f"{path}: {group} has {key!r} = {value!r}, which is not supported. "
                    "Use sentence-transformers for this model, or remove the setting if it does not matter."
                )


def prompts_of(path: Path, top: Mapping[str, Any]) -> tuple[dict[str, str], str | None]:
    """The prompts that config_sentence_transformers.json has, and which of them is the default."""
    found = {} if top.get("prompts") is None else top["prompts"]
    if not isinstance(found, dict) or not all(
        isinstance(value, (str, type(None))) for value in found.values()
    ):
        raise CheckpointError(f"{path}: 'prompts' is {found!r}, expected texts by name. Correct the file.")
    prompts = {name: prompt or "" for name, prompt in found.items()}
    default = top.get("default_prompt_name")
    if default is not None and (not isinstance(default, str) or default not in prompts):
        raise CheckpointError(
            f"{path}: default_prompt_name {default!r} is none of the prompts. "
            f"{nearest(str(default), prompts)} Correct the file."
        )
    return prompts, default


def length_of(path: Path, key: str, value: object) -> int | None:
    """A number of tokens or dimensions, checked to be positive; None where there is none."""
    if value is None:
        return None
    if type(value) is not int or value < 1:
        raise CheckpointError(f"{path}: {key!r} is {value!r}, expected a positive number. Correct the file.")
    return value
