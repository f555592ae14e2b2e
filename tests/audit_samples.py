"""Audits that nobody ran: as many schemes and heads as a test wants, with plausible figures by formula."""

from __future__ import annotations

import math
from dataclasses import replace

from tercet.evaluation.audit_result import (
    AuditResult,
    AuditRow,
    LayerRow,
    MetricChange,
    RankChange,
    StoredRow,
    TensorRow,
    Verdict,
    WorstText,
)

# label, engine, mean drift, times float32
SCHEMES = (
    ("float32", "torch_packed", 2.1e-14, 1.0),
    ("float16", "torch_packed", 3.1e-7, 0.71),
    ("float16", "native_cpu", 2.9e-7, 1.62),
    ("bfloat16", "torch_packed", 2.2e-5, 1.18),
    ("int8", "native_cpu", 3.7e-4, 2.43),
    ("int8-fast", "native_cpu", 1.1e-3, 2.91),
    ("int8", "onednn", 1.2e-3, 1.94),
    ("float8", "torch_packed", 4.0e-3, 0.88),
)
TEXTS = (
    "an experimental study of a wing in a propeller slipstream was made in order to determine the spanwise "
    "distribution of the lift increase due to slipstream at different angles of attack of the wing and at "
    "different free stream to slipstream velocity ratios",
    "Überschallströmung an gepfeilten Flügeln — ein Überblick",
    "<b>not bold</b> & \"quoted\" 'text' </td></table><script>alert(1)</script>",
    "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft" * 3,
)


