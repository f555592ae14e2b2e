"""A full-size BGE-M3 with random weights, for measuring loads without a download.

    python benchmarks/make_bge_m3.py --out /tmp/bge-m3 --file bin

XLM-RoBERTa large (24 layers, 1024 wide, 250,002 pieces, 8,194 positions) with both heads and a real Unigram
tokenizer, whose pieces are the words of the standard library's docstrings and fillers. Written one tensor at
a time.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import math
import re
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from torch import Tensor

from tercet.checkpoint.writer import write_aside, write_tensors

VOCABULARY, HIDDEN, INTERMEDIATE, POSITIONS = 250_002, 1024, 4096, 8194
# Modules whose documentation is plain and whose import has no side effect.
_MODULES = """
argparse array ast asyncio base64 bisect calendar cmath codecs collections configparser contextlib copy csv
datetime decimal difflib dis email enum fractions functools glob gzip hashlib heapq http inspect io
itertools json logging math mmap multiprocessing operator os pathlib pickle platform queue random re sched
secrets shutil signal socket sqlite3 ssl statistics string struct subprocess tarfile tempfile textwrap
threading time timeit tokenize traceback types unittest urllib.request uuid warnings weakref
xml.etree.ElementTree zipfile zlib
"""
DOCUMENTED = _MODULES.split()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="a new or empty folder")
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), default="float32")
    parser.add_argument(
        "--file", choices=("safetensors", "bin"), default="bin", help="the original is a .bin"
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    started = time.monotonic()
    with write_aside(options.out) as folder:
        write_settings(folder, options.layers, options.dtype)
        make_tokenizer().save(str(folder / "tokenizer.json"))
        shapes = tensor_shapes(options.layers)
        tensors = make_tensors(shapes, getattr(torch, options.dtype), options.seed)
        if options.file == "safetensors":
            plan = {name: (options.dtype, shape) for name, shape in shapes.items()}
            write_tensors(folder, plan, tensors)
        else:
            write_torch_zip(folder / "pytorch_model.bin", shapes, tensors, getattr(torch, options.dtype))
        for head, rows in (("sparse_linear", 1), ("colbert_linear", HIDDEN)):
            generator = torch.Generator().manual_seed(rows)
            weight = torch.empty(rows, HIDDEN).normal_(0, 0.03, generator=generator).half()
            torch.save({"weight": weight, "bias": torch.zeros(rows).half()}, folder / f"{head}.pt")
    size = sum(path.stat().st_size for path in options.out.rglob("*") if path.is_file())
    print(f"{options.out}: {size / 2**30:.2f} GiB in {time.monotonic() - started:.0f} s", file=sys.stderr)


def tensor_shapes(layers: int) -> dict[str, tuple[int, ...]]:
    """Every tensor of the encoder and its pooler."""
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (VOCABULARY, HIDDEN),
        "embeddings.position_embeddings.weight": (POSITIONS, HIDDEN),
        "embeddings.token_type_embeddings.weight": (1, HIDDEN),
        "embeddings.LayerNorm.weight": (HIDDEN,),
        "embeddings.LayerNorm.bias": (HIDDEN,),
    }
    for layer in range(layers):
        start = f"encoder.layer.{layer}"
        for part, rows, columns in (
            ("attention.self.query", HIDDEN, HIDDEN),
            ("attention.self.key", HIDDEN, HIDDEN),
            ("attention.self.value", HIDDEN, HIDDEN),
            ("attention.output.dense", HIDDEN, HIDDEN),
            ("intermediate.dense", INTERMEDIATE, HIDDEN),
            ("output.dense", HIDDEN, INTERMEDIATE),
        ):
            shapes[f"{start}.{part}.weight"] = (rows, columns)
            shapes[f"{start}.{part}.bias"] = (rows,)
        for part in ("attention.output.LayerNorm", "output.LayerNorm"):
            shapes[f"{start}.{part}.weight"] = (HIDDEN,)
            shapes[f"{start}.{part}.bias"] = (HIDDEN,)
    return shapes | {"pooler.dense.weight": (HIDDEN, HIDDEN), "pooler.dense.bias": (HIDDEN,)}


def make_tensors(
    shapes: dict[str, tuple[int, ...]], dtype: torch.dtype, seed: int
) -> Iterator[tuple[str, Tensor]]:
    """Random weights as large as those of a trained model, one tensor at a time."""
    generator = torch.Generator().manual_seed(seed)
    for name, shape in shapes.items():
        values = torch.empty(shape, dtype=dtype)
        if "LayerNorm" in name:
            values.fill_(1.0 if name.endswith("weight") else 0.0)
        else:
            for part in values.view(-1).split(1 << 24):
                part.copy_(torch.empty(len(part)).normal_(0, 0.03, generator=generator))
        yield name, values


def write_torch_zip(
    path: Path, shapes: dict[str, tuple[int, ...]], tensors: Iterator[tuple[str, Tensor]], dtype: torch.dtype
) -> None:
    """What torch.save writes, one tensor at a time: first the archive with holes, then the numbers."""
    # Memory that is never touched: skip_data leaves the numbers out.
    empty = {name: torch.empty(shape, dtype=dtype) for name, shape in shapes.items()}
    with torch.serialization.skip_data():
        torch.save(empty, path)
    with zipfile.ZipFile(path) as archive:
        records = {record.filename.rpartition("/")[2]: record for record in archive.infolist()}
    with path.open("r+b") as file:
        for number, (_, tensor) in enumerate(tensors):
            start = records[str(number)].header_offset
            file.seek(start + 26)
            lengths = file.read(4)
            names = int.from_bytes(lengths[:2], "little") + int.from_bytes(lengths[2:], "little")
            file.seek(start + 30 + names)
            file.write(tensor.reshape(-1).view(torch.uint8).numpy().data)


def write_settings(folder: Path, layers: int, dtype: str) -> None:
    """config.json and what sentence-transformers keeps, as the original has them."""
    config = {
        "architectures": ["XLMRobertaModel"],
        "attention_probs_dropout_prob": 0.1,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "hidden_size": HIDDEN,
        "initializer_range": 0.02,
        "intermediate_size": INTERMEDIATE,
        "layer_norm_eps": 1e-05,
        "max_position_embeddings": POSITIONS,
        "model_type": "xlm-roberta",
        "num_attention_heads": 16,
        "num_hidden_layers": layers,
        "output_past": True,
        "pad_token_id": 1,
        "position_embedding_type": "absolute",
        "torch_dtype": dtype,
        "transformers_version": "4.33.0",
        "type_vocab_size": 1,
        "use_cache": True,
        "vocab_size": VOCABULARY,
    }
    classes = ("models.Transformer", "models.Pooling", "models.Normalize")
    stack = [
        {"idx": place, "name": str(place), "path": path, "type": f"sentence_transformers.{kind}"}
        for place, (path, kind) in enumerate(zip(("", "1_Pooling", "2_Normalize"), classes, strict=True))
    ]
    pooling: dict[str, Any] = {"word_embedding_dimension": HIDDEN}
    pooling |= {
        f"pooling_mode_{mode}": mode == "cls_token"
        for mode in ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens")
    }
    names = {
        "bos_token": "<s>",
        "cls_token": "<s>",
        "eos_token": "</s>",
        "mask_token": "<mask>",
        "pad_token": "<pad>",
        "sep_token": "</s>",
        "unk_token": "<unk>",
    }
    (folder / "1_Pooling").mkdir()
    for name, value in (
        ("config.json", config),
        ("modules.json", stack),
        ("1_Pooling/config.json", pooling),
        ("sentence_bert_config.json", {"max_seq_length": POSITIONS - 2, "do_lower_case": False}),
        ("config_sentence_transformers.json", {"__version__": {"sentence_transformers": "2.2.2"}}),
        (
            "tokenizer_config.json",
            {
                **names,
                "model_max_length": POSITIONS - 2,
                "model_input_names": ["input_ids", "attention_mask"],
                "tokenizer_class": "PreTrainedTokenizerFast",
            },
        ),
        ("special_tokens_map.json", names),
    ):
        (folder / name).write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def make_tokenizer() -> Tokenizer:
    """A Unigram tokenizer of the original's size, its pieces taken from real text as far as that goes."""
    counts: Counter[str] = Counter()
    for text in docstrings():
        counts.update(re.findall(r"[^\W_]+|[^\w\s]", text))
    pieces: dict[str, None] = dict.fromkeys(["<s>", "<pad>", "</s>", "<unk>", "▁"])
    pieces |= dict.fromkeys(f"▁{word}" for word, _ in counts.most_common(60_000))
    pieces |= dict.fromkeys(
        chr(code) for code in (*range(33, 127), *range(161, 1500), *range(0x4E00, 0x9FA5))
    )
    pieces |= dict.fromkeys(word[-length:] for word in counts for length in range(2, 6) if len(word) > length)
    syllables = [first + second for first in "bcdfghjklmnprstvwz" for second in "aeiou"]
    for filler in itertools.product(syllables, repeat=3):
        if len(pieces) >= VOCABULARY - 1:
            break
        pieces[f"▁{''.join(filler)}"] = None
    chosen = [*itertools.islice(pieces, VOCABULARY - 1), "<mask>"]
    scored = [(piece, 0.0 if rank < 4 else -4.0 - math.log(rank)) for rank, piece in enumerate(chosen)]
    made = Tokenizer(models.Unigram(scored, unk_id=3))
    made.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    names = ("<s>", "<pad>", "</s>", "<unk>")
    made.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in names])
    made.add_special_tokens([AddedToken("<mask>", lstrip=True, normalized=False, special=True)])
    return made


def docstrings() -> Iterator[str]:
    """The docstrings of the public classes and functions of well-known modules, and of their methods."""
    for name in DOCUMENTED:
        module = importlib.import_module(name)
        yield module.__doc__ or ""
        for member in vars(module).values():
            if callable(member):
                yield member.__doc__ if isinstance(member.__doc__, str) else ""
                for method in vars(member).values() if isinstance(member, type) else ():
                    yield method.__doc__ if isinstance(method.__doc__, str) else ""


if __name__ == "__main__":
    main()
