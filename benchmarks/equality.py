"""Writes docs/equality.md: Tercet's vectors and scores beside the peers', from what was recorded of them.

python benchmarks/equality.py                         # tests/recorded
python benchmarks/equality.py --recorded build/twins  # after `make twins`, of live peers
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import numpy as np  # noqa: E402
import torch  # noqa: E402

import tercet  # noqa: E402
from recorder import cases  # noqa: E402
from tercet.batch import Batch  # noqa: E402
from tercet.embedder import Embedder  # noqa: E402
from tercet.embeddings import Embeddings, SparseVectors  # noqa: E402
from tercet.engines import ENGINES  # noqa: E402
from tercet.scoring import score_pairs  # noqa: E402

SHOWN = "m3 without the dense part's files"
SHOWN_TEXT = 4
WEIGHTS = (0.4, 0.2, 0.4)
OUTPUTS = ("dense", "sparse", "multivector")
PEERS = ("flagembedding", "minilm", "sentence_transformers", "transformers")
KEYS = ("colbert", "sparse", "dense", "sparse+dense", "colbert+sparse+dense")
# sentence-transformers' word -> ours
OPTIONS = {"truncate_dim": "dimensions", "normalize_embeddings": "normalize"}
Arrays = Mapping[str, Any]


def main() -> None:
    """Writes the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recorded", type=Path, default=ROOT / "tests" / "recorded")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "equality.md")
    arguments = parser.parse_args()
    # that long texts are cut is part of what is compared
    logging.getLogger("tercet").setLevel(logging.ERROR)
    recorded: Path = arguments.recorded
    versions = json.loads((recorded / "versions.json").read_text(encoding="utf-8"))
    peers = {name: dict(np.load(recorded / f"{name}.npz")) for name in PEERS}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parts = [
            _head(versions),
            _three_outputs(folder, peers["flagembedding"]),
            _one_text(folder, peers["flagembedding"]),
            _floor(folder, peers["flagembedding"]),
            _minilm(recorded, peers["minilm"]),
            _stacks(folder, peers["sentence_transformers"]),
            _encoders(folder, peers["transformers"]),
        ]
    arguments.out.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    print(f"wrote {arguments.out}", file=sys.stderr)


def _head(versions: Mapping[str, str]) -> str:
    names = ("FlagEmbedding", "sentence-transformers", "transformers", "torch")
    told = ", ".join(f"{name} {versions[name]}" for name in names)
    return (
        "# Equal to the peers, side by side\n\n"
        f"Written by `benchmarks/equality.py`. Theirs: {told}. Ours: Tercet {tercet.__version__}, "
        f"torch {torch.__version__}. Everything in float32 on a CPU, with tiny checkpoints of random weights "
        "(M3: XLM-RoBERTa, 2 layers, 32 wide) and the packaged all-MiniLM-L6-v2. `make test` holds Tercet to "
        "these recordings within 1e-5, `make twins` to live peers."
    )


def _three_outputs(folder: Path, peer: Arrays) -> str:
    rows = []
    for name, case in cases.M3.items():
        ours = _m3(folder, name, cases.TEXTS)
        arrays = ours.numpy()
        pairs: tuple[str, ...] = ("-", "-")
        if "truncate_dim" not in case.options:
            mine, theirs = _pair_scores(folder, name), _scores(peer, f"{name}/alone")
            pairs = (_most(mine, theirs), _most(mine, _scores(peer, f"{name}/padded")))
        lexical = _theirs_lexical(peer, name, ours)
        rows.append(
            (
                name,
                _most(arrays.dense, peer[f"{name}/dense"]),
                _most(_table(ours.sparse), _table(lexical)),
                f"{len(lexical.token_ids)}",
                _most(arrays.multivector.vectors, peer[f"{name}/vectors"]),
                *pairs,
            )
        )
    columns = (
        "checkpoint",
        "dense",
        "lexical",
        "entries",
        "multi-vector",
        "pair scores",
        "padded pair scores",
    )
    return (
        "## FlagEmbedding's `BGEM3FlagModel`: largest difference of any number\n\n"
        + _markdown(columns, rows)
        + "\n\nThe last column is of pairs that share a batch with longer ones, where its padding floor is "
        "the difference (below). Not normalised, vectors are about five units long, so that scores of pairs "
        "reach 40 and differ in the same digits."
    )


def _one_text(folder: Path, peer: Arrays) -> str:
    ours, model = _m3(folder, SHOWN, cases.TEXTS), _model(folder, SHOWN)
    text = cases.TEXTS[SHOWN_TEXT]
    one = ours[SHOWN_TEXT]
    dense = peer[f"{SHOWN}/dense"][SHOWN_TEXT]
    assert one.dense is not None
    assert one.sparse is not None
    assert one.multivector is not None
    rows = [("dense", f"[{i}]", dense[i], float(one.dense[0, i])) for i in range(5)]
    [theirs] = _theirs_lexical(peer, SHOWN, ours)[SHOWN_TEXT].to_dicts()
    [mine] = one.sparse.to_dicts()
    for token_id in sorted(theirs.keys() | mine.keys()):
        token = model.tokenizer.id_to_token(token_id).replace("|", "\\|")
        rows.append(("lexical", f"`{token}`", theirs.get(token_id, 0.0), mine.get(token_id, 0.0)))
    start = int(peer[f"{SHOWN}/rows"][:SHOWN_TEXT].sum())
    vectors = peer[f"{SHOWN}/vectors"][start : start + int(peer[f"{SHOWN}/rows"][SHOWN_TEXT])]
    for row in (0, len(vectors) - 1):
        for column in range(2):
            found = float(one.multivector.vectors[row, column])
            rows.append(("multi-vector", f"[{row}, {column}]", vectors[row, column], found))
    for index, pair in enumerate(cases.PAIRS[:2]):
        scores = _pair_scores(folder, SHOWN)[:, index]
        for key, found in zip(KEYS, scores, strict=True):
            rows.append((f"score of {_quoted(pair)}", key, peer[f"{SHOWN}/alone/{key}"][index], found))
    body = [(kind, what, f"{t:.7f}", f"{o:.7f}", f"{abs(t - o):.1e}") for kind, what, t, o in rows]
    columns = ("output", "entry", "FlagEmbedding", "Tercet", "difference")
    return f"## One text, number by number\n\n`{text}` with the checkpoint *{SHOWN}*\n\n" + _markdown(
        columns, body
    )


