"""Text -> Embeddings: load a checkpoint at a planned precision, and encode with it."""

from __future__ import annotations

__all__ = ["Embedder", "load"]

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from tercet.batch import Batch
from tercet.checkpoint.layout import Checkpoint, open_checkpoint
from tercet.checkpoint.source import find
from tercet.embeddings import Embeddings, MultiVectors, SparseVectors
from tercet.engines import ENGINES
from tercet.engines.forks import stand_alone
from tercet.errors import InputError, NonFiniteError, nearest
from tercet.model import HeadOptions, Heads, hidden_in_float32, named_outputs, position_limit
from tercet.planner import make_plan
from tercet.precision.dtype import DType
from tercet.precision.plan import Plan
from tercet.scoring import PairScores, score_matrix, score_pairs
from tercet.scoring.hybrid import Weights
from tercet.scoring.late import Reduction
from tercet.signatures import refuse_unknown_keywords
from tercet.text.pack import pack
from tercet.text.tokenizer import Encoded, Tokenizer

logger = logging.getLogger(__name__)

OnTruncate = Literal["cut", "error"]

# Texts are read and tokenised by windows, so that a corpus is never held whole.
_WINDOW_TEXTS = 512
_WINDOW_CHARACTERS = 1 << 20
# Which saved prompt a document takes: the first that is there, as sentence-transformers looks for them.
_DOCUMENT_PROMPTS = ("document", "passage", "corpus")


@refuse_unknown_keywords
def load(
    path_or_id: str | Path,
    *,
    precision: object = "auto",
    device: str | int | torch.device | None = None,
    outputs: str | Sequence[str] | None = None,
    revision: str | None = None,
    token: str | None = None,
    local_files_only: bool = False,
    cache_folder: str | Path | None = None,
    max_length: int | None = None,
    pooling: str | None = None,
    prompts: Mapping[str, str] | None = None,
    token_budget: int | None = None,
    output_dtype: object = None,
    tolerance: float | None = None,
    plan: Plan | str | Path | None = None,
    confirm: Callable[[int], bool] | None = None,
) -> Embedder:
    """A checkpoint, loaded at a planned precision and ready to embed.

    Args:
        path_or_id: a folder, a hub id such as "BAAI/bge-m3", or "minilm" for the packaged all-MiniLM-L6-v2.
        precision: "auto" (measured and planned), "checkpoint" (as stored), a dtype in any spelling, or a way
            to compute such as "int8-fast" or "tf32".
        device: "cpu", "cuda", "cuda:1", "mps", a torch.device; None for the best that is there.
        outputs: what will be asked for, of "dense", "sparse", "multivector"; a head that is not there is an
            error now; None for whatever the checkpoint can make.
        revision, token, local_files_only, cache_folder: for the hub.
        max_length: most tokens of a text, special tokens included; never more than the model takes.
        pooling: replaces the checkpoint's pooling: "cls", "mean", ..., or several: "cls+mean".
        prompts: prompt name -> text before each text; added to the checkpoint's.
        token_budget: most tokens in one forward.
        output_dtype: of the vectors that come out; float32 by default.
        tolerance: largest mean 1 - cosine to float32 that is acceptable, such as 5e-4: "auto" takes the
            fastest within it, and a precision that drifts further is refused. By default "auto" takes only
            what has no visible loss.
        plan: a saved plan (or its path) to replay instead of making one; it decides precision, tolerance,
            device, token_budget and output_dtype, so none of these may be given beside it.
        confirm: asked with the number of bytes before gigabytes are fetched.

    Raises:
        CheckpointError, SourceError: the model is not there, is damaged, or lacks a head that was asked for.
        PrecisionError: the precision, device or plan cannot be honoured.
        InputError: an option cannot be, or contradicts the plan.
    """
    source = find(
        path_or_id,
        revision=revision,
        token=token,
        local_files_only=local_files_only,
        cache_folder=cache_folder,
        confirm=confirm,
    )
    checkpoint = open_checkpoint(source, pooling=pooling)
    if prompts is not None:
        checkpoint = replace(checkpoint, prompts={**checkpoint.prompts, **_checked_prompts(prompts)})
    outputs = None if outputs is None else named_outputs(outputs)
    if plan is not None:
        _refuse_with_plan(
            precision=None if precision == "auto" else precision,
            tolerance=tolerance,
            device=device,
            token_budget=token_budget,
            output_dtype=output_dtype,
        )
        if not isinstance(plan, (Plan, str, Path)):
            raise InputError(
                f"plan is of type {type(plan).__name__}. Pass a Plan, or the path of a saved one."
            )
        plan = make_plan(checkpoint, precision=plan if isinstance(plan, Plan) else Plan.load(plan))
    else:
        plan = make_plan(
            checkpoint,
            precision=precision,
            device=device,
            outputs=outputs,
            token_budget=token_budget,
            output_dtype=output_dtype,
            max_length=max_length,
            tolerance=tolerance,
        )
    for note in checkpoint.notes:
        logger.info("%s: %s", checkpoint.name, note)
    return Embedder(checkpoint, plan, outputs=outputs, max_length=max_length)


