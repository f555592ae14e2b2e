"""The report of an audit: one HTML page with its pictures, and JSON beside it."""

__all__ = ["check_report", "write_report"]

from tercet.evaluation.audit_report.folder import check_report, write_report
