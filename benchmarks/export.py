"""Exports an encoder for ONNX Runtime and OpenVINO; runs in the runtimes' environment.

    python benchmarks/export.py --model FOLDER --texts TEXTS.json --out FOLDER

Writes onnx/model.onnx, onnx-int8/model.onnx (dynamic quantisation of the linear layers), openvino/model.xml
and openvino-int8/model.xml (NNCF's post-training quantisation for transformers, calibrated with the texts).
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

CALIBRATION_TEXTS = 12


class Encoder(nn.Module):
    """A transformers encoder with the two inputs and the one output that an embedding needs."""

    def __init__(self, folder: Path, attention: str) -> None:
        super().__init__()
        from transformers import AutoModel

        self.model = AutoModel.from_pretrained(
            folder, dtype=torch.float32, attn_implementation=attention
        ).eval()

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(texts, tokens, hidden)."""
        return self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--texts", type=Path, required=True, help="a JSON list of texts to calibrate with")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--max-length", type=int, default=256, help="of the texts to calibrate with")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    texts = json.loads(options.texts.read_text(encoding="utf-8"))[:CALIBRATION_TEXTS]
    inputs = tokens(options.model, texts, options.max_length)
    for name, export in (
        ("onnx", export_onnx),
        ("onnx-int8", quantize_onnx),
        ("openvino", export_openvino),
        ("openvino-int8", quantize_openvino),
    ):
        folder = options.out / name
        if folder.exists():
            continue
        aside = folder.with_name(f".{name}.part")
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        export(options.model, aside, options.out, inputs)
        aside.rename(folder)
        print(f"{folder} made", flush=True)


def tokens(folder: Path, texts: Sequence[str], max_length: int) -> list[dict[str, Tensor]]:
    """One pair of inputs a text: without padding, so that quantisation sees no padding either."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length)
    rows = [torch.tensor([row.ids]) for row in tokenizer.encode_batch(list(texts))]
    return [{"input_ids": ids, "attention_mask": torch.ones_like(ids)} for ids in rows]


def example(inputs: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """A padded batch of two, so that nothing is traced as if there were no mask."""
    longest = max(inputs, key=lambda given: given["input_ids"].shape[1])
    ids = longest["input_ids"].repeat(2, 1)
    mask = torch.ones_like(ids)
    mask[1, ids.shape[1] // 2 :] = 0
    return {"input_ids": ids, "attention_mask": mask}


def export_onnx(model: Path, folder: Path, out: Path, inputs: Sequence[dict[str, Tensor]]) -> None:
    """The graph by torch's exporter, with the weights beside it."""
    batch, length = torch.export.Dim("batch", min=1, max=4096), torch.export.Dim("length", min=2, max=8192)
    axes = {0: batch, 1: length}
    with torch.inference_mode():
        torch.onnx.export(
            Encoder(model, "eager").eval(),
            kwargs=example(inputs),
            f=str(folder / "model.onnx"),
            input_names=["input_ids", "attention_mask"],
            output_names=["last_hidden_state"],
            dynamic_shapes={"input_ids": axes, "attention_mask": axes},
            external_data=True,
            verbose=False,
        )


def quantize_onnx(model: Path, folder: Path, out: Path, inputs: Sequence[dict[str, Tensor]]) -> None:
    """int8 weights by channel; activations are quantised as they come."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        out / "onnx" / "model.onnx",
        folder / "model.onnx",
        op_types_to_quantize=["MatMul", "Gemm"],
        per_channel=True,
        weight_type=QuantType.QInt8,
        use_external_data_format=True,
    )


def export_openvino(model: Path, folder: Path, out: Path, inputs: Sequence[dict[str, Tensor]]) -> None:
    """The graph by OpenVINO's own converter, in float32."""
    import openvino

    with torch.inference_mode():
        converted = openvino.convert_model(Encoder(model, "sdpa").eval(), example_input=example(inputs))
    openvino.save_model(converted, folder / "model.xml", compress_to_fp16=False)


def quantize_openvino(model: Path, folder: Path, out: Path, inputs: Sequence[dict[str, Tensor]]) -> None:
    """Weights and activations in int8, as NNCF does it for transformers."""
    import nncf
    import openvino

    graph: Any = openvino.Core().read_model(out / "openvino" / "model.xml")
    data = nncf.Dataset([{name: value.numpy() for name, value in given.items()} for given in inputs])
    quantized = nncf.quantize(graph, data, model_type=nncf.ModelType.TRANSFORMER, subset_size=len(inputs))
    openvino.save_model(quantized, folder / "model.xml", compress_to_fp16=False)


if __name__ == "__main__":
    main()
