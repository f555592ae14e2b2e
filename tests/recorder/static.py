"""Static embeddings that are compared with sentence-transformers; needs neither it nor Tercet."""

from __future__ import annotations

__all__ = ["CASES", "TEXTS", "Case", "write"]

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import static_models
from recorder.cases import TEXTS


@dataclass(frozen=True)
class Case:
    """What `static_models.write_static` is given, and the options of the peer's `encode`.

    Attributes:
        whole_numbers: the peer opens no such file; its rows are handed to it in float32, as it reads others.
    """

    name: str
    write: Mapping[str, Any] = field(default_factory=dict)
    encode: Mapping[str, Any] = field(default_factory=dict)
    whole_numbers: bool = False


_MODEL2VEC = {"names": "model2vec", "path": "."}
_PROMPTS = {"prompts": {"query": "search query: "}, "default_prompt_name": "query"}

CASES = (
    *(
        Case(f"static in {dtype}", {"dtype": dtype, "modules": ()})
        for dtype in ("float64", "float32", "float16", "bfloat16")
    ),
    Case("static in int8", {"dtype": "int8", "modules": ()}, whole_numbers=True),
    Case("static, roberta", {"architecture": "roberta"}),
    Case(
        "static, xlm-roberta, .bin, at the root", {"architecture": "xlm-roberta", "file": "bin", "path": "."}
    ),
    Case("static, dense, normalize", {"modules": ("dense", "normalize")}),
    Case("static, dense in float16", {"dtype": "float16", "modules": ("dense",), "dense_dtype": "float16"}),
    Case("static cut by its tokenizer", {"modules": (), "truncation": 6}),
    Case("static with a prompt", {"modules": ()}, {"prompt": "the text: "}),
    Case("static with a prompt by default", {"sentence_config": _PROMPTS}),
    Case("static in fewer dimensions", {}, {"truncate_dim": 8, "normalize_embeddings": True}),
    *(
        Case(f"model2vec in {dtype}, {rows or 'all'} rows, {weights} weights", settings)
        for dtype in ("float32", "float16")
        for rows in (None, 40)
        for weights in (None, "float32", "float64")
        for settings in [{**_MODEL2VEC, "dtype": dtype, "rows": rows, "weights": weights}]
    ),
    Case("model2vec in int8, 40 rows", {**_MODEL2VEC, "dtype": "int8", "rows": 40}, whole_numbers=True),
    Case(
        "model2vec in int8, 40 rows, weights, not normalised",
        {**_MODEL2VEC, "dtype": "int8", "rows": 40, "weights": "float32", "modules": ()},
    ),
)


def write(folder: Path, name: str) -> Path:
    """The folder of a case, by its name."""
    return static_models.write_static(folder, **next(case for case in CASES if case.name == name).write)
