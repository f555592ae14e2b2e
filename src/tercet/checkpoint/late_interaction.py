"""What a model of late interaction says of its texts: markers, lengths, and how queries are expanded.

Three forms on disk. Sentence-transformers' MultiVectorEncoder (6) has modules for all of it and the rest in
sentence_bert_config.json; PyLate's ColBERT has Transformer and Dense, and the rest in
config_sentence_transformers.json; the original ColBERT (Khattab & Zaharia 2020; Santhanam et al. 2022) has
one file of weights, an architecture HF_ColBERT, and artifact.metadata.
"""

from __future__ import annotations

__all__ = [
    "EXPANSION_KEYS",
    "Expansion",
    "LateForm",
    "LateInteraction",
    "late_form",
    "read_late",
    "take_projection",
]

import string
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tercet.checkpoint.contents import ModuleSpec
from tercet.checkpoint.header import TensorInfo
from tercet.checkpoint.late_modules import LATE_MASK, late_mask
from tercet.checkpoint.paths import inside, read_json_file, read_json_object
from tercet.errors import CheckpointError, nearest

LateForm = Literal["multi-vector", "pylate", "colbert"]

# What sentence_bert_config.json says of late interaction alone.
EXPANSION_KEYS = ("query_length", "document_length", "query_expansion")
_TOP, _METADATA = "config_sentence_transformers.json", "artifact.metadata"
_PYLATE_KEYS = ("query_prefix", "document_prefix", "do_query_expansion", "attend_to_expansion_tokens")
_PYLATE_DEFAULTS = {"query_prefix": "[Q] ", "document_prefix": "[D] "}
_ORIGINAL = "HF_ColBERT"
_TYPES: Mapping[str, LateForm] = {"MultiVectorEncoder": "multi-vector", "ColBERT": "pylate"}
# ColBERT's own, where nothing is said.
_QUERY_TOKENS = 32
_MOST_TOKENS = 1 << 20


@dataclass(frozen=True, slots=True)
class Expansion:
    """How short queries are lengthened: behind them stands a token, whose vectors are scored too.

    Attributes:
        length: tokens of a query, special ones included.
        fixed: whether longer queries are cut to it; else they stay as they are.
        attend: whether the encoder's attention looks at these tokens; they look at the query always.
        token: its spelling; None for the tokenizer's mask token.
    """

    length: int = _QUERY_TOKENS
    fixed: bool = True
    attend: bool = False
    token: str | None = None


@dataclass(frozen=True, slots=True)
class LateInteraction:
    """What is done to a text for a task, "query" or "document"; of another task, nothing.

    Attributes:
        markers: a task's token, which stands behind the special tokens that begin a text.
        lengths: most tokens of a text, where they are limited.
        expansion: of queries; None for none.
    """

    markers: Mapping[str, str] = field(default_factory=dict)
    lengths: Mapping[str, int] = field(default_factory=dict)
    expansion: Expansion | None = None

    def limit(self, task: str | None, usual: int) -> int:
        """Most tokens of a text for a task, before a query is expanded; `usual` where nothing limits them."""
        length = self.lengths.get(task or "", usual)
        if task != "query" or self.expansion is None:
            return length
        return self.expansion.length if self.expansion.fixed else max(length, self.expansion.length)

    @property
    def longest(self) -> int:
        """Most tokens that any setting asks for; 0 where none does."""
        expanded = 0 if self.expansion is None else self.expansion.length
        return max([expanded, *self.lengths.values()])


def late_form(folder: Path) -> LateForm | None:
    """Which form of late interaction a folder has; None for another kind of model."""
    top = _object(folder, _TOP)
    if (form := _TYPES.get(str(top.get("model_type")))) is not None:
        return form
    if any(key in top for key in _PYLATE_KEYS):
        return "pylate"
    path = inside(folder, "modules.json", said_by="modules.json")
    if path.is_file():
        entries = read_json_file(path)
        entries = entries if isinstance(entries, list) else []
        classes = [str(entry.get("type")) for entry in entries if isinstance(entry, dict)]
        if any(name.startswith("pylate.") for name in classes):
            return "pylate"
        return "multi-vector" if any(name.endswith(".MultiVectorMask") for name in classes) else None
    classes = _object(folder, "config.json").get("architectures") or []
    return "colbert" if isinstance(classes, list) and _ORIGINAL in classes else None


