"""The Embedder: text -> Embeddings."""

from __future__ import annotations

__all__ = ["Embedder"]

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from tercet.batch import Batch
from tercet.checkpoint.layout import Checkpoint
from tercet.embedder.finishing import finished
from tercet.embedder.flight import Flight
from tercet.embedder.gathering import gathered
from tercet.embedder.options import Asked, Call, OnTruncate, check, limited, saved_prompt
from tercet.embedder.provenance import provenance
from tercet.embedder.recomputing import not_finite, recomputed
from tercet.embedder.texts import checked, excerpt, one_window
from tercet.embedder.tokenising import tokenised_windows
from tercet.embeddings import Embeddings
from tercet.engines import ENGINES
from tercet.engines.forks import stand_alone
from tercet.engines.transfer import in_order, transfers
from tercet.errors import InputError
from tercet.heads import HeadOptions, Heads
from tercet.model import position_limit
from tercet.precision.plan import Plan
from tercet.scoring import PairScores, score_matrix, score_pairs
from tercet.scoring.hybrid import Weights
from tercet.scoring.late import Reduction
from tercet.signatures import refuse_unknown_keywords
from tercet.text.late import LateEncoder
from tercet.text.pack import pack
from tercet.text.tokenizer import Encoded, Tokenizer

logger = logging.getLogger(__name__)


