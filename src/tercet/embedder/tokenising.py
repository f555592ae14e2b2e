"""Windows of texts with their token ids, one tokenised while another is embedded."""

from __future__ import annotations

__all__ = ["tokenised_windows"]

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from tercet.embedder.texts import windows
from tercet.text.tokenizer import Encoded


def tokenised_windows(
    texts: Iterator[str], tokenise: Callable[[list[str]], Encoded]
) -> Iterator[tuple[list[str], Encoded]]:
    """Each window of texts with its token ids; the next one is tokenised while this one is worked on."""
    coming_windows = windows(texts)
    window = next(coming_windows, None)
    following = next(coming_windows, None)
    if window is None or following is None:
        if window is not None:
            yield window, tokenise(window)
        return
    # The caller's thread reads the texts: what they come from may belong to it.
    with ThreadPoolExecutor(1, thread_name_prefix="tercet-tokenizer") as beside:
        encoded = tokenise(window)
        while following is not None:
            coming = beside.submit(tokenise, following)
            yield window, encoded
            window, encoded, following = following, coming.result(), next(coming_windows, None)
        yield window, encoded
