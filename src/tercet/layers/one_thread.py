"""How much torch works on in the thread that calls it."""

from __future__ import annotations

__all__ = ["ONE_THREAD"]

# One number more, and torch divides an operation among its threads. They go on spinning for milliseconds,
# on cores that the tokenizer needs for the next texts: half of the time where a table is all that there is.
ONE_THREAD = (1 << 15) - 1
