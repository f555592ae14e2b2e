"""A small collection and scored pairs, made of real texts; the same on both sides of the twin tests."""

from __future__ import annotations

__all__ = ["METRICS", "SIMILARITIES", "collection", "pairs"]

from collections.abc import Sequence

# Tercet's name -> trec_eval's.
METRICS = {
    "ndcg@1": "ndcg_cut_1",
    "ndcg@10": "ndcg_cut_10",
    "recall@5": "recall_5",
    "recall@100": "recall_100",
    "map": "map",
    "map@10": "map_cut_10",
    "mrr": "recip_rank",
    "precision@5": "P_5",
    "hit_rate@5": "success_5",
}
# As both sides name them.
SIMILARITIES = ("cosine", "dot", "euclidean", "manhattan")

Judgements = dict[str, dict[str, int]]


def collection(texts: Sequence[str]) -> tuple[dict[str, str], dict[str, str], Judgements]:
    """(documents, queries, judgements): a query is a text's first line; texts near it are judged too."""
    documents = {f"d{place}": text for place, text in enumerate(texts)}
    queries: dict[str, str] = {}
    qrels: Judgements = {}
    for place, text in enumerate(texts):
        first, _, rest = text.strip().partition("\n")
        if len(first.split()) < 4 or not rest.strip():
            continue
        name = f"q{place}"
        queries[name] = first
        near = {f"d{(place + step) % len(texts)}": step % 3 for step in (1, 2, 3, 5, 8, 13)}
        qrels[name] = {**near, f"d{place}": 3}
    return documents, queries, qrels


def pairs(texts: Sequence[str]) -> list[tuple[str, str, float]]:
    """A text's first half with its own second half, or with another's; the scores repeat."""
    usable = [text.split() for text in texts if len(text.split()) >= 12][:80]
    made = []
    for place, words in enumerate(usable):
        other = words if place % 3 == 0 else usable[(place * 7 + 3) % len(usable)]
        half = len(words) // 2
        made.append((" ".join(words[:half]), " ".join(other[len(other) // 2 :]), float(5 - place % 3 * 2)))
    return made
