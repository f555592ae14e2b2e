"""What a run trains, as it sees it: texts to tokens, outputs to a loss, weights to a folder and measures."""

from __future__ import annotations

__all__ = ["EmbeddingSubject"]

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch

from tercet.batch import Batch
from tercet.embedder import load
from tercet.embedder.options import Asked, saved_prompt
from tercet.errors import InputError
from tercet.evaluation import evaluate
from tercet.precision.dtype import DType
from tercet.training.card import model_card
from tercet.training.data import TrainingBatch
from tercet.training.data.batch import Prompts
from tercet.training.logits import refuse_rerankers
from tercet.training.lora import save_adapters
from tercet.training.losses import make_loss
from tercet.training.model import open_trainable
from tercet.training.objective import Objective
from tercet.training.outputs import OUTPUTS, Outputs
from tercet.training.prompting import prompted_batch
from tercet.training.recipe import TrainRecipe, ValidationRecipe
from tercet.training.saving import save_trained
from tercet.training.targets import LossValue, Targets


class EmbeddingSubject:
    """A model that embeds queries and passages apart.

    Attributes:
        model: what learns.
        prompts: what it puts before texts where the data does not say it.
        recipe: the run's.

    Raises:
        InputError: the recipe asks for what the model does not have.
    """

    def __init__(self, recipe: TrainRecipe) -> None:
        refuse_rerankers(recipe)
        self.recipe = recipe
        heads = {
            head for one in recipe.losses for head in make_loss(one.name, one.options, head=one.head).heads
        }
        self.model = open_trainable(
            recipe.model,
            revision=recipe.revision,
            pooling=recipe.pooling,
            normalize=recipe.normalize,
            include_prompt=recipe.include_prompt,
            heads=recipe.heads,
            outputs=tuple(name for name in OUTPUTS if name in heads),
            seed=recipe.seed,
            dropout=recipe.dropout,
            gradient_checkpointing=recipe.gradient_checkpointing,
            freeze_body=recipe.freeze_body,
            freeze_embeddings=recipe.freeze_embeddings,
            lora=recipe.lora,
        )
        how = recipe.validation
        if how is not None and how.head is not None and how.head not in self.model.outputs:
            raise InputError(
                f"validation.head is {how.head!r}, and no loss trains it: {', '.join(self.model.outputs)}."
            )
        longest = self.model.checkpoint.max_length
        self._query_length = min(longest, recipe.query_max_length or longest)
        self._document_length = min(longest, recipe.document_max_length or longest)
        self.prompts = Prompts(self._prompt("query"), self._prompt("document"))

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, cut where the longer of the two limits is."""
        longest = max(self._query_length, self._document_length)
        return self.model.tokenizer.encode(texts, max_length=longest).lengths

    def sides(self, batch: TrainingBatch) -> list[Batch]:
        """Queries and passages, on the CPU."""
        return [
            prompted_batch(self.model.tokenizer, batch.queries, batch.query_prompts, self._query_length),
            prompted_batch(
                self.model.tokenizer, batch.documents, batch.document_prompts, self._document_length
            ),
        ]

    def loss(self, objective: Objective, outputs: Sequence[Outputs], targets: Targets) -> LossValue:
        """The objective of the outputs of both sides."""
        return objective(outputs[0], outputs[1], targets)

    def save(self, folder: Path, dtype: DType, step: int, measured: dict[str, float]) -> Path:
        """The folder, now holding the model after so many steps, and what was measured of it."""
        return save_trained(self.model, folder, dtype, card=model_card(self.recipe, step, measured))

    def save_adapters(self) -> None:
        """Writes adapters alone, where the recipe names a folder for them."""
        lora = self.recipe.lora
        if lora is not None and lora.folder is not None:
            save_adapters(self.model.encoder, lora, Path(lora.folder), self.recipe.model)

    def measured(self, how: ValidationRecipe, device: torch.device) -> dict[str, float]:
        """The metric of each head of the model as it would be saved, and of their mean as "chosen"."""
        self.model.eval()
        with tempfile.TemporaryDirectory(prefix="tercet-") as scratch:
            saved = self.save(Path(scratch) / "model", DType.FLOAT32, 0, {})
            report = evaluate(
                load(saved, precision="float32", device=device),
                how.collection,
                split=how.split,
                outputs=self.model.outputs,
                metrics=[how.metric],
                refresh=True,
            )
        found = {
            f"{system.name}/{name}": value
            for system in report.systems
            for name, value in system.metrics.items()
            if value is not None
        }
        heads = self.model.outputs if how.head is None else (how.head,)
        values = [value for name, value in found.items() if name.partition("/")[0] in heads]
        found["chosen"] = sum(values) / len(values)
        return found

    def _prompt(self, role: Literal["query", "document"]) -> str:
        checkpoint = self.model.checkpoint
        name = saved_prompt(Asked(), role, checkpoint).prompt_name or checkpoint.default_prompt_name
        return "" if name is None else checkpoint.prompts[name]
