"""What regmean and fisher need of a model, gathered on the user's texts into one file."""

from __future__ import annotations

__all__ = ["Gathered", "merge_statistics"]

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from tercet.batch import Batch
from tercet.checkpoint.hashing import hash_weights
from tercet.checkpoint.header import TensorInfo
from tercet.checkpoint.reranker_files import is_reranker
from tercet.checkpoint.source import find
from tercet.errors import CheckpointError, InputError, UnknownNameError, nearest
from tercet.merging.folder import ModelFolder, open_folder
from tercet.merging.statistics_file import KINDS, Kind, check_free, key_of, write_statistics
from tercet.signatures import refuse_unknown_keywords
from tercet.text.pack import pack
from tercet.training.model import Trainable, open_trainable
from tercet.workflows.fisher_information import fisher_information
from tercet.workflows.gram_matrices import GramMatrices
from tercet.workflows.statistics_texts import Choice, Prompted, StatisticsTexts, read_statistics_texts

Progress = Callable[[int, int], None]

_WINDOW = 256  # texts that are tokenised together


@dataclass(frozen=True, slots=True)
class Gathered:
    """What was gathered.

    Attributes:
        file: where it is.
        kinds: "gram", "fisher" or both.
        texts: that the model read for Gram matrices.
        tokens: of these.
        queries: that chose among passages for the Fisher information.
        pairs: whether these came as pairs; else they are halves of texts.
        too_short: texts that have no two halves.
        truncated: texts that were cut at the longest length.
    """

    file: Path
    kinds: tuple[Kind, ...]
    texts: int
    tokens: int
    queries: int
    pairs: bool
    too_short: int
    truncated: int

    def to_json(self) -> dict[str, Any]:
        """For scripts."""
        return {**asdict(self), "file": str(self.file)}


