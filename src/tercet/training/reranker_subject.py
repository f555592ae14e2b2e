"""A reranker, as a run sees it: pairs to tokens, logits to a loss, weights to a folder and measures."""

from __future__ import annotations

__all__ = ["RerankerSubject"]

import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from tercet.batch import Batch
from tercet.errors import InputError
from tercet.precision.dtype import DType
from tercet.reranker import load_reranker
from tercet.training.card import model_card
from tercet.training.cross_encoder import open_trainable_reranker, save_reranker
from tercet.training.data import TrainingBatch
from tercet.training.data.batch import Prompts
from tercet.training.objective import Objective
from tercet.training.outputs import Outputs
from tercet.training.ranked_candidates import RankedCandidates
from tercet.training.recipe import HeadRecipe, RerankerRecipe, TrainRecipe, ValidationRecipe
from tercet.training.targets import LossValue, Targets


class RerankerSubject:
    """A model that reads each query together with each of its passages.

    Attributes:
        model: what learns.
        prompts: what it puts before queries where the data does not say it.
        recipe: the run's.

    Raises:
        InputError: the recipe asks for what a reranker does not have.
    """

    def __init__(self, recipe: TrainRecipe) -> None:
        _refuse(recipe)
        self.recipe = recipe
        self._candidates = None if recipe.validation is None else RankedCandidates.of(recipe.validation)
        self.model = open_trainable_reranker(
            recipe.model,
            revision=recipe.revision,
            seed=recipe.seed,
            dropout=recipe.dropout,
            gradient_checkpointing=recipe.gradient_checkpointing,
            freeze_body=recipe.freeze_body,
            freeze_embeddings=recipe.freeze_embeddings,
            lora=recipe.lora,
        )
        self._cut = recipe.reranker or RerankerRecipe()
        longest = self.model.checkpoint.max_length
        self._max_length = min(longest, self._cut.max_length or longest)
        name = self.model.checkpoint.default_prompt_name
        self.prompts = Prompts("" if name is None else self.model.checkpoint.prompts[name])

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text alone, cut where a pair would be."""
        return self.model.tokenizer.encode(texts, max_length=self._max_length).lengths

    def sides(self, batch: TrainingBatch) -> list[Batch]:
        """One side: each query with each of its passages, on the CPU."""
        asked = [prompt + text for prompt, text in zip(batch.query_prompts, batch.queries, strict=True)]
        answers = [
            prompt + text for prompt, text in zip(batch.document_prompts, batch.documents, strict=True)
        ]
        pairs = [(asked[number // batch.group_size], text) for number, text in enumerate(answers)]
        return [
            self.model.batch(
                pairs,
                max_length=self._max_length,
                truncation=self._cut.truncation,
                query_max_length=self._cut.query_max_length,
            )
        ]

    def loss(self, objective: Objective, outputs: Sequence[Outputs], targets: Targets) -> LossValue:
        """The objective of the logits, a row a query."""
        [side] = outputs
        assert side.dense is not None
        assert targets.allowed is not None
        logits = Outputs(dense=side.dense.view(len(targets.allowed), -1))
        return objective(logits, logits, targets)

    def save(self, folder: Path, dtype: DType, step: int, measured: dict[str, float]) -> Path:
        """The folder, now holding the model after so many steps, and what was measured of it."""
        card = model_card(self.recipe, step, measured, reranks=True)
        return save_reranker(self.model, folder, dtype, card=card)

    def save_adapters(self) -> None:
        """Nothing: adapters of a reranker are saved in its weights alone."""

    def measured(self, how: ValidationRecipe, device: torch.device) -> dict[str, float]:
        """The metric of the model as it would be saved, also as "chosen"."""
        assert self._candidates is not None
        self.model.eval()
        with tempfile.TemporaryDirectory(prefix="tercet-") as scratch:
            saved = self.save(Path(scratch) / "model", DType.FLOAT32, 0, {})
            model = load_reranker(saved, precision="float32", device=device)

            def score(pairs: list[tuple[str, str]]) -> Tensor:
                # Logits: where a sigmoid ends in 1 for several documents, their order would be lost.
                return model.score(
                    pairs,
                    activation="Identity",
                    max_length=self._max_length,
                    truncation=self._cut.truncation,
                    query_max_length=self._cut.query_max_length,
                )

            value = self._candidates.measured(score)
        return {f"reranker/{how.metric}": value, "chosen": value}


def _refuse(recipe: TrainRecipe) -> None:
    """An error for what a reranker does not have."""
    lora, how = recipe.lora, recipe.validation
    lengths = "reranker.max_length and reranker.query_max_length say how pairs are cut"
    refused = {
        "pooling": (recipe.pooling is not None, "a reranker has none"),
        "normalize": (recipe.normalize is not None, "a reranker makes no vectors"),
        "include_prompt": (recipe.include_prompt is not None, "a reranker's pooling stays as it is"),
        "heads": (recipe.heads != HeadRecipe(), "a reranker has the one that scores pairs"),
        "query_max_length": (recipe.query_max_length is not None, lengths),
        "document_max_length": (recipe.document_max_length is not None, lengths),
        "validation.head": (how is not None and how.head is not None, "a reranker has one score"),
        "lora.folder": (
            lora is not None and lora.folder is not None,
            "a reranker's adapters are saved in its weights alone",
        ),
        "batch.negatives_across_devices": (
            recipe.batch.negatives_across_devices,
            "a query is told from its own passages alone",
        ),
    }
    for key, (given, why) in refused.items():
        if given:
            raise InputError(f"{key} is given, and the losses are a reranker's: {why}. Leave {key} out.")
