"""Where a run computes: its processes and devices, what they agree on, and what nothing may break off."""

from __future__ import annotations

__all__ = ["Place", "find_place", "leave_together", "undisturbed"]

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch

from tercet.errors import InputError
from tercet.extras import require
from tercet.training.precision import NARROW, Precision, choose

logger = logging.getLogger(__name__)

T = TypeVar("T")
# Steps without an overflow after which float16's factor is doubled again, as torch has it.
_GROWTH_STEPS = 2000
# Ways in which accelerate may cut a model up, and the variables by which its launcher asks for them. A state,
# a measurement and a saved folder need all of it.
_CUT_UP = ("FSDP", "DEEPSPEED", "MEGATRON_LM", "TP")
_LAUNCHED = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DEEPSPEED",
    "ACCELERATE_USE_MEGATRON_LM": "MEGATRON_LM",
}


@dataclass(frozen=True, slots=True)
class Place:
    """An accelerator and what it was decided to compute in.

    Attributes:
        accelerator: accelerate's.
        precision: the name of the format that the encoder computes in.
        reason: why this precision.
        scaler: multiplies the loss, and leaves out steps whose gradients overflowed, in float16; in other
            formats it does nothing.
    """

    accelerator: Any
    precision: str
    reason: str
    scaler: torch.amp.GradScaler

    @property
    def narrow(self) -> torch.dtype | None:
        """The dtype of autocast, None for float32."""
        return NARROW[self.precision]

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


def find_place(
    precision: Precision, device: str | None, *, across_devices: bool, shard: bool = False
) -> Place:
    """The accelerator for a precision.

    Args:
        precision: as a recipe names it.
        device: "cpu" for the CPU; None for what accelerate finds.
        across_devices: whether the run compares queries with passages of other processes.
        shard: whether processes hold parts of the weights.

    Raises:
        InputError: a precision or a way to share work that is not to be had here.
        MissingExtraError: accelerate is not installed.
    """
    accelerate = require("accelerate", extra="train", purpose="tercet train")
    cpu = device == "cpu" or not torch.cuda.is_available()
    # On a CPU accelerate takes no notice of them, and each process would have a whole model without a word.
    for variable, kind in _LAUNCHED.items():
        if accelerate.utils.parse_flag_from_env(variable):
            raise _cut_up(kind)
    # In a batch that not every head learns from, not every weight has a gradient.
    options = accelerate.DistributedDataParallelKwargs(find_unused_parameters=True)
    try:
        accelerator = accelerate.Accelerator(
            cpu=cpu,
            mixed_precision="no",  # what is narrow, and how the loss is scaled, is decided here
            kwargs_handlers=[options],
        )
    except ValueError as error:
        raise InputError(
            f"Training on {'the CPU' if cpu else 'a GPU'}: {error} accelerate keeps its first setting, the "
            "CPU or not, for the whole process: train in another one."
        ) from None
    kind = getattr(accelerator.distributed_type, "value", str(accelerator.distributed_type))
    if kind in _CUT_UP:
        raise _cut_up(kind)
    if across_devices and accelerator.num_processes == 1:
        raise InputError(
            "batch.negatives_across_devices is true, and there is one process. Start several with "
            "`accelerate launch` or torchrun, or leave it out."
        )
    if shard and accelerator.num_processes == 1:
        raise InputError(
            "shard is true, and there is one process, which would hold all. Start several with torchrun or "
            "`accelerate launch --multi_gpu`, or leave it out."
        )
    if precision == "float16" and cpu:
        logger.warning("float16 on a CPU: most emulate it, many times slower than float32.")
    scaler = torch.amp.GradScaler(
        accelerator.device.type, growth_interval=_GROWTH_STEPS, enabled=precision == "float16"
    )
    place = Place(accelerator, "float32", "", scaler)
    # Processes that all measured would disturb one another, and might not agree.
    chosen = choose(precision, accelerator.device) if accelerator.is_main_process else ("", "")
    name, reason = place.shared(chosen)
    return replace(place, precision=name, reason=reason)


def _cut_up(kind: str) -> InputError:
    """What is said where accelerate would cut the model up."""
    return InputError(
        f"accelerate was started with {kind}, which cuts the model up in a way of its own: processes encode "
        "their batches in different numbers of parts (forward_tokens), and would wait for one another "
        "without end. Start with --multi_gpu or torchrun, and put `shard: true` into the recipe, by which "
        "each process holds a part of weights, gradients and moments."
    )


def leave_together() -> bool:
    """Ends the group of processes once all have come here; whether this one is the first, or alone.

    For a command, which is all that its process does. One that exits while a group still listens may be
    aborted by its threads, and its launcher would then end the others, whatever they are writing.
    """
    dist = torch.distributed
    if not (dist.is_available() and dist.is_initialized()):
        return True
    first = dist.get_rank() == 0
    dist.barrier()
    dist.destroy_process_group()
    return first


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
