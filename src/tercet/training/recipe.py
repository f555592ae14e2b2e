"""What `tercet train` is asked to do: one frozen dataclass, read from YAML."""

from __future__ import annotations

__all__ = [
    "BatchRecipe",
    "CheckpointRecipe",
    "DataRecipe",
    "HeadRecipe",
    "LoraRecipe",
    "LossRecipe",
    "OptimizerRecipe",
    "OutputRecipe",
    "RerankerRecipe",
    "TrainRecipe",
    "ValidationRecipe",
    "read_recipe",
]

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from tercet.errors import InputError
from tercet.training.settings import check_settings, limits, read_settings
from tercet.training.yaml_file import read_yaml

Head: TypeAlias = Literal["dense", "sparse", "multivector"]
Kind: TypeAlias = Literal["normal", "only_1neg", "symmetric_class", "symmetric_sts", "symmetric_clustering"]


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputRecipe:
    """Where the model goes.

    Attributes:
        folder: new or empty.
        dtype: of the saved weights.
    """

    folder: str
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class DataRecipe:
    """One file of examples, and how batches are made of it.

    Attributes:
        path: .jsonl (FlagEmbedding's or sentence-transformers' keys), .csv, .tsv or .parquet; text formats
            also with .gz.
        kind: FlagEmbedding's `type`; null for what the file's own lines say, else "normal". "only_1neg": one
            negative a query. "symmetric_class": of fewer negatives than the group takes none comes twice.
            "symmetric_sts" and "symmetric_clustering": the query prompt stands before passages, too. All
            symmetric kinds: half the texts in a batch.
        group_size: passages of each query, the positive among them; null for 8 of a file with negatives, and
            1 of a file without.
        in_batch_negatives: whether a query is compared with the passages of the others.
        query_prompt, document_prompt: put before each text; null for the model's own. A line's own `prompt`
            outranks the query prompt.
        weight: how often each example comes in an epoch; 0.5 takes a random half of them anew each time.
        batch_texts: queries in a batch of this file; null for the recipe's.
        max_examples: only so many, the first ones; null for all.
    """

    path: str
    kind: Kind | None = None
    group_size: int | None = limits(None, least=1, most=1024)
    in_batch_negatives: bool = True
    query_prompt: str | None = None
    document_prompt: str | None = None
    weight: float = limits(1.0, above=0.0, most=100.0)
    batch_texts: int | None = limits(None, least=1)
    max_examples: int | None = limits(None, least=1)

    def __post_init__(self) -> None:
        check_settings(self)
        if self.group_size == 1 and not self.in_batch_negatives:
            raise InputError(
                "group_size is 1 without in_batch_negatives, which leaves a query nothing to be told from. "
                "Allow them, or raise group_size (tercet mine finds negatives)."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class LossRecipe:
    """One term of the loss.

    Attributes:
        name: of the loss.
        head: which vectors it compares; null for a loss that takes all of them.
        weight: its factor in the sum.
        options: its own keywords, such as temperature.
    """

    name: str
    head: Head | None = None
    weight: float = limits(1.0, above=0.0)
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadRecipe:
    """Heads that the model gets if it does not have them yet, with random weights.

    Attributes:
        sparse: a lexical weight a token.
        multivector: width of a vector a token; null for none.
    """

    sparse: bool = False
    multivector: int | None = limits(None, least=1, most=65536)

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class RerankerRecipe:
    """How pairs are cut, where a reranker is trained; as `Reranker.score` cuts them.

    Attributes:
        max_length: most tokens of a pair, special tokens included; null for the model's own limit.
        truncation: "longest_first" cuts the longer text of a pair, then both (sentence-transformers);
            "only_second" the query to `query_max_length` and then the passage alone (FlagEmbedding).
        query_max_length: with "only_second"; null for 3/4 of the longest pair.
    """

    max_length: int | None = limits(None, least=5)
    truncation: Literal["longest_first", "only_second"] = "longest_first"
    query_max_length: int | None = limits(None, least=1)

    def __post_init__(self) -> None:
        check_settings(self)
        if self.query_max_length is not None and self.truncation != "only_second":
            raise InputError(
                "reranker.query_max_length belongs to truncation: only_second; with longest_first the longer "
                "text is cut. Leave it out, or give both."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraRecipe:
    """Adapters in place of the encoder's own weights (LoRA).

    Attributes:
        rank: of each adapter.
        alpha: an adapter's part is multiplied by alpha / rank.
        dropout: of what enters an adapter.
        layers: which linear layers get one.
        folder: where the adapters go alone, too, in the format of peft; null for nowhere.
    """

    rank: int = limits(16, least=1, most=4096)
    alpha: float = limits(32.0, above=0.0)
    dropout: float = limits(0.0, least=0.0, most=0.99)
    layers: Literal["all", "attention", "feed_forward"] = "all"
    folder: str | None = None

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRecipe:
    """What one step takes.

    Attributes:
        texts: queries in a batch; null where tokens decide.
        tokens: most tokens of a batch's queries and passages; null where texts decide. Both may be given.
        accumulate: batches whose gradients make one step.
        same_source: all examples of a batch are of one file. Where not, they are drawn from those files that
            have the same group size and in-batch rule.
        by_length: examples of about one length stand together.
        forward_tokens: most tokens whose activations are held at a time (GradCache); null for a whole batch.
        negatives_across_devices: queries are compared with the passages of all devices.
    """

    texts: int | None = limits(None, least=1)
    tokens: int | None = limits(None, least=1)
    accumulate: int = limits(1, least=1)
    same_source: bool = True
    by_length: bool = True
    forward_tokens: int | None = limits(None, least=1)
    negatives_across_devices: bool = False

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerRecipe:
    """AdamW and its schedule.

    Attributes:
        learning_rate: at its highest.
        head_learning_rate: of heads; null for the same.
        schedule: after the warm-up.
        warmup: part of all steps in which the rate rises from 0.
        weight_decay: of matrices; biases and norms have none.
        max_gradient_norm: longer gradients are cut to it; null leaves them.
    """

    learning_rate: float = limits(1e-5, above=0.0, most=10.0)
    head_learning_rate: float | None = limits(None, above=0.0, most=10.0)
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    warmup: float = limits(0.1, least=0.0, most=1.0)
    weight_decay: float = limits(0.0, least=0.0)
    max_gradient_norm: float | None = limits(1.0, above=0.0)

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationRecipe:
    """A collection that the model is measured on while it is trained.

    Attributes:
        collection: its folder, in a layout that `tercet evaluate` reads.
        split: of the judgements; null for test, else dev.
        every: steps between two measurements; null for once an epoch.
        metric: what decides which checkpoint is the best one.
        head: whose metric; null for the mean of all heads that are trained.
        run: of a reranker: what a first stage found in the collection (TREC), which is ranked anew. Null
            where that is a .jsonl file in which each query has its own candidates (query, pos, neg).
        depth: documents of each query that a reranker reads, the best of `run`.
        patience: measurements without a better one before the run ends; null for none.
    """

    collection: str
    split: str | None = None
    every: int | None = limits(None, least=1)
    metric: str = "ndcg@10"
    head: Head | None = None
    run: str | None = None
    depth: int = limits(100, least=1)
    patience: int | None = limits(None, least=1)

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointRecipe:
    """States of the run, from which it can be taken up again.

    Attributes:
        every: steps between two; null for the end, interruptions and measurements alone.
        keep: of the newest.
    """

    every: int | None = limits(500, least=1)
    keep: int = limits(2, least=1)

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainRecipe:
    """A whole run.

    Attributes:
        model: a folder, a hub id, or minilm.
        revision: commit, tag or branch on the hub.
        output, data, losses, heads, batch, optimizer, validation, checkpoints: see their classes.
        pooling: in place of the model's own: cls, mean, lasttoken, max, weightedmean, mean_sqrt_len_tokens,
            or several joined by +.
        normalize: whether dense vectors have unit length; null for what the model says (of a plain
            checkpoint of transformers: not).
        include_prompt: whether a prompt's tokens are pooled; null for what the model says.
        query_max_length, document_max_length: most tokens of a text, special tokens included; null for the
            model's own limit.
        epochs, steps: how long; exactly one of them.
        seed: of the order, of the draws, of new heads and of dropout.
        precision: of the encoder's arithmetic; weights, heads and losses are always float32. "auto": bfloat16
            where it was measured to be faster and right, before the run, else float32. float16 has its
            loss scaled.
        dropout: in place of the configuration's, for all places; null for the configuration's.
        gradient_checkpointing: activations of layers are computed twice instead of kept.
        shard: each of several processes holds a part of all weights, gradients and moments (FSDP).
        freeze_body: only heads are trained.
        freeze_embeddings: tables of words, positions and token types learn nothing; layers and heads do.
        reranker: how pairs are cut, where the losses are a reranker's (reranker_…); null for the defaults.
        lora: adapters are trained in place of the encoder's own weights, beside heads; null for none.
        tensorboard: figures of the run go into event files of TensorBoard, too.
    """

    model: str
    output: OutputRecipe
    data: tuple[DataRecipe, ...]
    losses: tuple[LossRecipe, ...]
    revision: str | None = None
    pooling: str | None = None
    normalize: bool | None = None
    include_prompt: bool | None = None
    heads: HeadRecipe = field(default_factory=HeadRecipe)
    batch: BatchRecipe = field(default_factory=lambda: BatchRecipe(texts=32))
    query_max_length: int | None = limits(None, least=3)
    document_max_length: int | None = limits(None, least=3)
    optimizer: OptimizerRecipe = field(default_factory=OptimizerRecipe)
    epochs: float | None = limits(None, above=0.0, most=100_000.0)
    steps: int | None = limits(None, least=1)
    seed: int = limits(0, least=0, most=2**63 - 1)
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    dropout: float | None = limits(None, least=0.0, most=0.99)
    gradient_checkpointing: bool = False
    shard: bool = False
    freeze_body: bool = False
    freeze_embeddings: bool = False
    reranker: RerankerRecipe | None = None
    lora: LoraRecipe | None = None
    tensorboard: bool = False
    validation: ValidationRecipe | None = None
    checkpoints: CheckpointRecipe = field(default_factory=CheckpointRecipe)

    def __post_init__(self) -> None:
        check_settings(self)
        if not self.data:
            raise InputError("data is empty; name at least one file.")
        if not self.losses:
            raise InputError("losses is empty; name at least one.")
        if self.shard and self.precision == "float16":
            raise InputError(
                "shard and precision: float16: processes do not agree on the factor of the loss there. Take "
                "bfloat16 or float32."
            )
        if self.lora is not None and self.freeze_body:
            raise InputError("freeze_body and lora: adapters learn in the body. Leave one of them out.")
        if self.freeze_embeddings and (self.freeze_body or self.lora is not None):
            other = "freeze_body" if self.freeze_body else "lora"
            raise InputError(
                f"freeze_embeddings and {other}, which freezes them, too. Leave one of them out."
            )
        if (self.epochs is None) == (self.steps is None):
            raise InputError("epochs and steps: give exactly one of them.")
        if self.batch.texts is None and self.batch.tokens is None:
            raise InputError("batch: give texts, tokens, or both.")
        reranks = any(one.name.startswith("reranker") for one in self.losses)
        if not reranks:
            for key, given in (
                ("reranker", self.reranker is not None),
                ("validation.run", self.validation is not None and self.validation.run is not None),
            ):
                if given:
                    raise InputError(
                        f"{key} is given, and none of the losses is a reranker's (reranker_cross_entropy, "
                        "reranker_distillation, reranker_binary). Take one of them, or leave it out."
                    )
        for number, data in enumerate(self.data):
            if not reranks and data.group_size == 1 and (data.batch_texts or self.batch.texts) == 1:
                raise InputError(
                    f"data[{number}]: a batch of one query with group_size 1 leaves it nothing to be told "
                    "from, and the loss is always 0. Raise batch.texts or group_size."
                )

    def to_dict(self) -> dict[str, Any]:
        """The recipe in plain values, as a YAML file would hold it."""
        values = asdict(self)
        values["data"] = list(values["data"])
        values["losses"] = list(values["losses"])
        return values


def read_recipe(recipe: TrainRecipe | str | Path | Mapping[str, Any]) -> TrainRecipe:
    """A recipe from a YAML file or plain values; one that is made already comes back.

    Paths in a file are as they stand there, relative to where the command runs.

    Raises:
        InputError: the file is not there or not YAML, a key is missing, or a value cannot be; with its place.
        UnknownNameError: a key that does not exist, with the nearest one.
        MissingExtraError: PyYAML is not installed.
    """
    if isinstance(recipe, TrainRecipe):
        return recipe
    if isinstance(recipe, Mapping):
        return read_settings(TrainRecipe, recipe, "recipe")
    return read_settings(TrainRecipe, read_yaml(Path(recipe), purpose="tercet train"), str(recipe))
