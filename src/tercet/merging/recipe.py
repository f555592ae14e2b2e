"""What is to be merged and how: mergekit's YAML, read strictly, and a few keys of our own."""

from __future__ import annotations

__all__ = [
    "MergeRecipe",
    "ModelName",
    "ModuleRecipe",
    "Slice",
    "SliceSource",
    "parse_recipes",
    "read_recipes",
]

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from tercet.errors import InputError, UnknownNameError, nearest
from tercet.extras import require
from tercet.merging.examples_recipe import ExamplesRecipe, parse_examples
from tercet.merging.method import Method
from tercet.merging.methods import METHODS
from tercet.merging.settings import scalars
from tercet.merging.tokenizer_recipe import TokenizerRecipe, parse_tokenizer
from tercet.precision.dtype import DType

Missing = Literal["error", "base", "drop", "average"]

_MAX_BYTES = 4 << 20
_TOP = {
    "merge_method",
    "models",
    "slices",
    "modules",
    "base_model",
    "parameters",
    "dtype",
    "out_dtype",
    "tokenizer_source",
    "tokenizer",
    "chat_template",
    "name",
    "missing",
    "settings_from",
    "seed",
    "examples",
}
# What mergekit takes and does nothing with.
_IDLE_PARAMETERS = {"embed_slerp"}
_FORMATS = (DType.FLOAT32, DType.FLOAT16, DType.BFLOAT16, DType.FLOAT64)


@dataclass(frozen=True, slots=True)
class ModelName:
    """A model as a recipe names it: `source` a folder, hub id, or another document's name."""

    source: str
    revision: str | None = None
    lora: str | None = None

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        return f"{self.source}{revision}" + (f"+{self.lora}" if self.lora else "")


@dataclass(frozen=True, slots=True)
class SliceSource:
    """Layers of one model, from the first up to but without the second; None for all."""

    model: ModelName
    layers: tuple[int, int] | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Slice:
    """Layers of the output and what they are made of."""

    sources: tuple[SliceSource, ...]
    base: ModelName | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ModuleRecipe:
    """What a tower of the output is made of; `name` says which."""

    name: str
    slices: tuple[Slice, ...]
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class MergeRecipe:
    """One merge.

    Attributes:
        method: by its name in the registry.
        slices: in the order of the output's layers; one with all layers where the recipe lists `models`; of
            several towers those of all.
        base: base_model.
        parameters: global ones.
        module_parameters: of the one entry of `modules`, where there is one.
        dtype, out_dtype: as given. No input is rounded before the arithmetic: `dtype` counts as out_dtype
            where that is not given.
        tokenizer: whose, and how its tokens get their rows; None for that of the model with the settings.
        name: by which other documents of the file may name the result.
        missing: what to do with a tensor that not all models have.
        settings_from: the model whose settings, tokenizer and module settings are taken.
        seed: of the methods that choose at random.
        where: the file, for errors.
        text: the document as written.
        notes: what was understood and has no effect.
        examples: that are to decide the weights of the models.
        modules: the entries of `modules`, where that form is used.
    """

    method: str
    slices: tuple[Slice, ...]
    base: ModelName | None
    parameters: Mapping[str, Any]
    module_parameters: Mapping[str, Any]
    dtype: DType | None
    out_dtype: DType | None
    tokenizer: TokenizerRecipe | None
    name: str | None
    missing: Missing
    settings_from: ModelName | None
    seed: int
    where: str
    text: str
    notes: tuple[str, ...] = ()
    examples: ExamplesRecipe | None = None
    modules: tuple[ModuleRecipe, ...] = ()

    def models(self) -> tuple[ModelName, ...]:
        """Every model, in the order of the recipe, a base that is not listed last; each once."""
        listed = [source.model for part in self.slices for source in part.sources]
        bases = [base for base in (self.base, *(part.base for part in self.slices)) if base is not None]
        return tuple(dict.fromkeys([*listed, *bases]))


def read_recipes(path: str | Path) -> tuple[MergeRecipe, ...]:
    """The documents of a YAML file, each after those that it names; the last one is the result.

    Raises:
        InputError: the file is missing, is no YAML, or a key or value of it cannot be used.
        MissingExtraError: PyYAML is not installed.
    """
    path = Path(path)
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise InputError(f"{path} has {path.stat().st_size:,} bytes: too large for a recipe.")
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such file. Give the YAML file of a merge.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}.") from error
    return parse_recipes(text, where=str(path))