@refuse_unknown_keywords
def merge_statistics(
    model: str | Path,
    texts: str | Path,
    out: str | Path,
    *,
    kinds: Iterable[str] = KINDS,
    max_texts: int = 1000,
    group_size: int = 16,
    temperature: float = 0.05,
    max_length: int | None = None,
    token_budget: int = 4096,
    seed: int = 0,
    overwrite: bool = False,
    revision: str | None = None,
    token: str | None = None,
    local_files_only: bool = False,
    cache_folder: str | Path | None = None,
    confirm: Callable[[int], bool] | None = None,
    progress: Progress = lambda done, total: None,
) -> Gathered:
    """Statistics of a model for `merge_method: regmean` and `fisher`, in one safetensors file.

    On the CPU, in float32, without dropout. Gram matrices are means over the tokens that enter a linear
    layer, those of a batch in float32, their sum in float64. Fisher information is that of a choice among
    passages, `tercet.workflows.fisher_information` says which; squares are added up in float32.

    Args:
        model: a folder, a hub id, or minilm; what `tercet.train` can train.
        texts: .jsonl, .csv or .parquet with queries and what answers them, as for training; or a text a line
            (.txt), .jsonl with "text", or a collection: the first half of each text is then a query that
            chooses among the second halves of its group.
        out: a new .safetensors file.
        kinds: "gram" for regmean, "fisher" for fisher; both by default.
        max_texts: texts, or queries, evenly spread where there are more.
        group_size: most queries whose passages are chosen among together.
        temperature: similarities are divided by it.
        max_length: most tokens of a text; the model's own limit by default.
        token_budget: most tokens at a time.
        seed: of the random signs.
        overwrite: replace what is there.
        revision, token, local_files_only, cache_folder, confirm: as in `tercet.load`.
        progress: told the texts and queries that are done, and how many there are.

    Raises:
        InputError: texts or options that cannot be used.
        CheckpointError: the model is damaged, or of a kind that has no gradients here.
        NonFiniteError: what a layer gets, or a gradient, is not finite.
        OutputError: `out` is there, or cannot be written.
    """
    wanted = _kinds(kinds)
    out = check_free(out, overwrite=overwrite)
    _whole("max_texts", max_texts, 1)
    _whole("group_size", group_size, 2)
    _whole("token_budget", token_budget, 1)
    _whole("max_length", 1 if max_length is None else max_length, 1)
    _whole("seed", seed, 0)
    if not isinstance(temperature, int | float) or not 0 < temperature < float("inf"):
        raise InputError(f"temperature is {temperature!r}, expected a number above 0.")
    source = find(
        model,
        revision=revision,
        token=token,
        local_files_only=local_files_only,
        cache_folder=cache_folder,
        confirm=confirm,
    )
    if is_reranker(source.folder):
        raise InputError(
            f"{source.name} is a reranker. Statistics are gathered of models that embed; merge rerankers by "
            "another method, such as linear."
        )
    folder = open_folder(source)
    names, weights = _names(folder), hash_weights(folder.folder, folder.files)
    try:
        trainable = open_trainable(source.folder, dropout=0.0).eval()
    except CheckpointError as error:
        raise CheckpointError(f"No statistics were gathered: {error}") from error
    limit = trainable.checkpoint.max_length if max_length is None else max_length
    if limit > trainable.checkpoint.max_length:
        raise InputError(
            f"max_length is {limit}, {source.name} takes at most {trainable.checkpoint.max_length} tokens."
        )
    found = read_statistics_texts(texts, trainable.checkpoint, most=max_texts)
    reading = _Reading(trainable, limit)
    groups = _groups(found.choices, group_size) if "fisher" in wanted else []
    if "fisher" in wanted and sum(len(one.passages) for one in found.choices) < 2:
        raise InputError(
            f"{texts}: one passage alone is no choice. Give more texts, or gather Gram matrices alone "
            "(kinds='gram', --kinds gram)."
        )
    counted = _Counted((len(found.read) if "gram" in wanted else 0) + sum(map(len, groups)), progress)
    grams = tokens = None
    if "gram" in wanted:
        grams = GramMatrices(trainable, lambda info: names.get((info.file.resolve(), info.name)))
        tokens = _read_all(trainable, grams, found, reading, token_budget, counted)
    matter: dict[str, Tensor] = {}
    queries = 0
    if "fisher" in wanted:
        generator = torch.Generator().manual_seed(seed)
        matter, queries = fisher_information(
            trainable,
            _parameters(trainable, names),
            ((reading.batch([c.query for c in group]), reading.batch(_passages(group))) for group in groups),
            temperature=temperature,
            token_budget=token_budget,
            signs=lambda rows, columns: (
                torch.randint(0, 2, (rows, columns), generator=generator).mul_(2).sub_(1)
            ),
            done=counted,
        )
        if not _mean(matter):
            raise InputError(
                f"{texts}: no number of the model matters to what these texts find; are all of them alike? "
                "Give others, or gather Gram matrices alone (kinds='gram', --kinds gram)."
            )
    about = {
        "weights_sha256": weights,
        "shared": {} if grams is None else grams.shared,
        "rows": {} if grams is None else grams.rows,
        "fisher_mean": _mean(matter) if matter else None,
        "model": source.name,
        "revision": source.revision,
        "texts": Path(texts).name,
        "texts_sha256": found.sha256,
        "pairs": found.pairs,
        "texts_read": len(found.read) if grams is not None else 0,
        "queries": queries,
        "outputs": list(trainable.outputs),
        "temperature": temperature,
        "group_size": group_size,
        "max_length": limit,
        "seed": seed,
    }
    _write(out, grams, matter, about, overwrite=overwrite)
    return Gathered(
        out,
        wanted,
        len(found.read) if grams is not None else 0,
        tokens or 0,
        queries,
        found.pairs,
        0 if found.pairs else found.too_short,
        len(reading.truncated),
    )


class _Reading:
    """Texts to packed tokens; remembers which were cut."""

    def __init__(self, model: Trainable, max_length: int) -> None:
        self._tokenizer, self._max_length = model.tokenizer, max_length
        self.truncated: set[Prompted] = set()

    def batches(self, texts: Sequence[Prompted], token_budget: int) -> Iterator[Batch]:
        """The texts behind their prompts, so many tokens at a time."""
        whole = [prompt + text for prompt, text in texts]
        found = self._tokenizer.encode(whole, max_length=self._max_length)
        self.truncated |= {text for text, cut in zip(texts, found.truncated, strict=True) if cut}
        # For a pooling that leaves prompts out.
        tokens = {prompt: self._tokens_of(prompt) for prompt in {one.prompt for one in texts}}
        for part in pack(found.lengths, token_budget):
            counts = tuple(tokens[one.prompt] for one in texts[part])
            batch = found.batch(part)
            yield replace(batch, prompt_tokens=counts) if any(counts) else batch

    def batch(self, texts: Sequence[Prompted]) -> Batch:
        """All of them together."""
        [found] = self.batches(texts, len(texts) * self._max_length)
        return found

    def _tokens_of(self, prompt: str) -> int:
        return self._tokenizer.encode([], max_length=self._max_length, prompt=prompt).prompt_tokens


