"""The Reranker: (query, document) -> score."""

from __future__ import annotations

__all__ = ["Ranked", "Reranker"]

import logging
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from tercet.batch import Batch
from tercet.checkpoint.layout import Checkpoint, ModuleSpec
from tercet.embedder.options import limited, positive_integer
from tercet.embedder.recomputing import not_finite, recomputed
from tercet.engines import ENGINES
from tercet.engines.forks import stand_alone
from tercet.errors import InputError, NonFiniteError, kind_of, nearest
from tercet.model import position_limit
from tercet.modules import MODULES
from tercet.modules.chain import DenseChain, dense_chain
from tercet.modules.logit_score import LogitScore
from tercet.precision.plan import Plan
from tercet.reranker.options import Call, activation_of, default_activation, truncation_of
from tercet.reranker.pairs import Pair, windows
from tercet.signatures import refuse_unknown_keywords
from tercet.text.chat import ChatEncoder, chat_encoder
from tercet.text.pack import pack
from tercet.text.pairs import EncodedPairs, PairEncoder, takes_types
from tercet.text.tokenizer import Tokenizer

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Ranked:
    """One document in its rank.

    Attributes:
        index: its place among the documents as they were given.
        score: how well it fits the query; higher is better.
        document: its text.
    """

    index: int
    score: float
    document: str


