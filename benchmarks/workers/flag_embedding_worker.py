"""FlagEmbedding's BGEM3FlagModel: its defaults, or batches of another size."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

from counted import counted
from protocol import Request, serve


class FlagEmbeddingWorker:
    """`BGEM3FlagModel.encode`."""

    def imports(self) -> None:
        from FlagEmbedding import BGEM3FlagModel

        self.open = BGEM3FlagModel

    def load(self, request: Request) -> None:
        self.model = self.open(request["folder"], devices="cpu")

    def facts(self) -> dict[str, Any]:
        return {"dtype": str(next(self.model.model.parameters()).dtype)}

    def run(self, texts: Sequence[str], request: Request) -> Any:
        heads = request["outputs"] == "all"
        options = {"batch_size": request["batch_size"]} if "batch_size" in request else {}
        found = self.model.encode(
            list(texts),
            max_length=request["max_length"],
            return_sparse=heads,
            return_colbert_vecs=heads,
            **options,
        )
        return found["dense_vecs"]

    def counting(self, texts: Sequence[str], request: Request) -> AbstractContextManager[dict[str, int]]:
        # The first batch goes through the encoder twice, and both passes are counted.
        return counted(self.model.model.model)


if __name__ == "__main__":
    serve(FlagEmbeddingWorker())
