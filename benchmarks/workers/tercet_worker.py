"""Tercet, as its users call it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from protocol import Request, serve

ALL = ("dense", "sparse", "multivector")


class TercetWorker:
    """`tercet.load` and `Embedder.encode`."""

    def imports(self) -> None:
        import tercet

        # The package's names are imported when first asked for.
        self.open = tercet.load

    def load(self, request: Request) -> None:
        self.model = self.open(request["folder"], precision=request.get("precision", "float32"), device="cpu")

    def facts(self) -> dict[str, Any]:
        import tercet

        plan = self.model.plan
        # As the probe measured it, which is remembered: how many times as long as float32 it takes.
        measured = tercet.probe("cpu").schemes[plan.scheme]
        return {
            "scheme": str(plan.scheme),
            "dtype": str(plan.scheme.dtype),
            "engine": plan.scheme.engine,
            "slower": measured.relative_seconds,
            "plan": str(plan),
        }

    def run(self, texts: Sequence[str], request: Request) -> Any:
        outputs = ALL if request["outputs"] == "all" else ("dense",)
        found = self.model.encode(texts, outputs=outputs, max_length=request["max_length"])
        return found.numpy().dense

    def counting(self, texts: Sequence[str], request: Request) -> AbstractContextManager[dict[str, int]]:
        # Nothing is padded: what is computed is what is there.
        ids = self.model.tokenizer.encode(texts, max_length=request["max_length"]).ids
        return nullcontext({"computed": sum(map(len, ids))})


if __name__ == "__main__":
    serve(TercetWorker())
