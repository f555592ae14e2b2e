"""What the other libraries' classes have and these do not: an error each, which says what to do instead."""

from __future__ import annotations

__all__ = ["OF_FLAGEMBEDDING", "OF_SENTENCE_TRANSFORMERS", "Absences", "NoProcesses"]

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import torch

from tercet.errors import AbsentError

_PROCESSES = (
    "no processes are started: one call uses all cores of its device. For several GPUs make one object a "
    "GPU, and give each its share of texts"
)
_TRAINING = "training is `tercet train`, or tercet.train(recipe)"
_SAVING = "the folder that was loaded is the model: copy it, or upload it with `hf upload`"
_MEASURING = "`tercet evaluate`, or tercet.evaluate(folder, data), measures a model"
_TOKENS = "token ids are model.tokenizer.encode(texts, max_length=model.max_seq_length).ids"
_PARTS = "what was loaded is told by .checkpoint of model.embedder or model.reranker, how it runs by .plan"
_ADAPTERS = "adapters of weights are not loaded: merge them into the model's folder, and load that"
_TEXTS = "texts are all that is embedded, one (a str) or several"
_LOADING = "a model is loaded by the class itself: pass the folder or hub id"
_FORMAT = "the plan says in which format it runs: model.embedder.plan, or model.reranker.plan"
_INSTRUCTIONS = "instructions are put before texts by the class: pass them and their format when it is made"
_SIMILARITIES = 'similarity_fn_name is "cosine", "dot", "euclidean" or "manhattan"'

# name -> what to do instead, after "is not here: "
OF_SENTENCE_TRANSFORMERS: Mapping[str, str] = {
    **dict.fromkeys(
        (
            "start_multi_process_pool",
            "stop_multi_process_pool",
            "encode_multi_process",
            "clear_placement_cache",
        ),
        _PROCESSES,
    ),
    **dict.fromkeys(
        (
            "fit",
            "old_fit",
            "train",
            "smart_batching_collate",
            "smart_batching_collate_text_only",
            "gradient_checkpointing_enable",
            "model_card_data",
            "model_card_data_class",
        ),
        _TRAINING,
    ),
    **dict.fromkeys(("save", "save_pretrained", "save_to_hub", "push_to_hub"), _SAVING),
    "evaluate": _MEASURING,
    "merge": "models are merged by `tercet merge`, or tercet.merge(recipe, folder)",
    "load": _LOADING,
    **dict.fromkeys(("tokenize", "preprocess", "get_sentence_features", "processor"), _TOKENS),
    **dict.fromkeys(
        (
            "forward",
            "compile",
            "transformers_model",
            "model",
            "config",
            "get_model_kwargs",
            "get_backend",
            "model_type",
            "default_huggingface_organization",
        ),
        _PARTS,
    ),
    **dict.fromkeys(
        (
            "active_adapter",
            "active_adapters",
            "add_adapter",
            "check_peft_compatible_model",
            "delete_adapter",
            "disable_adapters",
            "enable_adapters",
            "get_adapter_state_dict",
            "has_peft_compatible_model",
            "load_adapter",
            "set_adapter",
        ),
        _ADAPTERS,
    ),
    **dict.fromkeys(("modalities", "supports", "is_singular_input"), _TEXTS),
    "SUPPORTED_SIMILARITY_FN_NAMES": _SIMILARITIES,
    "set_pooling_include_prompt": (
        "whether a prompt's tokens are pooled is what the folder's pooling says ('include_prompt')"
    ),
    "splade_pooling_chunk_size": (
        "memory never grows with the vocabulary: blocks of tokens and words are pooled one by one"
    ),
    "set_keep_in_fp32_modules": "heads compute in float32 in any case",
    **dict.fromkeys(
        ("default_activation_function", "get_default_activation_fn"), "it is the attribute activation_fn"
    ),
}

OF_FLAGEMBEDDING: Mapping[str, str] = {
    **dict.fromkeys(
        (
            "start_multi_process_pool",
            "stop_multi_process_pool",
            "encode_multi_process",
            "compute_score_multi_process",
            "encode_single_device",
            "compute_score_single_device",
            "compute_score_single_gpu",
            "get_target_devices",
            "pool",
        ),
        _PROCESSES,
    ),
    **dict.fromkeys(("get_detailed_instruct", "get_detailed_inputs"), _INSTRUCTIONS),
    "get_model_torch_dtype": _FORMAT,
    "model": _PARTS,
    "pooling": 'pooling_method of the class says how tokens are pooled: "cls", "mean", "last_token"',
}


class Absences:
    """A class whose attributes that are not here are errors with a mend; `hasattr` says False, as ever."""

    absences: ClassVar[Mapping[str, str]] = OF_SENTENCE_TRANSFORMERS

    if not TYPE_CHECKING:  # a checker of types is to find them by itself

        def __getattr__(self, name: str) -> object:
            kind = type(self).__name__
            if name in type(self).absences:
                raise AbsentError(f"{kind}.{name} is not here: {type(self).absences[name]}.")
            if not name.startswith("_") and hasattr(torch.nn.Module, name):
                raise AbsentError(
                    f"{kind}.{name} belongs to torch.nn.Module, and this class is none: {_PARTS}."
                )
            raise AttributeError(f"{kind!r} object has no attribute {name!r}")


class NoProcesses(Absences):
    """What FlagEmbedding's classes share: they may be asked to end processes, of which there are none."""

    absences = OF_FLAGEMBEDDING

    def stop_self_pool(self) -> None:
        """Nothing: no process was started."""