class Embedder:
    """A loaded model. Made by `tercet.load`; safe to use from several threads at once, to pickle and to fork.

    Attributes:
        plan: where and in what format it runs, and why.
        checkpoint: what is on disk.
        tokenizer: text to token ids.
        max_length: most tokens of a text, special tokens included.
        outputs: what it can make, of "dense", "sparse", "multivector".
        dimension: width of the dense vectors; 0 where it makes none.
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
        self._late = None if checkpoint.late is None else LateEncoder(self.tokenizer, checkpoint)
        self._position_limit = position_limit(checkpoint)
        self.max_length = (
            checkpoint.max_length
            if max_length is None
            else limited(max_length, self._position_limit, checkpoint.name)
        )
        self._asked = (None if outputs is None else tuple(outputs), max_length)
        heads = Heads.open(checkpoint, plan.precision.heads, self.tokenizer.special_ids)
        if outputs is not None:
            heads.check(HeadOptions(tuple(outputs)), checkpoint.name)
        self.outputs = heads.outputs
        self.dimension = min(heads.width, checkpoint.truncate_dim or heads.width)
        self._engine = ENGINES[plan.scheme.engine].open(checkpoint, plan)
        self._heads = heads.to(self._engine.device)
        self._transfers = transfers(self._engine.device)
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
        max_active_dims: int | None = None,
        on_truncate: OnTruncate = "cut",
        task: str | None = None,
    ) -> Embeddings:
        """Embeddings of the texts, in their order.

        Args:
            texts: the texts; one text is a list of one.
            outputs: of "dense", "sparse", "multivector"; by default dense alone, or of a model without dense
                vectors what it makes: sparse (SPLADE, CSR) or multivector (ColBERT).
            prompt: put before each text; it outranks `prompt_name`, and that the checkpoint's default.
            prompt_name: a prompt of the checkpoint or of `load`.
            max_length: most tokens of a text, for this call.
            dimensions: first so many columns of dense and multi-vector embeddings, renormalised (Matryoshka).
            normalize: unit length or not; by default as the checkpoint says.
            max_active_dims: so many of the largest weights of each sparse vector; by default as the
                checkpoint says, else all.
            on_truncate: "cut" a text that is too long (flagged, counted), or raise an "error" that names it.
            task: what the texts are for, such as "query", where the checkpoint has routes (Router, Asym); by
                default they take its default route. Of a model of late interaction "query" or "document"; by
                default texts get neither marker nor expansion.

        Raises:
            InputError: a text is not a string, or an option cannot be.
            CheckpointError: an output whose head is not there.
            NonFiniteError: a vector that is not finite even in float32.
        """
        asked = Asked(outputs, prompt, prompt_name, max_length, dimensions, normalize, on_truncate, task)
        asked = replace(asked, max_active_dims=max_active_dims)
        return self._encode(texts, self._call(asked))

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
        max_active_dims: int | None = None,
        on_truncate: OnTruncate = "cut",
    ) -> Embeddings:
        """`encode` by the route for queries, with the prompt named "query" if no other is asked for."""
        asked = Asked(outputs, prompt, prompt_name, max_length, dimensions, normalize, on_truncate)
        asked = replace(asked, max_active_dims=max_active_dims)
        return self._encode(texts, self._call(saved_prompt(asked, "query", self.checkpoint)))

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
        max_active_dims: int | None = None,
        on_truncate: OnTruncate = "cut",
    ) -> Embeddings:
        """`encode` by the route for documents, with the prompt named "document", "passage" or "corpus"."""
        asked = Asked(outputs, prompt, prompt_name, max_length, dimensions, normalize, on_truncate)
        asked = replace(asked, max_active_dims=max_active_dims)
        return self._encode(texts, self._call(saved_prompt(asked, "document", self.checkpoint)))

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
        max_active_dims: int | None = None,
        on_truncate: OnTruncate = "cut",
        task: str | None = None,
    ) -> Iterator[Embeddings]:
        """One Embeddings a batch, in the order of the texts, which may come from any iterable.

        Options as `encode`'s; they are checked at once, the texts as they are reached. At most two windows of
        512 texts are read ahead.
        """
        asked = Asked(outputs, prompt, prompt_name, max_length, dimensions, normalize, on_truncate, task)
        asked = replace(asked, max_active_dims=max_active_dims)
        call = self._call(asked)
        return self._stream(checked(texts), call)

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

    def member(self, task: str | None = None) -> Embedder:
        """What embeds texts for a task: this one, where all routes share an encoder."""
        return self

    def provenance(
        self,
        *,
        outputs: Sequence[str] | None = None,
        prompt: str | None = None,
        prompt_name: str | None = None,
        max_length: int | None = None,
        dimensions: int | None = None,
        normalize: bool | None = None,
        max_active_dims: int | None = None,
        task: str | None = None,
    ) -> dict[str, Any]:
        """Everything that decides a vector's value, JSON-safe: model, hash, plan, prompt, lengths."""
        asked = Asked(outputs, prompt, prompt_name, max_length, dimensions, normalize)
        call = self._call(replace(asked, task=task, max_active_dims=max_active_dims))
        engine = self.member(call.options.route)._engine
        return provenance(self.checkpoint, self.plan, call, engine.float32_layers)

    def _call(self, asked: Asked) -> Call:
        usual = self.max_length
        if self._late is not None and self._asked[1] is None:
            usual = self._late.limit(asked.task, usual)
        return check(
            asked,
            self.checkpoint,
            self._heads,
            usual=usual,
            positions=self._position_limit,
            late=self._late,
        )

    def _encode(self, texts: str | Iterable[str], call: Call) -> Embeddings:
        """All embeddings at once; texts that are few are neither read by windows nor tokenised elsewhere."""
        window = one_window(texts)
        if window is not None:
            parts = self._one_window(window, call)
            found = gathered(parts, len(window))
        else:
            texts_there = len(texts) if isinstance(texts, (list, tuple)) else None
            found = gathered(self._stream(checked(texts), call), texts_there)
        return self._embed(Batch.from_ids([]), [], 0, 0, call) if found is None else found

    def _one_window(self, window: list[str], call: Call) -> Iterator[Embeddings]:
        stand_alone()
        encoded = self._tokenised(window, call)
        yield from self._landed(self._batches(window, encoded, 0, call))
        _tell_of_cuts(sum(encoded.truncated), len(window), call)

    def _stream(self, texts: Iterator[str], call: Call) -> Iterator[Embeddings]:
        """One Embeddings a batch, of any number of texts."""
        stand_alone()
        yield from self._landed(self._begun(texts, call))

    def _landed(self, begun: Iterable[Callable[[], Embeddings]]) -> Iterator[Embeddings]:
        """The embeddings of batches, in their order; a GPU computes the next one's meanwhile."""
        return in_order(begun, lambda land: land(), ahead=self._transfers.ahead)

    def _begun(self, texts: Iterator[str], call: Call) -> Iterator[Callable[[], Embeddings]]:
        """What gives each batch's embeddings."""
        done = cut = 0
        for window, encoded in tokenised_windows(texts, partial(self._tokenised, call=call)):
            yield from self._batches(window, encoded, done, call)
            done += len(window)
            cut += sum(encoded.truncated)
        _tell_of_cuts(cut, done, call)

    def _tokenised(self, window: list[str], call: Call) -> Encoded:
        if self._late is not None:
            length, prompt = call.max_length, call.prompt
            return self._late.encode(window, task=call.task, max_length=length, prompt=prompt)
        return self.tokenizer.encode(window, max_length=call.max_length, prompt=call.prompt)

    def _batches(
        self, window: list[str], encoded: Encoded, first: int, call: Call
    ) -> Iterator[Callable[[], Embeddings]]:
        """What gives a window's embeddings, a batch at a time; `first` is the number of its first text."""
        if call.on_truncate == "error" and any(encoded.truncated):
            index = encoded.truncated.index(True)
            raise InputError(
                f"text {first + index} ({excerpt(window[index])}) is longer than {call.max_length} "
                "tokens. Split it, raise max_length, or pass on_truncate='cut'."
            )
        for part in pack(encoded.lengths, self.plan.token_budget):
            batch, truncated = encoded.batch(part), encoded.truncated[part]
            yield self._begin(batch, truncated, encoded.prompt_tokens, first + part.start, call)

    def _begin(
        self, batch: Batch, truncated: list[bool], prompt_tokens: int, first: int, call: Call
    ) -> Callable[[], Embeddings]:
        """What gives one batch's embeddings; where the device can be ahead, it computes them from now on."""
        at_once = partial(self._embed, batch, truncated, prompt_tokens, first, call)
        if not self._transfers.ahead:
            return at_once
        with torch.no_grad():
            hidden = self._engine.forward(batch)
            made = self._heads(hidden, self._transfers.send(batch), call.options, prompt_tokens)
            flight = Flight(hidden, made, self._transfers, self.plan.precision.output.torch)

        def land() -> Embeddings:
            landed = flight.land()
            # What is not finite is computed once more, and then in float32.
            if landed is None:
                return at_once()
            return finished(landed, batch.lengths, truncated, self.plan.precision.output, first=first)

        return land

    def _embed(
        self, batch: Batch, truncated: list[bool], prompt_tokens: int, first: int, call: Call
    ) -> Embeddings:
        """One batch through the engine and the heads; what is not finite is computed again in float32."""
        with torch.no_grad():
            if len(batch):
                hidden = self._engine.forward(batch)
            else:
                width = int(self.checkpoint.config["hidden_size"])
                hidden = torch.empty(0, width, dtype=self._heads.dtype, device=self._engine.device)
            bad = not_finite(hidden, batch)
            if bad:
                hidden = recomputed(
                    hidden, batch, bad, checkpoint=self.checkpoint, scheme=self.plan.scheme, first=first
                )
            made = self._heads(hidden, batch.to(self._engine.device), call.options, prompt_tokens)
        output = self.plan.precision.output
        return finished(made, batch.lengths, truncated, output, first=first, again=bad)


def _tell_of_cuts(cut: int, texts: int, call: Call) -> None:
    if cut:
        logger.warning("%d of %d texts were longer than %d tokens and were cut.", cut, texts, call.max_length)


def _restore(
    checkpoint: Checkpoint, plan: Plan, outputs: tuple[str, ...] | None, max_length: int | None
) -> Embedder:
    """What unpickling calls: the weights are read again from their files, not carried along."""
    return Embedder(checkpoint, plan, outputs=outputs, max_length=max_length)
