"""Dense, sparse and multi-vector text embeddings in one pass, at the right precision for the machine."""

from __future__ import annotations

__all__ = [
    "Capability",
    "Embedder",
    "Embeddings",
    "Plan",
    "Precision",
    "Reranker",
    "__version__",
    "audit",
    "evaluate",
    "load",
    "load_reranker",
    "merge",
    "merge_statistics",
    "plan",
    "probe",
    "train",
]

from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from tercet.embedder import Embedder, load
    from tercet.embeddings import Embeddings
    from tercet.evaluation import audit, evaluate
    from tercet.planner import plan, probe
    from tercet.precision.dtype import Precision
    from tercet.precision.hardware import Capability
    from tercet.precision.plan import Plan
    from tercet.reranker import Reranker, load_reranker
    from tercet.training.trainer import train
    from tercet.workflows.merge import merge
    from tercet.workflows.merge_statistics import merge_statistics

# Read when first asked for: `import tercet` alone imports neither torch nor NumPy.
_HOMES = {
    "Capability": "tercet.precision.hardware",
    "Embedder": "tercet.embedder",
    "Embeddings": "tercet.embeddings",
    "Plan": "tercet.precision.plan",
    "Precision": "tercet.precision.dtype",
    "Reranker": "tercet.reranker",
    "audit": "tercet.evaluation",
    "evaluate": "tercet.evaluation",
    "load": "tercet.embedder",
    "load_reranker": "tercet.reranker",
    "merge": "tercet.workflows.merge",
    "merge_statistics": "tercet.workflows.merge_statistics",
    "plan": "tercet.planner",
    "probe": "tercet.planner",
    "train": "tercet.training.trainer",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'tercet' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
