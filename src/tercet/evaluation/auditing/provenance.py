"""Where the figures of an audit come from: machine, versions, what decides a row; notes for a reader."""

from __future__ import annotations

__all__ = ["describe_machine", "describe_versions", "notes_of", "store_key"]

import platform
from typing import Any

import torch

from tercet.checkpoint.layout import Checkpoint
from tercet.evaluation.audit_result import AUDIT_VERSION, Verdict
from tercet.evaluation.auditing.budget import DEFAULT_BUDGET, Budget
from tercet.evaluation.auditing.running import Run
from tercet.evaluation.auditing.texts import AuditTexts
from tercet.evaluation.encoding import text_identity
from tercet.evaluation.metrics import METRICS_VERSION
from tercet.planner import kernels_here
from tercet.precision.hardware import Capability
from tercet.text.tokenizer import Tokenizer


def describe_machine(here: Capability) -> dict[str, Any]:
    """Where an audit ran."""
    return {
        "device": here.device,
        "name": here.name,
        "threads": here.threads,
        "features": list(here.features),
        "kernels": kernels_here(),
        "total_bytes": here.total_bytes,
    }


def describe_versions() -> dict[str, str]:
    """By what it was computed."""
    from tercet import __version__

    return {"tercet": __version__, "torch": torch.__version__, "python": platform.python_version()}


def store_key(
    checkpoint: Checkpoint,
    sha256: str,
    data: AuditTexts,
    machine: dict[str, Any],
    settings: dict[str, Any],
) -> dict[str, Any]:
    """Everything that decides a finished row. Which precisions are asked for, and the budget, do not."""
    free = ("budget", "precisions", "output_dtypes", "dimensions")
    return {
        "audit_version": AUDIT_VERSION,
        "metrics_version": METRICS_VERSION,
        "weights_sha256": sha256,
        "modules": [{"kind": spec.kind, **spec.config} for spec in checkpoint.modules],
        "truncate_dim": checkpoint.truncate_dim,
        "text": text_identity(checkpoint, Tokenizer.open(checkpoint)),
        "data": data.sha256,
        "machine": {name: value for name, value in machine.items() if name != "total_bytes"},
        "versions": describe_versions(),
        "settings": {name: value for name, value in settings.items() if name not in free},
    }


def notes_of(run: Run, data: AuditTexts, reference: str, judged: bool, verdict: Verdict) -> tuple[str, ...]:
    """Sentences that a reader of the figures should know."""
    notes = list(data.notes)
    if reference == "float64":
        notes.append(
            f"Drift is told against float64, on a sample of {len(run.sample_documents):,} of "
            f"{data.num_documents:,} documents and {len(run.sample_queries):,} of {len(data.queries):,} "
            "queries."
        )
    else:
        notes.append("Drift is told against float32, on every text.")
    if not data.queries:
        notes.append(f"No queries were given: {len(run.queries.ids):,} documents stand for them.")
    if not judged:
        notes.append("No judgements were given, so there are no metrics.")
    notes.append("Rankings are compared with float32's over all documents.")
    if verdict.budget == str(Budget.parse(DEFAULT_BUDGET, judged=False)):
        notes.append("The budget is no visible loss: a mean 1 - cosine of at most 5e-6, and at worst 5e-5.")
    if not verdict.decided:
        notes.append("Others used the machine while schemes were timed: speeds are uncertain.")
    return tuple(notes)
