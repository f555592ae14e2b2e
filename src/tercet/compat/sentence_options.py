"""What a SentenceTransformer is asked for when it is made, in the words of `tercet.load`."""

from __future__ import annotations

__all__ = [
    "Device",
    "Wanted",
    "merged_prompts",
    "one_device",
    "processed_length",
    "saved_similarity",
    "source",
    "wanted",
    "without_processes",
]

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tercet.checkpoint.layout import Checkpoint
from tercet.checkpoint.paths import inside, read_json_object
from tercet.checkpoint.source import PACKAGED
from tercet.embedder.options import positive_integer
from tercet.errors import InputError, UnknownNameError, nearest
from tercet.precision.dtype import Wish
from tercet.precision.hardware import find_device

logger = logging.getLogger(__name__)

Device = str | int | torch.device

# Ids of the first encoders on the hub, which have no organisation; any other such name is one of
# sentence-transformers'.
_OLDEST_IDS = {
    *(f"albert-{size}-v{version}" for size in ("base", "large", "xlarge", "xxlarge") for version in (1, 2)),
    *(f"bert-{size}-{case}" for size in ("base", "large") for case in ("cased", "uncased")),
    *(f"bert-large-{case}-whole-word-masking" for case in ("cased", "uncased")),
    *(f"bert-base-multilingual-{case}" for case in ("cased", "uncased")),
    *(f"bert-base-german-{case}" for case in ("cased", "dbmdz-cased", "dbmdz-uncased")),
    "bert-base-chinese",
    "camembert-base",
    *(f"distilbert-base-{case}" for case in ("cased", "uncased", "german-cased", "multilingual-cased")),
    "distilroberta-base",
    *(f"{family}-{size}" for family in ("roberta", "xlm-roberta") for size in ("base", "large")),
    *(f"xlnet-{size}-cased" for size in ("base", "large")),
}

_DTYPES = ("dtype", "torch_dtype")
# Choices of transformers that change no vector; each engine here makes its own.
_WITHOUT_EFFECT = {
    "model_kwargs": {
        "add_pooling_layer",
        "attn_implementation",
        "low_cpu_mem_usage",
        "use_cache",
        "use_safetensors",
    },
    "processor_kwargs": {"clean_up_tokenization_spaces", "padding", "padding_side", "truncation", "use_fast"},
    "config_kwargs": {"use_cache"},
}
_QUANTIZED = {"quantization_config", "load_in_8bit", "load_in_4bit"}
_OTHER_BACKENDS = {"provider", "file_name", "export"}


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the nested keyword arguments ask for: the precision, a device that outranks, a length."""

    precision: object
    device: Device | None
    max_length: int | None


def wanted(
    model_kwargs: Mapping[str, Any] | None,
    processor_kwargs: Mapping[str, Any] | None,
    config_kwargs: Mapping[str, Any] | None,
) -> Wanted:
    """What may be asked of transformers, as far as it means something here.

    Raises:
        InputError: two dtypes, a placement over several devices, or the code of a repository.
        UnknownNameError: a keyword that is not known.
    """
    model = _checked("model_kwargs", model_kwargs, (*_DTYPES, "device_map"))
    processor = _checked("processor_kwargs", processor_kwargs, ("model_max_length", "truncation_side"))
    config = _checked("config_kwargs", config_kwargs, _DTYPES)
    asked = {
        f"{group}[{name!r}]": given[name]
        for group, given in (("model_kwargs", model), ("config_kwargs", config))
        for name in _DTYPES
        if given.get(name) is not None
    }
    wishes = {Wish.parse(value): where for where, value in asked.items()}
    if len(wishes) > 1:
        raise InputError(
            f"{' and '.join(wishes.values())} ask for {' and '.join(map(str, wishes))}. Pass one dtype."
        )
    length = processor.get("model_max_length")
    if processor.get("truncation_side", "right") != "right":
        raise InputError(
            f"processor_kwargs: truncation_side is {processor['truncation_side']!r}; long texts lose their "
            "end. Cut them before, and pass what is left."
        )
    return Wanted(
        next(iter(asked.values()), "auto"),
        _mapped(model.get("device_map")),
        None if length is None else positive_integer("processor_kwargs: model_max_length", length),
    )


def source(
    name: str | Path | None,
    organisation: str,
    *,
    modules: object,
    trust_remote_code: bool,
    model_card_data: object,
    backend: str,
    token: bool | str | None,
) -> str | Path:
    """What to load, after what cannot be was refused; names without an organisation are ids of that one.

    Raises:
        InputError: an option that means nothing here, with what to do instead.
    """
    if name is None or modules is not None:
        raise InputError(
            "A model is loaded from its folder or from the hub, not made of modules: pass model_name_or_path."
        )
    if trust_remote_code:
        raise InputError(refusal_of_code("trust_remote_code"))
    if model_card_data is not None:
        raise InputError("model_card_data belongs to training, which this class does not do. Leave it out.")
    if backend != "torch":
        raise InputError(
            f"backend is {backend!r}. Leave it out: the plan chooses the engine that is fastest here, "
            "and a precision is asked for as in model_kwargs={'dtype': 'int8'}."
        )
    if token is False:
        raise InputError("token=False cannot be: pass None, and log out with 'hf auth logout'.")
    if isinstance(name, str) and "/" not in name and name not in PACKAGED and not Path(name).exists():
        return f"{organisation}/{name}" if name and name.lower() not in _OLDEST_IDS else name
    return name


def one_device(device: Device | Sequence[Device] | None) -> Device | None:
    """The device that is meant; None for the one that is there already.

    Raises:
        InputError: several different ones.
    """
    if device is None or isinstance(device, (str, int, torch.device)):
        return device
    names = list(dict.fromkeys(find_device(each) for each in device))
    if len(names) > 1:
        raise InputError(
            f"device={list(device)!r}: one object serves one device and starts no processes, for it uses all "
            "that there is. Pass one of them; for several GPUs make one object a GPU and give each its texts."
        )
    return names[0] if names else None


def without_processes(pool: object, chunk_size: object) -> None:
    """An InputError for what belongs to a pool of processes."""
    if pool is not None or chunk_size is not None:
        raise InputError(
            "pool and chunk_size belong to processes, and none are started: one process uses all cores. "
            "Leave them out; for several GPUs make one object a GPU, and give each its share of texts."
        )


def merged_prompts(
    given: Mapping[str, str] | None, checkpoint: Checkpoint, always: Sequence[str] = ()
) -> dict[str, str]:
    """Name -> text: what is given outranks what is saved; the names in `always` are there in any case."""
    if given is not None and not isinstance(given, Mapping):
        raise InputError(f"prompts is of type {type(given).__name__}. Pass a dict of name -> text.")
    prompts = {**dict.fromkeys(always, ""), **checkpoint.prompts}
    for name, text in (given or {}).items():
        if not isinstance(name, str) or not isinstance(text, str | None):
            raise InputError(f"prompts: {name!r} -> {text!r} must both be strings.")
        # None leaves the place to what is saved
        if text is not None:
            prompts[name] = text
        else:
            prompts.setdefault(name, "")
    return prompts


def saved_similarity(checkpoint: Checkpoint) -> object:
    """The measure that config_sentence_transformers.json names, None where there is none."""
    name = "config_sentence_transformers.json"
    path = inside(checkpoint.folder, name, said_by=name)
    return read_json_object(path).get("similarity_fn_name") if path.is_file() else None


def processed_length(processing_kwargs: Mapping[str, Any] | None) -> int | None:
    """The length of one call: {"text": {"max_length": 64}} of sentence-transformers' processing_kwargs."""
    if processing_kwargs is None:
        return None
    groups = _mapping("processing_kwargs", processing_kwargs)
    for name in groups:
        if name not in ("text", "common"):
            raise UnknownNameError(
                f"processing_kwargs has no group {name!r}. {nearest(str(name), ('text', 'common'))}"
            )
    settings = {
        **_mapping("common", groups.get("common") or {}),
        **_mapping("text", groups.get("text") or {}),
    }
    for name in settings:
        if name not in ("max_length", "truncation", "padding", "return_tensors"):
            known = nearest(str(name), ("max_length", "truncation", "padding"))
            raise UnknownNameError(f"processing_kwargs: {name!r} is not known. {known}")
    if settings.get("truncation", True) in (False, "do_not_truncate"):
        raise InputError(
            "processing_kwargs: truncation cannot be turned off: no encoder takes more tokens than it has "
            "positions for. Raise max_length, or use model.embedder.encode(..., on_truncate='error')."
        )
    length = settings.get("max_length")
    return None if length is None else positive_integer("processing_kwargs: max_length", length)


