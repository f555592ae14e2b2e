"""Models of late interaction in their three forms, for the recorders and the tests."""

from __future__ import annotations

__all__ = ["CASES", "PYLATE", "TASKS", "TEXTS", "WIDTH", "LateCase", "write"]

import json
import string
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file

import tiny
from tiny_modules import normal

TASKS = ("query", "document")
WIDTH = 8
TEXTS = (
    "",
    "The cat is on the bridge.",
    "read a csv file, line by line: open(path)",
    "naïve café, 東京 and 42 stars",
    "wait for several coroutines " * 8,
)
_CLASSES = {
    "Transformer": "sentence_transformers.base.modules.transformer.Transformer",
    "Dense": "sentence_transformers.base.modules.dense.Dense",
    "MultiVectorMask": "sentence_transformers.multi_vector_encoder.modules.multi_vector_mask.MultiVectorMask",
    "Normalize": "sentence_transformers.base.modules.normalize.Normalize",
    "HierarchicalTokenPooling": "sentence_transformers.multi_vector_encoder.modules.token_pooling"
    ".HierarchicalTokenPooling",
}
_PYLATE_CLASSES = {
    "Transformer": "sentence_transformers.models.Transformer",
    "Dense": "pylate.models.Dense.Dense",
}
_PUNCTUATION = list(string.punctuation)
_FIXED = {"strategy": "fixed", "attend": False, "token": None, "length": 16}


@dataclass(frozen=True)
class LateCase:
    """One model: which form, the settings that its files have, and what `tiny.write_checkpoint` is told.

    `markers`: tokens that the tokenizer and the embeddings get, as words of the vocabulary for "colbert".
    """

    form: Literal["multi-vector", "pylate", "colbert"]
    settings: Mapping[str, Any] = field(default_factory=dict)
    mask: Mapping[str, Any] | None = None
    normalize: bool = True
    pooling: Mapping[str, Any] | None = None
    write: Mapping[str, Any] = field(default_factory=dict)
    markers: tuple[str, ...] = ()
    bias: bool = False
    old: bool = False


_PYLATE_SETTINGS = {
    "query_prefix": "[Q] ",
    "document_prefix": "[D] ",
    "query_length": 16,
    "document_length": 20,
    "attend_to_expansion_tokens": False,
    "skiplist_words": _PUNCTUATION,
    "do_query_expansion": True,
}
_MARKERS = ("[Q] ", "[D] ")
_UNUSED = ("[unused0]", "[unused1]")
_SKIPS = {"skiplist_words": _PUNCTUATION, "skiplist_tasks": ["document"], "keep_only_token_ids": None}
CASES: Mapping[str, LateCase] = {
    "multi-vector": LateCase(
        "multi-vector", {"document_length": 20, "query_expansion": _FIXED}, {**_SKIPS}, bias=True
    ),
    "multi-vector, attending": LateCase(
        "multi-vector", {"query_expansion": {**_FIXED, "attend": True, "token": "[UNK]"}}, {**_SKIPS}
    ),
    "multi-vector, long queries stay": LateCase(
        "multi-vector",
        {"query_expansion": {**_FIXED, "strategy": "min", "length": 12}},
        {"skiplist_words": ["the", ",", "no such word"], "skiplist_tasks": ["query", "document"]},
    ),
    "multi-vector, not expanded": LateCase(
        "multi-vector", {"query_length": 9, "document_length": 14, "query_expansion": None}, {}
    ),
    "multi-vector, some ids alone": LateCase(
        "multi-vector", {"query_expansion": _FIXED}, {**_SKIPS, "keep_only_token_ids": [2, 3, 130, 140, 150]}
    ),
    "multi-vector, no lengths of 1": LateCase("multi-vector", {}, {}, normalize=False),
    "multi-vector of roberta": LateCase(
        "multi-vector",
        {"query_expansion": {**_FIXED, "token": "<mask>"}},
        {**_SKIPS},
        write={"architecture": "roberta"},
    ),
    "multi-vector of mpnet": LateCase(
        "multi-vector", {"query_expansion": _FIXED}, {**_SKIPS}, write={"architecture": "mpnet"}
    ),
    "multi-vector, fewer of a document": LateCase(
        "multi-vector",
        {"query_expansion": _FIXED},
        {**_SKIPS},
        pooling={
            "pool_factor": 2.0,
            "num_protected_tokens": 1,
            "normalize_embeddings": True,
            "tasks": ["document"],
        },
    ),
    "multi-vector, means of any length": LateCase(
        "multi-vector",
        {"query_expansion": None},
        {**_SKIPS},
        pooling={"pool_factor": 1.5, "num_protected_tokens": 0, "tasks": ["query", "document"]},
    ),
    "pylate": LateCase("pylate", _PYLATE_SETTINGS, markers=_MARKERS),
    "pylate, from before its type was saved": LateCase(
        "pylate", {**_PYLATE_SETTINGS, "attend_to_expansion_tokens": True}, markers=_MARKERS, old=True
    ),
    "pylate, not expanded": LateCase(
        "pylate",
        {**_PYLATE_SETTINGS, "do_query_expansion": False, "skiplist_words": ["the", "."]},
        markers=_MARKERS,
        bias=True,
    ),
    "pylate, prompts too": LateCase(
        "pylate", {**_PYLATE_SETTINGS, "prompts": {"query": "find: "}}, markers=_MARKERS
    ),
    "pylate of roberta": LateCase(
        "pylate",
        {**_PYLATE_SETTINGS, "query_prefix": "<q>", "document_prefix": "<d>"},
        markers=("<q>", "<d>"),
        write={"architecture": "roberta"},
    ),
    "colbert": LateCase(
        "colbert",
        {
            "query_token_id": "[unused0]",
            "doc_token_id": "[unused1]",
            "query_maxlen": 16,
            "doc_maxlen": 20,
            "attend_to_mask_tokens": False,
            "mask_punctuation": True,
            "dim": WIDTH,
        },
        markers=_UNUSED,
        write={"prefix": "bert.", "position_ids": True},
    ),
    "colbert without metadata": LateCase("colbert", markers=_UNUSED, write={"prefix": "bert."}),
}
# Those that PyLate opens as it was meant to; of the prompts it takes none unless it is told to.
PYLATE = tuple(
    name for name, case in CASES.items() if case.form != "multi-vector" and "prompts" not in case.settings
)


