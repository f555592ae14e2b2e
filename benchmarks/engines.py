"""What is compared with what: engines, model shapes, and which of them meet on which workload."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


# Tercet's precisions that have goals, each a column of the page's first table.
SCHEMES = ("float32", "float16", "int8", "int8-fast")
PEERS, RUNTIMES = ".venv-bench-peers", ".venv-bench-runtimes"


@dataclass(frozen=True, slots=True)
class Engine:
    """One way to embed.

    Attributes:
        name: as in results and on the command line.
        title: as on the page.
        worker: workers/<worker>_worker.py.
        environment: the virtual environment's folder; None for Tercet's own, which runs this.
        options: sent with every request.
        graph: the exported graph it runs, below the shape's folder of exports.
        outputs: "dense", or "all" three.
        dtype: that its linear layers compute in; None where the model's file or a plan decides.
        shares: the engine whose process it runs in; None for one of its own.
    """

    name: str
    title: str
    worker: str
    environment: str | None
    options: dict[str, Any] = field(default_factory=dict)
    graph: str | None = None
    outputs: str = "dense"
    dtype: str | None = "float32"
    shares: str | None = None

    @property
    def exact(self) -> bool:
        """Whether it computes in float32."""
        return self.dtype == "float32"


def ours(precision: str, *, three: bool = False) -> str:
    """The name of Tercet's engine at a precision, with dense vectors or all three outputs."""
    name = "tercet" if precision == "float32" else f"tercet-{precision}"
    return f"{name}-all" if three else name


def _ours(precision: str) -> tuple[Engine, Engine]:
    """Tercet at a precision: dense vectors, and all three outputs in the same process."""
    title = f"Tercet {precision}"
    dtype = None if precision == "auto" else precision.removesuffix("-fast")
    dense = Engine(ours(precision), title, "tercet", None, {"precision": precision}, dtype=dtype)
    three = replace(
        dense, name=ours(precision, three=True), title=f"{title}, all three", outputs="all", shares=dense.name
    )
    return dense, three


_THEIRS = (
    Engine("st", "sentence-transformers", "sentence_transformers", PEERS, {"dtype": "float32"}),
    Engine("st-default", "sentence-transformers, as stored", "sentence_transformers", PEERS, dtype=None),
    Engine("fe", "FlagEmbedding, defaults", "flag_embedding", PEERS, outputs="all"),
    Engine(
        "fe-32",
        "FlagEmbedding, batches of 32",
        "flag_embedding",
        PEERS,
        {"batch_size": 32},
        outputs="all",
        shares="fe",
    ),
    Engine("openvino", "OpenVINO float32", "openvino", RUNTIMES, graph="openvino/model.xml"),
    Engine(
        "openvino-int8", "OpenVINO int8", "openvino", RUNTIMES, graph="openvino-int8/model.xml", dtype="int8"
    ),
    Engine("onnx", "ONNX Runtime float32", "onnxruntime", RUNTIMES, graph="onnx/model.onnx"),
    Engine(
        "onnx-int8", "ONNX Runtime int8", "onnxruntime", RUNTIMES, graph="onnx-int8/model.onnx", dtype="int8"
    ),
)
PRECISIONS = (*SCHEMES, "bfloat16", "auto")
ENGINES = {
    engine.name: engine for engine in (*(e for precision in PRECISIONS for e in _ours(precision)), *_THEIRS)
}


@dataclass(frozen=True, slots=True)
class Shape:
    """One model.

    Attributes:
        name: as in results and on the command line.
        title: as on the page.
        layers: of the random BGE-M3; None for the packaged MiniLM.
        limit: most tokens of a text.
    """

    name: str
    title: str
    layers: int | None
    limit: int
    tiny: bool = False


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("minilm", "all-MiniLM-L6-v2 (6 layers, 384 wide)", None, 256),
        Shape("m3-6", "BGE-M3's shape, random weights, 6 of 24 layers", 6, 8192),
        Shape("m3-24", "BGE-M3's shape, random weights, all 24 layers", 24, 8192),
        Shape("tiny", "a tiny M3 to try the bench itself with", None, 512, tiny=True),
    )
}

_RUNTIMES = ("openvino", "openvino-int8", "onnx", "onnx-int8")
_M3 = ("tercet", "tercet-all", "st", "fe", "fe-32", *_RUNTIMES)
_SMALL = ("tercet", "st", *_RUNTIMES)
# shape -> workload -> (samples wanted, engines)
Meetings = dict[str, dict[str, tuple[int, tuple[str, ...]]]]
FULL: Meetings = {
    "minilm": {name: (5, _SMALL) for name in ("A", "B", "uniform", "query")},
    "m3-6": {
        "A": (3, _M3),
        "B": (2, _M3),
        "uniform": (3, _M3),
        "query": (5, _M3),
        "document": (2, ("tercet", "tercet-all", "st", "fe", "openvino")),
    },
    "m3-24": {
        "A": (3, ("tercet", "tercet-all", "st", "fe")),
        "B": (2, ("tercet", "st")),
        "uniform": (3, ("tercet", "st")),
        "query": (5, ("tercet", "tercet-all", "st", "fe")),
        "document": (1, ("tercet", "st")),
    },
}
SHORT: Meetings = {
    "minilm": {"A": (3, _SMALL), "B": (2, _SMALL), "query": (3, _SMALL)},
    "m3-6": {
        "A": (1, _M3),
        "query": (3, _M3),
        "uniform": (2, ("tercet", "st", "openvino", "openvino-int8")),
        "B": (1, ("tercet", "st")),
        "document": (1, ("tercet", "st")),
    },
    "m3-24": {"A": (1, ("tercet", "st")), "query": (3, ("tercet", "st"))},
}
TRY: Meetings = {"tiny": {name: (2, _M3) for name in ("A", "query")}}


def with_precisions(meetings: Meetings, precisions: tuple[str, ...]) -> Meetings:
    """The same with Tercet at other precisions wherever it stands, with as many outputs.

    What a plan chooses is measured with dense vectors alone: it is one of the others.
    """
    found: Meetings = {}
    for shape, places in meetings.items():
        found[shape] = {}
        for workload, (number, engines) in places.items():
            extra = [
                ours(precision, three=three)
                for precision in precisions
                for three in (False, True)
                if ours("float32", three=three) in engines and not (three and precision == "auto")
            ]
            found[shape][workload] = (number, tuple(dict.fromkeys((*engines, *extra))))
    return found


def select(meetings: Meetings, only: tuple[str, ...]) -> Meetings:
    """What `--only minilm,A,tercet,st` leaves: names of a kind choose among that kind."""

    def wanted(name: str, kind: set[str]) -> bool:
        chosen = kind.intersection(only)
        return not chosen or name in chosen

    shapes, engines = set(SHAPES), set(ENGINES)
    workloads = {workload for places in FULL.values() for workload in places}
    found: Meetings = {}
    for shape, places in meetings.items():
        kept = {
            workload: (number, tuple(name for name in names if wanted(name, engines)))
            for workload, (number, names) in places.items()
            if wanted(workload, workloads)
        }
        if wanted(shape, shapes) and kept:
            found[shape] = kept
    return found


def python_of(engine: Engine) -> str:
    """The interpreter of an engine's environment."""
    if engine.environment is None:
        return sys.executable
    return str(ROOT / engine.environment / "bin" / "python")


def request_of(engine: Engine, folder: Path, exports: Path) -> dict[str, Any]:
    """What every request to an engine's worker carries."""
    graph = {} if engine.graph is None else {"graph": str(exports / engine.graph)}
    return {"folder": str(folder), "outputs": engine.outputs, **engine.options, **graph}
