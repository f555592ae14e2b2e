"""sentence-transformers, as its users call it: batches of 32, float32."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

from counted import counted
from protocol import Request, serve


class SentenceTransformersWorker:
    """`SentenceTransformer.encode`."""

    def imports(self) -> None:
        from sentence_transformers import SentenceTransformer

        self.open = SentenceTransformer

    def load(self, request: Request) -> None:
        dtype = request.get("dtype")
        options = {} if dtype is None else {"model_kwargs": {"dtype": dtype}}
        self.model = self.open(request["folder"], device="cpu", **options)

    def facts(self) -> dict[str, Any]:
        return {"dtype": str(next(self.model.parameters()).dtype)}

    def run(self, texts: Sequence[str], request: Request) -> Any:
        self.model.max_seq_length = request["max_length"]
        return self.model.encode(list(texts), show_progress_bar=False)

    def counting(self, texts: Sequence[str], request: Request) -> AbstractContextManager[dict[str, int]]:
        first = self.model[0]
        return counted(first.model if hasattr(first, "model") else first.auto_model)


if __name__ == "__main__":
    serve(SentenceTransformersWorker())