def parse_recipes(text: str, *, where: str = "recipe") -> tuple[MergeRecipe, ...]:
    """The same of a text."""
    yaml = require("yaml", extra="merge", purpose="A merge recipe")
    try:
        for node in yaml.compose_all(text, Loader=yaml.SafeLoader):
            _refuse_repeated_keys(yaml, node, where)
        documents = [one for one in yaml.safe_load_all(text) if one is not None]
    except (yaml.YAMLError, RecursionError) as error:
        raise InputError(f"{where} is not valid YAML: {error}") from error
    if not documents:
        raise InputError(f"{where} is empty. A recipe begins with merge_method: and models:.")
    single = len(documents) == 1
    recipes = [
        _recipe(
            one,
            where if single else f"{where}, document {number}",
            text if single else yaml.safe_dump(one, sort_keys=False, allow_unicode=True),
        )
        for number, one in enumerate(documents, start=1)
    ]
    return _ordered(recipes, where)


def _refuse_repeated_keys(yaml: Any, document: Any, where: str) -> None:
    """An InputError where a mapping has a key twice, of which YAML readers drop the first in silence."""
    open_nodes, seen = [document], set()
    while open_nodes:
        node = open_nodes.pop()
        if id(node) in seen:
            continue  # an alias, which may lie within itself
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            open_nodes += node.value
        if not isinstance(node, yaml.MappingNode):
            continue
        keys: set[str] = set()
        for key, value in node.value:
            open_nodes.append(value)
            if not isinstance(key, yaml.ScalarNode) or key.value == "<<":
                continue
            if key.value in keys:
                raise InputError(
                    f"{where}, line {key.start_mark.line + 1}: the key {key.value!r} stands twice. Keep one."
                )
            keys.add(key.value)


def _ordered(recipes: Sequence[MergeRecipe], where: str) -> tuple[MergeRecipe, ...]:
    """Each recipe after those that it names, the result last."""
    if len(recipes) == 1:
        return tuple(recipes)
    named: dict[str, MergeRecipe] = {}
    for recipe in recipes:
        if recipe.name is not None and named.setdefault(recipe.name, recipe) is not recipe:
            raise InputError(f"{where}: two documents are named {recipe.name!r}. Rename one.")
    unnamed = [recipe for recipe in recipes if recipe.name is None]
    if len(unnamed) > 1:
        raise InputError(f"{where}: {len(unnamed)} documents have no name. Only the result needs none.")
    needed = {
        name: [m.source for m in recipe.models() if m.source in named] for name, recipe in named.items()
    }
    used = {name for names in needed.values() for name in names}
    ends = unnamed or [recipe for name, recipe in named.items() if name not in used]
    if len(ends) != 1:
        raise InputError(f"{where}: it is not clear which document is the result. Leave out its name.")
    made: dict[str, MergeRecipe] = {}

    def visit(recipe: MergeRecipe, path: tuple[str, ...]) -> None:
        for model in recipe.models():
            if model.source not in named or model.source in made:
                continue
            if model.source in path:
                raise InputError(f"{where}: {' -> '.join((*path, model.source))} goes in a circle.")
            visit(named[model.source], (*path, model.source))
            made[model.source] = named[model.source]

    visit(ends[0], () if ends[0].name is None else (ends[0].name,))
    idle = [name for name in named if name not in made and named[name] is not ends[0]]
    if idle:
        raise InputError(f"{where}: the document {idle[0]!r} is used by no other. Remove it, or name it.")
    return (*made.values(), ends[0])


