"""What an audit found: a row for each scheme and head, what storing costs, where it goes wrong, a verdict."""

from __future__ import annotations

__all__ = [
    "AUDIT_VERSION",
    "AuditResult",
    "AuditRow",
    "LayerRow",
    "MetricChange",
    "RankChange",
    "StoredRow",
    "TensorRow",
    "Verdict",
    "WorstText",
]

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from tercet.errors import InputError

# Of the layout below; raise it when a field comes, goes or changes its meaning.
AUDIT_VERSION = 1


@dataclass(frozen=True, slots=True)
class MetricChange:
    """One metric over the judged queries, against the same of the float32 reference.

    Attributes:
        name: "ndcg@10", "recall@100", "mrr@10".
        value, reference, change: means over the queries; change is value - reference.
        low, high: 95 % interval of the change, by a paired bootstrap.
        p_value: two-sided, of a paired randomisation test.
        queries: how many there were.
    """

    name: str
    value: float
    reference: float
    change: float
    low: float
    high: float
    p_value: float
    queries: int


@dataclass(frozen=True, slots=True)
class WorstText:
    """A text that drifts more than others.

    Attributes:
        id: of the document, or of the query behind "query ".
        text: its beginning.
        drift: 1 - cosine.
    """

    id: str
    text: str
    drift: float


@dataclass(frozen=True, slots=True)
class RankChange:
    """The best documents of one query, before and after.

    Attributes:
        query: its id.
        documents: (id, rank in the reference, rank in this scheme), ranks from 1; None beyond the first 10.
        rank_biased_overlap: of both rankings.
    """

    query: str
    documents: tuple[tuple[str, int | None, int | None], ...]
    rank_biased_overlap: float


@dataclass(frozen=True, slots=True)
class AuditRow:
    """One scheme and one head. What does not apply to a head, or could not be measured, is None.

    Attributes:
        label, engine: of the scheme: "float16", "torch_packed".
        head: "dense", "sparse", "multivector", or "combined": the weighted sum of all scores.
        float32_layers: encoder layers of a mixed plan that are computed in float32; empty of a plain one.
        drift_reference: what the drift is told against: "float64" or "float32".
        drift_texts: how many texts the drift is of.
        drift_mean, drift_p50, drift_p99, drift_worst: of 1 - cosine.
        drift_histogram: (lower bound, upper bound, texts) of 1 - cosine; the first bound of exact zeros is 0.
        worst_texts: those that drift most, the worst first.
        norm_error_mean, norm_error_worst: |length / length of the reference - 1|.
        sparse_weight_error_mean, sparse_weight_error_worst: |weight - weight of the reference|.
        tokens_gained, tokens_lost: of lexical weights.
        overlap_at_10, rank_biased_overlap, kendall_tau: means over the queries, against float32's rankings of
            all documents.
        ties_created, ties_broken: pairs of documents whose scores became equal, or the reverse.
        ranked_queries: how many rankings were compared.
        ranked_by: "queries", or "documents" where no queries were given and some documents stood for them.
        rank_changes: of the queries that change most.
        metrics: where there are judgements.
        texts_per_second, tokens_per_second: of the whole run.
        relative_speed: times float32, both timed in turns on the same texts.
        quiet: False where others disturbed that timing: it decides nothing then.
        load_seconds: from a fresh process with its imports done to a model that is ready.
        peak_bytes: most memory that the process of this scheme had resident.
        bytes_per_text: of this head in float32 output, without what an index adds to it.
        recomputed: texts that left the scheme's range and were computed again in float32.
        failure: why the scheme does not run here; nothing else is known then.
    """

    label: str
    engine: str
    head: str
    float32_layers: tuple[int, ...] = ()
    drift_reference: str = "float64"
    drift_texts: int = 0
    drift_mean: float | None = None
    drift_p50: float | None = None
    drift_p99: float | None = None
    drift_worst: float | None = None
    drift_histogram: tuple[tuple[float, float, int], ...] = ()
    worst_texts: tuple[WorstText, ...] = ()
    norm_error_mean: float | None = None
    norm_error_worst: float | None = None
    sparse_weight_error_mean: float | None = None
    sparse_weight_error_worst: float | None = None
    tokens_gained: int | None = None
    tokens_lost: int | None = None
    overlap_at_10: float | None = None
    rank_biased_overlap: float | None = None
    kendall_tau: float | None = None
    ties_created: int | None = None
    ties_broken: int | None = None
    ranked_queries: int = 0
    ranked_by: str = "queries"
    rank_changes: tuple[RankChange, ...] = ()
    metrics: tuple[MetricChange, ...] = ()
    texts_per_second: float | None = None
    tokens_per_second: float | None = None
    relative_speed: float | None = None
    quiet: bool = True
    load_seconds: float | None = None
    peak_bytes: int | None = None
    bytes_per_text: float | None = None
    recomputed: int = 0
    failure: str | None = None

    @property
    def name(self) -> str:
        """Short and unique among schemes: "float16 (torch_packed)", with the layers kept in float32."""
        layers = ", ".join(map(str, self.float32_layers))
        return f"{self.label} ({self.engine}{f', layers {layers} in float32' if layers else ''})"

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> AuditRow:
        """The inverse of `asdict`."""
        changed: dict[str, Any] = {
            "float32_layers": tuple(data["float32_layers"]),
            "drift_histogram": tuple((low, high, count) for low, high, count in data["drift_histogram"]),
            "worst_texts": tuple(WorstText(**text) for text in data["worst_texts"]),
            "metrics": tuple(MetricChange(**metric) for metric in data["metrics"]),
            "rank_changes": tuple(
                RankChange(
                    change["query"],
                    tuple((name, before, after) for name, before, after in change["documents"]),
                    change["rank_biased_overlap"],
                )
                for change in data["rank_changes"]
            ),
        }
        return cls(**{**data, **changed})


