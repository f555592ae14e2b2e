"""Where a run computes: its processes and devices, what they agree on, and what nothing may break off."""

from __future__ import annotations

__all__ = ["Place", "find_place", "undisturbed"]

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch

from tercet.errors import InputError
from tercet.extras import require

logger = logging.getLogger(__name__)

T = TypeVar("T")
Precision = Literal["auto", "float32", "bfloat16", "float16"]
# Ways in which accelerate may cut a model up. A state, a measurement and a saved folder need all of it.
_CUT_UP = ("FSDP", "DEEPSPEED", "MEGATRON_LM", "TP")


@dataclass(frozen=True, slots=True)
class Place:
    """An accelerator and what it was decided to compute in.

    Attributes:
        accelerator: accelerate's.
        narrow: the dtype of autocast, None for float32, and for float16, which is accelerate's affair.
        reason: why this precision.
    """

    accelerator: Any
    narrow: torch.dtype | None
    reason: str

    @property
    def processes(self) -> int:
        """How many processes take part."""
        return int(self.accelerator.num_processes)

    def shared(self, value: T) -> T:
        """What the first process has, on all of them; plain values alone."""
        if self.processes == 1:
            return value
        from accelerate.utils import broadcast_object_list

        return broadcast_object_list([value], from_process=0)[0]  # type: ignore[no-any-return]

    def sum_and_mean(self, total: float, value: float) -> tuple[float, float]:
        """The sum over processes of the first number, and the mean of the second."""
        if self.processes == 1:
            return total, value
        both = torch.tensor([total, value], dtype=torch.float32, device=self.accelerator.device)
        both = self.accelerator.reduce(both, "sum")
        return float(both[0]), float(both[1]) / self.processes


def find_place(precision: Precision, device: str | None, *, across_devices: bool) -> Place:
    """The accelerator for a precision.

    Args:
        precision: as a recipe names it.
        device: "cpu" for the CPU; None for what accelerate finds.
        across_devices: whether the run compares queries with passages of other processes.

    Raises:
        InputError: a precision or a way to share work that is not to be had here.
        MissingExtraError: accelerate is not installed.
    """
    accelerate = require("accelerate", extra="train", purpose="tercet train")
    cpu = device == "cpu" or not torch.cuda.is_available()
    if precision == "float16" and cpu:
        raise InputError("precision is float16, which needs a GPU. Take bfloat16 or float32 on the CPU.")
    narrow, reason = _narrow(precision, cpu)
    # In a batch that not every head learns from, not every weight has a gradient.
    options = accelerate.DistributedDataParallelKwargs(find_unused_parameters=True)
    try:
        accelerator = accelerate.Accelerator(
            cpu=cpu,
            mixed_precision="fp16" if narrow is torch.float16 else "no",
            kwargs_handlers=[options],
        )
    except ValueError as error:
        raise InputError(
            f"precision {precision} on {'the CPU' if cpu else 'a GPU'}: {error} accelerate keeps its first "
            "setting, float16 or not and CPU or not, for the whole process: train in another one."
        ) from None
    kind = getattr(accelerator.distributed_type, "value", str(accelerator.distributed_type))
    if kind in _CUT_UP:
        raise InputError(
            f"accelerate was started with {kind}, which cuts the model up; tercet train keeps a whole one in "
            "each process. Start with --multi_gpu or torchrun; less memory take forward_tokens, lora and "
            "gradient_checkpointing."
        )
    if across_devices and accelerator.num_processes == 1:
        raise InputError(
            "batch.negatives_across_devices is true, and there is one process. Start several with "
            "`accelerate launch` or torchrun, or leave it out."
        )
    # Autocast to bfloat16 needs no scaling of the loss; float16's is accelerate's.
    return Place(accelerator, torch.bfloat16 if narrow is torch.bfloat16 else None, reason)


def _narrow(precision: Precision, cpu: bool) -> tuple[torch.dtype | None, str]:
    """The dtype of the encoder's products, None for float32; and why."""
    if precision != "auto":
        return {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}[precision], (
            f"{precision}, as the recipe says"
        )
    if cpu:
        return None, "float32: of training on a CPU nothing narrower was measured to be good"
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.bfloat16, "bfloat16, which the GPU multiplies; weights, heads and losses in float32"
    return None, "float32: the GPU does not multiply bfloat16"


@contextmanager
def undisturbed() -> Iterator[None]:
    """A block that Ctrl-C reaches only behind its end: weights and counts change together or not at all."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    caught: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: caught.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL if before is None else before)
    if caught:
        signal.raise_signal(signal.SIGINT)
