"""Router (Asym, as it was called): which modules a text goes through, by what it is embedded for."""

from __future__ import annotations

__all__ = ["ROUTERS", "Router", "Routes", "read_router", "router_folders"]

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tercet.checkpoint.contents import ModuleSpec
from tercet.checkpoint.module_files import module_settings, nothing_left
from tercet.checkpoint.paths import inside, read_json_object
from tercet.errors import CheckpointError, InputError, nearest

ROUTERS = ("Router", "Asym")
_FILE = "router_config.json"
_Key = tuple[str | None, str | None]


@dataclass(frozen=True, slots=True)
class Router:
    """What a router's settings say.

    Attributes:
        where: its folder, relative to the checkpoint.
        routes: route -> (class, folder) of each of its modules.
        default: the route of a text of which nothing is said; None where something must be.
        mappings: (task, modality) -> route; None stands for any.
    """

    where: str
    routes: Mapping[str, tuple[tuple[str, str], ...]]
    default: str | None
    mappings: Mapping[_Key, str]


@dataclass(frozen=True, slots=True)
class Routes:
    """The routes of a checkpoint: of each all modules behind the encoder, shared ones too."""

    modules: Mapping[str, tuple[ModuleSpec, ...]]
    default: str | None
    mappings: Mapping[_Key, str]

    def named(self, task: str | None) -> str | None:
        """The route that is meant for a task, looked for as sentence-transformers does; None if none is."""
        for key in ((task, "text"), (task, None), (None, "text"), (None, None)):
            if key in self.mappings:
                return self.mappings[key]
        for name in (task, "text"):
            if name in self.modules:
                return str(name)
        return None

    def of(self, task: str | None, model: str) -> str:
        """The route of texts for a task; of no task, where none is meant for that, the default one.

        Raises:
            InputError: there is none.
        """
        if (found := self.named(task)) is not None:
            return found
        known = [*self.modules, *(of for of, _ in self.mappings if of is not None)]
        if task is not None:
            raise InputError(f"{model} has no route for the task {task!r}. {nearest(task, known)}")
        if self.default is None:
            raise InputError(
                f"{model} embeds texts by their task and has no default. Call encode_query, encode_document, "
                f"or pass task=: {', '.join(map(repr, dict.fromkeys(known)))}."
            )
        return self.default


def read_router(folder: Path, relative: str) -> Router:
    """A router's settings, under their new name or the old one.

    Raises:
        CheckpointError: they are missing or damaged, or name a route or a module that is not there.
    """
    path, config = _config(folder, relative)
    types, structure = config.pop("types", None), config.pop("structure", None)
    parameters = config.pop("parameters", {})
    nothing_left(path, config, {"types", "structure", "parameters"})
    if not isinstance(types, dict) or not isinstance(structure, dict) or not structure:
        raise CheckpointError(f"{path}: 'types' and 'structure' must be objects. Fetch or save it again.")
    routes: dict[str, tuple[tuple[str, str], ...]] = {}
    for route, ids in structure.items():
        if not isinstance(ids, list) or not all(isinstance(one, str) and one in types for one in ids):
            raise CheckpointError(
                f"{path}: the route {route!r} is {ids!r}, expected names of 'types': {', '.join(types)}."
            )
        routes[route] = tuple((str(types[one]), _join(relative, one)) for one in ids)
    if not isinstance(parameters, dict):
        raise CheckpointError(f"{path}: 'parameters' is {parameters!r}, expected a JSON object.")
    parameters = dict(parameters)
    default, empty = parameters.pop("default_route", None), parameters.pop("allow_empty_key", True)
    mappings = _mappings(path, parameters.pop("route_mappings", None) or {})
    nothing_left(path, parameters, {"default_route", "allow_empty_key", "route_mappings"})
    for route in [*mappings.values(), *([] if default is None else [default])]:
        if not isinstance(route, str) or route not in routes:
            raise CheckpointError(f"{path}: there is no route {route!r}. {nearest(str(route), routes)}")
    if default is None and empty:
        default = next(iter(routes))
    return Router(relative, routes, default, mappings)


def router_folders(folder: Path, relative: str) -> list[str]:
    """The folders of all modules that a router has, relative to the checkpoint."""
    _, config = _config(folder, relative)
    return [_join(relative, name) for name in config["types"]]


def _config(folder: Path, relative: str) -> tuple[Path, dict[str, Any]]:
    path = inside(folder, _join(relative, _FILE), said_by="modules.json")
    if path.is_file():
        return path, read_json_object(path)
    return module_settings(folder, relative)


def _mappings(path: Path, found: object) -> dict[_Key, str]:
    """(task, modality) -> route, of keys as Python writes them: "('query', 'text')"."""
    mappings: dict[_Key, str] = {}
    for written, route in found.items() if isinstance(found, dict) else ((found, None),):
        try:
            task, modality = ast.literal_eval(str(written))
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            raise CheckpointError(
                f"{path}: route_mappings has {written!r}, expected a task and a modality, such as "
                "\"('query', 'text')\". Correct the file."
            ) from None
        if isinstance(modality, (list, tuple)):
            continue  # several modalities at once: a text is never that
        mappings[task, modality] = str(route)
    return mappings


def _join(relative: str, name: str) -> str:
    return f"{relative}/{name}" if relative else name
