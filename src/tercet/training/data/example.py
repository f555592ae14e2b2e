"""One example: a query with what answers it and what does not, or two texts and how alike they are.

Two families of keys are understood, in any file: FlagEmbedding's (query, pos, neg, pos_scores, neg_scores,
prompt, type), and sentence-transformers' columns (anchor, positive, negative, negative_1, ...; sentence1,
sentence2; with a label or score).
"""

from __future__ import annotations

__all__ = ["KINDS", "Example", "example_of", "unused"]

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, get_args

from tercet.errors import InputError, kind_of
from tercet.training.recipe import Kind

KINDS: tuple[str, ...] = get_args(Kind)
_QUERIES = ("anchor", "query", "question", "sentence1")
_POSITIVES = ("positive", "answer", "passage", "document", "sentence2")
_NEGATIVE = re.compile(r"negative(_?\d+)?")
_LABELS = ("label", "labels", "score", "scores")
_OWN = ("query", "pos", "neg", "pos_scores", "neg_scores", "prompt", "type")


@dataclass(frozen=True, slots=True)
class Example:
    """What one line says.

    Attributes:
        query: the text that asks, or the first of two.
        positives: what answers it, at least one.
        negatives: what does not; none of them equals a positive.
        positive_scores, negative_scores: a teacher's, one each; None where the line has none.
        label: how alike query and positive are; None where the line does not say.
        prompt: put before the query; None for the file's or the model's.
        kind: FlagEmbedding's `type`; None where the line does not say.
        dropped: negatives that were left out since they equal a positive.
    """

    query: str
    positives: tuple[str, ...]
    negatives: tuple[str, ...] = ()
    positive_scores: tuple[float, ...] | None = None
    negative_scores: tuple[float, ...] | None = None
    label: float | None = None
    prompt: str | None = None
    kind: str | None = None
    dropped: int = 0

    @property
    def scored(self) -> bool:
        """Whether a teacher's scores are there for every passage."""
        return self.positive_scores is not None and (not self.negatives or self.negative_scores is not None)


def example_of(values: Mapping[str, Any], where: str) -> Example:
    """The example that a line's keys and values say.

    Args:
        values: of strings, numbers and lists of them; numbers may be spelled out, as in CSV.
        where: file and line, for messages.

    Raises:
        InputError: a key is missing, or a value is not what it must be.
    """
    if "pos" in values or "neg" in values:
        return _flagembedding(values, where)
    return _columns(values, where)


def unused(names: Sequence[str]) -> list[str]:
    """Of a line's keys those that no example takes."""
    own = {"pos", "neg"} & set(names)
    return [
        name
        for name in names
        if not (name in _OWN if own else name in (*_QUERIES, *_POSITIVES, *_LABELS) or _is_negative(name))
    ]


def _flagembedding(values: Mapping[str, Any], where: str) -> Example:
    positives = _texts(values, "pos", where)
    if not positives:
        raise InputError(
            f"{where}: 'pos' is empty or missing; a query needs at least one text that answers it."
        )
    negatives = _texts(values, "neg", where)
    positive_scores = _scores(values, "pos_scores", "pos", len(positives), where)
    negative_scores = _scores(values, "neg_scores", "neg", len(negatives), where)
    prompt, kind = values.get("prompt"), values.get("type")
    if prompt is not None and not isinstance(prompt, str):
        raise InputError(f"{where}: 'prompt' is {_shown(prompt)}; it must be a string.")
    if kind is not None and kind not in KINDS:
        raise InputError(f"{where}: 'type' is {_shown(kind)}; known: {', '.join(KINDS)}.")
    kept = [number for number, text in enumerate(negatives) if text not in positives]
    return Example(
        _text(values, "query", where),
        positives,
        tuple(negatives[number] for number in kept),
        positive_scores,
        None if negative_scores is None else tuple(negative_scores[number] for number in kept),
        None,
        prompt,
        kind,
        len(negatives) - len(kept),
    )


