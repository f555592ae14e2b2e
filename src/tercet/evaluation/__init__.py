"""How good vectors are: retrieval, similarity and reranking on judged data, and what a precision costs."""

__all__ = ["AuditResult", "Report", "Scores", "audit", "evaluate", "evaluate_run", "evaluate_run_file"]

from tercet.evaluation.audit_result import AuditResult
from tercet.evaluation.auditing.auditor import audit
from tercet.evaluation.metrics import Scores, evaluate_run
from tercet.evaluation.report import Report
from tercet.evaluation.run_files import evaluate_run_file
from tercet.evaluation.tasks import evaluate
