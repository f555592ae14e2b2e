"""Random decoders in tiny folders, with byte-level tokenizers of their own; the same everywhere for one seed.

Needs numpy, torch, safetensors and tokenizers alone, so that it also runs where the peers are installed.
"""

from __future__ import annotations

__all__ = [
    "END",
    "END_TURN",
    "START_TURN",
    "TEMPLATE",
    "decoder_tokenizer",
    "write_decoder",
    "write_embedder",
    "write_reranker",
]

import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

import tiny

END, START_TURN, END_TURN = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
_MODULES = "sentence_transformers.models"
_TEMPLATE = {"add_prefix_space": False, "trim_offsets": False, "use_regex": False}

# Of the form that rerankers made of Qwen3 have: a prompt is a message of the system.
TEMPLATE = """<|im_start|>system
Does the Document fit the Query? Answer yes or no.<|im_end|>
<|im_start|>user
{% set said = messages | selectattr("role", "eq", "system") | map(attribute="content") | first -%}
<Instruct>: {{ said | default("search") }}
<Query>: {{ messages | selectattr("role", "eq", "query") | map(attribute="content") | first }}
<Document>: {{ messages | selectattr("role", "eq", "document") | map(attribute="content") | first }}<|im_end|>
{% if add_generation_prompt %}<|im_start|>assistant
<think>

</think>

{% endif %}"""


