"""What FlagEmbedding's classes are asked for, in the terms of `tercet.load` and `Embedder.encode`."""

from __future__ import annotations

__all__ = [
    "Devices",
    "check_format",
    "instructed",
    "length",
    "one_device",
    "open_embedder",
    "precision_wish",
    "sixteen_bits",
    "tell_of_code",
]

import logging
from collections.abc import Iterable, Sequence

import torch

from tercet.embedder import Embedder, load
from tercet.errors import InputError
from tercet.model import position_limit
from tercet.precision.hardware import find_device

logger = logging.getLogger(__name__)

Devices = str | int | torch.device | Sequence[str] | Sequence[int] | None


def open_embedder(
    model_name_or_path: str,
    *,
    use_fp16: bool,
    use_bf16: bool,
    devices: Devices,
    pooling_method: str | None,
    trust_remote_code: bool,
    cache_dir: str | None,
) -> Embedder:
    """The checkpoint, loaded on one device; see `precision_wish`."""
    device = one_device(devices)
    tell_of_code(trust_remote_code)
    return load(
        model_name_or_path,
        precision=precision_wish(device, use_fp16=use_fp16, use_bf16=use_bf16),
        device=device,
        pooling="lasttoken" if pooling_method == "last_token" else pooling_method,
        cache_folder=cache_dir,
    )


def precision_wish(device: str, *, use_fp16: bool, use_bf16: bool = False) -> str:
    """What the flags ask of `load`: 16 bits by name on an accelerator, the plan's choice on a CPU.

    There 16 bits are a wish: taken where they measured faster and their loss is not visible. The plan has
    the reasons.
    """
    half = sixteen_bits(device, use_fp16=use_fp16, use_bf16=use_bf16)
    if half is not None:
        return str(half).removeprefix("torch.")
    return "auto" if use_fp16 or use_bf16 else "float32"


def tell_of_code(trust_remote_code: bool) -> None:
    """A line in the log that trust is not needed."""
    if trust_remote_code:
        logger.info("trust_remote_code: no code of a checkpoint is run; known architectures load without.")


def one_device(devices: Devices) -> str:
    """Torch's name of the device that is meant; the best that is there of None; a number is a CUDA device.

    Raises:
        InputError: several devices, or none.
        PrecisionError: it is not there.
    """
    given = list(devices) if isinstance(devices, (list, tuple)) else [devices]
    found = {find_device(device) for device in given}
    if len(found) != 1:
        raise InputError(
            f"devices={devices!r}: one object serves one device, and starts no processes. Pass one, such as "
            "'cuda:0'; for several, make an object for each and give each its share of the texts."
        )
    return found.pop()


def sixteen_bits(device: str, *, use_fp16: bool, use_bf16: bool) -> torch.dtype | None:
    """The 16-bit format that the flags ask for on a device by name; None on a CPU, and without a flag."""
    if device.startswith("cpu") or not (use_fp16 or use_bf16):
        return None
    return torch.bfloat16 if use_bf16 else torch.float16


def check_format(name: str, template: str) -> None:
    """An InputError unless the template, filled with an instruction and a text, still has the text."""
    if not isinstance(template, str):
        raise InputError(
            f"{name} is of type {type(template).__name__}, it must be a string such as '{{}}{{}}'."
        )
    marks = ("\x02", "\x03")
    try:
        filled = _filled(template, *marks)
    except (IndexError, KeyError, ValueError) as error:
        filled, why = "", f" ({type(error).__name__}: {error})"
    else:
        why = ""
    if marks[1] not in filled:
        raise InputError(
            f"{name} is {template!r}{why}: it must have two places, for the instruction and for the text, as "
            "in '{}{}'. Write a brace that is meant as such twice."
        )


def instructed(
    texts: str | Iterable[str], instruction: str | None, template: str, *, name: str
) -> tuple[list[str], bool]:
    r"""The texts, each put into the template behind the instruction, and whether it was one text alone.

    As FlagEmbedding does, a template's backslash and n become a line feed, and nothing is done without an
    instruction.
    """
    alone = isinstance(texts, str)
    if not isinstance(texts, Iterable):
        raise InputError(f"Texts are of type {type(texts).__name__}. Pass a string or a list of strings.")
    several = [texts] if isinstance(texts, str) else list(texts)
    if instruction is None:
        return several, alone
    if not isinstance(instruction, str):
        raise InputError(f"The instruction is of type {type(instruction).__name__}, it must be a string.")
    check_format(name, template)
    # What is no string is refused where it is embedded, with its number.
    return [
        _filled(template, instruction, text) if isinstance(text, str) else text for text in several
    ], alone


def _filled(template: str, instruction: str, text: str) -> str:
    return template.replace("\\n", "\n").format(instruction, text)


def length(asked: int | None, usual: int, embedder: Embedder) -> int:
    """Most tokens of a text: what was asked for, else the usual, as far as the model has positions."""
    return min(usual, position_limit(embedder.checkpoint)) if asked is None else asked
