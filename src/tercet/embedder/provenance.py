"""Everything that decides the value of a vector."""

from __future__ import annotations

__all__ = ["provenance"]

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch

from tercet.checkpoint.layout import Checkpoint
from tercet.embedder.options import Call
from tercet.precision.plan import Plan


def provenance(
    checkpoint: Checkpoint, plan: Plan, call: Call, float32_layers: Sequence[str]
) -> dict[str, Any]:
    """What vectors of one call come from, JSON-safe; `float32_layers`: those of the encoder that it takes."""
    from tercet import __version__

    route = call.options.route
    return {
        "tercet": __version__,
        "torch": torch.__version__,
        "model": checkpoint.name,
        "revision": checkpoint.revision,
        "weights_sha256": checkpoint.weights_hash(),
        "architecture": checkpoint.branch(route).architecture,
        "layout": checkpoint.layout,
        "modules": [{"kind": spec.kind, **spec.config} for spec in checkpoint.chain(route)],
        "route": route,
        "precision": plan.precision.to_json(),
        "plan": plan.to_json(),
        "float32_layers": list(float32_layers),
        "outputs": list(call.options.outputs),
        "prompt": call.prompt,
        "max_length": call.max_length,
        "dimensions": call.options.dimensions,
        "truncate_dim": checkpoint.truncate_dim,
        "normalize": call.options.normalize,
        "max_active_dims": call.options.max_active_dims or checkpoint.max_active_dims,
        **({} if checkpoint.late is None else {"task": call.task, "late": asdict(checkpoint.late)}),
    }
