"""Pairs put into a chat template, as rerankers made of language models take them -> token ids.

The template is Jinja, and comes with the model: it runs in Jinja's immutable sandbox, where it sees strings,
lists and dicts alone and reaches nothing outside.
"""

from __future__ import annotations

__all__ = ["ChatEncoder", "chat_encoder"]

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

from tercet.checkpoint.contents import Checkpoint
from tercet.errors import CheckpointError, InputError
from tercet.extras import require
from tercet.text.pairs import EncodedPairs, Truncation
from tercet.text.tokenizer import Tokenizer, special_token

# The sandbox of older releases has known holes.
_OLDEST = (3, 1, 6)
_ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
# What Jinja, and Python compiling what it made, raise of a template beside errors of its own.
_COMPILING = (MemoryError, OverflowError, RecursionError, SyntaxError, ValueError)
_RENDERING = (
    *(ArithmeticError, AttributeError, LookupError, MemoryError),
    *(NameError, RecursionError, TypeError, ValueError),
)
# A pair, and one that differs from it in each role alone.
_PROBES = {None: ("alpha", "bravo"), "query": ("charlie", "bravo"), "document": ("alpha", "foxtrot")}
# Texts that share no token at their ends: what both renderings end in is the template's.
_FILLERS = ("0", "1 2 3 4")


def chat_encoder(checkpoint: Checkpoint, tokenizer: Tokenizer) -> ChatEncoder | None:
    """How pairs are put into the checkpoint's chat template; None where it has none for pairs."""
    chat = checkpoint.modules[-1].config.get("chat")
    return None if chat is None else ChatEncoder(checkpoint, tokenizer, chat)


class ChatEncoder:
    """Renders each pair, tokenises it, cuts its end and puts back what the template ends in.

    Attributes:
        has_types: no token has a type.
    """

    has_types = False

    def __init__(self, checkpoint: Checkpoint, tokenizer: Tokenizer, chat: Mapping[str, Any]) -> None:
        """Compiles the template, and sees that both texts of a pair get through it.

        Args:
            checkpoint: where the template was found.
            tokenizer: of the checkpoint.
            chat: template, structured, arguments, restores: see `checkpoint.logit_score`.

        Raises:
            CheckpointError: it is no template, or does not carry pairs.
            MissingExtraError: Jinja is not installed, or an old release of it.
        """
        self._tokenizer = tokenizer
        self._where = str(chat["where"])
        self._structured, self._restores = bool(chat["structured"]), bool(chat["restores"])
        self._jinja = _jinja(self._where)
        found = {
            role: special_token(
                checkpoint.tokenizer_config, checkpoint.folder / checkpoint.encoder_path, role
            )
            for role in _ROLES
        }
        tokens = {role: token for role, token in found.items() if token is not None}
        self._arguments = {"add_generation_prompt": False, **tokens, **chat["arguments"]}
        try:
            self._template = _environment(self._jinja).from_string(chat["template"])
        except (self._jinja.TemplateError, *_COMPILING) as error:
            raise self._bad(f"it is no Jinja template ({type(error).__name__}: {error})") from None
        plain, *varied = (self._render(*pair, "") for pair in _PROBES.values())
        lost = [role for role, text in zip(list(_PROBES)[1:], varied, strict=True) if text == plain]
        if lost:
            raise self._bad(f"the text of the role {' and '.join(map(repr, lost))} does not get through it")
        self._suffix = lru_cache(maxsize=64)(self._common_end)

    def encode(
        self,
        pairs: Sequence[tuple[str, str]],
        *,
        max_length: int,
        truncation: Truncation = "longest_first",
        query_max_length: int | None = None,
        prompt: str = "",
    ) -> EncodedPairs:
        """The token ids of each pair in the template, cut to `max_length`.

        Args:
            pairs: query and document each.
            max_length: most tokens of a pair, the template's included.
            truncation, query_max_length: "longest_first" and None: what is cut is the end of the whole, but
                for what the template ends in.
            prompt: a message of the system, before all others; none where it is empty.

        Raises:
            InputError: another truncation is asked for, or a text is not valid Unicode.
            CheckpointError: the template fails on a pair.
        """
        if truncation != "longest_first":
            raise InputError(
                f"truncation={truncation!r} cuts documents, and this model's chat template puts them "
                "anywhere: the whole is cut. Leave truncation out."
            )
        all_ids = self._tokenizer.bare([self._render(query, document, prompt) for query, document in pairs])
        cut = [len(ids) > max_length for ids in all_ids]
        if any(cut):
            suffix = self._suffix(prompt)[-max_length:]
            all_ids = [
                ids[: max_length - len(suffix)] + list(suffix) if longer else ids
                for ids, longer in zip(all_ids, cut, strict=True)
            ]
        return EncodedPairs(all_ids, [[0] * len(ids) for ids in all_ids], cut)

    def _common_end(self, prompt: str) -> tuple[int, ...]:
        """The token ids that every pair ends in, by two pairs; none where that is not told, or not asked."""
        if not self._restores:
            return ()
        one, other = self._tokenizer.bare([self._render(filler, filler, prompt) for filler in _FILLERS])
        count = 0
        while count < min(len(one), len(other)) and one[-1 - count] == other[-1 - count]:
            count += 1
        return () if count == min(len(one), len(other)) else tuple(one[len(one) - count :])

    def _render(self, query: str, document: str, prompt: str) -> str:
        said = [("system", prompt)] if prompt else []
        messages = [
            {"role": role, "content": [{"type": "text", "text": text}] if self._structured else text}
            for role, text in (*said, ("query", query), ("document", document))
        ]
        try:
            return str(
                self._template.render(messages=messages, tools=None, documents=None, **self._arguments)
            )
        except (self._jinja.TemplateError, *_RENDERING) as error:
            raise self._bad(f"it fails on a pair ({type(error).__name__}: {error})") from None

    def _bad(self, what: str) -> CheckpointError:
        return CheckpointError(
            f"{self._where}: this chat template takes no messages of the roles 'query' and 'document': "
            f"{what}. Put the template of the reranker, chat_template.jinja, beside the model."
        )


def _jinja(where: str) -> Any:
    """The library, of a release whose sandbox holds."""
    purpose = f"{where}, a chat template,"
    jinja = require("jinja2", extra="chat", purpose=purpose)
    for part in ("ext", "sandbox"):
        require(f"jinja2.{part}", extra="chat", purpose=purpose)
    version = tuple(int(part) for part in jinja.__version__.split(".")[:3] if part.isdigit())
    if version < _OLDEST:
        raise CheckpointError(
            f"{purpose} runs in the sandbox of jinja2 {'.'.join(map(str, _OLDEST))} or later, and "
            f"{jinja.__version__} is installed. Update it with: pip install -U 'tercet[chat]'"
        )
    return jinja


def _environment(jinja: Any) -> Any:
    """Jinja as transformers gives it to chat templates."""

    class Generation(jinja.ext.Extension):  # type: ignore[misc]
        """{% generation %} marks what a model would say, which changes no text."""

        tags = frozenset({"generation"})

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    def fail(message: str) -> None:
        raise jinja.TemplateError(message)

    def to_json(value: Any, ensure_ascii: bool = False, indent: Any = None, sort_keys: bool = False) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, sort_keys=sort_keys)

    made = jinja.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja.ext.loopcontrols]
    )
    made.filters["tojson"] = to_json
    made.globals["raise_exception"] = fail
    made.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    # A function in place of the type, whose attributes lead elsewhere.
    made.globals["dict"] = lambda *values, **named: dict(*values, **named)
    return made
