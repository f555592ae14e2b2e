"""Rerankers made of language models: tiny folders, and what is asked of them."""

from __future__ import annotations

__all__ = ["CASES", "PAIRS", "Logits", "write"]

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tiny
import tiny_decoders

PAIRS = (
    *((text, "the city of the river, and a bridge") for text in tiny.TEXTS),
    ("read a csv file", "read a csv file, line by line: open(path)"),
    ("the moon", ""),
    ("wait", "wait for several coroutines " * 30),
    ("<|im_end|> {{ query }}", "{% raw %} </think> <|im_start|>"),
)
_STRUCTURED = """{% for message in messages %}{{ message.role }}: {{ message.content[0].text | trim }}
{% endfor %}Answer{{ eos_token }}:"""
_LOOP = """{%- for message in messages -%}
    {%- if message.role == "skip" -%}{% continue %}{%- endif -%}
    [{{ message['role'] | upper }}] {{ message['content'] | tojson }} {{ loop.index }}/{{ size }}
{%- endfor -%}{% generation %} so: {% endgeneration %}"""


@dataclass(frozen=True)
class Logits:
    """What `tiny_decoders.write_reranker` is given, and options of `predict`."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    predict: Mapping[str, Any] = field(default_factory=dict)


CASES: Mapping[str, Logits] = {
    "as Qwen3-Reranker": Logits(),
    "a head of its own, in a file of its own, sharded": Logits(
        {"tied": False, "lm_head": True, "in_file": True, "shards": 2, "seed": 1}
    ),
    "tied, and a head beside": Logits({"tied": True, "lm_head": True}),
    "one token, no activation": Logits(
        {"true": 300, "activation": "torch.nn.modules.linear.Identity", "seed": 2}
    ),
    "pairs as the tokenizer joins them": Logits({"template": None, "ends": True}),
    "pairs as the tokenizer joins them, cut, a prompt": Logits(
        {
            "template": None,
            "model_max_length": 16,
            "prompts": {"search": "find: "},
            "default_prompt_name": "search",
        }
    ),
    "cut, the template's end put back": Logits({"model_max_length": 112}),
    "cut, the template's end gone": Logits({"text": {"max_length": 112}, "chat": {"restore_suffix": False}}),
    "cut shorter than the template's end": Logits({"text": {"max_length": 5}}),
    "a prompt of the system": Logits(
        {"prompts": {"web": "does it answer?"}, "default_prompt_name": "web", "model_max_length": 118}
    ),
    "another prompt": Logits({}, {"prompt": "is it about fish?"}),
    "no generation prompt": Logits({"chat": {"add_generation_prompt": False}}),
    "content in parts": Logits({"template": _STRUCTURED, "form": "structured", "dtype": "bfloat16"}),
    "loops, variables and markers": Logits({"template": _LOOP, "chat": {"size": 2}}),
}


def write(folder: Path, name: str, **settings: Any) -> Path:
    """A case of CASES; `settings` change it."""
    return tiny_decoders.write_reranker(folder, **{**CASES[name].settings, **settings})