def _refuse_with_plan(**options: object) -> None:
    """An error for an option that was given although a plan decides it."""
    for name, value in options.items():
        if value is not None:
            raise InputError(
                f"{name} and plan were both given, and the plan decides that already. Leave one of them out."
            )


def _checked_prompts(prompts: object) -> Mapping[str, str]:
    """The prompts, found to be texts by name."""
    if not isinstance(prompts, Mapping):
        raise InputError(f"prompts is of type {type(prompts).__name__}. Pass a dict of name -> text.")
    for name, text in prompts.items():
        if not isinstance(name, str) or not isinstance(text, str):
            raise InputError(f"prompts: {name!r} -> {text!r} must both be strings.")
    return prompts


def _restore(
    checkpoint: Checkpoint, plan: Plan, outputs: tuple[str, ...] | None, max_length: int | None
) -> Embedder:
    """What unpickling calls: the weights are read again from their files, not carried along."""
    return Embedder(checkpoint, plan, outputs=outputs, max_length=max_length)


@dataclass(frozen=True, slots=True)
class _Call:
    """One call's options, checked."""

    options: HeadOptions
    prompt: str
    max_length: int
    on_truncate: OnTruncate


class Embedder:
    """A loaded model. Made by `tercet.load`; safe to use from several threads at once, to pickle and to fork.

    Attributes:
        plan: where and in what format it runs, and why.
        checkpoint: what is on disk.
        tokenizer: text to token ids.
        max_length: most tokens of a text, special tokens included.
        outputs: what it can make, of "dense", "sparse", "multivector".
        dimension: width of the dense vectors.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        plan: Plan,
        *,
        outputs: Sequence[str] | None = None,
        max_length: int | None = None,
    ) -> None:
        stand_alone()
        self.checkpoint = checkpoint
        self.plan = plan
        self.tokenizer = Tokenizer.open(checkpoint)
        self._position_limit = position_limit(checkpoint)
        self.max_length = checkpoint.max_length if max_length is None else self._limit(max_length)
        self._asked = (None if outputs is None else tuple(outputs), max_length)
        heads = Heads.open(checkpoint, plan.precision.heads, self.tokenizer.special_ids)
        if outputs is not None:
            heads.check(HeadOptions(tuple(outputs)), checkpoint.name)
        self.outputs = heads.outputs
        self.dimension = min(heads.width, checkpoint.truncate_dim or heads.width)
        self._engine = ENGINES[plan.scheme.engine].open(checkpoint, plan)
        self._heads = heads.to(self._engine.device)
        # Everything that is needed was read; what a legacy file still holds in memory is let go.
        checkpoint.close()

    def __repr__(self) -> str:
        runs = f"{self.plan.scheme} on {self.plan.device}"
        return f"<Embedder {self.checkpoint.name}: {', '.join(self.outputs)}; {runs}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (self.checkpoint, self.plan, *self._asked)

    @refuse_unknown_keywords
    def encode(
        self,
        texts: str | Iterable[str],
        *,
        outputs: str | Sequence[str] | None = None,
        prompt: str | None = None,
        prompt_name: str | None = None,
        max_length: int | None = None,
        dimensions: int | None = None,
        normalize: bool | None = None,
        on_truncate: OnTruncate = "cut",
    ) -> Embeddings:
        """Embeddings of the texts, in their order.

        Args:
            texts: the texts; one text is a list of one.
            outputs: of "dense", "sparse", "multivector"; dense alone by default.
            prompt: put before each text; it outranks `prompt_name`, and that the checkpoint's default.
            prompt_name: a prompt of the checkpoint or of `load`.
            max_length: most tokens of a text, for this call.
            dimensions: first so many columns of dense and multi-vector embeddings, renormalised (Matryoshka).
            normalize: unit length or not; by default as the checkpoint says.
            on_truncate: "cut" a text that is too long (flagged, counted), or raise an "error" that names it.

        Raises:
            InputError: a text is not a string, or an option cannot be.
            CheckpointError: an output whose head is not there.
            NonFiniteError: a vector that is not finite even in float32.
        """
        call = self._call(outputs, prompt, prompt_name, max_length, dimensions, normalize, on_truncate)
        parts = list(self._stream(_checked([texts] if isinstance(texts, str) else texts), call))
        return Embeddings.concat(parts) if parts else self._embed([], [], 0, call)

    @refuse_unknown_keywords
    def encode_query(
        self,
        texts: str | Iterable[str],
        *,
        outputs: str | Sequence[str] | None = None,
        prompt: str | None = None,
        prompt_name: str | None = None,
        max_length: int | None = None,
        dimensions: int | None = None,
        normalize: bool | None = None,
        on_truncate: OnTruncate = "cut",
    ) -> Embeddings:
        """`encode` with the prompt named "query", where there is one and no other is asked for."""
        if prompt is None and prompt_name is None and "query" in self.checkpoint.prompts:
            prompt_name = "query"
        return self.encode(
            texts,
            outputs=outputs,
            prompt=prompt,
            prompt_name=prompt_name,
            max_length=max_length,
            dimensions=dimensions,
            normalize=normalize,
            on_truncate=on_truncate,
        )

    @refuse_unknown_keywords
    def encode_document(
        self,
        texts: str | Iterable[str],
        *,
        outputs: str | Sequence[str] | None = None,
        prompt: str | None = None,
        prompt_name: str | None = None,
        max_length: int | None = None,
        dimensions: int | None = None,
        normalize: bool | None = None,
        on_truncate: OnTruncate = "cut",
    ) -> Embeddings:
        """`encode` with the prompt named "document", "passage" or "corpus", if no other is asked for."""
        if prompt is None and prompt_name is None:
            prompt_name = next((name for name in _DOCUMENT_PROMPTS if name in self.checkpoint.prompts), None)
        return self.encode(
            texts,
            outputs=outputs,
            prompt=prompt,
            prompt_name=prompt_name,
            max_length=max_length,
            dimensions=dimensions,
            normalize=normalize,
            on_truncate=on_truncate,
        )

    @refuse_unknown_keywords
    def stream(
        self,
        texts: Iterable[str],
        *,
        outputs: str | Sequence[str] | None = None,
        prompt: str | None = None,
        prompt_name: str | None = None,
        max_length: int | None = None,
        dimensions: int | None = None,
        normalize: bool | None = None,
        on_truncate: OnTruncate = "cut",
    ) -> Iterator[Embeddings]:
        """One Embeddings a batch, in the order of the texts, which may come from any iterable.

        Options as `encode`'s; they are checked at once, the texts as they are reached. At most two windows of
        512 texts are read ahead.
        """
        call = self._call(outputs, prompt, prompt_name, max_length, dimensions, normalize, on_truncate)
        return self._stream(_checked([texts] if isinstance(texts, str) else texts), call)

    @refuse_unknown_keywords
    def score(
        self,
        queries: str | Iterable[str],
        documents: str | Iterable[str],
        *,
        outputs: str | Sequence[str] | None = None,
        weights: Weights = (1.0, 1.0, 1.0),
        reduction: Reduction = "mean",
        pairwise: bool = False,
        max_length: int | None = None,
    ) -> PairScores:
        """Similarity of each query to each document (or of each pair), by every output and combined.

        Args:
            queries, documents: the texts; their prompts as `encode_query` and `encode_document` choose them.
            outputs: what to compare by; all that the model makes by default.
            weights: of dense, sparse and multi-vector scores in the combination.
            reduction: late interaction as the "mean" over query tokens (BGE-M3's) or their "sum" (ColBERT's).
            pairwise: score queries[i] against documents[i] alone.
            max_length: most tokens of a text.

        Returns:
            Scores of shape (queries, documents), or (pairs,) where `pairwise`.
        """
        chosen = self.outputs if outputs is None else outputs
        score = score_pairs if pairwise else score_matrix
        return score(
            self.encode_query(queries, outputs=chosen, max_length=max_length),
            self.encode_document(documents, outputs=chosen, max_length=max_length),
            weights=weights,
            reduction=reduction,
        )

    def provenance(
        self,
        *,
        outputs: Sequence[str] | None = None,
        prompt: str | None = None,
        prompt_name: str | None = None,
        max_length: int | None = None,
        dimensions: int | None = None,
        normalize: bool | None = None,
    ) -> dict[str, Any]:
        """Everything that decides a vector's value, JSON-safe: model, hash, plan, prompt, lengths."""
        from tercet import __version__

        call = self._call(outputs, prompt, prompt_name, max_length, dimensions, normalize, "cut")
        checkpoint = self.checkpoint
        return {
            "tercet": __version__,
            "torch": torch.__version__,
            "model": checkpoint.name,
            "revision": checkpoint.revision,
            "weights_sha256": checkpoint.weights_hash(),
            "architecture": checkpoint.architecture,
            "layout": checkpoint.layout,
            "modules": [{"kind": spec.kind, **spec.config} for spec in checkpoint.modules],
            "precision": self.plan.precision.to_json(),
            "plan": self.plan.to_json(),
            "outputs": list(call.options.outputs),
            "prompt": call.prompt,
            "max_length": call.max_length,
            "dimensions": call.options.dimensions,
            "truncate_dim": checkpoint.truncate_dim,
            "normalize": call.options.normalize,
        }

    def _call(
        self,
        outputs: str | Sequence[str] | None,
        prompt: str | None,
        prompt_name: str | None,
        max_length: int | None,
        dimensions: int | None,
        normalize: bool | None,
        on_truncate: OnTruncate,
    ) -> _Call:
        chosen = ("dense",) if outputs is None else named_outputs(outputs)
        if normalize is not None and not isinstance(normalize, bool):
            raise InputError(f"normalize is {normalize!r}, it must be True, False or None.")
        options = HeadOptions(chosen, dimensions, normalize)
        self._heads.check(options, self.checkpoint.name)
        if on_truncate not in ("cut", "error"):
            raise InputError(f"on_truncate is {on_truncate!r}. {nearest(str(on_truncate), ('cut', 'error'))}")
        length = self.max_length if max_length is None else self._limit(max_length)
        return _Call(options, self._prompt(prompt, prompt_name), length, on_truncate)

    def _limit(self, max_length: int) -> int:
        """The length asked for, never more than the position table holds."""
        if isinstance(max_length, bool) or not isinstance(max_length, int) or max_length < 1:
            raise InputError(f"max_length is {max_length!r}, it must be a positive integer.")
        if max_length > self._position_limit:
            logger.warning(
                "max_length=%d: %s has positions for %d tokens; longer texts are cut there.",
                max_length,
                self.checkpoint.name,
                self._position_limit,
            )
        return min(max_length, self._position_limit)

    def _prompt(self, prompt: str | None, name: str | None) -> str:
        if prompt is not None:
            if not isinstance(prompt, str):
                raise InputError(f"prompt is of type {type(prompt).__name__}, it must be a string.")
            return prompt
        if name is None:
            name = self.checkpoint.default_prompt_name
            if name is None:
                return ""
        if not isinstance(name, str):
            raise InputError(f"prompt_name is of type {type(name).__name__}, it must be a string.")
        prompts = self.checkpoint.prompts
        if name not in prompts:
            raise InputError(
                f"{self.checkpoint.name} has no prompt named {name!r}. {nearest(name, prompts)} "
                "Pass prompt='the text itself', or load(..., prompts={name: text})."
            )
        return prompts[name]

    def _stream(self, texts: Iterable[str], call: _Call) -> Iterator[Embeddings]:
        stand_alone()
        done = cut = 0
        for window, encoded in self._tokenised(texts, call):
            if call.on_truncate == "error" and any(encoded.truncated):
                index = encoded.truncated.index(True)
                raise InputError(
                    f"text {done + index} ({_excerpt(window[index])}) is longer than {call.max_length} "
                    "tokens. Split it, raise max_length, or pass on_truncate='cut'."
                )
            cut += sum(encoded.truncated)
            here = replace(call, options=replace(call.options, prompt_tokens=encoded.prompt_tokens))
            for part in pack([len(ids) for ids in encoded.ids], self.plan.token_budget):
                yield self._embed(encoded.ids[part], encoded.truncated[part], done + part.start, here)
            done += len(window)
        if cut:
            logger.warning(
                "%d of %d texts were longer than %d tokens and were cut.", cut, done, call.max_length
            )

    def _tokenised(self, texts: Iterable[str], call: _Call) -> Iterator[tuple[list[str], Encoded]]:
        """Each window of texts with its token ids; the next one is tokenised while this one is embedded."""

        def encode(window: list[str]) -> Encoded:
            return self.tokenizer.encode(window, max_length=call.max_length, prompt=call.prompt)

        windows = _windows(texts)
        window = next(windows, None)
        following = next(windows, None)
        if window is None or following is None:
            if window is not None:
                yield window, encode(window)
            return
        # The caller's thread reads the texts: what they come from may belong to it.
        with ThreadPoolExecutor(1, thread_name_prefix="tercet-tokenizer") as beside:
            encoded = encode(window)
            while following is not None:
                coming = beside.submit(encode, following)
                yield window, encoded
                window, encoded, following = following, coming.result(), next(windows, None)
            yield window, encoded

    def _embed(self, ids: list[list[int]], truncated: list[bool], first: int, call: _Call) -> Embeddings:
        """One batch through the engine and the heads; what is not finite is computed again in float32."""
        batch = Batch.from_ids(ids)
        with torch.no_grad():
            if len(batch):
                hidden = self._engine.forward(batch)
            else:
                width = int(self.checkpoint.config["hidden_size"])
                hidden = torch.empty(0, width, dtype=self._heads.dtype, device=self._engine.device)
            recomputed = torch.zeros(len(batch), dtype=torch.bool)
            bad = _not_finite(hidden, batch)
            if bad:
                hidden = self._recompute(hidden, batch, bad, first)
                recomputed[bad] = True
            batch = batch.to(self._engine.device)
            dense, sparse, multivector = self._heads(hidden, batch, call.options)
        output = self.plan.precision.output
        result = Embeddings(
            dense=None if dense is None else _out(dense, output),
            sparse=None if sparse is None else _sparse_out(sparse, output),
            multivector=None if multivector is None else _multivector_out(multivector, output),
            num_tokens=torch.tensor(batch.lengths, dtype=torch.int64),
            truncated=torch.tensor(truncated, dtype=torch.bool),
            recomputed=recomputed,
        )
        _check_finite(result, first, output)
        return result

    def _recompute(self, hidden: Tensor, batch: Batch, bad: list[int], first: int) -> Tensor:
        """The hidden vectors with those of the texts `bad` computed again in float32."""
        compute = self.plan.scheme.dtype
        starts = [0, *torch.tensor(batch.lengths).cumsum(0).tolist()]
        if not self.plan.scheme.is_plain:
            spans = [batch.token_ids[starts[i] : starts[i + 1]].tolist() for i in bad]
            again = Batch.from_ids(spans)
            exact = hidden_in_float32(self.checkpoint, again)
            still = _not_finite(exact, again)
            if not still:
                logger.warning(
                    "%d texts left the range of %s (largest number %g) and were computed in float32.",
                    len(bad),
                    compute,
                    compute.max,
                )
                # From here on in float32: what left the range of the planned dtype must not be cast back.
                hidden = hidden.to(torch.float32, copy=True)
                parts = torch.split(exact.to(hidden.device), list(again.lengths))
                for index, rows in zip(bad, parts, strict=True):
                    hidden[starts[index] : starts[index + 1]] = rows
                return hidden
            bad = [bad[i] for i in still]
        raise NonFiniteError(
            f"text {first + bad[0]} gives values that are not finite, in float32 too: the weights of "
            f"{self.checkpoint.folder} are damaged or were saved after an overflow. Fetch the model again."
        )


