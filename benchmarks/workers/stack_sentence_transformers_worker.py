"""sentence-transformers on any stack, by the class that its users take; float32, batches of 32."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from protocol import Request, serve
from stack_outputs import Numbers, pairs_of


class StackSentenceTransformersWorker:
    """`SentenceTransformer.encode`, `SparseEncoder.encode` or `CrossEncoder.predict`."""

    def imports(self) -> None:
        import sentence_transformers

        self.library = sentence_transformers

    def load(self, request: Request) -> None:
        classes = {"sparse": "SparseEncoder", "pairs": "CrossEncoder"}
        kind = getattr(self.library, classes.get(request["call"], "SentenceTransformer"))
        self.model = kind(request["folder"], device="cpu", model_kwargs={"dtype": "float32"})

    def facts(self) -> dict[str, Any]:
        return {"dtype": str(next(self.model.parameters()).dtype)}

    def run(self, texts: Sequence[str], request: Request) -> Any:
        call = request["call"]
        if call == "pairs":
            from torch.nn import Identity

            return self.model.predict(pairs_of(texts), activation_fn=Identity(), show_progress_bar=False)
        encode = self.model.encode_query if call == "query" else self.model.encode
        found = encode(list(texts), show_progress_bar=False)
        return Numbers(lambda: [found.to_dense()]) if call == "sparse" else found

    def counting(self, texts: Sequence[str], request: Request) -> AbstractContextManager[dict[str, int]]:
        return nullcontext({})


if __name__ == "__main__":
    serve(StackSentenceTransformersWorker())
