"""One scheme in a process of its own: `python -m tercet.evaluation.auditing.worker`, a JSON line a command.

{"do": "load", ...} -> {"load_seconds", "outputs"} · {"do": "embed", ...} -> what a part took ·
{"do": "time", ...} -> {"seconds", "waited"} · {"do": "memory"} -> {"peak_bytes"}; {"error": ...} if not.
"""

from __future__ import annotations

__all__ = ["Commands", "main"]

import json
import logging
import os
import sys
from pathlib import Path
from time import perf_counter, process_time
from typing import Any, TextIO

import torch

from tercet.checkpoint.layout import open_checkpoint
from tercet.checkpoint.source import find
from tercet.embedder.embedder import Embedder
from tercet.embedder.routed import embedder
from tercet.embeddings import Embeddings
from tercet.errors import TercetError
from tercet.evaluation.auditing.parts import Part, write_part
from tercet.evaluation.encoding import Encoding
from tercet.precision.memory import peak_process_memory
from tercet.precision.plan import Plan


class Commands:
    """Holds the model between commands."""

    def __init__(self) -> None:
        self.model: Embedder | None = None
        self._encoding = Encoding(())

    def answer(self, command: dict[str, Any]) -> dict[str, Any]:
        """What one command gives."""
        do = command["do"]
        if do == "load":
            return self._load(command)
        if do == "embed":
            return self._embed(command)
        if do == "time":
            return self._time(command)
        return {"peak_bytes": self._peak()}

    def _load(self, command: dict[str, Any]) -> dict[str, Any]:
        torch.set_num_threads(int(command["threads"]))
        self._encoding = Encoding(**{**command["encoding"], "outputs": tuple(command["encoding"]["outputs"])})
        plan = Plan.from_json(command["plan"])
        start = perf_counter()
        checkpoint = open_checkpoint(find(Path(command["folder"])), pooling=command["pooling"])
        self.model = embedder(checkpoint, plan, outputs=self._encoding.outputs)
        # Products are compiled at their first use, and weights mapped: ready is who has answered once.
        self._made("query", ["ready"])
        return {"load_seconds": perf_counter() - start}

    def _embed(self, command: dict[str, Any]) -> dict[str, Any]:
        start = perf_counter()
        found = self._made(command["role"], command["texts"])
        part = Part(
            len(found),
            int(found.num_tokens.sum()),
            perf_counter() - start,
            int(found.truncated.sum()),
            int(found.recomputed.sum()),
        )
        write_part(Path(command["path"]), found, part)
        return {}

    def _time(self, command: dict[str, Any]) -> dict[str, Any]:
        waited, others, start = _waited(), _used_by_others(), perf_counter()
        self._made("document", command["texts"])
        seconds, waited = perf_counter() - start, _waited() - waited
        # Threads of ours wait for each other too, the tokeniser's for the encoder's: others are to blame for
        # no more than the processor time that they used.
        return {"seconds": seconds, "waited": max(0.0, min(waited, _used_by_others() - others))}

    def _made(self, role: str, texts: list[str]) -> Embeddings:
        assert self.model is not None
        encode = self._encoding.queries if role == "query" else self._encoding.documents
        return encode(self.model, texts)

    def _peak(self) -> int:
        if self.model is not None and self.model.plan.device.startswith("cuda"):
            return int(torch.cuda.max_memory_allocated(self.model.plan.device))
        return peak_process_memory()


def _waited() -> float:
    """Seconds that threads of ours were ready and had no processor; 0 where the system does not say."""
    total = 0
    try:
        for task in Path("/proc/self/task").iterdir():
            total += int((task / "schedstat").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return 0.0
    return total / 1e9


def _used_by_others() -> float:
    """Processor seconds of all other processes, and of machines beside this; too many if unknown."""
    try:
        names = Path("/proc/stat").read_text().split("\n", 1)[0].split()
        user, nice, system, _, _, irq, softirq, steal = map(int, names[1:9])
        ticks = os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError):
        return perf_counter() * 1e6
    return (user + nice + system + irq + softirq + steal) / ticks - process_time()


def main() -> None:
    """Answers commands until there are none."""
    logging.getLogger("tercet").setLevel(logging.ERROR)
    # Whatever prints to the standard output must not stand between the answers.
    answers: TextIO = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    commands = Commands()
    for line in sys.stdin:
        try:
            answer = commands.answer(json.loads(line))
        except TercetError as error:
            answer = {"error": str(error)}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