class _Counted:
    """Adds up what is done."""

    def __init__(self, total: int, progress: Progress) -> None:
        self._done, self._total, self._progress = 0, total, progress

    def __call__(self, more: int) -> None:
        self._done += more
        self._progress(self._done, self._total)


def _whole(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 1 << 63:
        raise InputError(f"{name} is {value!r}, expected a whole number from {least} on.")


def _kinds(kinds: Iterable[str]) -> tuple[Kind, ...]:
    names = (kinds,) if isinstance(kinds, str) else tuple(kinds)
    for name in names:
        if name not in KINDS:
            raise UnknownNameError(f"There are no statistics of the kind {name!r}. {nearest(name, KINDS)}")
    if not names:
        raise InputError("kinds is empty: name gram, fisher or both.")
    return tuple(kind for kind in KINDS if kind in names)


def _names(folder: ModelFolder) -> dict[tuple[Path, str], str]:
    """Where a tensor is stored -> what its statistics are called."""
    return {
        (info.file.resolve(), info.name): key_of(key, place)
        for key, part in folder.parts.items()
        for place, info in part.tensors.items()
    }


def _parameters(model: Trainable, names: dict[tuple[Path, str], str]) -> dict[str, nn.Parameter]:
    """What statistics are called -> the parameter."""
    pairs: list[tuple[TensorInfo, Tensor]] = list(model.named_tensors())
    heads = {"sparse_linear": model.heads.sparse, "colbert_linear": model.heads.multivector}
    for spec in model.checkpoint.modules:
        if (head := heads.get(spec.kind)) is not None:
            pairs += [(spec.tensors["weight"], cast(Tensor, head.matrix))]
            pairs += [(spec.tensors["bias"], cast(Tensor, head.bias))]
    found = {names.get((info.file.resolve(), info.name)): one for info, one in pairs}
    return {name: one for name, one in found.items() if name is not None and isinstance(one, nn.Parameter)}


def _groups(choices: tuple[Choice, ...], size: int) -> list[tuple[Choice, ...]]:
    """As few groups of at most `size` as there can be, all of about one size."""
    count = -(-len(choices) // size)
    return [
        choices[number * len(choices) // count : (number + 1) * len(choices) // count]
        for number in range(count)
    ]


def _passages(group: Iterable[Choice]) -> list[Prompted]:
    """The passages of a group, each once."""
    return list(dict.fromkeys(text for one in group for text in one.passages))


def _read_all(
    model: Trainable,
    grams: GramMatrices,
    found: StatisticsTexts,
    reading: _Reading,
    token_budget: int,
    counted: _Counted,
) -> int:
    """The number of tokens, after all texts went through the model once."""
    tokens = 0
    with torch.no_grad(), grams.watching():
        for start in range(0, len(found.read), _WINDOW):
            for batch in reading.batches(found.read[start : start + _WINDOW], token_budget):
                model(batch)
                tokens += batch.num_tokens
                counted(len(batch))
    return tokens


def _mean(matter: dict[str, Tensor]) -> float:
    numbers = sum(one.numel() for one in matter.values())
    return sum(float(one.sum(dtype=torch.float64)) for one in matter.values()) / numbers


def _write(
    out: Path,
    grams: GramMatrices | None,
    matter: dict[str, Tensor],
    about: dict[str, Any],
    *,
    overwrite: bool,
) -> None:
    sums = {} if grams is None else grams.sums
    shapes = {f"gram/{key}": tuple(one.shape) for key, one in sums.items()}
    shapes |= {f"fisher/{key}": tuple(one.shape) for key, one in matter.items()}

    def tensors() -> Iterator[tuple[str, Tensor]]:
        for key in sums:
            assert grams is not None
            yield f"gram/{key}", grams.mean(key)
        for key, one in matter.items():
            yield f"fisher/{key}", one

    write_statistics(out, tensors(), shapes, about, overwrite=overwrite)
