"""sentence-transformers on any stack, by the class that its users take: float32, batches of 32."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from protocol import Request, serve
from stack_outputs import Numbers, pairs_of


class StackSentenceTransformersWorker:
    """`encode` of SentenceTransformer, SparseEncoder or MultiVectorEncoder, `CrossEncoder.predict`."""

    def imports(self) -> None:
        import sentence_transformers

        self.library = sentence_transformers

    def load(self, request: Request) -> None:
        classes = {"sparse": "SparseEncoder", "pairs": "CrossEncoder", "late": "MultiVectorEncoder"}
        kind = getattr(self.library, classes.get(request["call"], "SentenceTransformer"))
        self.model = kind(request["folder"], device="cpu", model_kwargs={"dtype": "float32"})
        if any(type(module).__name__ == "LSTM" for module in self.model):
            # Behind a Transformer its LSTM finds no lengths, and fails (KeyError): they are told here.
            self.model[0].register_forward_hook(_with_lengths)

    def facts(self) -> dict[str, Any]:
        return {"dtype": str(next(self.model.parameters()).dtype)}

    def run(self, texts: Sequence[str], request: Request) -> Any:
        call = request["call"]
        options = {"show_progress_bar": False, "batch_size": request.get("batch_size", 32)}
        if call == "pairs":
            from torch.nn import Identity

            return self.model.predict(pairs_of(texts), activation_fn=Identity(), **options)
        if call == "late":
            rows = self.model.encode_document(list(texts), convert_to_numpy=True, **options)
            return Numbers(lambda: rows)
        encode = self.model.encode_query if call == "query" else self.model.encode
        found = encode(list(texts), **options)
        return Numbers(lambda: [found.to_dense()]) if call == "sparse" else found

    def counting(self, texts: Sequence[str], request: Request) -> AbstractContextManager[dict[str, int]]:
        return nullcontext({})


def _with_lengths(module: Any, inputs: Any, features: dict[str, Any]) -> dict[str, Any]:
    return {**features, "sentence_lengths": features["attention_mask"].sum(dim=1)}


if __name__ == "__main__":
    serve(StackSentenceTransformersWorker())