def result(
    schemes: int = 4,
    heads: tuple[str, ...] = ("dense",),
    *,
    judged: bool = True,
    ranked: bool = True,
    failed: tuple[int, ...] = (),
    layers: int = 6,
    budget: str = "ndcg<=0.002",
    model: str = "sentence-transformers/all-MiniLM-L6-v2",
) -> AuditResult:
    """An audit of so many schemes, the first of them the reference.

    Args:
        schemes: 1 to 8.
        heads: of each scheme.
        judged: whether there are metrics.
        ranked: whether rankings were compared.
        failed: places of schemes that do not run.
        layers: of the encoder; 0 looks at none.
        budget: of the verdict.
        model: its name.
    """
    rows = tuple(
        row(place, head, judged=judged and ranked, ranked=ranked, failed=place in failed)
        for place in range(schemes)
        for head in heads
    )
    best = max((one for one in rows if one.failure is None), key=lambda one: one.relative_speed or 0.0)
    labels = tuple(dict.fromkeys(one.label for one in rows[len(heads) :] if one.failure is None))
    return AuditResult(
        machine={"device": "cpu", "name": "AMD EPYC 9B14", "threads": 2, "features": ["avx2", "avx512_vnni"]},
        versions={"tercet": "0.1.0", "torch": "2.13.0", "python": "3.11.7"},
        model=model,
        weights_sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        texts={
            "documents": 1400,
            "queries": 225 if ranked else 0,
            "judged": 185 if judged else 0,
            "tokens": 283_141,
            "truncated": 3,
            "sample": 256,
            "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        },
        settings={
            "precisions": ["float32", "float16", "int8"],
            "reference": "float64",
            "output_dtypes": ["float32", "int8"],
            "dimensions": [384, 128],
            "budget": budget,
            "prompt": None,
            "rescore": True,
        },
        rows=rows,
        stored=stored(heads, judged=judged) if ranked else (),
        layers=tuple(layer(place, layers, labels) for place in range(layers + 1)) if layers else (),
        tensors=(
            TensorRow(
                "encoder.layer.4.output.dense.weight", (384, 1536), "float16", 589_824, 0, 312, 1840, 1.0, 3.2
            ),
            TensorRow("2_Dense/linear.weight", (384, 384), "float16", 147_456, 17, 0, 17, math.inf, 71_204.0),
        ),
        verdict=Verdict(
            best.label,
            best.engine,
            best.float32_layers,
            budget,
            f"{best.name} is the fastest that loses at most 0.002 of nDCG@10: {best.relative_speed:.2f} "
            f"times "
            "float32's speed, nDCG@10 changes by −0.0003 (95 % interval −0.0011 to +0.0005, p = 0.43).",
            tuple(f"{one.name}: slower." for one in rows if one.head == heads[0] and one is not best),
            True,
        ),
        notes=("3 texts were cut at 256 tokens.",),
        seconds=418.3,
    )


def row(place: int, head: str, *, judged: bool, ranked: bool, failed: bool) -> AuditRow:
    """One scheme and head; later heads drift a little more."""
    label, engine, drift, speed = SCHEMES[place]
    if failed:
        return AuditRow(
            label,
            engine,
            head,
            failure="this CPU has no instructions for it; torch would take 40 times as long",
        )
    drift *= {"dense": 1.0, "sparse": 2.3, "multivector": 1.4}.get(head, 1.0)
    combined = head == "combined"
    loss = min(0.3, 40.0 * drift) + (0.002 if place else 0.0)
    change = -drift * 1.9 + 0.0004 * ((place % 3) - 1)
    wide = 0.0006 + drift
    found = AuditRow(
        label,
        engine,
        head,
        drift_texts=1400,
        texts_per_second=121.4 * speed,
        tokens_per_second=24_561.0 * speed,
        relative_speed=speed,
        load_seconds=0.31 + 0.08 * place,
        peak_bytes=int(4.4e8 / (1 + 0.4 * place)),
        recomputed=2 if label == "float16" else 0,
    )
    if not combined:
        found = replace(
            found,
            drift_mean=drift,
            drift_p50=drift * 0.9,
            drift_p99=drift * 2.8,
            drift_worst=drift * 7.0,
            drift_histogram=histogram(drift),
            worst_texts=tuple(
                WorstText(f"doc{place}{number}", text, drift * (7.0 - number))
                for number, text in enumerate(TEXTS)
            ),
            norm_error_mean=drift / 9.0,
            norm_error_worst=drift / 2.0,
            bytes_per_text={"dense": 1536.0, "sparse": 612.4, "multivector": 251_000.0}[head],
        )
    if head == "sparse":
        found = replace(
            found,
            sparse_weight_error_mean=drift,
            sparse_weight_error_worst=drift * 30.0,
            tokens_gained=12 * place,
            tokens_lost=9 * place,
        )
    if ranked:
        found = replace(
            found,
            overlap_at_10=1.0 - loss if place else 1.0,
            rank_biased_overlap=1.0 - loss * 0.8 if place else 1.0,
            kendall_tau=1.0 - loss * 1.5 if place else 1.0,
            ties_created=place,
            ties_broken=0,
            ranked_queries=225,
            rank_changes=(changed_ranking(place),) if place else (),
        )
    if judged:
        found = replace(
            found,
            metrics=tuple(
                MetricChange(name, base + change, base, change, change - wide, change + wide, p, 185)
                if place
                else MetricChange(name, base, base, 0.0, 0.0, 0.0, 1.0, 185)
                for name, base, p in (
                    ("ndcg@10", 0.4127, 0.43),
                    ("recall@100", 0.7841, 0.0004),
                    ("mrr@10", 0.5526, 0.012),
                )
            ),
        )
    return found


def histogram(drift: float) -> tuple[tuple[float, float, int], ...]:
    """A bell on a logarithmic axis around the drift."""
    start = math.log10(drift) - 0.8
    return tuple(
        (
            10 ** (start + step / 10),
            10 ** (start + (step + 1) / 10),
            round(180 * math.exp(-(((step - 7) / 3.2) ** 2))),
        )
        for step in range(17)
    )


def changed_ranking(place: int) -> RankChange:
    """Ten ranks in which a few change, more of them in later schemes."""
    after: list[int | None] = list(range(1, 11))
    for step in range(min(place, 4)):
        one, other = 2 + 2 * step, 3 + 2 * step
        after[one], after[other % 10] = after[other % 10], after[one]
    documents = [(f"doc{rank * 37}", rank, after[rank - 1]) for rank in range(1, 11)]
    if place > 2:
        documents[8] = (documents[8][0], 9, None)
        documents[9] = (documents[9][0], 10, 9)
        documents.append(("doc999", None, 10))
    return RankChange(f"{100 + place}", tuple(documents), 1.0 - 0.03 * place)


def stored(heads: tuple[str, ...], *, judged: bool) -> tuple[StoredRow, ...]:
    """float32 to bits, each with and without rescoring."""
    found = []
    for precision, width, loss in (
        ("float32", 4.0, 0.0),
        ("float16", 2.0, 0.0004),
        ("int8", 1.0, 0.011),
        ("binary", 0.125, 0.31),
    ):
        for dimensions, worse in ((384, 0.0), (128, 0.12)):
            for rescored in (False, True):
                overlap = 1.0 - (loss + worse) * (0.2 if rescored else 1.0)
                metrics = (
                    (
                        MetricChange(
                            "ndcg@10",
                            0.4127 * overlap,
                            0.4127,
                            0.4127 * (overlap - 1),
                            -0.01,
                            0.001,
                            0.2,
                            185,
                        ),
                    )
                    if judged
                    else ()
                )
                for head in heads:
                    if head == "dense" or (head == "multivector" and dimensions == 128):
                        pooled = 1.0 if head == "dense" else 2.0
                        rows_a_text = 1.0 if head == "dense" else 60.0
                        found.append(
                            StoredRow(
                                head,
                                precision,
                                dimensions,
                                pooled,
                                rescored,
                                dimensions * width * rows_a_text,
                                overlap,
                                1.0 - (1.0 - overlap) * 0.8,
                                metrics,
                                41 if precision == "int8" else 0,
                            )
                        )
    return tuple(found)


def layer(place: int, layers: int, labels: tuple[str, ...]) -> LayerRow:
    """One layer; the one before the last has activations beyond float16."""
    large = 71_204.0 if place == layers - 1 else 8.0 + 3.0 * place**2
    unsafe = ("float16",) if large > 65_504 else ()
    name = "embeddings" if place == 0 else f"layer {place - 1}"
    sentence = (
        f"{name}: 71,204 > 65,504: float16 is unsafe here, bfloat16 is not"
        if unsafe
        else f"{name}: at most {large:g}: float16 and bfloat16 are safe here"
    )
    scale = {"float16": 1e-8, "bfloat16": 1e-6, "int8": 3e-5, "int8-fast": 9e-5, "float8": 3e-4}
    own = {label: scale[label] * (1 + (place * 7 % 5)) for label in labels}
    total = {label: value * (place + 1) for label, value in own.items()}
    lost = {label: 3 if unsafe and label == "float16" else 0 for label in labels}
    index = place - 1 if place else None
    return LayerRow(name, index, large, "feed_forward.down", sentence, unsafe, own, total, lost)
