"""Texts in, vectors out: files that are read and written in constant memory."""
