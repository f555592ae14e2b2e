"""Real texts of mixed length: docstrings of Python's standard library, chosen once and kept."""

from __future__ import annotations

__all__ = ["collect"]

import importlib
import inspect

_MODULES = """
argparse asyncio base64 bisect calendar codecs collections concurrent.futures contextlib copy csv datetime
decimal difflib email.message fractions ftplib functools gettext glob heapq html http.client imaplib inspect
io ipaddress itertools json logging mailbox math multiprocessing os os.path pathlib pickle random re sched
shutil smtplib socket sqlite3 statistics string subprocess tarfile tempfile textwrap threading types typing
unittest unittest.mock urllib.parse urllib.request uuid weakref xml.etree.ElementTree zipfile
"""
# Longest texts that are kept; several times what all-MiniLM-L6-v2 takes (256 tokens).
_LONGEST = 6000


def collect(number: int) -> list[str]:
    """So many docstrings, spread evenly over all lengths, in a fixed mixed order; three of them odd ones."""
    found: set[str] = set()
    for module in _MODULES.split():
        found.update(_docstrings(importlib.import_module(module)))
    by_length = sorted(found, key=lambda text: (len(text), text))
    wanted = number - 3
    # the power spreads more of them over the long end, where truncation happens
    places = {int((i / (wanted - 1)) ** 0.7 * (len(by_length) - 1)) for i in range(wanted)}
    chosen = [by_length[place] for place in sorted(places)]
    rest = [text for text in by_length if text not in set(chosen)]
    chosen += rest[:: max(1, len(rest) // (wanted - len(chosen) + 1))][: wanted - len(chosen)]
    mixed = sorted(chosen, key=lambda text: hash_of(text))
    return ["", "word", " \t\n ", *mixed]


def hash_of(text: str) -> int:
    """A number of a text that does not change from run to run."""
    value = 0
    for character in text:
        value = (value * 31 + ord(character)) & 0xFFFFFFFF
    return value


def _docstrings(module: object) -> set[str]:
    """Of a module, its public functions and classes, and their public methods."""
    found = set()
    for holder in [module, *vars(module).values()]:
        members = [holder, *vars(holder).values()] if inspect.isclass(holder) else [holder]
        for member in members:
            if not (inspect.isclass(member) or inspect.isroutine(member) or member is module):
                continue
            text = inspect.getdoc(member) if getattr(member, "__doc__", None) else None
            if text and len(text) <= _LONGEST:
                found.add(text)
    return found
