"""The run: batches, gradients, steps, measurements, and states to go on from."""

from __future__ import annotations

__all__ = ["Trained", "train"]

import json
import logging
import tempfile
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from math import ceil, isfinite
from pathlib import Path
from time import perf_counter
from typing import Any, TypeAlias

import torch
from torch import Tensor

from tercet.batch import Batch
from tercet.embedder import load
from tercet.embedder.options import Asked, saved_prompt
from tercet.errors import InputError, NonFiniteError, OutputError
from tercet.evaluation import evaluate
from tercet.evaluation.layouts import open_collection
from tercet.evaluation.metrics import parse_metrics
from tercet.precision.dtype import DType
from tercet.precision.memory import peak_process_memory
from tercet.training.card import model_card
from tercet.training.data import Order, Source, TrainingBatch, make_batch, open_source
from tercet.training.data.batch import Prompts
from tercet.training.data.order import Chosen
from tercet.training.gradcache import backward_in_parts
from tercet.training.lora import save_adapters
from tercet.training.losses import make_loss
from tercet.training.model import open_trainable
from tercet.training.objective import Objective
from tercet.training.processes import find_place, undisturbed
from tercet.training.recipe import TrainRecipe, ValidationRecipe, read_recipe
from tercet.training.saving import save_trained
from tercet.training.scalars import Scalars
from tercet.training.states import newest_state, read_state, write_state
from tercet.training.steps import learning_rates, make_optimizer, terms_of
from tercet.training.targets import LossValue, Targets

logger = logging.getLogger(__name__)

# (step, steps, what scalars.jsonl has of it)
Progress: TypeAlias = Callable[[int, int, Mapping[str, Any]], None]

# Steps in a row that float16 may leave out: its factor was halved from 2^16 to below 1 by then.
_MOST_SKIPS = 24


@dataclass(frozen=True, slots=True)
class Trained:
    """What a run came to.

    Attributes:
        folder: the saved model.
        steps: that were taken, those before an interruption among them.
        loss: of the last step.
        best: what was measured of the saved model, by name; empty without validation.
        best_step: the step that it is of.
        stopped_early: whether patience ended the run.
    """

    folder: Path
    steps: int
    loss: float
    best: Mapping[str, float]
    best_step: int
    stopped_early: bool


def train(
    recipe: TrainRecipe | str | Path | Mapping[str, Any],
    *,
    resume: bool = False,
    device: str | None = None,
    progress: Progress | None = None,
) -> Trained:
    """What the run came to; the model lies in the recipe's output folder, the run's own files beside it.

    `<output>.run` holds states to go on from, and scalars.jsonl with a line a step.

    Args:
        recipe: a YAML file, plain values, or a `TrainRecipe`.
        resume: go on from the newest state in `<output>.run`; the run ends as an unbroken one would.
        device: "cpu" for the CPU; None for what accelerate finds.
        progress: called after each step.

    Raises:
        InputError: a recipe or a line of data that cannot be used; everything is checked before the first
        step. NonFiniteError: a loss that is not finite.
        OutputError: the output folder is in use, or cannot be written.
        MissingExtraError: accelerate or PyYAML is not installed.
    """
    recipe = read_recipe(recipe)
    run = Path(recipe.output.folder + ".run")
    _check_folders(recipe, run, resume)
    with torch.random.fork_rng():
        return _Run(recipe, run, device, progress).whole(resume)


