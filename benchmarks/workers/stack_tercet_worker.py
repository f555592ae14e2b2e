"""Tercet on any stack: vectors, lexical weights, or scores of pairs."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from protocol import Request, serve
from stack_outputs import Numbers, laid_out, pairs_of

ALL = ("dense", "sparse", "multivector")


class StackTercetWorker:
    """`tercet.load` or `tercet.load_reranker`."""

    def imports(self) -> None:
        import tercet

        # The package's names are imported when first asked for.
        self.open, self.open_reranker = tercet.load, tercet.load_reranker

    def load(self, request: Request) -> None:
        open_model = self.open_reranker if request["call"] == "pairs" else self.open
        self.model = open_model(request["folder"], precision=request["precision"], device="cpu")

    def facts(self) -> dict[str, Any]:
        import tercet

        scheme = self.model.plan.scheme
        measured = tercet.probe("cpu").schemes.get(scheme)
        return {"scheme": str(scheme), "slower": None if measured is None else measured.relative_seconds}

    def run(self, texts: Sequence[str], request: Request) -> Any:
        call, length = request["call"], request["max_length"]
        if call == "pairs":
            return self.model.score(pairs_of(texts), activation="Identity").numpy()
        if call == "query":
            return self.model.encode_query(texts, max_length=length).numpy().dense
        if call == "encode":
            return self.model.encode(texts, max_length=length).numpy().dense
        if call == "late":
            return self.model.encode_document(texts).numpy().multivector.vectors
        outputs = ("sparse",) if call == "sparse" else ALL
        found = self.model.encode(texts, outputs=outputs, max_length=length)
        arrays = found.numpy()
        if call == "sparse":
            return Numbers(lambda: [laid_out(found.sparse.to_dicts(), found.sparse.vocabulary)])
        vectors = arrays.multivector.vectors
        return Numbers(
            lambda: [arrays.dense, laid_out(found.sparse.to_dicts(), found.sparse.vocabulary), vectors]
        )

    def counting(self, texts: Sequence[str], request: Request) -> AbstractContextManager[dict[str, int]]:
        return nullcontext({})


if __name__ == "__main__":
    serve(StackTercetWorker())
