"""Random checkpoint folders with real small tokenizers, in milliseconds; the same everywhere for one seed.

Needs numpy, torch, safetensors and tokenizers alone, so that it also runs where the peers are installed.
"""

from __future__ import annotations

__all__ = ["TEXTS", "WORDS", "state_dict", "tokenizer", "write_checkpoint"]

import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

Architecture = Literal["bert", "roberta", "xlm-roberta", "distilbert", "electra", "mpnet"]
Layout = Literal["huggingface", "sentence-transformers", "bge-m3"]
FileKind = Literal["safetensors", "bin", "legacy-bin"]
Module = str | tuple[str, Mapping[str, Any]]

_WORDS = """
the a of to and in is it for on with as that this are by be an from or at not was one two three you
he she we they return returns value values list string file read write open close line lines name
names number set get key text random element pick choose wait several coroutine task event loop csv
row table path time date year city country paris london berlin river bridge cat dog bird fish sun
moon star water fire earth music song dance film actor model vector dense sparse token query
document search rank score match question answer long short red green blue
"""
WORDS = tuple(_WORDS.split())

TEXTS = (
    "",
    "a",
    "The cat is on the bridge.",
    "how do I pick a random element",
    "read a csv file, line by line: open(path)",
    "Paris is the city of the river; London and Berlin are not in this list.",
    "naïve café, 東京 and 42 stars",
    "wait for several coroutines " * 12,
)

