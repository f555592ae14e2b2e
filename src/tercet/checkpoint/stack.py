"""modules.json of sentence-transformers -> the modules after the encoder, checked against their weights."""

from __future__ import annotations

__all__ = [
    "POOLING_MODES",
    "End",
    "Stack",
    "mean_of_rows",
    "parse_pooling",
    "read_stack",
]

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

from tercet.checkpoint.bag_files import bag_of_words
from tercet.checkpoint.contents import ModuleSpec
from tercet.checkpoint.late_modules import TOKENS, hierarchical_token_pooling, multi_vector_mask
from tercet.checkpoint.module_files import SENTENCE, module_settings, module_weights, nothing_left, only_about
from tercet.checkpoint.paths import inside, plain, read_json_file
from tercet.checkpoint.routes import ROUTERS, Router, read_router
from tercet.checkpoint.sparse_modules import (
    SPLADE_WORDS,
    read_sparse_auto_encoder,
    read_splade_pooling,
    splade,
)
from tercet.checkpoint.token_modules import cnn, lstm, weighted_layer_pooling, word_weights
from tercet.checkpoint.token_weights import token_weights
from tercet.checkpoint.weights import Remote
from tercet.errors import CheckpointError, InputError, nearest

# Old name of a flag -> mode, in the order in which sentence-transformers concatenates them.
_OLD_MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
POOLING_MODES = tuple(_OLD_MODES.values())
_FIRST = (
    "Transformer",
    "MLMTransformer",
    "StaticEmbedding",
    "SparseStaticEmbedding",
    "WordEmbeddings",
    "BoW",
)
_ELSE = "Use sentence-transformers for this model."
_IMAGES = (
    "It takes images, and only texts are embedded here. Run it with sentence-transformers: "
    "pip install 'sentence-transformers[image]'."
)
End = Literal["vectors", "token vectors", "scores"]
_Reader = Callable[[Path, str, Remote | None], ModuleSpec | None]
# PyLate's only class of its own is a Dense over tokens, with the files that sentence-transformers' has.
_PYLATE = ("pylate.models.",)


@dataclass(frozen=True, slots=True)
class Stack:
    """The first module's folder, relative to the root, the modules after it, and what width pooling expects.

    `first` is its class: "Transformer", or "StaticEmbedding", whose mean of rows stands among the modules.
    Where there is a router, `routes` has each route's own, and the rest is the default one's.
    """

    encoder_path: str
    modules: tuple[ModuleSpec, ...]
    notes: tuple[str, ...] = ()
    pooling_width: int | None = None
    first: str = "Transformer"
    routes: Mapping[str, Stack] = field(default_factory=dict)
    router: Router | None = None

    @property
    def by_encoder(self) -> tuple[Stack, ...]:
        """A stack for each encoder that routes begin with; itself where all share one."""
        groups: dict[tuple[str, str], dict[str, Stack]] = {}
        for name, route in self.routes.items():
            groups.setdefault((route.first, route.encoder_path), {})[name] = route
        if self.router is None or len(groups) < 2:
            return (self,)
        return tuple(
            replace(
                next(iter(routes.values())),
                notes=tuple(dict.fromkeys(note for one in routes.values() for note in one.notes)),
                routes=routes,
                router=replace(self.router, default=next(iter(routes)), mappings={}),
            )
            for routes in groups.values()
        )


def read_stack(folder: Path, remote: Remote | None = None, *, end: End = "vectors") -> Stack:
    """What modules.json describes, and what it ends in: vectors of texts, vectors of tokens (late
    interaction), or scores of pairs.

    Raises:
        CheckpointError: a module is not known, its settings are, or its weights do not fit them.
    """
    path = folder / "modules.json"
    entries = read_json_file(path)
    if not isinstance(entries, list) or not entries:
        raise CheckpointError(f"{path} is not a list of modules. Fetch or save the model again.")
    places = [_place(path, entry) for entry in entries]
    routers = [place for place, (name, _) in enumerate(places) if name in ROUTERS]
    if len(routers) > 1:
        raise CheckpointError(
            f"{path}: {places[routers[1]][1]} is a second router; one is supported. "
            "Use sentence-transformers for this model."
        )
    if not routers:
        return _read_chain(folder, remote, path, places, end)
    if end != "vectors":
        raise CheckpointError(f"{path}: a router in front of {end} is not supported. {_ELSE}")
    [place] = routers
    router = read_router(folder, places[place][1])
    chains = {
        route: (
            *places[:place],
            *(_place(path, {"type": of, "path": where}) for of, where in own),
            *places[place + 1 :],
        )
        for route, own in router.routes.items()
    }
    for route, chain in chains.items():
        if not chain:
            raise CheckpointError(
                f"{path}: the route {route!r} has no module, and none stands before the router. Save the "
                "model again."
            )
    routes = {route: _read_chain(folder, remote, path, chain) for route, chain in chains.items()}
    usual = routes[router.default or next(iter(routes))]
    notes = dict.fromkeys(note for stack in routes.values() for note in stack.notes)
    return replace(usual, notes=tuple(notes), routes=routes, router=router)


