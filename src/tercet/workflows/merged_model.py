"""A merged folder tried out: loaded, and given ten texts."""

from __future__ import annotations

__all__ = ["TEXTS", "try_model"]

import importlib
import importlib.util
from pathlib import Path

import torch

from tercet.checkpoint.decoder_files import DECODERS
from tercet.checkpoint.encoder_files import ARCHITECTURES
from tercet.checkpoint.paths import read_json_object
from tercet.checkpoint.reranker_files import is_reranker
from tercet.embedder import load
from tercet.errors import CheckpointError, NonFiniteError
from tercet.reranker import load_reranker

TEXTS = (
    "",
    "a",
    "What is the capital of France?",
    "Paris is the capital and the largest city of France.",
    "How are vectors compared?",
    "The cosine of two vectors is their product divided by their lengths.",
    "def add(left, right):\n    return left + right",
    "東京は日本の首都です。",
    "Ein Fluss, zwei Brücken und 42 Boote.",
    "The cat sat on the mat. " * 6,
)
_UNIT = 1e-4


def try_model(folder: Path, encoder_path: str, *, named: str) -> str:
    """What was tried and found good, as a sentence.

    A reranker scores pairs, an encoder that is known here embeds with all its heads, anything else, and a
    language model alone, is run by transformers where that is installed.

    Args:
        folder: of the merged model.
        encoder_path: where its encoder is in it.
        named: what to call it.

    Raises:
        CheckpointError: it cannot be loaded, or gives numbers that are not finite, or no unit vectors where
            its modules say so.
    """
    config = folder / encoder_path / "config.json"
    # a table of static embeddings has none, or one without a type
    kind = read_json_object(config).get("model_type") if config.is_file() else None
    # a language model alone is not meant for vectors, and may have settings that only transformers knows
    alone = kind in DECODERS and not (folder / "modules.json").is_file()
    if kind is not None and (alone or kind not in (*ARCHITECTURES, "model2vec")):
        return _forward(config.parent, str(kind), named)
    try:
        return _score(folder, named) if is_reranker(folder) else _embed(folder, named)
    except NonFiniteError as error:
        raise _bad(named, "vectors are not finite") from error
    except CheckpointError as error:
        if isinstance(error, _NotGood):
            raise
        said = str(error).replace(str(folder), named)
        raise CheckpointError(
            f"The merge was made, and cannot be loaded: {said} Nothing was kept; to keep it all the same, "
            "pass try_out=False (--no-try)."
        ) from error


class _NotGood(CheckpointError):
    """A result that loads and computes what no model should."""


def _score(folder: Path, named: str) -> str:
    pairs = [(TEXTS[2], text) for text in TEXTS]
    if not load_reranker(folder, precision="float32", device="cpu").score(pairs).isfinite().all():
        raise _bad(named, "scores are not finite")
    return f"Loaded as a reranker: {len(TEXTS)} pairs have finite scores."


def _embed(folder: Path, named: str) -> str:
    model = load(folder, precision="float32", device="cpu")
    routes = model.checkpoint.routes
    if routes is not None and routes.default is None:
        made = model.encode_document(TEXTS, outputs=model.outputs)
    else:
        made = model.encode(TEXTS, outputs=model.outputs)
    sparse = None if made.sparse is None else made.sparse.weights
    late = None if made.multivector is None else made.multivector.vectors
    for name, values in (("dense", made.dense), ("sparse", sparse), ("multivector", late)):
        if values is not None and not values.isfinite().all():
            raise _bad(named, f"{name} vectors are not finite")
    units = [] if late is None else [late]
    if made.dense is not None and any(module.kind == "normalize" for module in model.checkpoint.modules):
        # a table of static embeddings has nothing to say of a text without a token
        units.append(made.dense[made.num_tokens > 0])
    for values in units:
        lengths = values.double().norm(dim=-1)
        if len(lengths) and float((lengths - 1).abs().max()) > _UNIT:
            raise _bad(named, f"vectors have lengths from {lengths.min():g} to {lengths.max():g}, not 1")
    length = " of length 1" if units else ""
    return f"Loaded: {len(TEXTS)} texts give finite {', '.join(model.outputs)} vectors{length}."


def _forward(folder: Path, kind: str, named: str) -> str:
    """A forward by transformers; not done where it is absent, which the sentence says."""
    if importlib.util.find_spec("transformers") is None:
        return (
            f"Not tried: models of type {kind!r} are run by transformers, which is not installed "
            "(pip install 'tercet[transformers]')."
        )
    transformers = importlib.import_module("transformers")
    classes = read_json_object(folder / "config.json").get("architectures") or [""]
    # the class that was saved gives logits where it has a head
    loader = getattr(transformers, str(classes[0]), transformers.AutoModel)
    model = loader.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()
    if model.config.is_encoder_decoder:
        model = model.get_encoder()
    for number in range(10):
        # one by one: some classes want to know what pads a batch
        ids = (torch.arange(8) * 7 + 11 * number).unsqueeze(0) % int(model.config.vocab_size)
        with torch.no_grad():
            found = model(input_ids=ids)[0]
        if not found.isfinite().all():
            raise _bad(named, "numbers are not finite")
    return f"Loaded by transformers as {type(model).__name__}: ten sequences give finite numbers."


def _bad(named: str, what: str) -> _NotGood:
    return _NotGood(
        f"The merge was made, and its {what}: {named} was not written. Weights far from those of the models, "
        "or models that do not belong together, do that; try linear, or smaller weights."
    )