_ARCHITECTURES = {
    "bert": "BertModel",
    "roberta": "RobertaModel",
    "xlm-roberta": "XLMRobertaModel",
    "distilbert": "DistilBertModel",
    "electra": "ElectraModel",
    "mpnet": "MPNetModel",
}
# Those with BERT's special tokens, and positions from the first row.
_LIKE_BERT = ("bert", "distilbert", "electra")
_TOKEN_TYPES = {"bert": 2, "electra": 2, "roberta": 1, "xlm-roberta": 1}
_WITHOUT_POOLER = ("distilbert", "electra")
# BERT's names -> an architecture's own, of settings and of parts of tensor names.
_OWN_SETTINGS = {
    "distilbert": {
        "hidden_size": "dim",
        "num_hidden_layers": "n_layers",
        "num_attention_heads": "n_heads",
        "intermediate_size": "hidden_dim",
        "hidden_act": "activation",
        "hidden_dropout_prob": "dropout",
        "attention_probs_dropout_prob": "attention_dropout",
        "layer_norm_eps": None,
    }
}
_OWN_NAMES = {
    "distilbert": {
        "attention.self.query": "attention.q_lin",
        "attention.self.key": "attention.k_lin",
        "attention.self.value": "attention.v_lin",
        "attention.output.dense": "attention.out_lin",
        "attention.output.LayerNorm": "sa_layer_norm",
        "output.LayerNorm": "output_layer_norm",
        "intermediate.dense": "ffn.lin1",
        "output.dense": "ffn.lin2",
    },
    "mpnet": {
        "attention.self.query": "attention.attn.q",
        "attention.self.key": "attention.attn.k",
        "attention.self.value": "attention.attn.v",
        "attention.output.dense": "attention.attn.o",
        "attention.output.LayerNorm": "attention.LayerNorm",
    },
}
_LM_HEADS = {
    "bert": ("cls.predictions.bias", "cls.predictions.transform.dense.weight"),
    "distilbert": ("vocab_projector.bias", "vocab_transform.weight"),
    "electra": ("generator_lm_head.bias", "discriminator_predictions.dense.weight"),
}
_NEW_CLASSES = {
    "transformer": "sentence_transformers.base.modules.transformer.Transformer",
    "pooling": "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
    "dense": "sentence_transformers.base.modules.dense.Dense",
    "layer_norm": "sentence_transformers.sentence_transformer.modules.layer_norm.LayerNorm",
    "normalize": "sentence_transformers.base.modules.normalize.Normalize",
}
_OLD_CLASSES = {
    "transformer": "sentence_transformers.models.Transformer",
    "pooling": "sentence_transformers.models.Pooling",
    "dense": "sentence_transformers.models.Dense",
    "layer_norm": "sentence_transformers.models.LayerNorm",
    "normalize": "sentence_transformers.models.Normalize",
}
_FOLDERS = {"pooling": "Pooling", "dense": "Dense", "layer_norm": "LayerNorm", "normalize": "Normalize"}
_OLD_POOLING = {
    "cls": "pooling_mode_cls_token",
    "mean": "pooling_mode_mean_tokens",
    "max": "pooling_mode_max_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}


def write_checkpoint(
    folder: str | Path,
    architecture: Architecture = "bert",
    *,
    layout: Layout = "huggingface",
    dtype: str = "float32",
    file: FileKind = "safetensors",
    modules: Sequence[Module] = ("pooling", "normalize"),
    old_keys: bool = False,
    hidden: int = 32,
    layers: int = 2,
    heads: int = 4,
    intermediate: int = 64,
    max_positions: int = 66,
    hidden_act: str = "gelu",
    embedding: int | None = None,
    seed: int = 0,
    colbert_dim: int | None = None,
    m3_heads: Sequence[str] = ("sparse", "colbert"),
    heads_dtype: str = "float16",
    modules_json: bool = True,
    prefix: str = "",
    pooler: bool = True,
    lm_head: bool = False,
    position_ids: bool = False,
    gamma_beta: bool = False,
    shards: int = 1,
    mixed: Mapping[str, str] | None = None,
    config: Mapping[str, Any] | None = None,
    max_seq_length: int | None = None,
    model_max_length: int | None = None,
    do_lower_case: bool | None = None,
    model_args: Mapping[str, Any] | None = None,
    prompts: Mapping[str, str] | None = None,
    default_prompt_name: str | None = None,
    truncate_dim: int | None = None,
    truncation_trap: int | None = None,
) -> Path:
    """The folder, now holding a whole random checkpoint.

    Args:
        folder: made if need be.
        architecture: which encoder.
        layout: plain Hugging Face, sentence-transformers (see `modules`), or BGE-M3 with its two heads.
        dtype: stored dtype of the body and, unless they say otherwise, of the modules.
        file: how weights are stored; "legacy-bin" is torch's format before zip files.
        modules: what follows the encoder in a sentence-transformers stack: a name of "pooling", "dense",
            "layer_norm", "normalize", or (name, settings). Settings of pooling: modes, include_prompt; of
            dense: out_features, bias, activation_function, use_residual, dtype, file, scale; of layer_norm:
            dtype, file. Any other name is written as the class reference, its settings as config.json.
        old_keys: names of classes and keys as sentence-transformers before 5 wrote them.
        hidden, layers, heads, intermediate, max_positions, hidden_act: sizes of the encoder.
        embedding: width of ELECTRA's embeddings; None for `hidden`, and no projection.
        seed: of every weight, together with its name.
        colbert_dim: width of the multi-vector head; None for `hidden`.
        m3_heads: which of the two heads exist.
        heads_dtype: stored dtype of the M3 heads.
        modules_json: whether the bge-m3 layout has the sentence-transformers files, too.
        prefix: before each tensor name of the body: "bert.", "0.auto_model.".
        pooler, lm_head, position_ids: tensors that an embedding does not use.
        gamma_beta: LayerNorm tensors under the names of TensorFlow's BERT.
        shards: files that the body is spread over.
        mixed: canonical tensor name -> its own dtype.
        config: changes to config.json; a value of None removes the key.
        max_seq_length, do_lower_case, model_args: of sentence_bert_config.json.
        model_max_length: of tokenizer_config.json; None for what the position table holds, -1 for none.
        prompts, default_prompt_name, truncate_dim: of config_sentence_transformers.json.
        truncation_trap: make tokenizer.json itself pad and cut at this length.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    made = tokenizer(architecture)
    vocabulary = made.get_vocab_size()
    positions = max_positions if architecture in _LIKE_BERT else max_positions - 2
    _write_tokenizer(folder, made, architecture, positions, model_max_length, truncation_trap)

    settings: dict[str, Any] = {
        "architectures": [_ARCHITECTURES[architecture]],
        "model_type": architecture,
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": intermediate,
        "hidden_act": hidden_act,
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "max_position_embeddings": max_positions,
        "type_vocab_size": _TOKEN_TYPES.get(architecture),
        "initializer_range": 0.02,
        "layer_norm_eps": 1e-12 if architecture in _LIKE_BERT else 1e-5,
        "pad_token_id": 0 if architecture in _LIKE_BERT else 1,
        "position_embedding_type": "absolute",
        "use_cache": True,
        "torch_dtype": dtype,
        "transformers_version": "4.57.0",
    }
    if architecture not in _LIKE_BERT:
        settings |= {"bos_token_id": 0, "eos_token_id": 2}
    if architecture == "electra":
        settings["embedding_size"] = embedding or hidden
    if architecture == "mpnet":
        settings["relative_attention_num_buckets"] = 32
    if architecture not in _TOKEN_TYPES:
        del settings["type_vocab_size"]
    for key, own in _OWN_SETTINGS.get(architecture, {}).items():
        value = settings.pop(key)
        if own is not None:
            settings[own] = value
    for key, value in (config or {}).items():
        if value is None:
            settings.pop(key, None)
        else:
            settings[key] = value
    _json(folder / "config.json", settings)

    tensors = state_dict(
        architecture,
        vocabulary,
        hidden,
        layers,
        intermediate,
        max_positions,
        seed,
        pooler,
        heads=heads,
        embedding=embedding,
    )
    if position_ids:
        tensors["embeddings.position_ids"] = torch.arange(max_positions).unsqueeze(0)
    stored = {
        _stored_name(name, prefix, gamma_beta): _cast(value, (mixed or {}).get(name, dtype))
        for name, value in tensors.items()
    }
    if lm_head:
        bias, dense = _LM_HEADS.get(architecture, ("lm_head.bias", "lm_head.dense.weight"))
        stored[bias] = _cast(_normal(seed, "lm.bias", (vocabulary,)), dtype)
        stored[dense] = _cast(_normal(seed, "lm.dense", (hidden, hidden)), dtype)
    _write_weights(folder, stored, file, shards)

    if layout == "sentence-transformers":
        _write_stack(folder, modules, hidden, dtype, file, seed, old_keys)
    if layout == "bge-m3":
        if modules_json:
            _write_stack(
                folder, (("pooling", {"modes": ("cls",)}), "normalize"), hidden, dtype, file, seed, True
            )
            max_seq_length = positions if max_seq_length is None else max_seq_length
        sizes = {"sparse": 1, "colbert": colbert_dim or hidden}
        for head in m3_heads:
            weights = {
                "weight": _cast(_normal(seed, f"{head}.weight", (sizes[head], hidden)), heads_dtype),
                "bias": _cast(_normal(seed, f"{head}.bias", (sizes[head],)), heads_dtype),
            }
            torch.save(weights, folder / f"{head}_linear.pt")
    if layout == "sentence-transformers" or (layout == "bge-m3" and modules_json):
        _write_sentence_configs(
            folder, old_keys or layout == "bge-m3", max_seq_length, do_lower_case, model_args
        )
        _json(
            folder / "config_sentence_transformers.json",
            {
                "__version__": {"sentence_transformers": "2.2.2" if old_keys else "6.2.0"},
                **({} if old_keys else {"model_type": "SentenceTransformer", "similarity_fn_name": "cosine"}),
                **({} if prompts is None else {"prompts": dict(prompts)}),
                **({} if default_prompt_name is None else {"default_prompt_name": default_prompt_name}),
                **({} if truncate_dim is None else {"truncate_dim": truncate_dim}),
            },
        )
    return folder


def state_dict(
    architecture: Architecture,
    vocabulary: int,
    hidden: int = 32,
    layers: int = 2,
    intermediate: int = 64,
    max_positions: int = 66,
    seed: int = 0,
    pooler: bool = True,
    *,
    heads: int = 4,
    embedding: int | None = None,
) -> dict[str, torch.Tensor]:
    """The encoder's float32 tensors by transformers' names; large enough that texts differ clearly."""
    width = embedding or hidden
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (vocabulary, width),
        "embeddings.position_embeddings.weight": (max_positions, width),
        "embeddings.token_type_embeddings.weight": (_TOKEN_TYPES.get(architecture, 0), width),
        "embeddings.LayerNorm.weight": (width,),
        "embeddings.LayerNorm.bias": (width,),
    }
    if architecture not in _TOKEN_TYPES:
        del shapes["embeddings.token_type_embeddings.weight"]
    if width != hidden:
        shapes |= {"embeddings_project.weight": (hidden, width), "embeddings_project.bias": (hidden,)}
    if architecture == "mpnet":
        shapes["encoder.relative_attention_bias.weight"] = (32, heads)
    for layer in range(layers):
        start = f"encoder.layer.{layer}"
        for part, rows, columns in (
            ("attention.self.query", hidden, hidden),
            ("attention.self.key", hidden, hidden),
            ("attention.self.value", hidden, hidden),
            ("attention.output.dense", hidden, hidden),
            ("intermediate.dense", intermediate, hidden),
            ("output.dense", hidden, intermediate),
        ):
            shapes[f"{start}.{part}.weight"] = (rows, columns)
            shapes[f"{start}.{part}.bias"] = (rows,)
        for part in ("attention.output.LayerNorm", "output.LayerNorm"):
            shapes[f"{start}.{part}.weight"] = (hidden,)
            shapes[f"{start}.{part}.bias"] = (hidden,)
    if pooler and architecture not in _WITHOUT_POOLER:
        shapes |= {"pooler.dense.weight": (hidden, hidden), "pooler.dense.bias": (hidden,)}
    made = {name: _normal(seed, name, shape) for name, shape in shapes.items()}
    if architecture == "mpnet":
        # Large enough to be seen behind a softmax.
        made["encoder.relative_attention_bias.weight"] *= 5
    return {_own_name(architecture, name): tensor for name, tensor in made.items()}


def tokenizer(architecture: Architecture) -> Tokenizer:
    """A real tokenizer of a few hundred pieces: WordPiece, byte-level BPE or Unigram."""
    made = {"roberta": _byte_bpe, "xlm-roberta": _unigram, "mpnet": _wordpiece_of_mpnet}
    return made.get(architecture, _wordpiece)()


def _wordpiece_of_mpnet() -> Tokenizer:
    """WordPiece between RoBERTa's special tokens."""
    pieces = ["<s>", "<pad>", "</s>", "<unk>", *_wordpiece().get_vocab(), "<mask>"]
    vocabulary = {piece: place for place, piece in enumerate(sorted(pieces[4:]), start=4)}
    vocabulary |= {piece: place for place, piece in enumerate(pieces[:4])}
    made = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    made.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), True, False)
    _add_roberta_specials(made)
    return made


