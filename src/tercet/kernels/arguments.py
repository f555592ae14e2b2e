"""Arguments and results of native products, checked before an address is given away."""

from __future__ import annotations

__all__ = ["check_bias", "check_rows", "check_status", "pointer", "result", "shape"]

import torch
from torch import Tensor

from tercet.errors import InputError, TercetError
from tercet.kernels.memory import empty


def check_rows(name: str, rows: Tensor, expected: tuple[int | None, int]) -> None:
    """Raises InputError unless they are rows in float32 whose columns lie side by side; None: any number."""
    # Asked thousands of times a second, each property once.
    size, (count, columns) = rows.shape, expected
    fits = len(size) == 2 and size[1] == columns and (count is None or size[0] == count)
    if not fits or rows.dtype is not torch.float32 or not rows.is_cpu:
        wanted = f"({'rows' if count is None else count}, {columns})"
        raise InputError(
            f"{name} is {shape(rows)} {rows.dtype} on {rows.device}, not {wanted} torch.float32 on cpu."
        )
    if columns > 1 and rows.stride(1) != 1:
        raise InputError(
            f"The columns of {name} {shape(rows)} do not lie side by side; pass {name}.contiguous()."
        )
    if rows.requires_grad and torch.is_grad_enabled():
        raise InputError(
            f"{name} asks for gradients, which native products do not compute; take torch.no_grad()."
        )


def result(rows: int, outputs: int, scheme: str, residual: Tensor | None, out: Tensor | None) -> Tensor:
    """Where a product goes, after a check of it and of the residual."""
    for name, given in (("residual", residual), ("out", out)):
        if given is not None:
            check_rows(name, given, (rows, outputs))
    # float32's sums wait in the result while rows and residual are still read.
    return empty(rows, outputs) if out is None or scheme == "float32" else out


def check_bias(name: str, bias: Tensor | None, out: int) -> None:
    """Raises InputError unless it is None or (out,) in float32."""
    if bias is None:
        return
    fits = bias.shape == (out,) and bias.dtype is torch.float32 and bias.is_cpu
    if not (fits and bias.is_contiguous()):
        raise InputError(
            f"{name} is {shape(bias)} {bias.dtype} on {bias.device}, not ({out},) torch.float32 on cpu."
        )


def check_status(status: int) -> None:
    """Raises TercetError where a kernel found no memory."""
    if status == 1:
        raise TercetError(
            "A native product found no memory for its scratch, one or two megabytes a thread. Free memory, "
            "or set TERCET_KERNELS=none."
        )
    assert status == 0


def pointer(tensor: Tensor | None) -> int | None:
    """Where a tensor's numbers begin; None where there is none."""
    return None if tensor is None else tensor.data_ptr()


def shape(tensor: Tensor) -> str:
    """A tensor's shape, for a message."""
    return str(tuple(tensor.shape))