@dataclass(frozen=True, slots=True)
class StoredRow:
    """One way to store float32's vectors, against the rankings of what was not shortened or quantised.

    Attributes:
        head: "dense", "sparse" or "multivector".
        precision: "float32", "float16", "int8", "binary", "ubinary".
        dimensions: so many are kept.
        pool_factor: 1, or one vector for so many of a text; of multi-vectors.
        rescored: whether four times as many candidates were ordered again by the full query.
        bytes_per_text: as stored, without what an index adds to it.
        overlap_at_10, rank_biased_overlap: means over the queries.
        metrics: where there are judgements.
        clipped: values outside the calibrated ranges of int8.
    """

    head: str
    precision: str
    dimensions: int
    pool_factor: float
    rescored: bool
    bytes_per_text: float
    overlap_at_10: float
    rank_biased_overlap: float
    metrics: tuple[MetricChange, ...] = ()
    clipped: int = 0

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> StoredRow:
        """The inverse of `asdict`."""
        return cls(**{**data, "metrics": tuple(MetricChange(**metric) for metric in data["metrics"])})


@dataclass(frozen=True, slots=True)
class LayerRow:
    """One layer of the encoder, or a module behind it.

    Attributes:
        layer: "embeddings", "layer 17", "2_Dense".
        index: number of the encoder's layer, None of the others.
        largest: largest activation in float32 on the sample; None where none was seen.
        where: the part of the layer that it was seen in.
        sentence: what that means for float16 and bfloat16.
        unsafe: formats that cannot hold it.
        drift: label -> mean 1 - cosine of the hidden states that this layer adds by itself.
        total_drift: label -> the same of what has come together up to here.
        lost: label -> tokens whose state this layer makes infinite by itself.
    """

    layer: str
    index: int | None
    largest: float | None
    where: str
    sentence: str
    unsafe: tuple[str, ...]
    drift: Mapping[str, float]
    total_drift: Mapping[str, float]
    lost: Mapping[str, int]

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> LayerRow:
        """The inverse of `asdict`."""
        return cls(**{**data, "unsafe": tuple(data["unsafe"])})