def _wordpiece() -> Tokenizer:
    characters = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = [c for c in characters if c.isalnum()]
    endings = [f"##{c}" for c in letters] + ["##s", "##ing", "##ed", "##er", "##ly"]
    vocabulary = list(dict.fromkeys([*special, *characters, *endings, *WORDS]))
    made = Tokenizer(models.WordPiece({t: i for i, t in enumerate(vocabulary)}, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocabulary.index("[CLS]")), ("[SEP]", vocabulary.index("[SEP]"))],
    )
    made.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    return made


def _byte_bpe() -> Tokenizer:
    pieces = ["<s>", "<pad>", "</s>", "<unk>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        joined = "Ġ"
        for letter in word:
            if joined + letter not in pieces:
                pieces.append(joined + letter)
                merges.append((joined, letter))
            joined += letter
    pieces.append("<mask>")
    made = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, merges))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), True, False)
    _add_roberta_specials(made)
    return made


def _unigram() -> Tokenizer:
    letters = [chr(code) for code in range(33, 127)] + list("éèïüöñß東京日本語中文")
    scored = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -3.0)]
    scored += [(f"▁{word}", -4.0 - rank / 50) for rank, word in enumerate(WORDS)]
    scored += [(ending, -6.0 - rank / 10) for rank, ending in enumerate(("ing", "ed", "er", "ly", "tion"))]
    scored += [(letter, -9.0 - rank / 100) for rank, letter in enumerate(letters)]
    scored.append(("<mask>", 0.0))
    made = Tokenizer(models.Unigram(scored, unk_id=3))
    made.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    _add_roberta_specials(made)
    return made


