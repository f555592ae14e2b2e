"""OpenVINO on an exported graph, in float32 (its own default here may be bfloat16) or int8."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from protocol import Request, serve


class OpenVinoWorker:
    """`Core.compile_model` behind sorted batches."""

    def imports(self) -> None:
        import openvino

        from exported import Exported

        self.openvino, self.exported = openvino, Exported

    def load(self, request: Request) -> None:
        core = self.openvino.Core()
        settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
        compiled = core.compile_model(request["graph"], "CPU", settings)
        names = {name for port in compiled.inputs for name in port.get_names()}
        output = compiled.output(0)

        def forward(ids: Any, mask: Any) -> Any:
            given = {"input_ids": ids, "attention_mask": mask}
            return compiled({name: value for name, value in given.items() if name in names})[output]

        self.model = self.exported(request["folder"], forward)

    def facts(self) -> dict[str, Any]:
        return {"version": self.openvino.__version__}

    def run(self, texts: Sequence[str], request: Request) -> Any:
        return self.model.encode(texts, request["max_length"])

    def counting(self, texts: Sequence[str], request: Request) -> AbstractContextManager[dict[str, int]]:
        return nullcontext({"computed": self.model.computed(texts, request["max_length"])})


if __name__ == "__main__":
    serve(OpenVinoWorker())
