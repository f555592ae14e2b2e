"""What an engine does to the process that it runs in, and in children of it."""

from __future__ import annotations

__all__ = ["encoded_here", "forked", "peak", "process_state", "started_threads"]

import json
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine_contract import Subject
from tercet.batch import Batch
from tercet.embedder import Embedder
from tercet.embeddings import Embeddings
from tercet.engines import Engine
from tercet.precision.dtype import DType
from tercet.precision.hardware import Measured
from tercet.precision.scheme import Scheme


def process_state() -> Mapping[str, object]:
    """Everything global that an engine might be tempted to change."""
    # Zeros where the CPU was told to flush small numbers.
    tiny = (
        float(torch.tensor([1e-38]).mul(0.01)),
        float(np.float32(1e-38) / np.float32(100)),
        2.0**-1022 / 3,
    )
    affinity = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    return {
        "torch's threads": torch.get_num_threads(),
        "torch's threads between operations": torch.get_num_interop_threads(),
        "float32 products": torch.get_float32_matmul_precision(),
        "default dtype": torch.get_default_dtype(),
        "default device": torch.get_default_device(),
        "gradients": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "oneDNN": torch.backends.mkldnn.enabled,
        "random numbers": bytes(torch.get_rng_state().numpy()),
        "numpy's errors": np.geterr(),
        "small numbers": tiny,
        "environment": dict(os.environ),
        "processors": affinity,
        "folder": Path.cwd(),
        "warning filters": list(warnings.filters),
        "log handlers": (logging.root.level, list(logging.root.handlers)),
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGSEGV)],
        "Python's threads": threading.active_count(),
        "import path": list(sys.path),
    }


def encoded_here(model: Embedder, texts: Sequence[str]) -> tuple[int, Embeddings]:
    """The process and what a model that was pickled into it gives."""
    return os.getpid(), model.encode(texts, outputs=model.outputs)


def forked(model: Embedder, texts: Sequence[str], atol: float) -> dict[str, Any]:
    """What a model that computed with two threads does in a forked child, and here afterwards."""
    threads_before = torch.get_num_threads()
    torch.set_num_threads(2)
    before = model.encode(texts, outputs=model.outputs)
    _compute_with_all_threads()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(60)  # the end of a child that waits for threads that stayed behind
        told: list[str] = []
        handler = logging.Handler()
        handler.emit = lambda record: told.append(record.getMessage())  # type: ignore[method-assign]
        logging.getLogger("tercet").addHandler(handler)
        found = [model.encode(texts, outputs=model.outputs) for _ in range(2)]
        same = [one.allclose(before, atol=atol) for one in found]
        seen = {"same": same, "threads": torch.get_num_threads(), "told": told}
        os.write(writing, json.dumps(seen).encode())
        os._exit(0)
    os.close(writing)
    _, status = os.waitpid(child, 0)
    with os.fdopen(reading) as pipe:
        seen = pipe.read()
    after = model.encode(texts, outputs=model.outputs)
    found = {
        "status": os.waitstatus_to_exitcode(status),
        "child": json.loads(seen) if seen else None,
        "same here": after.allclose(before, atol=atol),
        "threads here": torch.get_num_threads(),
    }
    torch.set_num_threads(threads_before)
    return found


def started_threads(subject: Subject, folder: Path, texts: Sequence[Sequence[int]]) -> int:
    """Threads of the system that an engine started beyond torch's own two."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    engine = subject.open(folder)
    _compute_with_all_threads()
    running = _threads()
    batch = Batch.from_ids([list(ids) for ids in texts])
    for _ in range(3):
        engine.forward(batch)
    started = _threads() - running
    torch.set_num_threads(before)
    return started


def _threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


def _compute_with_all_threads() -> Tensor:
    return (torch.ones(600, 600) @ torch.ones(600, 600)).exp()


def peak(folder: str, scheme: dict[str, Any], measured: dict[str, Any]) -> dict[str, Any]:
    """Predicted and measured peak memory of this process, which loads a model and fills its largest batch.

    Then once more, as if every text had left the range of a narrow format.
    """
    import peak_memory  # of the benchmarks, which must measure the same way

    subject = Subject(Scheme.from_json(scheme), Measured.from_json(measured))
    model = subject.load(Path(folder))
    loaded = peak_memory.status()
    texts = [*peak_memory.covering(model), " ".join(["word"] * (2 * model.max_length))]
    found = model.encode(texts, outputs=model.outputs)
    usual = peak_memory.status()
    again = None
    if subject.scheme.bounded_by.bytes < DType.FLOAT32.bytes:
        like = model._engine.forward(Batch.from_ids([[1]]))
        model._engine = _Overflowing(model._engine, like)
        recomputed = model.encode(texts, outputs=model.outputs).recomputed
        assert bool(recomputed.all())
        again = peak_memory.status()["VmHWM"]
    return {
        "predicted": dict(model.plan.memory),
        "loaded": loaded["VmHWM"],
        "usual": usual["VmHWM"],
        "recomputed": again,
        "anonymous": usual["RssAnon"],
        "longest": int(found.num_tokens.max()),
        "tokens": int(found.num_tokens.sum()),
        "budget": model.plan.token_budget,
    }


class _Overflowing:
    """In place of an engine: every text has a value that is not finite."""

    def __init__(self, engine: Engine, like: Tensor) -> None:
        self.device = engine.device
        self._like = like

    def forward(self, batch: Batch) -> Tensor:
        return self._like.new_full((batch.num_tokens, self._like.shape[1]), float("inf"))


if __name__ == "__main__":
    print(json.dumps(peak(**json.loads(sys.argv[1]))))
