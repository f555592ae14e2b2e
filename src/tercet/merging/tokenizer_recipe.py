"""Which tokenizer the result of a merge has, and what single tokens are worth: mergekit's keys."""

from __future__ import annotations

__all__ = ["TokenRecipe", "TokenizerRecipe", "parse_tokenizer"]

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from tercet.errors import InputError, UnknownNameError, nearest

if TYPE_CHECKING:
    from tercet.merging.recipe import ModelName

    ParseModel = Callable[[Any, str], ModelName]


@dataclass(frozen=True, slots=True)
class TokenRecipe:
    """Where the row of one token comes from in models that lack it.

    Attributes:
        kind: "zero"; "model", the row of this token in `model`; "model_token", that of another token there;
            "rule", as for tokens that are not listed.
        model: whose row.
        token: text or number of the other token.
        force: take that row in models that have the token, too.
    """

    kind: Literal["zero", "model", "model_token", "rule"]
    model: ModelName | None = None
    token: str | int | None = None
    force: bool = False


@dataclass(frozen=True, slots=True)
class TokenizerRecipe:
    """What a recipe says of the tokenizer.

    Attributes:
        source: "base", "union", or a model.
        tokens: text -> where its row comes from; those that no tokenizer has are added.
        pad_to_multiple_of: of the number of rows.
    """

    source: str | ModelName
    tokens: Mapping[str, TokenRecipe] = field(default_factory=dict)
    pad_to_multiple_of: int | None = None


def parse_tokenizer(top: Mapping[str, Any], where: str, parse_model: ParseModel) -> TokenizerRecipe | None:
    """What tokenizer_source or tokenizer says; None where neither is given.

    Raises:
        InputError: both are given, or a key or value cannot be used.
    """
    source, settings = top.get("tokenizer_source"), top.get("tokenizer")
    if source is not None and settings is not None:
        raise InputError(f"{where}: give one of tokenizer_source and tokenizer.")
    if source is None and settings is None:
        return None
    place = f"{where}, tokenizer"
    tokens: dict[str, TokenRecipe] = {}
    multiple = None
    if settings is not None:
        given = _keys(settings, place, {"source", "tokens", "pad_to_multiple_of"})
        source = given.get("source") or "union"
        multiple = given.get("pad_to_multiple_of")
        if multiple is not None and (type(multiple) is not int or not 0 < multiple <= 1 << 20):
            raise InputError(
                f"{place}.pad_to_multiple_of is {multiple!r}, expected a whole number such as 64."
            )
        listed = given.get("tokens") or {}
        if not isinstance(listed, Mapping):
            raise InputError(f"{place}.tokens is {listed!r}, expected tokens, each with its source.")
        tokens = {str(t): _token(one, f"{place}.tokens[{t!r}]", parse_model) for t, one in listed.items()}
    if source not in ("base", "union"):
        source = parse_model(source, place)
    return TokenizerRecipe(source, tokens, multiple)


def _token(value: Any, where: str, parse_model: ParseModel) -> TokenRecipe:
    given = _keys(value or {}, where, {"source", "force"})
    force, source = given.get("force", False), given.get("source")
    if not isinstance(force, bool):
        raise InputError(f"{where}.force is {force!r}, expected true or false.")
    if source is None:
        if force:
            raise InputError(f"{where} has force without a source: say which row is to be taken.")
        return TokenRecipe("rule")
    if not isinstance(source, Mapping) or "kind" not in source:
        return TokenRecipe("model", parse_model(source, where), force=force)
    kind = source["kind"]
    if kind == "zero":
        _keys(source, where, {"kind"})
        return TokenRecipe("zero", force=force)
    if kind != "model_token":
        raise UnknownNameError(f"{where}: kind is {kind!r}. {nearest(str(kind), ('zero', 'model_token'))}")
    _keys(source, where, {"kind", "model", "token", "token_id"})
    token, number = source.get("token"), source.get("token_id")
    if (token is None) == (number is None) or (
        number is not None and (type(number) is not int or number < 0)
    ):
        raise InputError(f"{where}: give one of token (a text) and token_id (a whole number).")
    return TokenRecipe(
        "model_token",
        parse_model(source.get("model"), where),
        str(token) if number is None else number,
        force,
    )


def _keys(value: Any, where: str, known: set[str]) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InputError(f"{where} is {value!r}, expected {', '.join(sorted(known))}.")
    for key in value:
        if key not in known:
            raise UnknownNameError(f"{where}: there is no key {key!r}. {nearest(str(key), known)}")
    return value
