"""A random checkpoint of MiniLM's size for each kind of stack: 6 layers, 384 wide, 30,522 pieces.

    python benchmarks/make_stacks.py --kind lstm --out /tmp/lstm

Written by the helpers of the tests with larger tokenizers: their pieces, then words of real texts, then
fillers. With --small the sizes are the tests' own, too, to try the benchmark itself with.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

from tercet.checkpoint.writer import write_aside
from workloads import words

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
import static_models
import tiny
import tiny_decoders
import tiny_modules
import tiny_reranker
import tiny_sparse

VOCABULARY = 30_522
MINILM = {"hidden": 384, "layers": 6, "heads": 12, "intermediate": 1536, "max_positions": 514}
SMALL = {"hidden": 32, "layers": 2, "heads": 4, "intermediate": 64, "max_positions": 514}
# A table has nothing but its rows: as wide as model2vec's.
TABLE_WIDTH = 256
LATE_WIDTH = 128
# The inputs of a matrix of the tests' own models.
CALM = 32

Sizes = dict[str, Any]
Writer = Callable[[Path, Sizes], object]


def _stack(architecture: str, *modules: tiny.Module) -> Writer:
    return lambda folder, sizes: tiny.write_checkpoint(
        folder, architecture, layout="sentence-transformers", modules=modules, **sizes
    )


def _modules(*parts: Callable[[Sizes], tiny_modules.Part], **settings: Any) -> Writer:
    """Modules over token vectors, each made for the sizes of the encoder."""

    def write(folder: Path, sizes: Sizes) -> None:
        made = [part(sizes) for part in parts]
        tiny_modules.write_stack(folder, made, **sizes, **settings)

    return write


def _mean(sizes: Sizes) -> tiny_modules.Part:
    return tiny_modules.pooling()


def _routes(sizes: Sizes) -> tiny_modules.Part:
    return tiny_modules.router(
        {name: (tiny_modules.dense(name, sizes["hidden"]),) for name in ("query", "document")}
    )


def _late(folder: Path, sizes: Sizes) -> None:
    """MultiVectorEncoder: Dense to 128 over tokens, all of which are kept, and Normalize."""
    tiny.write_checkpoint(folder, "bert", layout="sentence-transformers", modules=(), **sizes)
    over_tokens = dict.fromkeys(("module_input_name", "module_output_name"), "token_embeddings")
    dense = {
        "in_features": sizes["hidden"],
        "out_features": LATE_WIDTH,
        "bias": False,
        "activation_function": "torch.nn.modules.linear.Identity",
        **over_tokens,
    }
    weight = tiny_modules.normal("late", (LATE_WIDTH, sizes["hidden"]))
    _add(folder, "base.modules.dense.Dense", dense, {"linear.weight": weight})
    _add(folder, "multi_vector_encoder.modules.multi_vector_mask.MultiVectorMask", {})
    _add(folder, "base.modules.normalize.Normalize", over_tokens)
    _type(folder, "MultiVectorEncoder")


def _csr(folder: Path, sizes: Sizes) -> None:
    """SparseEncoder: mean pooling and SparseAutoEncoder."""
    tiny.write_checkpoint(folder, "bert", layout="sentence-transformers", modules=("pooling",), **sizes)
    hidden, width = sizes["hidden"], 4 * sizes["hidden"]
    settings = {
        "input_dim": hidden,
        "hidden_dim": width,
        "k": 32,
        "k_aux": 64,
        "normalize": False,
        "dead_threshold": 30,
    }
    tensors = {
        "decoder.linear.weight": tiny_modules.normal("csr.weight", (width, hidden)),
        "latent_bias": tiny_modules.normal("csr.latent", (width,)),
        "pre_bias": tiny_modules.normal("csr.pre", (hidden,)),
        "stats_last_nonzero": torch.zeros(width, dtype=torch.int64),
    }
    # As safetensors writes a tensor that the module has under two names.
    twice = {"encoder.weight": "decoder.linear.weight"}
    reference = "sparse_encoder.modules.sparse_auto_encoder.SparseAutoEncoder"
    _add(folder, reference, settings, tensors, twice)
    _type(folder, "SparseEncoder")


def _bow(folder: Path, sizes: Sizes) -> None:
    """BoW over every piece that is a word, and Dense."""
    words = [word for word in tiny.tokenizer("bert").get_vocab() if word.isalpha()]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "modules.json").write_text("[]", encoding="utf-8")
    bag = {"vocab": words, "word_weights": {}, "unknown_word_weight": 1, "cumulative_term_frequency": True}
    _add(folder, "models.BoW", bag)
    dense = {"in_features": len(words), "out_features": TABLE_WIDTH, "bias": False}
    dense["activation_function"] = "torch.nn.modules.linear.Identity"
    weight = tiny_modules.normal("bow", (TABLE_WIDTH, len(words)))
    _add(folder, "models.Dense", dense, {"linear.weight": weight})
    _add(folder, "models.Normalize", {})


def _qwen3(sizes: Sizes) -> dict[str, Any]:
    """A decoder of the same depth and width: two query heads to a key head, a gated net as large."""
    hidden, heads = sizes["hidden"], sizes["heads"]
    return {
        **{name: sizes[name] for name in ("hidden", "layers", "heads", "max_positions")},
        "key_heads": heads // 2,
        "head_width": hidden // heads,
        "intermediate": sizes["intermediate"] * 2 // 3,
    }


def _add(
    folder: Path,
    reference: str,
    settings: dict[str, Any],
    tensors: dict[str, torch.Tensor] | None = None,
    metadata: dict[str, str] | None = None,
) -> None:
    """One more module at the end of a stack, of a class of sentence-transformers."""
    path = folder / "modules.json"
    entries = json.loads(path.read_text(encoding="utf-8"))
    place = f"{len(entries)}_{reference.rpartition('.')[2]}"
    entry = {"idx": len(entries), "name": str(len(entries)), "path": place}
    entries.append({**entry, "type": f"sentence_transformers.{reference}"})
    path.write_text(json.dumps(entries), encoding="utf-8")
    (folder / place).mkdir()
    (folder / place / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    if tensors:
        save_file(tensors, folder / place / "model.safetensors", metadata=metadata or {"format": "pt"})


def _type(folder: Path, name: str) -> None:
    """Say which class of sentence-transformers a folder is of."""
    path = folder / "config_sentence_transformers.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings |= {"model_type": name, "similarity_fn_name": None}
    path.write_text(json.dumps(settings), encoding="utf-8")


WRITERS: dict[str, Writer] = {
    "normalize": _stack("bert", "pooling", "normalize"),
    "dense": _stack("bert", "pooling", ("dense", {"out_features": 256}), "normalize"),
    "layer_norm": _stack("bert", "pooling", "layer_norm"),
    "cnn": _modules(lambda sizes: tiny_modules.cnn(sizes["hidden"] // 3), _mean),
    "lstm": _modules(lambda sizes: tiny_modules.lstm(sizes["hidden"] // 2), _mean),
    "word_weights": _modules(lambda sizes: tiny_modules.word_weights(), _mean),
    "layer_pooling": _modules(
        lambda sizes: tiny_modules.layer_pooling(sizes["layers"], 1),
        _mean,
        config={"output_hidden_states": True},
    ),
    "router": _modules(_mean, _routes),
    "mpnet": _stack("mpnet", "pooling", "normalize"),
    "distilbert": _stack("distilbert", "pooling", "normalize"),
    "electra": _stack("electra", "pooling", "normalize"),
    "static": lambda folder, sizes: static_models.write_static(folder),
    "bow": _bow,
    "qwen3": lambda folder, sizes: tiny_decoders.write_embedder(folder, **_qwen3(sizes)),
    "splade": lambda folder, sizes: tiny_sparse.write_splade(folder, "distilbert", **sizes),
    "csr": _csr,
    "late": _late,
    "cross_encoder": lambda folder, sizes: tiny_reranker.write_reranker(folder, "bert", **sizes),
    "logit_score": lambda folder, sizes: tiny_decoders.write_reranker(folder, template=None, **_qwen3(sizes)),
    # As BAAI publishes them: FlagModel reads the encoder alone, and pools the first token by itself.
    "flag_model": _stack("bert", ("pooling", {"modes": ("cls",)}), "normalize"),
    "bge_m3": lambda folder, sizes: tiny.write_checkpoint(folder, "xlm-roberta", layout="bge-m3", **sizes),
    "flag_reranker": lambda folder, sizes: tiny_reranker.write_reranker(folder, "xlm-roberta", **sizes),
}


def write(kind: str, folder: Path, *, small: bool = False) -> None:
    """A whole checkpoint of this kind; once a process: the helpers have larger tokenizers from then on."""
    sizes = SMALL if small else MINILM
    if not small:
        static_models.table = partial(static_models.table, width=TABLE_WIDTH)
        tiny.tokenizer = _grown(tiny.tokenizer)
        tiny._normal, tiny_modules.normal = _calmer(tiny._normal), _calmer(tiny_modules.normal)
    WRITERS[kind](folder, sizes)


def _calmer(normal: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """The same random numbers, those of matrices less the wider they are.

    Else what comes out of each layer grows with its width, and rounding with it.
    """

    def made(*given: Any, **settings: Any) -> torch.Tensor:
        numbers = normal(*given, **settings)
        inputs = numbers[0].numel() if numbers.ndim > 1 else 0
        embeddings = any(isinstance(name, str) and "embeddings" in name for name in given)
        return numbers if embeddings or inputs <= CALM else numbers * (CALM / inputs) ** 0.5

    return made


def _grown(tokenizer: Callable[[str], Tokenizer]) -> Callable[[str], Tokenizer]:
    """The same tokenizers with `VOCABULARY` pieces; byte-level BPE, which has merges, is left as it is."""

    @lru_cache
    def made(architecture: str) -> str:
        data = json.loads(tokenizer(architecture).to_str())
        model = data["model"]
        if model["type"] == "WordPiece":
            pieces: dict[str, int] = model["vocab"]
            for word in _more(pieces, "{}"):
                pieces[word] = len(pieces)
        elif model["type"] == "Unigram":
            known = {piece for piece, _ in model["vocab"]}
            # Rarer than every piece that was there, but likelier than a word letter by letter.
            model["vocab"] += [[word, -12.0 - rank / 10_000] for rank, word in enumerate(_more(known, "▁{}"))]
        return json.dumps(data)

    return lambda architecture: Tokenizer.from_str(made(architecture))


def _more(known: Any, form: str) -> list[str]:
    """As many new pieces as lack: words of real texts as they first occur, then fillers."""
    taken: dict[str, None] = {}
    for word in itertools.chain(_bare(), (f"filler{number}" for number in itertools.count(1))):
        if len(known) + len(taken) >= VOCABULARY:
            break
        piece = form.format(word)
        if piece not in known:
            taken[piece] = None
    return list(taken)


def _bare() -> list[str]:
    """Words of letters alone, in lower case, each once."""
    found = (word.strip(".,;:()'\"").lower() for word in words())
    return list(dict.fromkeys(word for word in found if word.isascii() and word.isalpha()))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kind", required=True, choices=list(WRITERS))
    parser.add_argument("--out", type=Path, required=True, help="a new or empty folder")
    parser.add_argument("--small", action="store_true", help="an encoder of the tests' size")
    options = parser.parse_args()
    with write_aside(options.out) as folder:
        write(options.kind, folder, small=options.small)


if __name__ == "__main__":
    main()
