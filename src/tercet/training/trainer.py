"""The run: batches, gradients, steps, measurements, and states to go on from."""

from __future__ import annotations

__all__ = ["Trained", "train"]

import logging
from collections.abc import Callable, Mapping
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from time import perf_counter
from typing import Any, TypeAlias

import torch
from torch import Tensor

from tercet.errors import InputError, NonFiniteError, OutputError
from tercet.evaluation.layouts import open_collection
from tercet.evaluation.metrics import parse_metrics
from tercet.precision.dtype import DType
from tercet.precision.memory import peak_process_memory
from tercet.training.course import Course
from tercet.training.going_on import check_goes_on, lasting, measured_by
from tercet.training.gradients import Gradients
from tercet.training.logits import is_of_rerankers
from tercet.training.processes import find_place, undisturbed
from tercet.training.recipe import TrainRecipe, ValidationRecipe, read_recipe
from tercet.training.reranker_subject import RerankerSubject
from tercet.training.scalars import Scalars
from tercet.training.sharding import hold
from tercet.training.states import newest_state, read_state, write_state
from tercet.training.steps import learning_rates
from tercet.training.subject import EmbeddingSubject

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
        precision: what the encoder computed in, and why.
    """

    folder: Path
    steps: int
    loss: float
    best: Mapping[str, float]
    best_step: int
    stopped_early: bool
    precision: str


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
        resume: go on from the newest state in `<output>.run`; the run ends as an unbroken one would. Of the
            recipe its optimizer, length, precision, validation, checkpoints, output, weights and options of
            losses may be others now.
        device: "cpu" for the CPU; None for what accelerate finds.
        progress: called after each step.

    Raises:
        InputError: a recipe or a line of data that cannot be used; everything is checked before the first
        step. NonFiniteError: a loss that is not finite.
        OutputError: the output folder is in use, or cannot be written.
        MissingExtraError: accelerate or PyYAML is not installed, or tensorboardX where the recipe needs it.
    """
    recipe = read_recipe(recipe)
    run = Path(recipe.output.folder + ".run")
    _check_folders(recipe, run, resume)
    with torch.random.fork_rng(), closing((made := _Run(recipe, run, device, progress)).scalars):
        return made.whole(resume)


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
            recipe.precision,
            device,
            across_devices=recipe.batch.negatives_across_devices,
            shard=recipe.shard,
        )
        self.accelerator = self.where.accelerator
        logger.info("Precision: %s.", self.where.reason)
        self.scalars = Scalars(folder, tensorboard=recipe.tensorboard)
        reranks = is_of_rerankers(recipe.losses)
        self.subject = RerankerSubject(recipe) if reranks else EmbeddingSubject(recipe)
        self.model = self.subject.model
        self.course = Course(
            recipe,
            self.subject.lengths,
            self.accelerator.process_index,
            self.accelerator.num_processes,
            paired=reranks,
        )
        self.steps = self.course.steps
        self.held = hold(self.model, recipe, self.where)
        self.optimizer = self.held.optimizer
        self.gradients = Gradients(recipe, self.subject, self.held, self.where, self.course)
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        self.rate = learning_rates(recipe.optimizer, self.steps)
        self.step = self.epoch = self.place = self.skipped = self.failures = 0
        self.ended_epoch = False
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
        stopped, how = False, self.recipe.validation
        patience = None if how is None else how.patience
        try:
            while self.step < self.steps and not stopped:
                self._one_step()
                stopped = self._after_step(patience)
        except (KeyboardInterrupt, SystemExit):
            if not self.held.shards:  # else others are elsewhere, and would not help to gather the weights
                self._save_state()
            logger.warning("Stopped after step %d; its newest state is in %s.", self.step, self.folder)
            raise
        except NonFiniteError as error:
            if self.held.shards:
                raise
            if (name := self._not_finite()) is not None:
                raise self._broken(name, error) from None
            self._save_state()
            raise NonFiniteError(
                f"After step {self.step}: {error} The state before it is in {self.folder}."
            ) from None
        self._save_state()
        folder = Path(self.recipe.output.folder)
        with self.held.showing(self.best_weights):
            if self.accelerator.is_main_process:
                self.subject.save(folder, DType.parse(self.recipe.output.dtype), self.step, self.best)
                self.subject.save_adapters()
        return Trained(folder, self.step, self.loss, self.best, self.best_step, stopped, self.where.reason)

    def _one_step(self) -> None:
        """The gradients of as many batches as the recipe accumulates, and one step by them."""
        start, tokens, accumulate = perf_counter(), 0, self.recipe.batch.accumulate
        self.model.train()
        epoch, total = self.epoch, 0.0
        parts: dict[str, float] = {}
        place = self.epoch, self.place  # of the next batch, once the step is taken
        for number in range(accumulate):
            chosen, place = self.course.next(*place)
            sync = nullcontext() if number == accumulate - 1 else self.held.without_sync()
            with sync:
                value, count = self.gradients.add(chosen, self.step * accumulate + number, self.step)
            tokens += count
            total += float(value.value) / accumulate
            for name, part in value.parts.items():
                parts[name] = parts.get(name, 0.0) + float(part) / accumulate
        scaler, limit = self.where.scaler, self.recipe.optimizer.max_gradient_norm
        scaler.unscale_(self.optimizer)
        norm = self.held.clip(limit or float("inf"))
        self._check_gradients(norm)
        tokens_of_all, total = self.where.sum_and_mean(tokens, total)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * self.rate(self.step)
        with undisturbed():
            scaler.step(self.optimizer)
            scaler.update()
            self.optimizer.zero_grad()
            self.step, self.loss = self.step + 1, total
            self.epoch, self.place = place
        self.ended_epoch, seconds = self.epoch > epoch, perf_counter() - start
        self._note(
            {
                "step": self.step,
                "epoch": epoch,
                "loss": total,
                **parts,
                "learning_rate": self.optimizer.param_groups[0]["lr"],
                "gradient_norm": norm if isfinite(norm) else None,
                "skipped": self.skipped,
                **({"loss_scale": scaler.get_scale()} if scaler.is_enabled() else {}),
                "tokens": round(tokens_of_all),
                "tokens_per_second": tokens_of_all / max(seconds, 1e-9),
                "peak_bytes": peak_process_memory(),
            }
        )

    def _check_gradients(self, norm: float) -> None:
        """An error for a gradient that is not finite; in float16 the step is left out and counted."""
        if isfinite(norm):
            self.failures = 0
            return
        self.failures += 1
        if self.where.scaler.is_enabled() and self.failures <= _MOST_SKIPS:
            self.skipped += 1
            return
        self.optimizer.zero_grad()
        raise NonFiniteError(
            f"The gradient's length is {norm:g}, although the loss is finite; no step was taken with it. "
            "Lower the learning rate, raise the temperature, or train in float32."
        )

    def _not_finite(self) -> str | None:
        """The name of the first weights that are not finite, if any are."""
        named = self.model.named_parameters()
        return next((name for name, one in named if not torch.isfinite(one).all()), None)

    def _broken(self, name: str, error: NonFiniteError) -> NonFiniteError:
        """What is said where not the step but the weights before it are at fault."""
        if self.step == 0:
            return NonFiniteError(
                f"{self.recipe.model}: {name} holds values that are not finite, and nothing can be learned "
                "from there. Take a sound copy of the model."
            )
        return NonFiniteError(
            f"After step {self.step}: {error} {name} is not finite itself, so no state was written of it."
        )

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
        found = {}
        with self.held.showing():
            if self.accelerator.is_main_process:
                found = self.subject.measured(how, self.accelerator.device)
        found = self.where.shared(found)
        if found["chosen"] > self.best.get("chosen", float("-inf")):
            self.best, self.best_step, self.stale = found, self.step, 0
            weights = self.held.weights()
            self.best_weights = {name: one.detach().cpu().clone() for name, one in weights.items()}
        else:
            self.stale += 1
        self._note({"step": self.step, **{f"validation/{name}": value for name, value in found.items()}})

    def _save_state(self) -> None:
        weights, moments = self.held.weights(), self.held.moments()  # where they are cut up, by all
        if not self.accelerator.is_main_process:
            return
        state = {
            **lasting(self.recipe, self.course.sources, self.where.processes),
            "model": weights,
            "optimizer": moments,
            "scaler": self.where.scaler.state_dict(),
            "measured_precision": self.where.precision if self.recipe.precision == "auto" else None,
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
        check_goes_on(state, found, self.recipe, self.course.sources, self.where.processes)
        if state["counts"][0] > self.steps:
            raise InputError(
                f"{found}: {state['counts'][0]} steps were taken, and the recipe asks for {self.steps} now. "
                "Ask for as many or more."
            )
        decays = [group["weight_decay"] for group in self.optimizer.param_groups]
        self.held.load(state["model"], state["optimizer"])
        for group, decay in zip(self.optimizer.param_groups, decays, strict=True):
            group["weight_decay"] = decay  # as the recipe has it now; rates are set anew each step
        if state["scaler"] and self.where.scaler.is_enabled():
            self.where.scaler.load_state_dict(state["scaler"])
        measured = state.get("measured_precision")
        if self.recipe.precision == "auto" and measured not in (None, self.where.precision):
            reason = f"{measured}, which was measured when the run began"
            logger.info("Precision: %s.", reason)
            self.where = self.gradients.where = replace(self.where, precision=measured, reason=reason)
        self.step, self.epoch, self.place, self.best_step, self.stale, self.skipped = state["counts"]
        self.loss = state["loss"]
        if state.get("measured_by") == measured_by(self.recipe):
            self.best, self.best_weights = state["best"], self.held.kept(state["best_weights"])
        else:
            logger.info("Validation is another: what was measured before step %d does not count.", self.step)
            self.best_step = self.stale = 0

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