def _read_chain(
    folder: Path, remote: Remote | None, path: Path, places: Sequence[tuple[str, str]], end: End = "vectors"
) -> Stack:
    (first, where), *rest = places
    if first not in _FIRST:
        raise CheckpointError(
            f"{path}: the first module is {first!r} ({where or folder}), only a {' or a '.join(_FIRST)} can "
            f"come first. {_IMAGES if first == 'CLIPModel' else _ELSE}"
        )
    modules = [mean_of_rows(where)] if first == "StaticEmbedding" else []
    notes: list[str] = []
    pooling_width = None
    known = _KNOWN[end]
    if first in ("SparseStaticEmbedding", "BoW") and end != "vectors":
        raise CheckpointError(f"{path}: {where or folder} ({first}) gives no {end}. {_ELSE}")
    if first == "BoW":
        modules = [bag_of_words(folder, where)]
    elif first == "SparseStaticEmbedding":
        weights, notes = token_weights(folder, where, remote)
        modules = [weights]
    for name, relative in rest:
        if name not in known:
            raise CheckpointError(
                f"{folder / relative}: the module {name!r} of {path.name} is not supported. "
                f"{nearest(name, ['Transformer', *known])} {_ELSE}"
            )
        spec = known[name](folder, relative, remote)
        if spec is None:
            notes.append(f"{relative} (Dropout) does nothing outside training and is left out.")
        else:
            modules.append(spec)
        if spec is not None and spec.kind == "pooling":
            pooling_width = _pooling_width(folder, relative)
    return Stack(where, tuple(modules), tuple(notes), pooling_width, first)


def _place(path: Path, entry: object) -> tuple[str, str]:
    """Class name and folder of one entry of modules.json."""
    if not isinstance(entry, dict):
        raise CheckpointError(f"{path}: {entry!r} is not a module. Fetch or save the model again.")
    reference, relative = entry.get("type"), entry.get("path")
    if not isinstance(reference, str) or not isinstance(relative, str):
        raise CheckpointError(
            f"{path}: {entry!r} needs a 'type' and a 'path'. Fetch or save the model again."
        )
    if not reference.startswith(("sentence_transformers.", *_PYLATE)):
        raise CheckpointError(
            f"{path}: the module {relative or 'at the root'} is of class {reference!r}, which is code "
            "outside sentence-transformers. No code of a checkpoint is run; if you trust it, use "
            "sentence-transformers with trust_remote_code=True for this model."
        )
    if entry.get("kwargs"):
        raise CheckpointError(
            f"{path}: {reference!r} in {relative!r} takes arguments at run time ({entry['kwargs']!r}), "
            "which is not supported. Use sentence-transformers for this model."
        )
    inside(path.parent, relative, said_by=path.name)
    return reference.rsplit(".", 1)[-1], plain(relative)


def _pooling(folder: Path, relative: str, remote: Remote | None) -> ModuleSpec:
    path, config = module_settings(folder, relative)
    for key in ("embedding_dimension", "word_embedding_dimension"):
        config.pop(key, None)
    include_prompt = config.pop("include_prompt", True)
    old = {key: config.pop(key) for key in _OLD_MODES if key in config}
    given = config.pop("pooling_mode", None)
    nothing_left(path, config, {"embedding_dimension", "pooling_mode", "include_prompt", *_OLD_MODES})
    if given is None:
        given = [mode for key, mode in _OLD_MODES.items() if old.get(key)] or "mean"
    modes = given if isinstance(given, list) else [given]
    unknown = [mode for mode in modes if mode not in POOLING_MODES]
    if unknown or not modes:
        raise CheckpointError(
            f"{path}: pooling_mode is {given!r}. {nearest(str(unknown[0] if unknown else ''), POOLING_MODES)}"
        )
    if type(include_prompt) is not bool:
        raise CheckpointError(f"{path}: 'include_prompt' is {include_prompt!r}, expected true or false.")
    return ModuleSpec("pooling", relative, {"modes": tuple(modes), "include_prompt": include_prompt})


def _pooling_width(folder: Path, relative: str) -> int:
    path, config = module_settings(folder, relative)
    width = config.get("embedding_dimension", config.get("word_embedding_dimension"))
    if type(width) is not int:
        raise CheckpointError(f"{path}: 'embedding_dimension' is {width!r}, not a number. Correct the file.")
    return width


