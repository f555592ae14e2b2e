"""What FlagEmbedding's classes give back, call by call; part of record.py."""

from __future__ import annotations

__all__ = ["record"]

from pathlib import Path

import FlagEmbedding
import numpy as np
from FlagEmbedding import BGEM3FlagModel, FlagModel

from recorder import cases, flag_calls

_DEVICE = {"devices": "cpu"}


def record(folder: Path) -> dict[str, np.ndarray]:
    """Every array of flag_calls.npz; `folder` takes the tiny checkpoints."""
    arrays: dict[str, np.ndarray] = {}
    texts = list(flag_calls.TEXTS)
    for number, (name, (_, options)) in enumerate(flag_calls.FLAG_MODELS.items()):
        path = str(flag_calls.write(folder / f"flag_model{number}", name))
        model = FlagModel(path, use_fp16=False, **_DEVICE, **flag_calls.LENGTHS, **options)
        for call in ("encode", "encode_queries", "encode_corpus"):
            arrays[f"{name}/{call}"] = getattr(model, call)(texts)
        arrays[f"{name}/one"] = model.encode_queries(texts[2])
    path = str(flag_calls.write(folder / "rounded", "bert"))
    # By default weights are rounded to float16, and on a CPU computed with in float32.
    arrays["bert/rounded"] = FlagModel(path, **_DEVICE, **flag_calls.LENGTHS).encode(texts)

    path = str(flag_calls.write(folder / "flag_m3", "m3"))
    model = BGEM3FlagModel(path, use_fp16=False, **_DEVICE, **flag_calls.M3_OPTIONS)
    found = {call: getattr(model, call)(texts) for call in ("encode_queries", "encode_corpus")}
    for call, result in found.items():
        _add_m3(arrays, f"m3/{call}", result)
    _add_m3(
        arrays,
        "m3/one",
        {key: [value] for key, value in model.encode_queries(texts[2]).items()},
    )
    queries, passages = (found[call] for call in found)
    arrays["m3/lexical"] = model.compute_lexical_matching_score(
        queries["lexical_weights"], passages["lexical_weights"]
    )
    arrays["m3/lexical of one"] = np.array(
        [
            model.compute_lexical_matching_score(first, second)
            for first, second in zip(queries["lexical_weights"], passages["lexical_weights"], strict=True)
        ]
    )
    arrays["m3/late"] = np.array(
        [
            [model.colbert_score(query, passage).item() for passage in passages["colbert_vecs"]]
            for query in queries["colbert_vecs"]
        ]
    )
    for key, values in model.compute_score(list(cases.PAIRS), batch_size=1).items():
        arrays[f"m3/score/{key}"] = np.array(values)
    arrays["m3/score of one"] = np.array(list(model.compute_score(cases.PAIRS[1]).values()))
    ids = model.tokenizer.convert_tokens_to_ids(list(flag_calls.PIECES))
    named = model.convert_id_to_token({str(token_id): 1.0 for token_id in ids})
    arrays["m3/pieces"] = np.array(list(named))
    for name, methods in flag_calls.SIGNATURES.items():
        for method in methods:
            listed = flag_calls.signature(getattr(FlagEmbedding, name), method)
            arrays[f"signature/{name}.{method}"] = np.array(listed)
    return arrays


def _add_m3(arrays: dict[str, np.ndarray], name: str, found: dict) -> None:
    arrays[f"{name}/dense"] = np.stack(list(found["dense_vecs"]))
    entries = [sorted((int(key), float(w)) for key, w in text.items()) for text in found["lexical_weights"]]
    arrays[f"{name}/entries"] = np.array([len(text) for text in entries])
    arrays[f"{name}/weights"] = np.array([entry for text in entries for entry in text]).reshape(-1, 2)
    arrays[f"{name}/rows"] = np.array([len(rows) for rows in found["colbert_vecs"]])
    arrays[f"{name}/vectors"] = np.concatenate(found["colbert_vecs"])
