"""Checkpoints merged tensor by tensor, chunk by chunk; no model is built."""
