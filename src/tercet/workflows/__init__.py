"""Whole jobs that need several subjects at once."""