def _add_roberta_specials(made: Tokenizer) -> None:
    names = ("<s>", "<pad>", "</s>", "<unk>")
    made.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in names])
    made.add_special_tokens([AddedToken("<mask>", lstrip=True, normalized=False, special=True)])


def _write_tokenizer(
    folder: Path,
    made: Tokenizer,
    architecture: Architecture,
    positions: int,
    model_max_length: int | None,
    trap: int | None,
) -> None:
    if trap is not None:
        made.enable_truncation(trap)
        made.enable_padding(
            length=trap,
            pad_id=0 if architecture in _LIKE_BERT else 1,
            pad_token="[PAD]" if architecture in _LIKE_BERT else "<pad>",
        )
    made.save(str(folder / "tokenizer.json"))
    if architecture in _LIKE_BERT:
        names = {
            "cls_token": "[CLS]",
            "sep_token": "[SEP]",
            "pad_token": "[PAD]",
            "unk_token": "[UNK]",
            "mask_token": "[MASK]",
        }
    else:
        names = {
            "bos_token": "<s>",
            "eos_token": "</s>",
            "cls_token": "<s>",
            "sep_token": "</s>",
            "pad_token": "<pad>",
            "unk_token": "[UNK]" if architecture == "mpnet" else "<unk>",
            "mask_token": "<mask>",
        }
    settings: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", **names}
    if model_max_length != -1:
        settings["model_max_length"] = positions if model_max_length is None else model_max_length
    if architecture in ("bert", "electra"):
        settings["do_lower_case"] = True
    else:
        # Without this, transformers hands token_type_ids to encoders whose type table has one row, or none.
        settings["model_input_names"] = ["input_ids", "attention_mask"]
    _json(folder / "tokenizer_config.json", settings)
    _json(folder / "special_tokens_map.json", names)