def _floor(folder: Path, peer: Arrays) -> str:
    name = "m3 with matches below zero"
    ours = _pair_scores(folder, name)[0]
    rows = [
        (
            _quoted(pair),
            f"{peer[f'{name}/alone/colbert'][i]:.6f}",
            f"{peer[f'{name}/padded/colbert'][i]:.6f}",
            f"{ours[i]:.6f}",
        )
        for i, pair in enumerate(cases.PAIRS)
    ]
    columns = ("pair", "FlagEmbedding, alone", "FlagEmbedding, in a batch", "Tercet, always")
    return (
        "## Where we differ on purpose: the padding floor\n\n"
        "In a batch, FlagEmbedding pads documents with zero rows and takes them into the maximum, so that a "
        "best match below 0 becomes 0 as soon as a longer document shares the batch. Tercet pads nothing: "
        "its score is the one that FlagEmbedding gives the pair alone. Late-interaction scores of the "
        f"checkpoint *{name}*:\n\n" + _markdown(columns, rows)
    )


def _minilm(recorded: Path, peer: Arrays) -> str:
    texts = json.loads((recorded / "texts.json").read_text(encoding="utf-8"))
    found = tercet.load("minilm", precision="float32", device="cpu").encode(texts)
    ours, theirs = found.numpy().dense.astype(np.float64), peer["dense"].astype(np.float64)
    cosine = (ours * theirs).sum(1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)
    return (
        "## sentence-transformers on the packaged all-MiniLM-L6-v2\n\n"
        f"{len(texts)} docstrings of Python's standard library, {int(found.num_tokens.min())} to "
        f"{int(found.num_tokens.max())} tokens, {int(found.truncated.sum())} of them cut at 256: largest "
        f"1 - cosine {(1 - cosine).max():.1e}, largest difference of any number {_most(ours, theirs)}."
    )


def _stacks(folder: Path, peer: Arrays) -> str:
    rows = []
    for number, case in enumerate(cases.STACKS):
        model = tercet.load(
            cases.write(folder / f"stack{number}", case.name), precision="float32", device="cpu"
        )
        options = {OPTIONS.get(key, key): value for key, value in case.encode.items()}
        rows.append((case.name, _most(model.encode(cases.TEXTS, **options).numpy().dense, peer[case.name])))
    return (
        "## sentence-transformers on tiny stacks of every module: largest difference of any number\n\n"
        + _markdown(("stack", "difference"), rows)
    )


def _encoders(folder: Path, peer: Arrays) -> str:
    rows = []
    for number, name in enumerate(cases.ENCODERS):
        path = cases.write(folder / f"encoder{number}", name)
        model = tercet.load(path, precision="float32", device="cpu", pooling="mean")
        ids = model.tokenizer.encode(cases.TEXTS, max_length=model.max_length).ids
        engine = ENGINES[model.plan.scheme.engine].open(model.checkpoint, model.plan)
        rows.append((name, _most(engine.forward(Batch.from_ids(ids)).numpy(), peer[f"{name}/hidden"])))
    return "## transformers: largest difference of any hidden state\n\n" + _markdown(
        ("encoder", "difference"), rows
    )


def _model(folder: Path, name: str) -> Embedder:
    path = folder / name.replace(" ", "_")
    if not path.exists():
        cases.write(path, name)
    return tercet.load(path, precision="float32", device="cpu")


def _m3(folder: Path, name: str, texts: Sequence[str]) -> Embeddings:
    case = cases.M3[name]
    return _model(folder, name).encode(
        texts,
        outputs=OUTPUTS,
        max_length=case.max_length,
        dimensions=case.options.get("truncate_dim"),
        normalize=case.options.get("normalize_embeddings"),
    )


def _pair_scores(folder: Path, name: str) -> Any:
    """(keys, pairs)."""
    queries, documents = (_m3(folder, name, [pair[side] for pair in cases.PAIRS]) for side in (0, 1))
    found = score_pairs(queries, documents, weights=WEIGHTS).to_dict()
    return np.array([found[key] for key in KEYS])


def _scores(peer: Arrays, prefix: str) -> Any:
    return np.array([peer[f"{prefix}/{key}"] for key in KEYS])


def _theirs_lexical(peer: Arrays, name: str, ours: Embeddings) -> SparseVectors:
    assert ours.sparse is not None
    return SparseVectors(
        torch.from_numpy(peer[f"{name}/token_ids"]),
        torch.from_numpy(peer[f"{name}/weights"]),
        torch.tensor([0, *peer[f"{name}/entries"].tolist()]).cumsum(0),
        ours.sparse.vocabulary,
    )


def _table(sparse: SparseVectors | None) -> Any:
    assert sparse is not None
    return sparse.to_scipy().toarray()


def _most(ours: Any, theirs: Any) -> str:
    """The largest absolute difference."""
    return f"{np.abs(np.asarray(ours, np.float64) - np.asarray(theirs, np.float64)).max():.1e}"


def _quoted(pair: Sequence[str]) -> str:
    return " / ".join(f'"{text}"' for text in pair)


def _markdown(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    main()