def _columns(values: Mapping[str, Any], where: str) -> Example:
    query_key = _one_of(values, _QUERIES, where)
    positive_key = _one_of(values, _POSITIVES, where)
    query, positive = _text(values, query_key, where), _text(values, positive_key, where)
    negatives: list[str] = []
    for name, value in values.items():
        if not _is_negative(name) or value is None or value == "":
            continue
        negatives += _texts(values, name, where) if isinstance(value, list) else [_text(values, name, where)]
    label, scores = _label(values, len(negatives), where)
    kept = [number for number, text in enumerate(negatives) if text != positive]
    return Example(
        query,
        (positive,),
        tuple(negatives[number] for number in kept),
        None if scores is None else scores[:1],
        None if scores is None else tuple(scores[1 + number] for number in kept),
        label,
        dropped=len(negatives) - len(kept),
    )


def _label(
    values: Mapping[str, Any], negatives: int, where: str
) -> tuple[float | None, tuple[float, ...] | None]:
    """The label of a pair, or a teacher's scores of positive and negatives."""
    names = [name for name in _LABELS if values.get(name) is not None and values[name] != ""]
    if len(names) > 1:
        raise InputError(f"{where}: both {names[0]!r} and {names[1]!r} are there; keep one.")
    if not names:
        return None, None
    value = values[names[0]]
    if isinstance(value, list):
        if len(value) != 1 + negatives:
            raise InputError(
                f"{where}: {names[0]!r} has {len(value)} numbers, and there are {1 + negatives} passages: "
                "the positive and its negatives. Give one score each."
            )
        return None, tuple(_number(one, names[0], where) for one in value)
    if negatives:
        raise InputError(
            f"{where}: {names[0]!r} is one number of a positive and {negatives} negatives. Give a list with "
            "a score of each, the positive's first."
        )
    return _number(value, names[0], where), None


def _is_negative(name: str) -> bool:
    return name == "negatives" or _NEGATIVE.fullmatch(name) is not None


def _one_of(values: Mapping[str, Any], names: Sequence[str], where: str) -> str:
    found = [name for name in names if name in values]
    if len(found) == 1:
        return found[0]
    if found:
        raise InputError(f"{where}: both {found[0]!r} and {found[1]!r} are there; keep one.")
    raise InputError(
        f"{where}: the keys are {', '.join(values) or 'none'}. Known are FlagEmbedding's (query, pos, neg), "
        "and columns: anchor, positive, negative; or sentence1, sentence2, score."
    )


def _text(values: Mapping[str, Any], key: str, where: str) -> str:
    return _checked(values.get(key), repr(key), where)


def _texts(values: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    found = values.get(key)
    if found is None:
        return ()
    if not isinstance(found, list):
        raise InputError(f"{where}: {key!r} is {_shown(found)}; it must be a list of texts.")
    return tuple(_checked(one, f"{key}[{number}]", where) for number, one in enumerate(found))


def _checked(value: object, key: str, where: str) -> str:
    if not isinstance(value, str):
        raise InputError(f"{where}: {key} is {_shown(value)}; it must be a string.")
    if not value or value.isspace():
        raise InputError(f"{where}: {key} is an empty text, from which nothing can be learnt. Remove it.")
    if max(value) >= "\ud800" and any("\ud800" <= character <= "\udfff" for character in value):
        raise InputError(f"{where}: {key} holds half of a surrogate pair; remove it.")
    return value


def _scores(
    values: Mapping[str, Any], key: str, texts: str, count: int, where: str
) -> tuple[float, ...] | None:
    found = values.get(key)
    if found is None or (found == [] and count):
        return None
    if not isinstance(found, list):
        raise InputError(f"{where}: {key!r} is {_shown(found)}; it must be a list of numbers.")
    if len(found) != count:
        raise InputError(f"{where}: {key!r} has {len(found)} numbers, {texts!r} has {count} texts.")
    return tuple(_number(one, key, where) for one in found)


def _number(value: object, key: str, where: str) -> float:
    try:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise ValueError
        number = float(value)
        if not isfinite(number):
            raise ValueError
    except (ValueError, OverflowError):
        raise InputError(f"{where}: {key!r} has {_shown(value)}; it must be a finite number.") from None
    return number


def _shown(value: object) -> str:
    return "null" if value is None else f"{kind_of(value)} ({str(value)[:40]!r})"
