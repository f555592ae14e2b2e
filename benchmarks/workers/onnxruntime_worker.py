"""ONNX Runtime on an exported graph, float32 or dynamically quantised to int8."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from protocol import Request, serve


class OnnxRuntimeWorker:
    """`InferenceSession.run` behind sorted batches."""

    def imports(self) -> None:
        import onnxruntime

        from exported import Exported

        self.onnxruntime, self.exported = onnxruntime, Exported

    def load(self, request: Request) -> None:
        options = self.onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = self.onnxruntime.InferenceSession(
            request["graph"], options, providers=["CPUExecutionProvider"]
        )

        def forward(ids: Any, mask: Any) -> Any:
            return session.run(None, {"input_ids": ids, "attention_mask": mask})[0]

        self.model = self.exported(request["folder"], forward)

    def facts(self) -> dict[str, Any]:
        return {"version": self.onnxruntime.__version__}

    def run(self, texts: Sequence[str], request: Request) -> Any:
        return self.model.encode(texts, request["max_length"])

    def counting(self, texts: Sequence[str], request: Request) -> AbstractContextManager[dict[str, int]]:
        return nullcontext({"computed": self.model.computed(texts, request["max_length"])})


if __name__ == "__main__":
    serve(OnnxRuntimeWorker())
