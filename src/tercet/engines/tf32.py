"""TF32 by wish: float32 products with operands rounded to 10 bits of mantissa, around our own forward alone.

torch has no such choice for one call, only flags of the whole process, which the host reads when it starts a
product. So they are set while our forward is being started, under a lock, and put back when that is done; the
device may still compute by then.
"""

from __future__ import annotations

__all__ = ["exact_products", "tf32_products"]

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

# Held by whoever starts products on CUDA whose precision matters.
_window = threading.RLock()
_matmul = torch.backends.cuda.matmul


@contextmanager
def tf32_products() -> Iterator[None]:
    """Matrix products of float32 on CUDA that are started inside use TF32 (NVIDIA Ampere and later).

    The flags are of the whole process. Float32 products on CUDA that the caller's other threads start in the
    same moment use TF32 too, and those threads see the flags set, by torch's older names for them as by the
    newer. Our own do not: they wait in `exact_products`. Every flag is put back, whatever happens inside;
    where the caller has allowed TF32 anyway, none is touched.
    """
    with _window:
        put_back = _allow()
        try:
            yield
        finally:
            put_back()


@contextmanager
def exact_products() -> Iterator[None]:
    """Float32 products that are started inside run as the caller has set torch up, and never in our TF32."""
    with _window:
        yield


def _allow() -> Callable[[], None]:
    """Allow TF32 in products; gives back what undoes it exactly."""
    if not hasattr(_matmul, "fp32_precision"):  # torch < 2.9 has one flag
        if _matmul.allow_tf32:
            return _nothing
        _matmul.allow_tf32 = True
        return lambda: setattr(_matmul, "allow_tf32", False)
    before = _matmul.fp32_precision
    if before == "tf32":
        return _nothing
    try:
        consistent = not _matmul.allow_tf32
    except RuntimeError:  # the caller has set the two generations of flags to contradict each other
        consistent = False
    if consistent:
        # Sets both generations, so that whoever reads either meanwhile gets an answer, not an error.
        _matmul.allow_tf32 = True
    else:
        _matmul.fp32_precision = "tf32"

    def put_back() -> None:
        if consistent:
            _matmul.allow_tf32 = False
        # "none" is inherited from the flags above this one; only what is not inherited is set.
        _matmul.fp32_precision = "none"
        if _matmul.fp32_precision != before:
            _matmul.fp32_precision = before

    return put_back


def _nothing() -> None:
    """Undoes nothing."""
