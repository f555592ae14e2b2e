"""What a folder is that holds no model for Tercet, and which program or flag opens it: for errors alone."""

from __future__ import annotations

__all__ = ["advice", "code_of_its_own", "looks_like"]

from collections.abc import Mapping
from pathlib import Path
from typing import Any

_LANGUAGE_MODELS = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
# Keys of config.json that models of images, of sound, or of both have.
_SENSES = {
    "vision_config": "images",
    "image_size": "images",
    "audio_config": "sound",
    "num_mel_bins": "sound",
}
_SENSE_TYPES = {
    "clip": "images",
    "siglip": "images",
    "vit": "images",
    "whisper": "sound",
    "wav2vec2": "sound",
}
_FETCH = "Fetch the model's .safetensors, from which the precision can be chosen."
# File that tells what a folder holds: (glob, what it is, what opens it).
_FOLDERS = (
    (
        "adapter_config.json",
        "a PEFT adapter without its base model",
        "Merge it into the base model with peft (merge_and_unload, then save_pretrained), and open that.",
    ),
    ("*.gguf", "weights in GGUF", "Fetch the model's .safetensors; GGUF runs in llama.cpp."),
    ("*.onnx", "an ONNX graph", _FETCH),
    (
        "onnx/*.onnx",
        "an ONNX graph",
        _FETCH,
    ),
    ("openvino_model*.xml", "an OpenVINO graph", _FETCH),
    ("tf_model.h5", "weights of TensorFlow", "Save it from transformers 4 as .safetensors, and open that."),
)


def advice(config: Mapping[str, Any]) -> str:
    """What may help with a model whose config.json no encoder here fits."""
    if (code := code_of_its_own(config)) is not None:
        return (
            f"Its code comes with the checkpoint ({code}), and no code of a checkpoint is run here. If you "
            "trust it, run it with sentence-transformers and trust_remote_code=True."
        )
    if _first_class(config).endswith(_LANGUAGE_MODELS):
        return (
            "It is a language model, and of those only Qwen3 is run here. Run it with sentence-transformers, "
            "or with FlagEmbedding's FlagLLMModel."
        )
    kind = str(config.get("model_type"))
    sense = next((what for key, what in _SENSES.items() if key in config), None)
    sense = sense or next((what for name, what in _SENSE_TYPES.items() if kind.startswith(name)), None)
    if sense is not None:
        extra = "image" if sense == "images" else "audio"
        return (
            f"It takes {sense}, and only texts are embedded here. Run it with sentence-transformers: "
            f"pip install 'sentence-transformers[{extra}]'."
        )
    return (
        "Take a model that was made on one of these encoders, or run this one with sentence-transformers; if "
        "this config.json is another model's, fetch its own."
    )


def code_of_its_own(config: Mapping[str, Any]) -> str | None:
    """The class that a checkpoint brings as code for its model; None where it brings none."""
    found = config.get("auto_map")
    code = found.get("AutoModel") if isinstance(found, dict) else None
    return code if isinstance(code, str) else None


def looks_like(folder: Path) -> str | None:
    """What a folder without config.json or weights holds instead, and what to do; None if unknown."""
    for pattern, what, mend in _FOLDERS:
        if (found := next(iter(sorted(folder.glob(pattern))), None)) is not None:
            return f"It has {found.name}: {what}. {mend}"
    return None


def _first_class(config: Mapping[str, Any]) -> str:
    classes = config.get("architectures")
    return classes[0] if isinstance(classes, list) and classes and isinstance(classes[0], str) else ""