def write(folder: Path, name: str, *, dtype: str = "float32") -> Path:
    """The folder of a case."""
    case = CASES[name]
    layout = "huggingface" if case.form == "colbert" else "sentence-transformers"
    tiny.write_checkpoint(
        folder, layout=layout, dtype=dtype, modules=(), old_keys=case.form == "pylate", **case.write
    )
    _add_tokens(folder, case.markers, words=case.form == "colbert")
    if case.form == "colbert":
        tensors = load_file(folder / "model.safetensors")
        tensors["linear.weight"] = normal("late.weight", (WIDTH, 32)).to(getattr(torch, dtype))
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        _update(folder / "config.json", {"architectures": ["HF_ColBERT"]})
        if case.settings:
            (folder / "artifact.metadata").write_text(json.dumps(case.settings))
        return folder
    entries = [("", "Transformer"), ("1_Dense", "Dense")]
    _dense(folder / "1_Dense", case, dtype)
    if case.form == "pylate":
        top = {"similarity_fn_name": "MaxSim", "model_type": None if case.old else "ColBERT", **case.settings}
        _update(folder / "config_sentence_transformers.json", top)
        # What PyLate leaves there is the length of whatever it embedded last.
        _update(folder / "sentence_bert_config.json", {"max_seq_length": 15})
    else:
        _update(
            folder / "config_sentence_transformers.json",
            {"model_type": "MultiVectorEncoder", "similarity_fn_name": None, "prompts": {"query": "a "}},
        )
        _update(folder / "sentence_bert_config.json", case.settings)
        (folder / "2_MultiVectorMask").mkdir()
        (folder / "2_MultiVectorMask" / "config.json").write_text(json.dumps(case.mask))
        entries.append(("2_MultiVectorMask", "MultiVectorMask"))
        if case.normalize:
            (folder / "3_Normalize").mkdir()
            both = dict.fromkeys(("module_input_name", "module_output_name"), "token_embeddings")
            (folder / "3_Normalize" / "config.json").write_text(json.dumps(both))
            entries.append(("3_Normalize", "Normalize"))
        if case.pooling is not None:
            (folder / "4_HierarchicalTokenPooling").mkdir()
            (folder / "4_HierarchicalTokenPooling" / "config.json").write_text(json.dumps(case.pooling))
            entries.append(("4_HierarchicalTokenPooling", "HierarchicalTokenPooling"))
    classes = {**_CLASSES, **(_PYLATE_CLASSES if case.form == "pylate" else {})}
    modules = [
        {"idx": place, "name": str(place), "path": path, "type": classes[kind]}
        for place, (path, kind) in enumerate(entries)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    return folder


def _dense(folder: Path, case: LateCase, dtype: str) -> None:
    folder.mkdir()
    config = {
        "in_features": 32,
        "out_features": WIDTH,
        "bias": case.bias,
        "activation_function": "torch.nn.modules.linear.Identity",
    }
    if case.form == "pylate":
        config["use_residual"] = False
    else:
        config |= dict.fromkeys(("module_input_name", "module_output_name"), "token_embeddings")
    (folder / "config.json").write_text(json.dumps(config))
    weights = {"linear.weight": normal("late.weight", (WIDTH, 32))}
    if case.bias:
        weights["linear.bias"] = normal("late.bias", (WIDTH,))
    stored = {name: tensor.to(getattr(torch, dtype)) for name, tensor in weights.items()}
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})


def _add_tokens(folder: Path, tokens: tuple[str, ...], *, words: bool) -> None:
    """Tokens with embeddings of their own: words of the vocabulary, or added as PyLate adds them."""
    if not tokens:
        return
    path = folder / "tokenizer.json"
    made = json.loads(path.read_text())
    rows = json.loads((folder / "config.json").read_text())["vocab_size"]
    for place, token in enumerate(tokens, start=rows):
        if words:
            made["model"]["vocab"][token] = place
        else:
            flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "special"), False)
            made["added_tokens"].append({"id": place, "content": token, "normalized": True, **flags})
    path.write_text(json.dumps(made))
    _update(folder / "config.json", {"vocab_size": rows + len(tokens)})
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in tensors if name.endswith("word_embeddings.weight"))
    table = tensors[name]
    more = normal("late.markers", (len(tokens), table.shape[1])).to(table.dtype)
    tensors[name] = torch.cat([table, more])
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _update(path: Path, changes: Mapping[str, Any]) -> None:
    found = json.loads(path.read_text()) if path.is_file() else {}
    found = {**found, **changes}
    path.write_text(json.dumps({key: value for key, value in found.items() if value is not None}))