class _Run:
    """One run in this process."""

    def __init__(
        self, recipe: TrainRecipe, folder: Path, device: str | None, progress: Progress | None
    ) -> None:
        if (how := recipe.validation) is not None:
            parse_metrics([how.metric])
            open_collection(how.collection, split=how.split)
        self.recipe = recipe
        self.folder = folder
        self.progress = progress
        self.where = find_place(
            recipe.precision, device, across_devices=recipe.batch.negatives_across_devices
        )
        self.accelerator = self.where.accelerator
        logger.info("Precision: %s.", self.where.reason)
        self.scalars = Scalars(folder)
        heads = {
            head for one in recipe.losses for head in make_loss(one.name, one.options, head=one.head).heads
        }
        self.model = open_trainable(
            recipe.model,
            revision=recipe.revision,
            pooling=recipe.pooling,
            heads=recipe.heads,
            outputs=tuple(name for name in ("dense", "sparse", "multivector") if name in heads),
            seed=recipe.seed,
            dropout=recipe.dropout,
            gradient_checkpointing=recipe.gradient_checkpointing,
            freeze_body=recipe.freeze_body,
            lora=recipe.lora,
        )
        if how is not None and how.head is not None and how.head not in self.model.outputs:
            raise InputError(
                f"validation.head is {how.head!r}, and no loss trains it: {', '.join(self.model.outputs)}."
            )
        self.prompts = Prompts(*(self._prompt(role) for role in ("query", "document")))
        self.lengths = [
            min(self.model.checkpoint.max_length, asked or self.model.checkpoint.max_length)
            for asked in (recipe.query_max_length, recipe.document_max_length)
        ]
        self.sources = [self._source(number) for number in range(len(recipe.data))]
        for note in (note for source in self.sources for note in source.notes):
            logger.warning("%s", note)
        self.objectives = terms_of(recipe.losses, self.sources)
        self.order = Order(
            self.sources,
            recipe.batch,
            recipe.seed,
            self.accelerator.process_index,
            self.accelerator.num_processes,
        )
        self.steps = recipe.steps or self._steps_of(recipe.epochs or 1.0)
        optimizer = make_optimizer(self.model, recipe.optimizer)
        self.wrapped, self.optimizer = self.accelerator.prepare(self.model, optimizer)
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        self.rate = learning_rates(recipe.optimizer, self.steps)
        self.step = self.epoch = self.place = self.skipped = 0
        self.loss = float("nan")
        self.best: dict[str, float] = {}
        self.best_step = self.stale = 0
        self.best_weights: dict[str, Tensor] | None = None

    def whole(self, resume: bool) -> Trained:
        """The run from its beginning, or from its newest state, to its end."""
        if resume:
            self._resume()
        if self.accelerator.is_main_process:
            self.scalars.begin(self.step)
        patience = None if self.recipe.validation is None else self.recipe.validation.patience
        stopped = False
        try:
            while self.step < self.steps and not stopped:
                self._one_step()
                stopped = self._after_step(patience)
        except (KeyboardInterrupt, SystemExit):
            self._save_state()
            logger.warning("Stopped after step %d; its state is in %s.", self.step, self.folder)
            raise
        except NonFiniteError as error:
            if not self._finite():
                raise
            self._save_state()
            raise NonFiniteError(
                f"After step {self.step}: {error} The state before it is in {self.folder}."
            ) from None
        self._save_state()
        if self.best_weights is not None:
            self.model.load_state_dict(self.best_weights)
        folder = Path(self.recipe.output.folder)
        if self.accelerator.is_main_process:
            self._save_model(folder, DType.parse(self.recipe.output.dtype))
            lora = self.recipe.lora
            if lora is not None and lora.folder is not None:
                save_adapters(self.model.encoder, lora, Path(lora.folder), self.recipe.model)
        return Trained(folder, self.step, self.loss, self.best, self.best_step, stopped)

    def _one_step(self) -> None:
        """The gradients of as many batches as the recipe accumulates, and one step by them."""
        start, tokens, accumulate = perf_counter(), 0, self.recipe.batch.accumulate
        self.model.train()
        epoch = self.epoch
        parts: dict[str, float] = {}
        total = 0.0
        place = self.epoch, self.place  # of the next batch, once the step is taken
        for number in range(accumulate):
            chosen, place = self._next(*place)
            sync = nullcontext() if number == accumulate - 1 else self.accelerator.no_sync(self.wrapped)
            with sync:
                value, count = self._gradients(chosen, self.step * accumulate + number)
            tokens += count
            total += float(value.value) / accumulate
            for name, part in value.parts.items():
                parts[name] = parts.get(name, 0.0) + float(part) / accumulate
        limit = self.recipe.optimizer.max_gradient_norm
        norm = float(self.accelerator.clip_grad_norm_(self.wrapped.parameters(), limit or float("inf")))
        self._check_gradients(norm)
        tokens_of_all, total = self.where.sum_and_mean(tokens, total)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * self.rate(self.step)
        with undisturbed():
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.step, self.loss = self.step + 1, total
            self.epoch, self.place = place
        self.ended_epoch = self.epoch > epoch
        seconds = perf_counter() - start
        self._note(
            {
                "step": self.step,
                "epoch": epoch,
                "loss": total,
                **parts,
                "learning_rate": self.optimizer.param_groups[0]["lr"],
                "gradient_norm": norm if isfinite(norm) else None,
                "skipped": self.skipped,
                "tokens": round(tokens_of_all),
                "tokens_per_second": tokens_of_all / max(seconds, 1e-9),
                "peak_bytes": peak_process_memory(),
            }
        )

    def _next(self, epoch: int, place: int) -> tuple[Chosen, tuple[int, int]]:
        """The batch at a place of the order, and the place behind it."""
        if self._batches is None or self._at != (epoch, place):
            self._batches, self._at = self.order.epoch(epoch, place), (epoch, place)
            self._last = self.order.count(epoch) - 1
        chosen = next(self._batches)
        self._at = (epoch, place + 1) if place < self._last else (epoch + 1, 0)
        if self._at[1] == 0:
            self._batches = None
        return chosen, self._at

    _batches: Any = None
    _at: tuple[int, int] = (-1, -1)
    _last: int = -1
    ended_epoch: bool = False

    def _steps_of(self, epochs: float) -> int:
        """Steps of so many epochs; their batches differ in number where tokens bound them."""
        whole = int(epochs)
        counts = [self.order.count(0)] * whole
        if self.recipe.batch.tokens is not None:
            counts = [self.order.count(epoch) for epoch in range(whole)]
        part = epochs - whole
        batches = sum(counts) + (part * self.order.count(whole) if part else 0.0)
        # 0.1 + 0.2 and their like are not meant to cost another step.
        return max(1, ceil(round(batches / self.recipe.batch.accumulate, 6)))

    def _check_gradients(self, norm: float) -> None:
        """An error for a gradient that is not finite; in float16 the step is left out and counted."""
        if isfinite(norm):
            self.failures = 0
            return
        self.failures += 1
        if self.accelerator.scaler is not None and self.failures <= _MOST_SKIPS:
            self.skipped += 1
            return
        self.optimizer.zero_grad()
        raise NonFiniteError(
            f"The gradient's length is {norm:g}, although the loss is finite; no step was taken with it. "
            "Lower the learning rate, raise the temperature, or train in float32."
        )

    failures: int = 0

    def _finite(self) -> bool:
        return all(bool(torch.isfinite(one).all()) for one in self.model.parameters())

    def _gradients(self, chosen: Chosen, number: int) -> tuple[LossValue, int]:
        """The loss of a batch, its gradients added to the weights'; and how many tokens it had."""
        # By the number of the batch: dropout of a run that goes on draws what that of an unbroken one would.
        torch.manual_seed(hash((self.recipe.seed, number, self.accelerator.process_index)) & (2**63 - 1))
        batch = make_batch(self.sources, chosen, self.prompts)
        source = self.sources[int(chosen.sources[0])]
        objective = self.objectives[int(chosen.sources[0])]
        device = self.accelerator.device
        sides = [
            self._tokens(batch.queries, batch.query_prompts, self.lengths[0]).to(device),
            self._tokens(batch.documents, batch.document_prompts, self.lengths[1]).to(device),
        ]
        targets = self._targets(batch, source, objective).to(device)
        scale = 1.0 / self.recipe.batch.accumulate

        def backward(value: Tensor) -> None:
            self.accelerator.backward(value * scale)

        def encode(part: Batch) -> Any:
            device_type = self.accelerator.device.type
            narrow = self.where.narrow
            with self.accelerator.autocast(), torch.autocast(device_type, narrow, enabled=narrow is not None):
                return self.wrapped(part, objective.heads)

        budget = self.recipe.batch.forward_tokens
        tokens = sum(side.num_tokens for side in sides)
        if budget is None:
            value = objective(encode(sides[0]), encode(sides[1]), targets)
            backward(value.value)
            return LossValue(value.value.detach(), value.parts), tokens
        value = backward_in_parts(
            encode,
            sides,
            lambda outputs: objective(outputs[0], outputs[1], targets),
            token_budget=budget,
            backward=backward,
            without_sync=partial(self.accelerator.no_sync, self.wrapped),
        )
        return value, tokens

    def _targets(self, batch: TrainingBatch, source: Source, objective: Objective) -> Targets:
        uses = {kind for term in objective.terms for kind in term.loss.uses}
        return Targets(
            scores=batch.teacher if "scores" in uses else None,
            labels=batch.labels if "labels" in uses else None,
            in_batch=source.recipe.in_batch_negatives,
            across_devices=self.recipe.batch.negatives_across_devices,
            allowed=batch.allowed,
            step=self.step,
        )

    def _tokens(self, texts: tuple[str, ...], prompts: tuple[str, ...], max_length: int) -> Batch:
        whole = [prompt + text for prompt, text in zip(prompts, texts, strict=True)]
        return Batch.from_ids(self.model.tokenizer.encode(whole, max_length=max_length).ids)

    def _source(self, number: int) -> Source:
        """A file of the recipe, its lengths in tokens where batches are counted in them."""
        tokenizer, longest = self.model.tokenizer, max(self.lengths)

        def tokens(texts: Any) -> list[int]:
            return tokenizer.encode(texts, max_length=longest).lengths

        return open_source(
            self.recipe.data[number], measure=None if self.recipe.batch.tokens is None else tokens
        )

    def _prompt(self, role: Any) -> str:
        checkpoint = self.model.checkpoint
        name = saved_prompt(Asked(), role, checkpoint).prompt_name or checkpoint.default_prompt_name
        return "" if name is None else checkpoint.prompts[name]

    def _after_step(self, patience: int | None) -> bool:
        """Measures and saves where it is time for it; whether the run has waited long enough."""
        how, every = self.recipe.validation, self.recipe.checkpoints.every
        if how is not None:
            due = self.ended_epoch if how.every is None else self.step % how.every == 0
            if due or self.step == self.steps:
                self._validate(how)
                self._save_state()
        if every is not None and self.step % every == 0:
            self._save_state()
        return patience is not None and self.stale >= patience

    def _validate(self, how: ValidationRecipe) -> None:
        """Measures the model as it would be saved, and keeps it if none was better."""
        found = self.where.shared(self._measured(how) if self.accelerator.is_main_process else {})
        if found["chosen"] > self.best.get("chosen", float("-inf")):
            self.best, self.best_step, self.stale = found, self.step, 0
            self.best_weights = {
                name: one.detach().cpu().clone() for name, one in self.model.state_dict().items()
            }
        else:
            self.stale += 1
        self._note({"step": self.step, **{f"validation/{name}": value for name, value in found.items()}})

    def _measured(self, how: ValidationRecipe) -> dict[str, float]:
        """The metric of each head, and of their mean as "chosen"."""
        self.model.eval()
        with tempfile.TemporaryDirectory(prefix="tercet-") as scratch:
            saved = self._save_model(Path(scratch) / "model", DType.FLOAT32)
            model = load(saved, precision="float32", device=self.accelerator.device)
            report = evaluate(
                model,
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

    def _save_model(self, folder: Path, dtype: DType) -> Path:
        return save_trained(self.model, folder, dtype, card=model_card(self.recipe, self.step, self.best))

    def _save_state(self) -> None:
        if not self.accelerator.is_main_process:
            return
        state = {
            "recipe": json.dumps(self._lasting(), sort_keys=True),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": None if self.accelerator.scaler is None else self.accelerator.scaler.state_dict(),
            "data": [source.digest() for source in self.sources],
            "processes": self.where.processes,
            "counts": [self.step, self.epoch, self.place, self.best_step, self.stale, self.skipped],
            "loss": self.loss,
            "best": self.best,
            "best_weights": self.best_weights,
        }
        write_state(self.folder, state, step=self.step, keep=self.recipe.checkpoints.keep)

    def _resume(self) -> None:
        found = newest_state(self.folder)
        if found is None:
            raise InputError(f"{self.folder}: there is no state to go on from. Start without resume.")
        state = read_state(found)
        before, now = json.loads(state["recipe"]), json.loads(json.dumps(self._lasting()))
        if changed := [key for key in now if now[key] != before.get(key)]:
            raise InputError(
                f"{found}: the run had another {', '.join(changed)}; a run goes on as it began. Put the "
                "recipe back, or start anew in another folder."
            )
        for source, digest in zip(self.sources, state["data"], strict=True):
            if source.digest() != digest:
                raise InputError(
                    f"{source.recipe.path} is not what it was when {found} was written; a run goes on as it "
                    "began. Put the file back, or start anew in another folder."
                )
        if state["processes"] != self.where.processes:
            raise InputError(
                f"{found}: the run had {state['processes']} processes, now there are {self.where.processes}; "
                "batches would be others. Start as many, or anew in another folder."
            )
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if state["scaler"] is not None and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.step, self.epoch, self.place, self.best_step, self.stale, self.skipped = state["counts"]
        self.loss, self.best, self.best_weights = state["loss"], state["best"], state["best_weights"]

    def _lasting(self) -> dict[str, Any]:
        """What of the recipe decides every step, and may not change when a run goes on."""
        values = self.recipe.to_dict()
        for key in ("output", "checkpoints", "validation"):
            del values[key]
        return values

    def _note(self, scalars: dict[str, Any]) -> None:
        if not self.accelerator.is_main_process:
            return
        self.scalars.add(scalars)
        if self.progress is not None:
            self.progress(self.step, self.steps, scalars)


def _check_folders(recipe: TrainRecipe, run: Path, resume: bool) -> None:
    """An error, before anything is computed, where the result could not be written."""
    named = {"output.folder": recipe.output.folder}
    if recipe.lora is not None and recipe.lora.folder is not None:
        named["lora.folder"] = recipe.lora.folder
    for key, name in named.items():
        folder = Path(name)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise OutputError(f"{folder} exists and is not an empty folder. Name a new one as {key}.")
    if run.exists() and not resume and newest_state(run) is not None:
        raise OutputError(
            f"{run} holds the states of a run. Go on with --resume, remove it, or name another folder."
        )
