"""A reranker loaded: found, opened, planned."""

from __future__ import annotations

__all__ = ["load_reranker"]

import logging
from collections.abc import Callable
from pathlib import Path

import torch

from tercet.checkpoint.reranker_files import open_reranker
from tercet.checkpoint.source import find
from tercet.embedder.loading import planned
from tercet.embedder.options import positive_integer
from tercet.precision.plan import Plan
from tercet.reranker.reranker import Reranker
from tercet.signatures import refuse_unknown_keywords

logger = logging.getLogger(__name__)


@refuse_unknown_keywords
def load_reranker(
    path_or_id: str | Path,
    *,
    precision: object = "auto",
    device: str | int | torch.device | None = None,
    revision: str | None = None,
    token: str | None = None,
    local_files_only: bool = False,
    cache_folder: str | Path | None = None,
    max_length: int | None = None,
    activation: str | None = None,
    token_budget: int | None = None,
    tolerance: float | None = None,
    plan: Plan | str | Path | None = None,
    confirm: Callable[[int], bool] | None = None,
) -> Reranker:
    """A cross-encoder, loaded at a planned precision and ready to score pairs.

    Args:
        path_or_id: a folder, or a hub id such as "BAAI/bge-reranker-v2-m3": an encoder with a classification
            head, as transformers, FlagEmbedding and sentence-transformers' CrossEncoder save it; or a Qwen3
            with a LogitScore, as the CrossEncoder saves it.
        precision: of the encoder, as in `tercet.load`; the head works in float32.
        device, revision, token, local_files_only, cache_folder, token_budget, tolerance, plan, confirm: as
            in `tercet.load`.
        max_length: most tokens of a pair, special tokens included; never more than the model takes.
        activation: what becomes of logits, instead of what the checkpoint says: a name of torch.nn such as
            "Sigmoid" or "Identity".

    Raises:
        CheckpointError, SourceError: the model is not there, is damaged, or is no such reranker.
        MissingExtraError: pairs are put into a chat template, and Jinja is not installed.
        PrecisionError: the precision, device or plan cannot be honoured.
        InputError: an option cannot be, or contradicts the plan.
    """
    max_length = None if max_length is None else positive_integer("max_length", max_length)
    source = find(
        path_or_id,
        revision=revision,
        token=token,
        local_files_only=local_files_only,
        cache_folder=cache_folder,
        confirm=confirm,
    )
    checkpoint = open_reranker(source)
    decided = planned(
        checkpoint,
        plan=plan,
        precision=precision,
        device=device,
        token_budget=token_budget,
        max_length=max_length,
        tolerance=tolerance,
    )
    for note in checkpoint.notes:
        logger.info("%s: %s", checkpoint.name, note)
    return Reranker(checkpoint, decided, max_length=max_length, activation=activation)
