"""What the classes of sentence-transformers share: a loaded model, its place, precision and prompts."""

from __future__ import annotations

__all__ = ["Loaded"]

import logging
from functools import partial
from typing import Generic, Self, TypeVar

import torch

from tercet.compat.absent import Absences
from tercet.compat.right_class import named
from tercet.compat.sentence_options import Device
from tercet.embedder import Embedder
from tercet.embedder.options import limited, positive_integer
from tercet.errors import CheckpointError, InputError, UnknownNameError, nearest
from tercet.model import position_limit
from tercet.precision.hardware import find_device
from tercet.reranker import Reranker
from tercet.text.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

M = TypeVar("M", Embedder, Reranker)
# What says where a model is.
_HUB = ("revision", "token", "local_files_only", "cache_folder")


class Loaded(Absences, Generic[M]):
    """A model that can be loaded again, elsewhere or in another precision.

    Attributes:
        prompts: name -> text before each text.
        default_prompt_name: which of them is taken where none is asked for.
    """

    def __init__(self, load: partial[M], *, precision: object, device: Device | None) -> None:
        self._load: partial[M] = load
        self._precision = precision
        try:
            self._model: M = load(precision=precision, device=device)
        except CheckpointError as error:
            hub = {key: load.keywords[key] for key in _HUB if key in load.keywords}
            raise named(error, type(self).__name__, load.args[0], hub) from error
        self._max_length: int | None = None
        self.prompts: dict[str, str] = {}
        self.default_prompt_name: str | None = None

    @property
    def max_seq_length(self) -> int:
        """Most tokens of an input, special tokens included; never more than the model has positions for."""
        return self._max_length or self._model.max_length

    @max_seq_length.setter
    def max_seq_length(self, value: int) -> None:
        checkpoint = self._model.checkpoint
        self._max_length = limited(
            positive_integer("max_seq_length", value), position_limit(checkpoint), checkpoint.name
        )

    def get_max_seq_length(self) -> int:
        """`max_seq_length`."""
        return self.max_seq_length

    @property
    def tokenizer(self) -> Tokenizer:
        """Tercet's tokenizer: `encode(texts, max_length=...).ids` are the token ids of each text."""
        return self._model.tokenizer

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return torch.device(self._model.plan.device)

    @property
    def dtype(self) -> torch.dtype:
        """What the model computes in, as planned; results come out in float32 whatever it is."""
        return self._model.plan.precision.compute.torch

    def to(self, device: Device | torch.dtype | None = None, dtype: torch.dtype | None = None) -> Self:
        """The model on another device or in another precision: it is loaded anew, as a whole.

        What is asked for already costs nothing.
        """
        if isinstance(device, torch.dtype):
            device, dtype = None, device
        name = self._model.plan.device if device is None else find_device(device)
        precision = self._precision if dtype is None else dtype
        if name != self._model.plan.device or precision != self._precision:
            self._model = self._load(precision=precision, device=name)
            self._precision = precision
        return self

    def cpu(self) -> Self:
        """The model on the CPU."""
        return self.to("cpu")

    def cuda(self, device: int | None = None) -> Self:
        """The model on a GPU."""
        return self.to("cuda" if device is None else f"cuda:{device}")

    def half(self) -> Self:
        """The model in float16."""
        return self.to(torch.float16)

    def bfloat16(self) -> Self:
        """The model in bfloat16."""
        return self.to(torch.bfloat16)

    def float(self) -> Self:
        """The model in float32."""
        return self.to(torch.float32)

    def eval(self) -> Self:
        """The model, which is never in training."""
        return self

    def _take_prompts(self, prompts: dict[str, str], default: str | None) -> None:
        """Takes the prompts; the default must be one of them."""
        if default is not None and default not in prompts:
            raise InputError(
                f"default_prompt_name {default!r} is none of the prompts. {nearest(str(default), prompts)}"
            )
        self.prompts, self.default_prompt_name = prompts, default

    def _prompt(self, prompt: str | None, prompt_name: str | None) -> str:
        """The text before each text: the prompt itself, the one named, or the default."""
        if prompt is not None:
            if prompt_name is not None:
                logger.warning(
                    "Both prompt and prompt_name were given; prompt_name=%r is not used.", prompt_name
                )
            return prompt
        name = self.default_prompt_name if prompt_name is None else prompt_name
        if name is None:
            return ""
        if name not in self.prompts:
            raise UnknownNameError(
                f"There is no prompt named {name!r}. {nearest(str(name), self.prompts)} "
                "Pass prompt='the text itself', or prompts={name: text} when the model is loaded."
            )
        return self.prompts[name]