def _write_stack(
    folder: Path,
    modules: Sequence[Module],
    hidden: int,
    dtype: str,
    file: FileKind,
    seed: int,
    old_keys: bool,
) -> None:
    classes = _OLD_CLASSES if old_keys else _NEW_CLASSES
    entries = [{"idx": 0, "name": "0", "path": "", "type": classes["transformer"]}]
    width = hidden
    for place, module in enumerate(modules, start=1):
        kind, given = (module, {}) if isinstance(module, str) else module
        path = f"{place}_{_FOLDERS.get(kind, kind.rsplit('.', 1)[-1])}"
        entries.append({"idx": place, "name": str(place), "path": path, "type": classes.get(kind, kind)})
        (folder / path).mkdir(exist_ok=True)
        if kind == "pooling":
            modes = tuple(given.get("modes", ("mean",)))
            _json(
                folder / path / "config.json",
                _pooling_config(modes, width, given.get("include_prompt"), old_keys),
            )
            width *= len(modes)
        elif kind == "dense":
            width = _write_dense(folder / path, given, width, dtype, file, seed, place, old_keys)
        elif kind == "layer_norm":
            _json(folder / path / "config.json", {"dimension": width})
            weights = {
                "norm.weight": _normal(seed, f"{place}.LayerNorm.weight", (width,)),
                "norm.bias": _normal(seed, f"{place}.LayerNorm.bias", (width,)),
            }
            stored = given.get("dtype", dtype)
            _write_weights(
                folder / path, {n: _cast(w, stored) for n, w in weights.items()}, given.get("file", file)
            )
        elif kind == "normalize":
            if not old_keys:
                _json(
                    folder / path / "config.json",
                    {"module_input_name": "sentence_embedding", "module_output_name": "sentence_embedding"},
                )
        else:
            _json(folder / path / "config.json", given)
    _json(folder / "modules.json", entries)


def _pooling_config(
    modes: tuple[str, ...], width: int, include_prompt: bool | None, old_keys: bool
) -> dict[str, Any]:
    if old_keys:
        config: dict[str, Any] = {"word_embedding_dimension": width}
        config |= {key: mode in modes for mode, key in _OLD_POOLING.items()}
    else:
        config = {"embedding_dimension": width, "pooling_mode": modes[0] if len(modes) == 1 else list(modes)}
    if include_prompt is not None or not old_keys:
        config["include_prompt"] = include_prompt is not False
    return config


