"""CrossEncoders of Transformer, Pooling and Dense, for the recorder and the tests."""

from __future__ import annotations

__all__ = ["CASES", "PAIRS", "ScoreStack", "write"]

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tiny_modules
from recorder.rerankers import PAIRS
from tiny_modules import Part, dense, normalize, pooling, scores


@dataclass(frozen=True)
class ScoreStack:
    """Modules behind a tiny BERT, how they are written, and what config_sentence_transformers.json says."""

    parts: tuple[Part, ...]
    write: Mapping[str, Any] = field(default_factory=dict)
    top: Mapping[str, Any] = field(default_factory=dict)


_IDENTITY = {"activation_fn": "torch.nn.modules.linear.Identity"}
CASES: Mapping[str, ScoreStack] = {
    "pooling and dense": ScoreStack((pooling(), scores())),
    "first token, identity": ScoreStack((pooling("cls"), scores()), top=_IDENTITY),
    "three labels": ScoreStack((pooling("cls", "mean"), scores(3))),
    "two dense layers, one length": ScoreStack(
        (pooling("max"), dense("inner", 24), normalize(), scores()), top=_IDENTITY
    ),
    "old keys, short": ScoreStack((pooling(), scores()), {"old_keys": True, "max_seq_length": 24}),
    "a prompt": ScoreStack(
        (pooling(), scores()), top={"prompts": {"query": "a query: "}, "default_prompt_name": "query"}
    ),
}


def write(folder: Path, name: str, **settings: Any) -> Path:
    """The folder of a case."""
    case = CASES[name]
    tiny_modules.write_stack(folder, case.parts, **{**case.write, **settings})
    path = folder / "config_sentence_transformers.json"
    top = {"model_type": "CrossEncoder", "__version__": {"sentence_transformers": "6.2.0"}, **case.top}
    path.write_text(json.dumps(top))
    # Said outright: what follows from the class alone changed with transformers 5.
    path = folder / "tokenizer_config.json"
    names = ["input_ids", "token_type_ids", "attention_mask"]
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_input_names": names}))
    return folder
