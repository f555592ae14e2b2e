"""The verdict remembered for these weights on this machine, so that `auto` follows it."""

from __future__ import annotations

__all__ = ["save_verdict"]

from collections.abc import Sequence
from datetime import date

from tercet.checkpoint.layout import Checkpoint
from tercet.evaluation.audit_result import AuditRow, Verdict
from tercet.evaluation.auditing.texts import AuditTexts
from tercet.planner import kernels_here
from tercet.precision.hardware import Capability
from tercet.precision.scheme import Drift
from tercet.verdicts import Remembered, remember


def save_verdict(
    checkpoint: Checkpoint,
    here: Capability,
    rows: Sequence[AuditRow],
    verdict: Verdict,
    outputs: tuple[str, ...],
    data: AuditTexts,
) -> str:
    """Remembers the verdict, if it is decided; a sentence about that."""
    if not verdict.decided:
        return "The verdict was not saved: the times are uncertain. Audit again when the machine is quiet."
    by_name = {(scheme.label, scheme.engine): scheme for scheme in here.schemes}
    when = f"{data.num_documents:,} documents, {date.today().isoformat()}"
    drifts = {
        by_name[row.label, row.engine]: Drift(row.drift_mean, row.drift_worst, f"audited on {when}")
        for row in rows
        if row.head == outputs[0] and not row.float32_layers
        if row.drift_mean is not None and row.drift_worst is not None
    }
    said = Remembered(
        scheme=by_name[verdict.label, verdict.engine],
        float32_layers=verdict.float32_layers,
        outputs=outputs,
        reason=verdict.reason,
        when=when,
        drifts=drifts,
    )
    if not remember(checkpoint, here.device, kernels_here(), said):
        return "The verdict was not saved: the cache folder cannot be written."
    return "The verdict was saved: `auto` follows it for these weights on this machine."
