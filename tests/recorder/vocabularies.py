"""Tiny Llamas with different vocabularies, and their merges; read by the recorder and by the tests."""

from __future__ import annotations

__all__ = ["CASES", "CUT", "Case", "write"]

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

_HIDDEN, _INNER = 8, 12
_SPECIAL = ("<s>", "</s>", "<unk>")
# model -> words of its own beside those of all, added tokens, rows beyond the vocabulary
_MODELS: Mapping[str, tuple[Sequence[str], Sequence[str], int]] = {
    "base": (("river",), (), 0),
    "a": (("river", "moon"), ("<both>",), 0),
    "b": (("sun", "bridge"), ("<query>", "<both>"), 0),
    "c": (("sun", "moon", "paris"), ("<document>",), 0),
    "padded": (("river",), (), 5),
}
_WORDS = ("cat", "bus", "bird", "star", "song")
# A word that the first model cuts as bus-u-n, where a piece of the second lies across: sun.
CUT = "busun river sun"


@dataclass(frozen=True)
class Case:
    """A merge of these models; `text` is the recipe but for the models, with {name} for their folders.

    Attributes:
        models: in the order of the recipe.
        text: the rest of it.
        base: whether the first model is the base, and no input.
        same_rows: whether mergekit's tables have as many rows as ours.
    """

    name: str
    models: tuple[str, ...]
    text: str
    base: bool = False
    same_rows: bool = True

    def recipe(self, folders: Mapping[str, Path]) -> str:
        """The YAML."""
        inputs = self.models[1:] if self.base else self.models
        lines = [self.text.format(**folders).strip(), "models:"]
        lines += [
            f"  - {{model: {folders[one]}, parameters: {{weight: 0.{5 + n}}}}}"
            for n, one in enumerate(inputs)
        ]
        return "\n".join(lines) + "\n"


_TOKENS = """
merge_method: linear
tokenizer:
  source: union
  pad_to_multiple_of: 64
  tokens:
    river: {{source: {{kind: model_token, model: {b}, token: sun}}, force: true}}
    bridge: {{source: {{kind: model_token, model: {a}, token_id: 7}}}}
    cat: {{source: {b}, force: true}}
    moon: {{source: {{kind: zero}}}}
    song: {{source: {{kind: zero}}, force: true}}
    "<query>": {{source: {b}}}
    "<new>": {{source: {{kind: model_token, model: {a}, token: star}}}}
    "<none>": {{source: {{kind: zero}}}}
"""

CASES = (
    Case("union of two", ("a", "b"), "merge_method: linear\ntokenizer_source: union"),
    Case("union of three", ("a", "b", "c"), "merge_method: linear\ntokenizer_source: union"),
    Case(
        "union, base",
        ("base", "a", "b", "c"),
        "merge_method: task_arithmetic\nbase_model: {base}\ntokenizer_source: union",
        base=True,
    ),
    Case(
        "union, ties",
        ("base", "a", "b", "c"),
        "merge_method: ties\nbase_model: {base}\ntokenizer: {{source: union}}\nparameters: {{density: 1}}",
        base=True,
    ),
    Case(
        "the base's",
        ("base", "b", "c"),
        "merge_method: task_arithmetic\nbase_model: {base}\ntokenizer_source: base",
        base=True,
    ),
    Case("one model's", ("a", "b", "c"), "merge_method: linear\ntokenizer_source: {b}"),
    Case("tokens by the recipe", ("a", "b"), _TOKENS),
    Case("rows beyond the vocabulary", ("a", "padded"), "merge_method: linear\ntokenizer_source: union"),
    Case(
        "rows beyond one vocabulary",
        ("padded", "padded too"),
        "merge_method: linear\ntokenizer_source: union",
        same_rows=False,
    ),
)


def write(folder: Path, case: Case) -> dict[str, Path]:
    """The folders of a case's models, by name."""
    return {name: _llama(folder / name.replace(" ", "_"), name) for name in case.models}


def _llama(folder: Path, name: str) -> Path:
    folder.mkdir(parents=True)
    own, added, beyond = _MODELS[name.removesuffix(" too")]
    tokenizer = _bpe((*_WORDS, *own) if name != "b" else (*own, *reversed(_WORDS)), added)
    tokenizer.save(str(folder / "tokenizer.json"))
    names = dict(zip(("bos_token", "eos_token", "unk_token"), _SPECIAL, strict=True))
    _json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **names})
    rows = tokenizer.get_vocab_size() + beyond
    shapes = {"model.embed_tokens.weight": (rows, _HIDDEN), "lm_head.weight": (rows, _HIDDEN)}
    for part in ("q_proj", "k_proj", "v_proj", "o_proj"):
        shapes[f"model.layers.0.self_attn.{part}.weight"] = (_HIDDEN, _HIDDEN)
    for part in ("gate_proj", "up_proj"):
        shapes[f"model.layers.0.mlp.{part}.weight"] = (_INNER, _HIDDEN)
    shapes["model.layers.0.mlp.down_proj.weight"] = (_HIDDEN, _INNER)
    for part in ("layers.0.input_layernorm", "layers.0.post_attention_layernorm", "norm"):
        shapes[f"model.{part}.weight"] = (_HIDDEN,)
    generator = np.random.default_rng([*name.encode()])
    tensors = {
        key: torch.from_numpy(generator.standard_normal(shape).astype(np.float32))
        for key, shape in shapes.items()
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    _json(
        folder / "config.json",
        {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": rows,
            "hidden_size": _HIDDEN,
            "intermediate_size": _INNER,
            "num_hidden_layers": 1,
            "num_attention_heads": 1,
            "num_key_value_heads": 1,
            "rms_norm_eps": 1e-06,
            "max_position_embeddings": 64,
            "tie_word_embeddings": False,
            "bos_token_id": 0,
            "eos_token_id": 1,
            "dtype": "float32",
        },
    )
    return folder


def _bpe(words: Sequence[str], added: Sequence[str]) -> Tokenizer:
    """Letters, and every beginning of every word, by merges."""
    pieces = [*_SPECIAL, *"abcdefghijklmnopqrstuvwxyz"]
    merges: list[tuple[str, str]] = []
    for word in words:
        for end in range(2, len(word) + 1):
            if word[:end] not in pieces:
                pieces.append(word[:end])
                merges.append((word[: end - 1], word[end - 1]))
    made = Tokenizer(
        models.BPE({piece: place for place, piece in enumerate(pieces)}, merges, unk_token="<unk>")
    )
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in _SPECIAL])
    # the same token in two models, with other settings in each
    made.add_tokens([AddedToken(token, lstrip=len(added) == 1, normalized=False) for token in added])
    return made


def _json(path: Path, data: Any) -> None:
    path.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