def write_decoder(
    folder: str | Path,
    *,
    dtype: str = "float32",
    hidden: int = 32,
    layers: int = 2,
    heads: int = 4,
    key_heads: int = 2,
    head_width: int = 16,
    intermediate: int = 48,
    max_positions: int = 512,
    tied: bool = True,
    attention_bias: bool = False,
    prefix: str = "",
    lm_head: bool = False,
    shards: int = 1,
    ends: bool = True,
    model_max_length: int = 1024,
    chat_template: str | None = None,
    config: Mapping[str, Any] | None = None,
    scale: float = 1.0,
    seed: int = 0,
) -> Path:
    """The folder, now holding a random Qwen3 as transformers saves it.

    Args:
        folder: made if need be.
        dtype: stored dtype.
        hidden, layers, heads, key_heads, head_width, intermediate, max_positions: sizes.
        tied: whether the head is the table of embeddings.
        attention_bias: whether the projections of attention have biases.
        prefix: before each tensor name: "model." of a whole language model.
        lm_head: whether there is a head of its own.
        shards: files that the weights are spread over.
        ends: whether the tokenizer puts the end of text behind each, as Qwen3-Embedding's does.
        model_max_length, chat_template: of tokenizer_config.json.
        config: changes to config.json; a value of None removes the key.
        scale: of the embeddings, and with them of all that is added up.
        seed: of every weight, together with its name.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    made = decoder_tokenizer(ends=ends)
    made.save(str(folder / "tokenizer.json"))
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END_TURN,
        "pad_token": END,
        "model_max_length": model_max_length,
    }
    if chat_template is not None:
        settings["chat_template"] = chat_template
    _json(folder / "tokenizer_config.json", settings)
    vocabulary = made.get_vocab_size()
    described: dict[str, Any] = {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": key_heads,
        "head_dim": head_width,
        "intermediate_size": intermediate,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000,
        "rope_scaling": None,
        "attention_bias": attention_bias,
        "attention_dropout": 0.0,
        "max_position_embeddings": max_positions,
        "max_window_layers": layers,
        "sliding_window": None,
        "use_sliding_window": False,
        "tie_word_embeddings": tied,
        "eos_token_id": made.token_to_id(END_TURN),
        "use_cache": True,
        "torch_dtype": dtype,
        "transformers_version": "4.51.3",
    }
    for key, value in (config or {}).items():
        if value is None:
            described.pop(key, None)
        else:
            described[key] = value
    _json(folder / "config.json", described)
    queries, keys = heads * head_width, key_heads * head_width
    shapes: dict[str, tuple[int, ...]] = {
        "embed_tokens.weight": (vocabulary, hidden),
        "norm.weight": (hidden,),
    }
    for layer in range(layers):
        start = f"layers.{layer}"
        for part, rows, columns in (
            ("self_attn.q_proj", queries, hidden),
            ("self_attn.k_proj", keys, hidden),
            ("self_attn.v_proj", keys, hidden),
            ("self_attn.o_proj", hidden, queries),
            ("mlp.gate_proj", intermediate, hidden),
            ("mlp.up_proj", intermediate, hidden),
            ("mlp.down_proj", hidden, intermediate),
        ):
            shapes[f"{start}.{part}.weight"] = (rows, columns)
            if attention_bias and part.startswith("self_attn"):
                shapes[f"{start}.{part}.bias"] = (rows,)
        for part, width in (
            ("self_attn.q_norm", head_width),
            ("self_attn.k_norm", head_width),
            ("input_layernorm", hidden),
            ("post_attention_layernorm", hidden),
        ):
            shapes[f"{start}.{part}.weight"] = (width,)
    tensors = {f"{prefix}{name}": _random(seed, name, shape, scale) for name, shape in shapes.items()}
    if lm_head:
        tensors["lm_head.weight"] = _random(seed, "lm_head.weight", (vocabulary, hidden), 1.0)
    _write_weights(folder, {name: value.to(getattr(torch, dtype)) for name, value in tensors.items()}, shards)
    return folder


def write_embedder(
    folder: str | Path,
    *,
    pooling: str = "lasttoken",
    prompts: Mapping[str, str] | None = None,
    normalize: bool = True,
    **settings: Any,
) -> Path:
    """The folder, now holding a random model of vectors as Qwen3-Embedding's folders are.

    Args:
        folder: made if need be.
        pooling: mode of sentence-transformers' Pooling.
        prompts: of config_sentence_transformers.json; None for Qwen3-Embedding's.
        normalize: whether vectors end at unit length.
        settings: of `write_decoder`.
    """
    folder = write_decoder(folder, **settings)
    if prompts is None:
        prompts = {"query": "Instruct: read the text and find the answer\nQuery:", "document": ""}
    names = ("Transformer", "Pooling", *(["Normalize"] if normalize else []))
    entries = [
        {
            "idx": place,
            "name": str(place),
            "path": f"{place}_{name}" if place else "",
            "type": f"{_MODULES}.{name}",
        }
        for place, name in enumerate(names)
    ]
    _json(folder / "modules.json", entries)
    modes = {
        f"pooling_mode_{mode}": mode == pooling
        for mode in ("cls_token", "mean_tokens", "max_tokens", "weightedmean_tokens", "lasttoken")
    }
    width = json.loads((folder / "config.json").read_text())["hidden_size"]
    (folder / "1_Pooling").mkdir(exist_ok=True)
    _json(
        folder / "1_Pooling" / "config.json",
        {"word_embedding_dimension": width, **modes, "include_prompt": True},
    )
    _json(
        folder / "config_sentence_transformers.json",
        {"prompts": dict(prompts), "default_prompt_name": None, "similarity_fn_name": "cosine"},
    )
    return folder


def write_reranker(
    folder: str | Path,
    *,
    true: int | None = None,
    false: int | None = None,
    template: str | None = TEMPLATE,
    in_file: bool = False,
    form: str = "flat",
    chat: Mapping[str, Any] | None = None,
    text: Mapping[str, Any] | None = None,
    activation: str | None = None,
    prompts: Mapping[str, str] | None = None,
    default_prompt_name: str | None = None,
    **settings: Any,
) -> Path:
    """The folder, now holding a random CrossEncoder of Transformer and LogitScore, as that library saves it.

    Args:
        folder: made if need be.
        true, false: ids of the tokens; None for "yes", and for "no" unless `true` is given.
        template: the chat template; None for pairs as the tokenizer joins them.
        in_file: whether it is in chat_template.jinja, not in tokenizer_config.json.
        form: "flat" or "structured".
        chat, text: of processing_kwargs.
        activation, prompts, default_prompt_name: of config_sentence_transformers.json.
        settings: of `write_decoder`.
    """
    given = {"prefix": "model.", "ends": False, **settings}
    folder = write_decoder(folder, chat_template=None if in_file else template, **given)
    if in_file and template is not None:
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    words = decoder_tokenizer(ends=False)
    if true is None:
        true, false = words.token_to_id("yes"), words.token_to_id("no")
    forward: dict[str, Any] = {"method": "forward", "method_output_name": "logits"}
    modalities = {"text": forward} | ({"message": {**forward, "format": form}} if template else {})
    processing = {"chat_template": {"add_generation_prompt": True, **(chat or {})}, "text": dict(text or {})}
    _json(
        folder / "sentence_bert_config.json",
        {
            "transformer_task": "text-generation",
            "modality_config": modalities,
            "module_output_name": "causal_logits",
            "processing_kwargs": processing,
        },
    )
    start = "sentence_transformers"
    classes = (
        ("", f"{start}.base.modules.transformer.Transformer"),
        ("1_LogitScore", f"{start}.cross_encoder.modules.logit_score.LogitScore"),
    )
    _json(
        folder / "modules.json",
        [{"idx": n, "name": str(n), "path": path, "type": kind} for n, (path, kind) in enumerate(classes)],
    )
    (folder / "1_LogitScore").mkdir(exist_ok=True)
    score = {"true_token_id": true, "false_token_id": false, "module_input_name": "causal_logits"}
    _json(folder / "1_LogitScore" / "config.json", score)
    top: dict[str, Any] = {
        "__version__": {"sentence_transformers": "6.2.0"},
        "model_type": "CrossEncoder",
        "prompts": dict(prompts or {}),
        "default_prompt_name": default_prompt_name,
    }
    if activation is not None:
        top["activation_fn"] = activation
    _json(folder / "config_sentence_transformers.json", top)
    return folder


def decoder_tokenizer(*, ends: bool) -> Tokenizer:
    """A real tokenizer of a few hundred pieces: byte-level, with Qwen's special tokens and no others."""
    pieces = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges: list[tuple[str, str]] = []
    for word in (*tiny.WORDS, "yes", "no"):
        for start in ("Ġ", ""):
            joined, *letters = f"{start}{word}"
            for letter in letters:
                if joined + letter not in pieces:
                    pieces.append(joined + letter)
                    merges.append((joined, letter))
                joined += letter
    made = Tokenizer(models.BPE({piece: place for place, piece in enumerate(pieces)}, merges))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(
        [AddedToken(token, normalized=False, special=True) for token in (END, START_TURN, END_TURN)]
    )
    made.add_tokens([AddedToken(token, normalized=False, special=False) for token in ("<think>", "</think>")])
    bytes_alone = processors.ByteLevel(**_TEMPLATE)
    made.post_processor = bytes_alone
    if ends:
        last = processors.TemplateProcessing(
            single=f"$A {END}", pair=f"$A $B {END}", special_tokens=[(END, made.token_to_id(END))]
        )
        made.post_processor = processors.Sequence([bytes_alone, last])
    return made


def _write_weights(folder: Path, tensors: Mapping[str, torch.Tensor], shards: int) -> None:
    if shards == 1:
        save_file(dict(tensors), folder / "model.safetensors", metadata={"format": "pt"})
        return
    names: Sequence[str] = sorted(tensors)
    index: dict[str, str] = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        own = {name: tensors[name] for name in names[shard::shards]}
        save_file(own, folder / file, metadata={"format": "pt"})
        index |= dict.fromkeys(own, file)
    size = sum(tensor.nbytes for tensor in tensors.values())
    _json(folder / "model.safetensors.index.json", {"metadata": {"total_size": size}, "weight_map": index})


def _random(seed: int, name: str, shape: tuple[int, ...], scale: float) -> torch.Tensor:
    """Large enough that texts differ clearly; norms stand around 1."""
    values = np.random.default_rng([seed, zlib.crc32(name.encode())]).standard_normal(shape)
    if len(shape) == 1:
        values = (1.0 if "norm" in name else 0.0) + 0.2 * values
    else:
        values = values * (scale if "embed" in name else 1.0) * (1.0 if "embed" in name else 0.25)
    return torch.from_numpy(values.astype(np.float32))


def _json(path: Path, data: Any) -> None:
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