def _checked(group: str, given: Mapping[str, Any] | None, meant: Sequence[str]) -> Mapping[str, Any]:
    """The keyword arguments of a group, each of them known; those without effect are told of."""
    found = _mapping(group, {} if given is None else given)
    without = _WITHOUT_EFFECT[group]
    for name, value in found.items():
        if name in meant:
            continue
        if name == "trust_remote_code":
            if value:
                raise InputError(refusal_of_code(f"{group}['trust_remote_code']"))
        elif name in without:
            logger.info("%s: %s=%r changes no vector here, and is not needed.", group, name, value)
        elif name in _QUANTIZED:
            raise InputError(
                f"{group}: {name} is how other libraries quantise. Pass model_kwargs={{'dtype': 'int8'}}; "
                "`tercet audit` tells what that costs."
            )
        elif name in _OTHER_BACKENDS:
            raise InputError(f"{group}: {name} is an option of other backends than 'torch'. Leave it out.")
        else:
            raise UnknownNameError(
                f"{group}: {name!r} is not known, so it is not known what it changes. "
                f"{nearest(str(name), {*meant, *without})}"
            )
    return found


def refusal_of_code(what: str) -> str:
    """The end of asking for a repository's own code, as a message."""
    return (
        f"{what} is set, and code out of a model's repository is never run here. Leave it out: models of "
        "known architectures load without it."
    )


def _mapping(name: str, given: object) -> Mapping[str, Any]:
    if not isinstance(given, Mapping):
        raise InputError(f"{name} is of type {type(given).__name__}. Pass a dict of name -> value.")
    return given


def _mapped(device_map: object) -> Device | None:
    """The one device of a device_map."""
    if isinstance(device_map, Mapping):
        places = set(device_map.values())
        device_map = places.pop() if len(places) == 1 else device_map
    if device_map is None or device_map == "auto":
        return None
    if isinstance(device_map, (str, int, torch.device)) and device_map not in ("balanced", "sequential"):
        return device_map
    raise InputError(
        f"model_kwargs: device_map is {device_map!r}; a model is on one device. Pass it, as "
        "in device='cuda:1'."
    )
