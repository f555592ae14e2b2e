"""Every public member of the peers' classes is here and takes the same, or is an error with a mend."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from recorder import members
from tercet import compat
from tercet.errors import AbsentError

CLASSES = [(library, name) for library, names in members.CLASSES.items() for name in names]
MIGRATION = Path(__file__).parents[2] / "docs" / "migration.md"
# What is taken otherwise on purpose, by a member's name: theirs, ours.
OTHERWISE: Mapping[str, tuple[list[str] | str, list[str] | str]] = {
    "to": (["*args", "**kwargs"], ["device=None", "dtype=None"]),
    "tokenizer": ("property, set", "property"),
}
# Made by what finds a model: neither library means it to be called.
FACTORIES = ("FlagAutoModel", "FlagAutoReranker")


@pytest.fixture(scope="module")
def peer(recordings: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((recordings / "members.json").read_text(encoding="utf-8"))
    return {name: taken for classes in found.values() for name, taken in classes.items()}


def mine(name: str) -> type:
    found: type = getattr(compat, name)
    return found


def here(name: str, theirs: Mapping[str, Any]) -> list[str]:
    """The members that both sides have."""
    known = [one for one in theirs if hasattr(mine(name), one)]
    return [one for one in known if not (name in FACTORIES and one == "__init__")]


@pytest.mark.parametrize(("library", "name"), CLASSES)
def test_every_member_takes_the_same_names_in_the_same_order_with_the_same_defaults(library, name, peer):
    assert here(name, peer[name]), "nothing to compare"
    for member in here(name, peer[name]):
        theirs, ours = peer[name][member], members.takes(mine(name), member)
        if member in OTHERWISE:
            assert (theirs, ours) == OTHERWISE[member], member
        elif theirs == "attribute" or "property" in theirs or isinstance(ours, str):
            # What may be set there may be set here.
            assert ours in (theirs, f"{theirs}, set"), member
        else:
            # An older keyword, which a decorator takes: it is no part of the signature.
            theirs = [one for one in theirs if one != "use_auth_token=None"]
            open_end = bool(theirs) and theirs[-1].startswith("**")
            named = theirs[:-1] if open_end else theirs
            assert ours[: len(named)] == named, member
            further = ours[len(named) :]
            if open_end:  # named ones instead of any: by name alone, and none that must be given
                assert not further or "*" in ours, member
                assert all(one == "*" or "=" in one for one in further), member
            else:
                assert not further, member


@pytest.mark.parametrize(("library", "name"), CLASSES)
def test_a_member_that_is_not_here_says_what_to_do_and_the_migration_page_names_it(library, name, peer):
    model = object.__new__(mine(name))
    page = set(re.findall(r"\w+", MIGRATION.read_text(encoding="utf-8")))
    for member in peer[name].keys() - set(here(name, peer[name])) - {"__init__"}:
        assert not hasattr(model, member)
        with pytest.raises(AbsentError, match=rf"^{name}\.{member} is not here: .{{20,}}\.$"):
            getattr(model, member)
        assert member in page, f"docs/migration.md: {name}.{member} is not there, and not named"


def test_no_error_is_kept_of_a_member_that_is_here(peer):
    for name in peer:
        for member in getattr(mine(name), "absences", ()):
            assert not hasattr(mine(name), member), f"{name}.{member} is here"


def test_what_torch_modules_have_is_an_error_too_and_a_misspelling_an_ordinary_one():
    model = object.__new__(compat.SentenceTransformer)
    with pytest.raises(AbsentError, match=r"state_dict belongs to torch\.nn\.Module.*\.plan"):
        model.state_dict  # noqa: B018
    with pytest.raises(AttributeError, match="no attribute 'encod'") as caught:
        model.encod  # noqa: B018
    assert not isinstance(caught.value, AbsentError)
    assert getattr(model, "save", None) is None
    assert object.__new__(compat.FlagModel).stop_self_pool() is None