def read_late(
    folder: Path, form: LateForm, encoder_path: str, modules: tuple[ModuleSpec, ...]
) -> tuple[LateInteraction, tuple[ModuleSpec, ...]]:
    """What the folder says, and the modules with those that its form takes for granted.

    Raises:
        CheckpointError: a setting cannot be.
    """
    if form == "colbert":
        return _original(folder, modules)
    name = "sentence_bert_config.json"
    path = inside(folder, f"{encoder_path}/{name}" if encoder_path else name, said_by="modules.json")
    settings = read_json_object(path) if path.is_file() else {}
    places = {key: path for key in EXPANSION_KEYS if settings.get(key) is not None}
    found = {key: settings[key] for key in places}
    top_path, top = folder / _TOP, _object(folder, _TOP)
    for key in EXPANSION_KEYS:
        if top.get(key) is not None and key not in found:
            found[key], places[key] = top[key], top_path
    flat = form == "pylate" or any(key in top for key in _PYLATE_KEYS)
    given = "query_expansion" in settings or "query_expansion" in top
    expansion = None
    if found.get("query_expansion") is not None:
        expansion = _expansion(places["query_expansion"], found["query_expansion"])
    elif flat and not given and _flag(top_path, top, "do_query_expansion", default=True):
        length = _length(top_path, "query_length", found.get("query_length")) or _QUERY_TOKENS
        expansion = Expansion(length, attend=_flag(top_path, top, "attend_to_expansion_tokens"))
        found.pop("query_length", None)
    lengths = {}
    for task, key in (("query", "query_length"), ("document", "document_length")):
        if (most := _length(places.get(key, path), key, found.get(key))) is not None:
            lengths[task] = most
    if expansion is not None and lengths.get("query", expansion.length) < expansion.length:
        raise CheckpointError(
            f"{places['query_length']}: query_length is {lengths['query']}, and queries are expanded to "
            f"{expansion.length}. Correct the file."
        )
    if not flat:
        return LateInteraction({}, lengths, expansion), modules
    markers = {}
    for task in ("query", "document"):
        key = f"{task}_prefix"
        marker = top.get(key, _PYLATE_DEFAULTS[key] if form == "pylate" else "")
        if not isinstance(marker, str | None):
            raise CheckpointError(f"{top_path}: {key!r} is {marker!r}, expected a token. Correct the file.")
        if marker:
            markers[task] = marker
    words = top.get("skiplist_words")
    words = list(string.punctuation) if words is None else words
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise CheckpointError(f"{top_path}: 'skiplist_words' is {words!r}, expected a list of words.")
    kinds = [module.kind for module in modules]
    if LATE_MASK not in kinds:
        modules = (*modules, late_mask(_TOP, words))
    if "normalize" not in kinds:
        modules = (*modules, ModuleSpec("normalize", _TOP))
    return LateInteraction(markers, lengths, expansion), modules


def take_projection(
    folder: Path, tensors: dict[str, TensorInfo], hidden: int
) -> tuple[dict[str, TensorInfo], ModuleSpec]:
    """The encoder's tensors of an original ColBERT, and its last layer, which lies among them."""
    rest = dict(tensors)
    info = rest.pop("linear.weight", None)
    if info is None or len(info.shape) != 2 or info.shape[1] != hidden or not info.is_float:
        shape = "missing" if info is None else f"{info.shape} in {info.dtype}"
        raise CheckpointError(
            f"{folder}: config.json says {_ORIGINAL}, whose weights end in a 'linear.weight' of (any, "
            f"{hidden}); it is {shape}. Fetch the model again."
        )
    settings = {
        "in_features": hidden,
        "out_features": info.shape[0],
        "bias": False,
        "activation_function": "torch.nn.modules.linear.Identity",
        "use_residual": False,
    }
    return rest, ModuleSpec("dense", info.file.name, settings, {"linear.weight": info})


def _original(
    folder: Path, modules: tuple[ModuleSpec, ...]
) -> tuple[LateInteraction, tuple[ModuleSpec, ...]]:
    """An original ColBERT, by artifact.metadata where there is one."""
    path, found = folder / _METADATA, _object(folder, _METADATA)
    markers = {}
    for task, key, usual in (
        ("query", "query_token_id", "[unused0]"),
        ("document", "doc_token_id", "[unused1]"),
    ):
        marker = found.get(key) or usual
        if not isinstance(marker, str):
            raise CheckpointError(f"{path}: {key!r} is {marker!r}, expected a token. Correct the file.")
        markers[task] = marker
    length = _length(path, "query_maxlen", found.get("query_maxlen")) or _QUERY_TOKENS
    document = _length(path, "doc_maxlen", found.get("doc_maxlen"))
    expansion = Expansion(length, attend=_flag(path, found, "attend_to_mask_tokens"))
    skipped = string.punctuation if _flag(path, found, "mask_punctuation", default=True) else ""
    late = LateInteraction(markers, {} if document is None else {"document": document}, expansion)
    where = _METADATA if found else "ColBERT's default"
    return late, (*modules, late_mask(where, list(skipped)), ModuleSpec("normalize", where))


def _expansion(path: Path, found: object) -> Expansion:
    known = ("strategy", "attend", "token", "length")
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: 'query_expansion' is {found!r}, expected a JSON object. Correct it.")
    for key in found:
        if key not in known:
            raise CheckpointError(f"{path}: query_expansion has {key!r}. {nearest(str(key), known)}")
    strategy, token = found.get("strategy"), found.get("token")
    if strategy not in ("fixed", "min"):
        raise CheckpointError(
            f"{path}: query_expansion's 'strategy' is {strategy!r}, expected 'fixed' or 'min'. "
            "Correct the file."
        )
    if not isinstance(token, str | None):
        raise CheckpointError(f"{path}: query_expansion's 'token' is {token!r}, expected a token.")
    length = _length(path, "length", found.get("length"))
    if length is None:
        raise CheckpointError(f"{path}: query_expansion has no 'length'. ColBERT's is {_QUERY_TOKENS}.")
    return Expansion(length, strategy == "fixed", _flag(path, found, "attend"), token)


def _object(folder: Path, name: str) -> dict[str, Any]:
    path = inside(folder, name, said_by=name)
    return read_json_object(path) if path.is_file() else {}


def _flag(path: Path, found: Mapping[str, Any], key: str, *, default: bool = False) -> bool:
    value = found.get(key)
    if value is None:
        return default
    if type(value) is not bool:
        raise CheckpointError(f"{path}: {key!r} is {value!r}, expected true or false. Correct the file.")
    return value


def _length(path: Path, key: str, value: object) -> int | None:
    if value is None:
        return None
    if type(value) is not int or not 1 <= value <= _MOST_TOKENS:
        raise CheckpointError(f"{path}: {key!r} is {value!r}, expected a number of tokens. Correct the file.")
    return value
