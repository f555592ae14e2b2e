"""tokenizer.json read for its vocabulary, and the union of several."""

from __future__ import annotations

__all__ = ["TokenizerFile", "read_tokenizer", "token_ids", "union", "with_tokens"]

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from tercet.errors import CheckpointError

_MAX_BYTES = 256 << 20
_MAX_TOKENS = 1 << 24
_KINDS = ("WordPiece", "BPE", "Unigram", "WordLevel")


@dataclass(frozen=True, slots=True)
class TokenizerFile:
    """A tokenizer.json.

    Attributes:
        path: the file.
        content: all that it says.
        ids: token -> its number, added tokens included.
    """

    path: Path
    content: Mapping[str, Any]
    ids: Mapping[str, int]

    @property
    def kind(self) -> str:
        """WordPiece, BPE, Unigram or WordLevel."""
        return str(self.content["model"].get("type"))


def read_tokenizer(path: Path) -> TokenizerFile:
    """The file and its vocabulary.

    Raises:
        CheckpointError: it is missing, too large, or not a tokenizer as the tokenizers library writes it.
    """
    try:
        size = path.stat().st_size
        if size > _MAX_BYTES:
            raise CheckpointError(f"{path} has {size:,} bytes: too large for a tokenizer.")
        content = json.loads(path.read_text(encoding="utf-8"))
        return TokenizerFile(path, content, token_ids(content))
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path} is missing: vocabularies are put in order by what it says. Save the tokenizer again "
            "with transformers (AutoTokenizer.from_pretrained, then save_pretrained)."
        ) from error
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path} is not a tokenizer as it is written today ({error!r}).") from error


def union(files: Sequence[TokenizerFile]) -> dict[str, Any]:
    """The content of the first file with the tokens of the others behind its own, in their order.

    A piece of another vocabulary becomes a piece: with its score (Unigram), or with the merges that make it
    (BPE); a text that needs no new piece may still be cut otherwise than before, as in the other model. An
    added token stays an added token, with the settings of the first file that has it.

    Raises:
        CheckpointError: the files are of different kinds, or the first one has numbers that the tokenizers
            library does not keep.
    """
    first = files[0]
    made: dict[str, Any] = json.loads(json.dumps(first.content))
    ids = dict(first.ids)
    for file in files[1:]:
        if file.kind != first.kind or first.kind not in _KINDS:
            raise CheckpointError(
                f"{first.path} is {first.kind}, {file.path} is {file.kind}: only tokenizers of one kind "
                f"({', '.join(_KINDS)}) have a union. Choose one model's: tokenizer_source: <model>."
            )
        added = {str(entry["content"]): entry for entry in file.content.get("added_tokens") or ()}
        new = sorted((number, token) for token, number in file.ids.items() if token not in ids)
        pieces = [token for _, token in new if token not in added]
        _add_pieces(made["model"], pieces, ids, file.content["model"], made.get("added_tokens") or [])
        _add_tokens(made, [added[token] for _, token in new if token in added], ids)
    if len(ids) > len(first.ids):
        _check_numbers(made, ids, first.path)
    return made


def with_tokens(content: Mapping[str, Any], tokens: Iterable[str], path: Path) -> dict[str, Any]:
    """The content of the file `path` with further added tokens, those that it has left alone.

    Raises:
        CheckpointError: as `union`.
    """
    made: dict[str, Any] = json.loads(json.dumps(content))
    ids = token_ids(made)
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True, "special": False}
    missing = [token for token in tokens if token not in ids]
    if missing:
        _add_tokens(made, [{"content": token, **plain} for token in missing], ids)
        _check_numbers(made, ids, path)
    return made


def token_ids(content: Mapping[str, Any]) -> dict[str, int]:
    """Token -> its number, added tokens included."""
    vocabulary = content["model"]["vocab"]
    if isinstance(vocabulary, list):  # Unigram: pieces with their scores, in order
        made = {str(entry[0]): number for number, entry in enumerate(vocabulary)}
    else:
        made = dict(vocabulary)
    made |= {str(entry["content"]): entry["id"] for entry in content.get("added_tokens") or ()}
    if not all(type(number) is int and 0 <= number < _MAX_TOKENS for number in made.values()):
        raise ValueError("a token has no number, or one beyond all measure")
    return made


def _add_pieces(
    model: dict[str, Any],
    pieces: Sequence[str],
    ids: dict[str, int],
    other: Mapping[str, Any],
    added: Sequence[Mapping[str, Any]],
) -> None:
    if not pieces:
        return
    if isinstance(model["vocab"], list):
        # The number of a piece is its place: added tokens behind the pieces become pieces where they stand,
        # never chosen, since added tokens are found first.
        lowest = min((float(entry[1]) for entry in model["vocab"]), default=0.0) - 10
        behind = {entry["id"]: entry["content"] for entry in added if entry["id"] >= len(model["vocab"])}
        while len(model["vocab"]) <= max(behind, default=-1):
            place = len(model["vocab"])
            model["vocab"].append([behind.get(place, f"<unused {place}>"), lowest])
            ids.setdefault(model["vocab"][-1][0], place)
        scores = {str(entry[0]): float(entry[1]) for entry in other["vocab"]}
        for piece in pieces:
            ids[piece] = len(model["vocab"])
            model["vocab"].append([piece, scores[piece]])
        return
    # An added token that is no piece would be numbered anew, behind the pieces that now follow it.
    for entry in added:
        model["vocab"].setdefault(entry["content"], entry["id"])
    _number(pieces, ids, model["vocab"])
    if "merges" in model:
        known = {_pair(entry) for entry in model["merges"]}
        for entry in other["merges"]:
            pair = _pair(entry)
            # A piece may be needed on the way to a new one, so every merge whose parts are there is taken.
            if pair not in known and all(part in ids for part in (*pair, "".join(pair))):
                known.add(pair)
                model["merges"].append(
                    list(pair) if not isinstance(model["merges"][0], str) else " ".join(pair)
                )


def _pair(entry: Any) -> tuple[str, str]:
    left, right = entry.split(" ") if isinstance(entry, str) else entry
    return str(left), str(right)


def _add_tokens(content: dict[str, Any], entries: Sequence[Mapping[str, Any]], ids: dict[str, int]) -> None:
    numbers: dict[str, int] = {}
    _number([str(entry["content"]) for entry in entries], ids, numbers)
    content["added_tokens"] = [
        *(content.get("added_tokens") or []),
        *({**entry, "id": numbers[str(entry["content"])]} for entry in entries),
    ]


def _check_numbers(content: Mapping[str, Any], ids: Mapping[str, int], path: Path) -> None:
    """A CheckpointError where the tokenizers library reads other numbers than rows are put in order by."""
    found = Tokenizer.from_str(json.dumps(content)).get_vocab(with_added_tokens=True)
    differing = [token for token, number in ids.items() if found.get(token) != number]
    if differing:
        token = differing[0]
        raise CheckpointError(
            f"{path}: with new tokens {token!r} would be number {ids[token]}, and is {found.get(token)} for "
            f"the tokenizers library ({len(differing):,} such): the numbers of this file have gaps. Choose "
            "one model's tokenizer without new tokens: tokenizer_source: <model>."
        )


def _number(tokens: Sequence[str], ids: dict[str, int], target: dict[str, int]) -> None:
    """Enters tokens behind all that have numbers."""
    reached = max(ids.values(), default=-1)
    for number, token in enumerate(tokens, start=reached + 1):
        ids[token] = target[token] = number
