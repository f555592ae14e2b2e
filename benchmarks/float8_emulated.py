"""The drift of float8 without a GPU: its arithmetic, done in float32 on the CPU.

    python benchmarks/float8_emulated.py CRANFIELD --limit 400

Numbers become codes and scales as on the GPU. The sums of products, which tensor cores do in an order and
with a precision of their own, are float32's, and attention is the CPU's in bfloat16. bfloat16 without float8
is printed beside it, as the part of the drift that float8 does not add.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from gpu import distance, read
from tercet.batch import Batch
from tercet.checkpoint.layout import Checkpoint, open_checkpoint
from tercet.checkpoint.source import find
from tercet.heads import HeadOptions, Heads
from tercet.layers.float8 import multiply_by_hand, use_float8
from tercet.model import load_encoder
from tercet.precision.dtype import DType
from tercet.text.pack import pack
from tercet.text.tokenizer import Tokenizer

TOKENS = 2048  # of a batch


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("texts", type=Path, help="a file with one text a line, or a folder in BEIR's layout")
    parser.add_argument("--model", default="minilm", help="a folder, a hub id, or minilm")
    parser.add_argument("--limit", type=int, help="texts at most, spread evenly over all of them")
    options = parser.parse_args(arguments)
    if options.limit is not None and options.limit < 1:
        parser.error(f"--limit is {options.limit}; it must be at least 1")
    if not options.texts.exists():
        parser.error(f"{options.texts}: there is no such file or folder")
    texts = read(options.texts)
    texts = texts[:: max(1, len(texts) // (options.limit or len(texts)))][: options.limit]
    checkpoint = open_checkpoint(find(options.model))
    reference = vectors(checkpoint, texts, DType.FLOAT32)
    print(f"{checkpoint.name}, {len(texts)} texts, torch {torch.__version__} on a CPU")
    for name, emulated in (("bfloat16", False), ("float8", True)):
        far = distance(reference, vectors(checkpoint, texts, DType.BFLOAT16, float8=emulated))
        print(f"{name} to float32: mean {far['mean']:.2e}, worst {far['worst']:.2e}")


def vectors(
    checkpoint: Checkpoint, texts: Sequence[str], dtype: DType, *, float8: bool = False
) -> torch.Tensor:
    """(texts, dim) dense vectors, with linear layers in float8 if asked for."""
    tokenizer = Tokenizer.open(checkpoint)
    encoder = load_encoder(checkpoint, dtype)
    if float8:
        count, kept = use_float8(encoder, multiply_by_hand)
        print(f"float8: {count} linear layers, {len(kept)} stay in bfloat16", file=sys.stderr)
    heads = Heads.open(checkpoint, DType.FLOAT32, tokenizer.special_ids)
    encoded = tokenizer.encode(list(texts), max_length=checkpoint.max_length, prompt="")
    parts = []
    with torch.inference_mode():
        for part in pack(encoded.lengths, TOKENS):
            batch = Batch.from_ids(encoded.ids[part])
            dense, _, _ = heads(encoder(batch), batch, HeadOptions(("dense",)))
            assert dense is not None
            parts.append(dense)
    return torch.cat(parts)


if __name__ == "__main__":
    main()