def _checked(texts: Iterable[str]) -> Iterator[str]:
    """The texts, each of them checked to be a string of valid Unicode when it is reached."""
    if isinstance(texts, (bytes, bytearray, memoryview)):
        raise InputError(f"texts is of type {type(texts).__name__}. Decode it first, as in texts.decode().")
    if isinstance(texts, (Set, Mapping)):
        raise InputError(
            f"texts is a {type(texts).__name__}: which vector belongs to which text would be anyone's guess. "
            "Pass a list of strings."
        )
    try:
        iterator = iter(texts)
    except TypeError:
        raise InputError(
            f"texts is of type {type(texts).__name__}. Pass a list of strings, or one string."
        ) from None
    for index, text in enumerate(iterator):
        if not isinstance(text, str):
            raise InputError(
                f"text {index} is of type {type(text).__name__} ({_excerpt(repr(text))}), it must be a "
                "string. Drop missing values, or convert with str()."
            )
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise InputError(
                    f"text {index} is not valid Unicode: {error}. "
                    "Read the file with the right encoding, or with errors='replace'."
                ) from None
        yield str(text)


def _windows(texts: Iterable[str]) -> Iterator[list[str]]:
    """Lists of consecutive texts, bounded in number and in characters."""
    iterator = iter(texts)
    for text in iterator:
        window, characters = [text], len(text)
        while len(window) < _WINDOW_TEXTS and characters < _WINDOW_CHARACTERS:
            following = next(iterator, None)
            if following is None:
                break
            window.append(following)
            characters += len(following)
        yield window