def _dense(
    folder: Path, relative: str, remote: Remote | None, *, about: str = SENTENCE, scores: bool = False
) -> ModuleSpec:
    path, config = module_settings(folder, relative)
    makes_scores = scores and config.get("module_output_name") == "scores"
    if makes_scores:
        del config["module_output_name"]
    settings = {
        "in_features": config.pop("in_features", None),
        "out_features": config.pop("out_features", None),
        "bias": config.pop("bias", True),
        "activation_function": config.pop("activation_function", "torch.nn.modules.activation.Tanh"),
        "use_residual": config.pop("use_residual", False),
    }
    only_about(path, config, about)
    nothing_left(path, config, {*settings, "module_input_name", "module_output_name"})
    rows, columns = settings["out_features"], settings["in_features"]
    if type(rows) is not int or type(columns) is not int:
        raise CheckpointError(
            f"{path}: in_features and out_features are {columns!r} and {rows!r}, not numbers."
        )
    for key in ("bias", "use_residual"):
        if type(settings[key]) is not bool:
            raise CheckpointError(f"{path}: {key!r} is {settings[key]!r}, expected true or false.")
    if settings["activation_function"] is None:
        settings["activation_function"] = "torch.nn.modules.linear.Identity"
    if not isinstance(settings["activation_function"], str):
        raise CheckpointError(
            f"{path}: 'activation_function' is {settings['activation_function']!r}, not a name."
        )
    shapes: dict[str, tuple[int, ...]] = {"linear.weight": (rows, columns)}
    if settings["bias"]:
        shapes["linear.bias"] = (rows,)
    if settings["use_residual"] and rows != columns:
        shapes["residual.weight"] = (rows, columns)
    if makes_scores:
        settings["scores"] = True
    return ModuleSpec("dense", relative, settings, module_weights(folder, relative, remote, shapes))


def _layer_norm(folder: Path, relative: str, remote: Remote | None) -> ModuleSpec:
    path, config = module_settings(folder, relative)
    width = config.pop("dimension", None)
    nothing_left(path, config, {"dimension"})
    if type(width) is not int:
        raise CheckpointError(f"{path}: 'dimension' is {width!r}, expected a number. Correct the file.")
    shapes = {"norm.weight": (width,), "norm.bias": (width,)}
    return ModuleSpec(
        "layer_norm", relative, {"dimension": width}, module_weights(folder, relative, remote, shapes)
    )


def _normalize(folder: Path, relative: str, remote: Remote | None, *, about: str = SENTENCE) -> ModuleSpec:
    path, config = module_settings(folder, relative, required=False)
    only_about(path, config, about)
    nothing_left(path, config, {"module_input_name", "module_output_name"})
    return ModuleSpec("normalize", relative)


def _dropout(folder: Path, relative: str, remote: Remote | None) -> None:
    path, config = module_settings(folder, relative, required=False)
    config.pop("dropout", None)
    nothing_left(path, config, {"dropout"})


_MODULES: Mapping[str, _Reader] = {
    "CNN": cnn,
    "LSTM": lstm,
    "WeightedLayerPooling": weighted_layer_pooling,
    "WordWeights": word_weights,
    "Pooling": _pooling,
    "Dense": _dense,
    "LayerNorm": _layer_norm,
    "Normalize": _normalize,
    "Dropout": _dropout,
    "SpladePooling": read_splade_pooling,
    "SparseAutoEncoder": read_sparse_auto_encoder,
}

# Late interaction has vectors of tokens to the end, and no pooling; scores come out of a Dense.
_KNOWN: Mapping[End, Mapping[str, _Reader]] = {
    "vectors": _MODULES,
    "token vectors": {
        "Dense": partial(_dense, about=TOKENS),
        "Normalize": partial(_normalize, about=TOKENS),
        "MultiVectorMask": multi_vector_mask,
        "HierarchicalTokenPooling": hierarchical_token_pooling,
        "Dropout": _dropout,
    },
    "scores": {**_MODULES, "Dense": partial(_dense, scores=True)},
}


def mean_of_rows(where: str) -> ModuleSpec:
    """The pooling that a StaticEmbedding does itself."""
    return parse_pooling("mean", f"{where or 'the root'} (StaticEmbedding)")


def parse_pooling(pooling: str, where: str | None = None) -> ModuleSpec:
    """The pooling that a word means: "cls", "mean", several as "cls+mean"; the user's own without `where`.

    "splade" and "splade-sum" mean SPLADE's, of the masked-language head.
    """
    if not isinstance(pooling, str):
        raise InputError(f"pooling={pooling!r}: give a word, such as 'mean' or 'cls'.")
    if pooling in SPLADE_WORDS:
        return splade(SPLADE_WORDS[pooling], where or f"pooling={pooling!r}")
    modes = tuple(part.strip() for part in pooling.split("+"))
    for mode in modes:
        if mode not in POOLING_MODES:
            close = nearest(mode, (*POOLING_MODES, *SPLADE_WORDS))
            raise InputError(
                f"pooling={pooling!r}: there is no pooling {mode!r}. {close} "
                "Join several with '+', as in 'cls+mean'."
            )
    return ModuleSpec("pooling", where or f"pooling={pooling!r}", {"modes": modes, "include_prompt": True})
