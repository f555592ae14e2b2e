"""FlagEmbedding on its kinds of model, in float32: by default it rounds the weights on a CPU."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from protocol import Request, serve
from stack_outputs import Numbers, laid_out, pairs_of


class StackFlagEmbeddingWorker:
    """`FlagModel.encode`, `BGEM3FlagModel.encode` or `FlagReranker.compute_score`."""

    def imports(self) -> None:
        import FlagEmbedding

        self.library = FlagEmbedding

    def load(self, request: Request) -> None:
        kind = {"three": "BGEM3FlagModel", "pairs": "FlagReranker"}.get(request["call"], "FlagModel")
        self.model = getattr(self.library, kind)(request["folder"], use_fp16=False, devices="cpu")

    def facts(self) -> dict[str, Any]:
        return {"dtype": "torch.float32"}

    def run(self, texts: Sequence[str], request: Request) -> Any:
        call, length = request["call"], request["max_length"]
        if call == "pairs":
            return self.model.compute_score(pairs_of(texts))
        if call == "encode":
            return self.model.encode(list(texts), max_length=length)
        found = self.model.encode(
            list(texts), max_length=length, return_sparse=True, return_colbert_vecs=True
        )
        vocabulary = len(self.model.tokenizer)
        return Numbers(
            lambda: [
                found["dense_vecs"],
                laid_out(found["lexical_weights"], vocabulary),
                *found["colbert_vecs"],
            ]
        )

    def counting(self, texts: Sequence[str], request: Request) -> AbstractContextManager[dict[str, int]]:
        return nullcontext({})


if __name__ == "__main__":
    serve(StackFlagEmbeddingWorker())