def _recipe(document: Any, where: str, text: str) -> MergeRecipe:
    top = _mapping(document, where, "a recipe", _TOP)
    notes: list[str] = []
    method = METHODS[_text(top, "merge_method", where)]
    forms = [key for key in ("models", "slices", "modules") if top.get(key)]
    if len(forms) != 1:
        found = " and ".join(forms) or "none"
        raise InputError(f"{where}: give one of models, slices and modules; found {found}.")
    modules: tuple[ModuleRecipe, ...] = ()
    if forms == ["modules"]:
        modules = _modules(top["modules"], method, where, notes)
        slices = tuple(part for module in modules for part in module.slices)
    else:
        slices = _slices(top, method, where, notes)
    if top.get("chat_template") not in (None, "auto"):
        raise InputError(
            f"{where}: chat_template {str(top['chat_template'])[:40]!r} is not written here. Leave it out, "
            "and set it in tokenizer_config.json of the result."
        )
    missing = top.get("missing", "error")
    choices = ("error", "base", "drop", "average")
    if missing not in choices:
        raise UnknownNameError(f"{where}: missing is {missing!r}. {nearest(str(missing), choices)}")
    seed = top.get("seed", 0)
    if type(seed) is not int:
        raise InputError(f"{where}: seed is {seed!r}, expected a whole number.")
    name = top.get("name")
    return MergeRecipe(
        method=method.name,
        slices=slices,
        base=_model(top["base_model"], f"{where}, base_model") if top.get("base_model") else None,
        parameters=_parameters(top, method, where, notes),
        module_parameters=modules[0].parameters if len(modules) == 1 else {},
        dtype=_dtype(top, "dtype", where),
        out_dtype=_dtype(top, "out_dtype", where),
        tokenizer=parse_tokenizer(top, where, _model),
        name=None if name is None else str(name),
        missing=cast(Missing, missing),
        settings_from=_model(top["settings_from"], f"{where}, settings_from")
        if top.get("settings_from")
        else None,
        seed=seed,
        where=where,
        text=text,
        notes=tuple(dict.fromkeys(notes)),
        examples=_examples(top, method.name, slices, where, forms),
        modules=modules,
    )


def _modules(given: Any, method: Method, where: str, notes: list[str]) -> tuple[ModuleRecipe, ...]:
    if not isinstance(given, Mapping):
        raise InputError(f"{where}: modules is {given!r}, expected names of towers, each with its models.")
    made = []
    for name, entry in given.items():
        place = f"{where}, modules.{name}"
        body = _mapping(entry, place, "a module", {"models", "slices", "parameters"})
        if bool(body.get("models")) == bool(body.get("slices")):
            raise InputError(f"{place}: give one of models and slices.")
        parameters = _parameters(body, method, place, notes)
        made.append(ModuleRecipe(str(name), _slices(body, method, place, notes), parameters))
    return tuple(made)


def _slices(body: Mapping[str, Any], method: Method, where: str, notes: list[str]) -> tuple[Slice, ...]:
    if body.get("models"):
        sources = []
        for number, entry in enumerate(_list(body["models"], f"{where}, models")):
            place = f"{where}, models[{number}]"
            one = _mapping(entry, place, "a model", {"model", "parameters"})
            sources.append(
                SliceSource(_model(one.get("model"), place), None, _parameters(one, method, place, notes))
            )
        return (Slice(tuple(sources)),)
    slices = []
    for number, entry in enumerate(_list(body["slices"], f"{where}, slices")):
        place = f"{where}, slices[{number}]"
        one = _mapping(entry, place, "a slice", {"sources", "base_model", "parameters", "residual_weight"})
        if one.get("residual_weight") is not None:
            notes.append("residual_weight has no effect, as in mergekit.")
        sources = []
        for position, source in enumerate(_list(one.get("sources"), f"{place}.sources")):
            at = f"{place}.sources[{position}]"
            given = _mapping(source, at, "a source", {"model", "layer_range", "parameters"})
            layers = given.get("layer_range")
            if (
                not isinstance(layers, list)
                or len(layers) != 2
                or not all(type(edge) is int for edge in layers)
                or not 0 <= layers[0] < layers[1]
            ):
                raise InputError(f"{at}: layer_range is {layers!r}, expected [first, end], such as [0, 12].")
            sources.append(
                SliceSource(
                    _model(given.get("model"), at),
                    (layers[0], layers[1]),
                    _parameters(given, method, at, notes),
                )
            )
        lengths = {end - start for start, end in (s.layers for s in sources if s.layers is not None)}
        if len(lengths) > 1:
            raise InputError(f"{place}: its sources have {sorted(lengths)} layers. Give all the same number.")
        base = one.get("base_model")
        slices.append(
            Slice(
                tuple(sources),
                _model(base, f"{place}, base_model") if base else None,
                _parameters(one, method, place, notes),
            )
        )
    return tuple(slices)


