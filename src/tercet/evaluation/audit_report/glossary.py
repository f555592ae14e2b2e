"""What the words and numbers of the page mean, and where they come from."""

from __future__ import annotations

__all__ = ["GLOSSARY"]

# Word, meaning, source.
GLOSSARY: tuple[tuple[str, str, str], ...] = (
    (
        "Drift",
        "1 − the cosine of a text’s vector and the same text’s vector by the reference: 0 means the same "
        "direction. Computed as half the squared distance of both unit vectors, in float64, so that tiny "
        "drifts are not lost in the subtraction. p50 and p99: half, and 99 in 100, of the texts drift "
        "less. Of multi-vectors, the mean over a text’s vectors.",
        "",
    ),
    (
        "Overlap@10",
        "Share of float32’s first ten documents that are still among the first ten, mean over the queries.",
        "",
    ),
    (
        "Rank-biased overlap (RBO)",
        "Agreement of two rankings at each depth, the first ranks weighted most: with p = 0.9 the first "
        "ten have 86 % of the weight.",
        "Webber, Moffat & Zobel, A similarity measure for indefinite rankings, ACM TOIS 2010.",
    ),
    (
        "Kendall’s τ",
        "Pairs of documents in the same order less pairs in the opposite order, over all pairs, with "
        "allowance for ties (τ-b): 1 is the same order, 0 is chance, −1 the reverse.",
        "Kendall, The treatment of ties in ranking problems, Biometrika 1945.",
    ),
    (
        "nDCG@10, recall@k, MRR@10",
        "Against the given judgements: gain of the first ten, less for later ranks, over that of the best "
        "possible ranking; share of the relevant documents among the first k; mean of 1 / rank of the first "
        "relevant one. As trec_eval computes them, with linear gain unless a setting says otherwise.",
        "Järvelin & Kekäläinen, Cumulated gain-based evaluation of IR techniques, ACM TOIS 2002.",
    ),
    (
        "Interval",
        "Where the mean change lies with 95 % confidence, from bootstrap samples of the queries, each with "
        "its value before and after.",
        "Efron & Tibshirani, An Introduction to the Bootstrap, 1993.",
    ),
    (
        "p value",
        "How often a mean change at least as large comes up where the sign of each query’s change is left to "
        "chance (paired randomisation test, two-sided). A large p is no proof that nothing was lost: the "
        "interval says how much could be.",
        "Smucker, Allan & Carterette, A comparison of statistical significance tests for IR evaluation, "
        "CIKM 2007.",
    ),
    (
        "Ties",
        "Pairs of documents with equal scores for a query. Narrow formats have fewer numbers, and so make "
        "ties, whose order is then left to chance.",
        "",
    ),
    (
        "Overflow, zeroed, imprecise",
        "Weights beyond a format’s largest number; weights other than 0 that become 0; weights off by more "
        "than 1 %. float16 ends at 65,504 and bfloat16 at 3.39·10³⁸; float16 keeps 11 bits of a number, "
        "bfloat16 8.",
        "IEEE 754-2019; the bfloat16 format of Google and Intel.",
    ),
    (
        "Rescoring",
        "A search of small stored vectors finds more candidates than asked for, and the full vector of the "
        "query orders them again.",
        "Yamada, Asai & Hajishirzi, Efficient passage retrieval with hashing, ACL 2021.",
    ),
    (
        "Dimensions",
        "The first so many numbers of a vector, at unit length again. Good only where a model was trained "
        "for it.",
        "Kusupati et al., Matryoshka representation learning, NeurIPS 2022.",
    ),
    (
        "Speed, memory",
        "Texts a second from text to vectors, schemes timed in turns. Peak memory is the most that a "
        "process of its own had resident, libraries included. MB and GB are decimal.",
        "",
    ),
)