@dataclass(frozen=True, slots=True)
class TensorRow:
    """A tensor whose weights lose something in a format.

    Attributes:
        name: as the checkpoint has it; of a module behind its place.
        shape: its sizes.
        format: "float16", "bfloat16" or "int8".
        numbers: how many weights it has.
        overflow: weights that become infinite.
        zeroed: weights other than 0 that become 0.
        imprecise: weights with a relative error above 1 %; of int8 those that become 0.
        worst_error: largest relative error of a weight; of int8 of an output's row.
        largest: largest magnitude.
    """

    name: str
    shape: tuple[int, ...]
    format: str
    numbers: int
    overflow: int
    zeroed: int
    imprecise: int
    worst_error: float
    largest: float

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> TensorRow:
        """The inverse of `asdict`."""
        return cls(**{**data, "shape": tuple(data["shape"])})


@dataclass(frozen=True, slots=True)
class Verdict:
    """The fastest scheme within the budget.

    Attributes:
        label, engine: of the scheme.
        float32_layers: encoder layers that it computes in float32, where it is a mixed plan.
        budget: as it was asked for, or the default.
        reason: why it, in a sentence with numbers.
        others: a sentence about each other scheme.
        decided: False where the timing was disturbed, and float32 is told for want of a better knowledge.
    """

    label: str
    engine: str
    float32_layers: tuple[int, ...]
    budget: str
    reason: str
    others: tuple[str, ...]
    decided: bool

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Verdict:
        """The inverse of `asdict`."""
        return cls(
            **{**data, "float32_layers": tuple(data["float32_layers"]), "others": tuple(data["others"])}
        )


@dataclass(frozen=True, slots=True)
class AuditResult:
    """The result of one audit.

    Attributes:
        machine: device, name, threads, features, kernels.
        versions: tercet, torch, python.
        model: what the user called it.
        weights_sha256: of its weights.
        texts: documents, queries, judged, tokens, truncated, sample; sha256 of the data.
        settings: everything that was asked for.
        rows: of each scheme and head; the float32 reference first.
        stored: ways to store vectors.
        layers: the encoder's layers and what stands behind it.
        tensors: those that lose something.
        verdict: what to take.
        notes: sentences that a reader of the figures should know.
        seconds: that the audit took, what was taken over from an interrupted one counted.
    """

    machine: Mapping[str, Any]
    versions: Mapping[str, str]
    model: str
    weights_sha256: str
    texts: Mapping[str, Any]
    settings: Mapping[str, Any]
    rows: tuple[AuditRow, ...]
    stored: tuple[StoredRow, ...]
    layers: tuple[LayerRow, ...]
    tensors: tuple[TensorRow, ...]
    verdict: Verdict
    notes: tuple[str, ...]
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Plain values, and the version of this format."""
        return {"audit_version": AUDIT_VERSION, **asdict(self)}

    @classmethod
    def from_json(cls, data: object, where: str = "the audit") -> AuditResult:
        """The inverse of `to_json`.

        Raises:
            InputError: naming `where`: it is something else, or of another version.
        """
        if not isinstance(data, dict) or data.get("audit_version") != AUDIT_VERSION:
            raise InputError(
                f"{where}: is no result of an audit of version {AUDIT_VERSION}. Run `tercet audit` again."
            )
        found = {name: value for name, value in data.items() if name != "audit_version"}
        expected = {field.name for field in fields(cls)}
        if found.keys() != expected:
            named = ", ".join(sorted(found.keys() ^ expected))
            raise InputError(f"{where}: unknown or missing: {named}. Run `tercet audit` again.")
        try:
            return cls(
                **{
                    **found,
                    "rows": tuple(AuditRow.from_json(row) for row in found["rows"]),
                    "stored": tuple(StoredRow.from_json(row) for row in found["stored"]),
                    "layers": tuple(LayerRow.from_json(row) for row in found["layers"]),
                    "tensors": tuple(TensorRow.from_json(row) for row in found["tensors"]),
                    "verdict": Verdict.from_json(found["verdict"]),
                    "notes": tuple(found["notes"]),
                }
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{where}: cannot be read ({error}). Run `tercet audit` again.") from error
