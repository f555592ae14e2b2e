"""What the files of a CrossEncoder say of its texts and scores.

Versions of sentence-transformers differ: `sbert_ce_default_activation_function` in config.json (before 4),
`sentence_transformers.activation_fn` there (4 and 5), `activation_fn` in its own file (6).
"""

from __future__ import annotations

__all__ = ["TOP", "read_activation", "read_settings", "settings_of"]

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tercet.checkpoint.module_files import only_known
from tercet.checkpoint.paths import inside, read_json_object
from tercet.checkpoint.sentence_files import SentenceSettings, length_of, prompts_of
from tercet.errors import CheckpointError

TOP = "config_sentence_transformers.json"
_TRANSFORMER = "sentence_bert_config.json"
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


def read_settings(folder: Path, start: str, top: Mapping[str, Any]) -> SentenceSettings:
    """The settings of a Transformer with a classification head, whose folder's path is `start`.

    Raises:
        CheckpointError: a setting asks for what is not done here.
    """
    path = inside(folder, f"{start}{_TRANSFORMER}", said_by="modules.json")
    found = read_json_object(path) if path.is_file() else {}
    only_known(path, found, _SETTINGS, _ONLY, of="of a reranker ")
    return settings_of(folder, start, found, top)


def settings_of(
    folder: Path, start: str, found: Mapping[str, Any], top: Mapping[str, Any]
) -> SentenceSettings:
    """The length and case that a Transformer's settings say, and the prompts of the folder."""
    length = length_of(folder / f"{start}{_TRANSFORMER}", "max_seq_length", found.get("max_seq_length"))
    prompts, default = prompts_of(folder / TOP, top)
    return SentenceSettings(length, found.get("do_lower_case") is True, prompts, default)


def read_activation(
    folder: Path, where: Path, config: Mapping[str, Any], top: Mapping[str, Any]
) -> str | None:
    """The name of what becomes of logits, wherever a version of sentence-transformers has put it."""
    inner = config.get("sentence_transformers")
    places = (
        (folder / TOP, top.get("activation_fn")),
        (where, inner.get("activation_fn") if isinstance(inner, dict) else None),
        (where, config.get("sbert_ce_default_activation_function")),
    )
    for path, found in places:
        if found is not None:
            if not isinstance(found, str):
                raise CheckpointError(f"{path}: the activation is {found!r}, expected a name. Correct it.")
            return found
    return None
