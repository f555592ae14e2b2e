"""How good vectors are: retrieval, similarity and reranking on judged data, and what a precision costs."""

__all__ = ["Report", "Scores", "evaluate", "evaluate_run", "evaluate_run_file"]

from tercet.evaluation.metrics import Scores, evaluate_run
from tercet.evaluation.report import Report
from tercet.evaluation.tasks import evaluate, evaluate_run_file