def _write_dense(
    folder: Path,
    given: Mapping[str, Any],
    width: int,
    dtype: str,
    file: FileKind,
    seed: int,
    place: int,
    old_keys: bool,
) -> int:
    out, bias = given.get("out_features", width), given.get("bias", True)
    residual = given.get("use_residual", False)
    config: dict[str, Any] = {
        "in_features": width,
        "out_features": out,
        "bias": bias,
        "activation_function": given.get("activation_function", "torch.nn.modules.activation.Tanh"),
    }
    if not old_keys:
        config |= {
            "module_input_name": "sentence_embedding",
            "module_output_name": "sentence_embedding",
        }
    if residual or not old_keys:
        config["use_residual"] = residual
    _json(folder / "config.json", config)
    weights = {"linear.weight": _normal(seed, f"{place}.dense.weight", (out, width))}
    if bias:
        weights["linear.bias"] = _normal(seed, f"{place}.dense.bias", (out,))
    if residual and out != width:
        weights["residual.weight"] = _normal(seed, f"{place}.residual.weight", (out, width))
    stored, scale = given.get("dtype", dtype), given.get("scale", 1.0)
    _write_weights(folder, {n: _cast(w * scale, stored) for n, w in weights.items()}, given.get("file", file))
    return int(out)


def _write_sentence_configs(
    folder: Path,
    old_keys: bool,
    max_seq_length: int | None,
    do_lower_case: bool | None,
    model_args: Mapping[str, Any] | None,
) -> None:
    settings: dict[str, Any] = {}
    if not old_keys:
        settings |= {
            "transformer_task": "feature-extraction",
            "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
            "module_output_name": "token_embeddings",
        }
    if max_seq_length is not None or (old_keys and not settings):
        settings["max_seq_length"] = max_seq_length
    if do_lower_case is not None or old_keys:
        settings["do_lower_case"] = bool(do_lower_case)
    if model_args is not None:
        settings["model_args"] = dict(model_args)
    _json(folder / "sentence_bert_config.json", settings)


def _write_weights(folder: Path, tensors: dict[str, torch.Tensor], file: FileKind, shards: int = 1) -> None:
    stem, ending = ("model", "safetensors") if file == "safetensors" else ("pytorch_model", "bin")
    if shards == 1:
        _save(tensors, folder / f"{stem}.{ending}", file)
        return
    names = list(tensors)
    weight_map = {}
    for shard in range(shards):
        name = f"{stem}-{shard + 1:05d}-of-{shards:05d}.{ending}"
        part = names[shard::shards]
        _save({n: tensors[n] for n in part}, folder / name, file)
        weight_map |= dict.fromkeys(part, name)
    total = sum(t.numel() * t.element_size() for t in tensors.values())
    _json(
        folder / f"{stem}.{ending}.index.json", {"metadata": {"total_size": total}, "weight_map": weight_map}
    )


def _save(tensors: dict[str, torch.Tensor], path: Path, file: FileKind) -> None:
    if file == "safetensors":
        save_file(tensors, path, metadata={"format": "pt"})
    else:
        torch.save(tensors, path, _use_new_zipfile_serialization=file == "bin")


def _normal(seed: int, name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Seeded by name, so that a tensor is the same in every layout; LayerNorm weights lie around 1."""
    generator = np.random.default_rng([seed, zlib.crc32(name.encode())])
    if "LayerNorm" in name:
        values = 0.1 * generator.standard_normal(shape) + (1.0 if name.endswith("weight") else 0.0)
    else:
        values = 0.2 * generator.standard_normal(shape)
    return torch.from_numpy(values.astype(np.float32))


def _own_name(architecture: Architecture, name: str) -> str:
    """What an architecture calls a tensor for which we have BERT's name."""
    if architecture == "distilbert":
        name = name.replace("encoder.layer.", "transformer.layer.")
    # Where one is the end of another, the longer stands first.
    for theirs, own in _OWN_NAMES.get(architecture, {}).items():
        if theirs in name:
            return name.replace(theirs, own)
    return name


def _cast(tensor: torch.Tensor, dtype: str) -> torch.Tensor:
    return tensor.to(getattr(torch, dtype)) if tensor.is_floating_point() else tensor


def _stored_name(name: str, prefix: str, gamma_beta: bool) -> str:
    if gamma_beta:
        name = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
    return prefix + name


def _json(path: Path, data: Any) -> None:
    path.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