def _parameters(entry: Mapping[str, Any], method: Method, where: str, notes: list[str]) -> Mapping[str, Any]:
    given = entry.get("parameters")
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise InputError(f"{where}: parameters is {given!r}, expected names and values.")
    known = {parameter.name: parameter for parameter in method.parameters}
    others = {one.name for name in METHODS.names() for one in METHODS[name].parameters} | _IDLE_PARAMETERS
    for name in given:
        if name in known:
            values = list(scalars(given[name], known[name], where))
            if known[name].share and (above := [one for one in values if one is not None and one > 1]):
                notes.append(
                    f"{where}: {name} is {above[0]:g}. It is a share: from 1 on, as in mergekit, everything "
                    f"is kept. Write {name}: 0.5 for half."
                )
            continue
        if name not in others:
            raise UnknownNameError(f"{where}: there is no parameter {name!r}. {nearest(str(name), known)}")
        notes.append(f"{name} is no parameter of {method.name} and has no effect.")
    return {name: value for name, value in given.items() if name in known}


def _model(value: Any, where: str) -> ModelName:
    """mergekit's two forms: "path@revision+lora", or {model: {path, revision}, lora: {path, revision}}."""
    if isinstance(value, str) and value:
        model, _, lora = value.partition("+") if not Path(value).is_dir() else (value, "", "")
        path, _, revision = (
            model.rpartition("@") if "@" in model and not Path(model).is_dir() else (model, "", "")
        )
        return ModelName(path, revision or None, lora or None)
    if isinstance(value, Mapping):
        given = _mapping(value, where, "a model", {"model", "lora", "override_architecture"})
        if given.get("override_architecture"):
            raise InputError(f"{where}: override_architecture is not needed: names are those of the files.")
        named = given.get("model")
        path_only = {"path": named} if isinstance(named, str) else named
        inner = _mapping(path_only, where, "a model", {"path", "revision"})
        given_lora = given.get("lora")
        adapter = given_lora.get("path") if isinstance(given_lora, Mapping) else given_lora
        return ModelName(_text(inner, "path", where), inner.get("revision"), adapter)
    raise InputError(f"{where}: the model is {value!r}, expected a folder or an id such as BAAI/bge-m3.")


def _examples(
    top: Mapping[str, Any], method: str, slices: tuple[Slice, ...], where: str, forms: list[str]
) -> ExamplesRecipe | None:
    found = parse_examples(top.get("examples"), method, where)
    if found is None:
        levels = [top.get("parameters") or {}]
        levels += [part.parameters for part in slices]
        levels += [source.parameters for part in slices for source in part.sources]
        if method == "lm_cocktail" and forms != ["modules"] and not any("weight" in one for one in levels):
            raise InputError(
                f"{where}: lm_cocktail has neither examples nor weights. Give examples: FILE, or a weight "
                "for each model."
            )
        return None
    if forms != ["models"] or top.get("base_model"):
        raise InputError(
            f"{where}: examples decide the weights of whole models: list all under models, a base too, "
            "and leave out base_model."
        )
    if any("weight" in source.parameters for source in slices[0].sources) or top.get("parameters"):
        raise InputError(f"{where}: examples decide the weights; leave out those that are given.")
    return found


def _dtype(top: Mapping[str, Any], key: str, where: str) -> DType | None:
    if top.get(key) is None:
        return None
    found = DType.parse(top[key])
    if found not in _FORMATS:
        raise InputError(
            f"{where}: {key} is {top[key]!r}; merges are written in {', '.join(map(str, _FORMATS))}."
        )
    return found


def _mapping(value: Any, where: str, what: str, known: set[str]) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InputError(f"{where}: found {value!r}, expected {what} with its keys.")
    for key in value:
        if key not in known:
            raise UnknownNameError(f"{where}: there is no key {key!r}. {nearest(str(key), known)}")
    return value


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise InputError(f"{where}: found {value!r}, expected a list.")
    return value


def _text(entry: Mapping[str, Any], key: str, where: str) -> str:
    value = entry.get(key)
    if not isinstance(value, str) or not value:
        raise InputError(f"{where}: {key} is {value!r}, expected a text.")
    return value