def _excerpt(text: str, length: int = 40) -> str:
    return repr(text) if len(text) <= length else repr(text[:length]) + "…"


def _not_finite(hidden: Tensor, batch: Batch) -> list[int]:
    """The texts that have a value that is not finite."""
    # A sum is finite only if everything in it is: one number tells; each text is looked at only if it is not.
    if bool(torch.isfinite(hidden.sum(dtype=torch.promote_types(hidden.dtype, torch.float32)))):
        return []
    rows = torch.isfinite(hidden).all(dim=1)
    return [i for i, part in enumerate(torch.split(rows, list(batch.lengths))) if not bool(part.all())]


def _out(values: Tensor, dtype: DType) -> Tensor:
    return values.to("cpu", dtype.torch)


def _sparse_out(sparse: SparseVectors, dtype: DType) -> SparseVectors:
    return SparseVectors(
        sparse.token_ids.cpu(), _out(sparse.weights, dtype), sparse.offsets.cpu(), sparse.vocabulary
    )


def _multivector_out(multivector: MultiVectors, dtype: DType) -> MultiVectors:
    return MultiVectors(_out(multivector.vectors, dtype), multivector.offsets.cpu())


def _check_finite(result: Embeddings, first: int, output: DType) -> None:
    """An error that names the first text of which a value is not finite."""
    for index in _first_bad_texts(result):
        raise NonFiniteError(
            f"text {first + index} gives a value that is not finite or leaves the range of the output dtype "
            f"{output} (largest number {output.max:g}). Pass output_dtype='float32', or normalize=True; "
            "if that is so already, a module behind the encoder is damaged: fetch the model again."
        )


def _first_bad_texts(result: Embeddings) -> Iterator[int]:
    """The first text with a value that is not finite, of each output that has one."""
    if result.dense is not None and not bool((finite := torch.isfinite(result.dense)).all()):
        yield int((~finite.all(dim=1)).nonzero()[0])
    for ragged in (result.sparse, result.multivector):
        if ragged is None:
            continue
        finite = torch.isfinite(ragged.weights if isinstance(ragged, SparseVectors) else ragged.vectors)
        if not bool(finite.all()):
            row = int((~finite).nonzero()[0, 0])
            yield int(torch.searchsorted(ragged.offsets, row, right=True)) - 1