class Reranker:
    """A loaded cross-encoder. Made by `tercet.load_reranker`; threads may share it; it pickles and forks.

    Attributes:
        plan: where and in what format it runs, and why.
        checkpoint: what is on disk.
        tokenizer: text to token ids.
        max_length: most tokens of a pair, special tokens included.
        num_labels: scores of a pair.
        activation: name of what becomes of logits, where a call asks for nothing else.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        plan: Plan,
        *,
        max_length: int | None = None,
        activation: str | None = None,
    ) -> None:
        stand_alone()
        self.checkpoint = checkpoint
        self.plan = plan
        self.tokenizer = Tokenizer.open(checkpoint)
        self._pairs: ChatEncoder | PairEncoder = chat_encoder(checkpoint, self.tokenizer) or PairEncoder(
            self.tokenizer, str(checkpoint.folder)
        )
        self._position_limit = position_limit(checkpoint)
        self.max_length = (
            checkpoint.max_length
            if max_length is None
            else limited(max_length, self._position_limit, checkpoint.name)
        )
        self._asked = (max_length, activation)
        self._told = False
        self.activation = default_activation(checkpoint) if activation is None else activation
        activation_of(self.activation)
        self.num_labels: int = checkpoint.modules[-1].config["labels"]
        self._typed = self._pairs.has_types and takes_types(checkpoint)
        head = _head(checkpoint, plan)
        self._engine = ENGINES[plan.scheme.engine].open(checkpoint, plan)
        self._head = head.requires_grad_(False).eval().to(self._engine.device)
        # Everything that is needed was read; what a legacy file still holds in memory is let go.
        checkpoint.close()

    def __repr__(self) -> str:
        runs = f"{self.plan.scheme} on {self.plan.device}"
        labels = "1 score" if self.num_labels == 1 else f"{self.num_labels} scores"
        return f"<Reranker {self.checkpoint.name}: {labels}; {runs}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (self.checkpoint, self.plan, *self._asked)

    @refuse_unknown_keywords
    def score(
        self,
        pairs: Iterable[Sequence[str]],
        *,
        activation: str | None = None,
        prompt: str | None = None,
        prompt_name: str | None = None,
        max_length: int | None = None,
        truncation: str = "longest_first",
        query_max_length: int | None = None,
    ) -> Tensor:
        """The scores of pairs, in their order; a pair scores the same alone and among others.

        Args:
            pairs: (query, document) each, from any iterable; one pair is a list of one.
            activation: what becomes of logits: a name of torch.nn such as "Sigmoid" or "Identity", or
                "Softmax" over labels; None for what the checkpoint says, else Sigmoid of one label.
            prompt: put before each query, or into a chat template as the system's message; it outranks
                `prompt_name`, and that the checkpoint's default.
            prompt_name: a prompt of the checkpoint.
            max_length: most tokens of a pair, for this call.
            truncation: "longest_first" cuts the longer text of a pair, then both, as sentence-transformers
                does; "only_second" cuts the query to `query_max_length` and then the document alone, as
                FlagEmbedding does.
            query_max_length: for "only_second"; None for 3/4 of the longest pair.

        Returns:
            (pairs,) float32 on the CPU, or (pairs, labels) of a model with several labels.

        Raises:
            InputError: a pair is not two strings, or an option cannot be.
            NonFiniteError: a score that is not finite even in float32.
        """
        stand_alone()
        call = self._call(activation, prompt, prompt_name, max_length, truncation, query_max_length)
        parts: list[Tensor] = []
        done = cut = 0
        for window in windows(pairs):
            encoded = self._encoded(window, call)
            for part in pack(encoded.lengths, self.plan.token_budget):
                parts.append(self._scores(encoded, part, done, call))
            done += len(window)
            cut += sum(encoded.truncated)
        if cut:
            # Long documents are common here, and calls many: said aloud once, then for those who listen.
            level, self._told = (logging.INFO if self._told else logging.WARNING), True
            logger.log(
                level, "%d of %d pairs were longer than %d tokens and were cut.", cut, done, call.max_length
            )
        found = torch.cat(parts) if parts else torch.empty(0, self.num_labels, dtype=torch.float32)
        return found[:, 0] if self.num_labels == 1 else found

    @refuse_unknown_keywords
    def rank(
        self,
        query: str,
        documents: Iterable[str],
        top_k: int | None = None,
        *,
        activation: str | None = None,
        prompt: str | None = None,
        prompt_name: str | None = None,
        max_length: int | None = None,
        truncation: str = "longest_first",
        query_max_length: int | None = None,
    ) -> list[Ranked]:
        """The documents by their scores for one query, best first; equal ones in the order they came in.

        Args:
            query: the query.
            documents: the documents.
            top_k: only so many; None for all.
            activation, prompt, prompt_name, max_length, truncation, query_max_length: see `score`.

        Raises:
            InputError: the model has several labels, of which none says what is better.
        """
        if self.num_labels != 1:
            raise InputError(
                f"{self.checkpoint.name} gives {self.num_labels} scores a pair, and it is not known which "
                "ranks. Use score(), and sort by the label that is meant."
            )
        if not isinstance(query, str):
            raise InputError(f"query is of type {type(query).__name__}, it must be one string.")
        if isinstance(documents, (str, bytes, Set, Mapping)):
            kind = kind_of(documents)
            raise InputError(f"documents is {kind}. Pass a list of strings, whose places are the answer.")
        top = None if top_k is None else positive_integer("top_k", top_k)
        texts = list(documents)
        scores = self.score(
            [(query, text) for text in texts],
            activation=activation,
            prompt=prompt,
            prompt_name=prompt_name,
            max_length=max_length,
            truncation=truncation,
            query_max_length=query_max_length,
        )
        # An engine may round a text otherwise beside others: one that comes twice has its first score.
        first: dict[str, int] = {}
        scores = scores[[first.setdefault(text, place) for place, text in enumerate(texts)]]
        order = torch.argsort(scores, descending=True, stable=True).tolist()
        return [Ranked(index, float(scores[index]), texts[index]) for index in order[:top]]

    def _call(
        self,
        activation: str | None,
        prompt: str | None,
        prompt_name: str | None,
        max_length: int | None,
        truncation: str,
        query_max_length: int | None,
    ) -> Call:
        rule = truncation_of(truncation)
        if query_max_length is not None:
            if rule != "only_second":
                raise InputError(
                    "query_max_length belongs to truncation='only_second'; with 'longest_first' the longer "
                    "text is cut. Leave it out, or pass both."
                )
            query_max_length = positive_integer("query_max_length", query_max_length)
        length = self.max_length
        if max_length is not None:
            length = limited(max_length, self._position_limit, self.checkpoint.name)
        function = activation_of(self.activation if activation is None else activation)
        return Call(function, self._prompt(prompt, prompt_name), length, rule, query_max_length)

    def _prompt(self, prompt: str | None, name: str | None) -> str:
        if prompt is not None:
            if not isinstance(prompt, str):
                raise InputError(f"prompt is of type {type(prompt).__name__}, it must be a string.")
            return prompt
        name = self.checkpoint.default_prompt_name if name is None else name
        if name is None:
            return ""
        prompts = self.checkpoint.prompts
        if name not in prompts:
            raise InputError(
                f"{self.checkpoint.name} has no prompt named {name!r}. {nearest(str(name), prompts)} "
                "Pass prompt='the text itself'."
            )
        return prompts[name]

    def _encoded(self, window: list[Pair], call: Call) -> EncodedPairs:
        return self._pairs.encode(
            window,
            max_length=call.max_length,
            truncation=call.truncation,
            query_max_length=call.query_max_length,
            prompt=call.prompt,
        )

    def _scores(self, encoded: EncodedPairs, part: slice, first: int, call: Call) -> Tensor:
        """(pairs, labels) float32 of one batch on the CPU; `first`: the number of its window's first pair."""
        batch = encoded.batch(part, types=self._typed)
        begin = first + part.start
        if isinstance(self._head, LogitScore) and 0 in batch.lengths:
            raise InputError(
                f"pair {begin + batch.lengths.index(0)} has no token, so there is none whose logits could be "
                "its score. Leave pairs of two empty texts out."
            )
        with torch.no_grad():
            hidden = self._engine.forward(batch)
            if bad := not_finite(hidden, batch):
                again = partial(recomputed, checkpoint=self.checkpoint, scheme=self.plan.scheme)
                hidden = again(hidden, batch, bad, first=begin, kind="pair")
            scores = call.activation(self._logits(hidden, batch)).to("cpu", torch.float32)
        wrong = (~torch.isfinite(scores).all(dim=1)).nonzero()
        if len(wrong):
            raise NonFiniteError(
                f"pair {begin + int(wrong[0])} gives a score that is not finite: the head of "
                f"{self.checkpoint.folder} is damaged. Fetch the model again."
            )
        return scores

    def _logits(self, hidden: Tensor, batch: Batch) -> Tensor:
        """(pairs, labels) of packed token vectors, in the heads' dtype."""
        if isinstance(self._head, DenseChain):
            found: Tensor = self._head(hidden, batch.to(self._engine.device), self.plan.precision.heads.torch)
            return found
        starts = [0, *accumulate(batch.lengths)]
        rows = [stop - 1 for stop in starts[1:]] if isinstance(self._head, LogitScore) else starts[:-1]
        logits: Tensor = self._head(hidden[torch.tensor(rows, device=hidden.device)])
        return logits


def _head(checkpoint: Checkpoint, plan: Plan) -> nn.Module:
    """The classification head, or the chain of modules that ends in scores; weights on the CPU."""

    def build(spec: ModuleSpec, width: int) -> nn.Module:
        def read(name: str) -> Tensor:
            info = spec.tensors[name]
            if name in spec.as_stored:
                return checkpoint.stored(info)
            return checkpoint.read(info, plan.precision.heads)

        return MODULES[spec.kind](spec, width, read)

    hidden = int(checkpoint.config["hidden_size"])
    if len(checkpoint.modules) == 1:
        return build(checkpoint.modules[0], hidden)
    return dense_chain(checkpoint.modules, hidden, build, str(checkpoint.folder))


def _restore(checkpoint: Checkpoint, plan: Plan, max_length: int | None, activation: str | None) -> Reranker:
    """What unpickling calls: the weights are read again from their files, not carried along."""
    return Reranker(checkpoint, plan, max_length=max_length, activation=activation)
