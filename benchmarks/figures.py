"""What the samples say: the numbers that the page and the picture show."""

from __future__ import annotations

from typing import Any

from engines import ENGINES, SHAPES
from limits import Sizes
from measure import lengths_of, vectors_of
from models import folder_of
from samples import Row, Spread, Store, spread
from workloads import WORKLOADS


class Figures:
    """Reads a store; asks for nothing to be measured."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def title(self, engine: str) -> str:
        return ENGINES[engine].title

    def shape_title(self, shape: str) -> str:
        return SHAPES[shape].title

    def workload_title(self, workload: str) -> str:
        return WORKLOADS[workload].title

    def shapes(self) -> list[str]:
        """Those of which a speed was measured."""
        measured = {row["shape"] for row in self.store.find(kind="speed")}
        return [shape for shape in SHAPES if shape in measured]

    def workloads(self, shape: str) -> list[str]:
        measured = {row["workload"] for row in self.store.find(kind="speed", shape=shape)}
        return [workload for workload in WORKLOADS if workload in measured]

    def engines(self, shape: str, workload: str) -> list[str]:
        rows = self.store.find(kind="speed", shape=shape, workload=workload)
        measured = {row["engine"] for row in rows}
        return [engine for engine in ENGINES if engine in measured]

    def seconds(self, shape: str, workload: str, engine: str) -> Spread | None:
        return spread(self.store.find(kind="speed", shape=shape, workload=workload, engine=engine))

    def tokens(self, shape: str, workload: str) -> int:
        """Real ones: what the model is given when nothing is padded."""
        return sum(self.lengths(shape, workload))

    def sizes(self, shape: str) -> Sizes:
        return Sizes.of(folder_of(SHAPES[shape]))

    def lengths(self, shape: str, workload: str) -> list[int]:
        """Tokens of each text."""
        return lengths_of(shape, workload)

    def dtype(self, shape: str, engine: str) -> str | None:
        """What the engine's linear layers compute in: fixed, or as its plan came out."""
        loads = self.store.find(kind="load", shape=shape, engine=ENGINES[engine].shares or engine)
        planned = loads[-1]["facts"].get("dtype") if loads and ENGINES[engine].worker == "tercet" else None
        return ENGINES[engine].dtype or planned

    def limit(self, shape: str, workload: str, dtype: str) -> float | None:
        """Seconds that are the least here: linear layers at their dtype's peak, attention at float32's."""
        linear, attention = self.peak(dtype), self.peak("float32")
        if not linear or not attention:
            return None
        return self.sizes(shape).least_seconds(self.lengths(shape, workload), linear, attention)

    def share(self, shape: str, workload: str, engine: str) -> float | None:
        """Of the physical limit at the engine's own dtype, 0 to 1."""
        seconds, dtype = self.seconds(shape, workload, engine), self.dtype(shape, engine)
        limit = self.limit(shape, workload, dtype) if dtype else None
        return limit / seconds.median if seconds and limit else None

    def absent(self, engine: str) -> str | None:
        """Why an engine does not run here; None where it does, or where nobody tried."""
        name = ENGINES[engine].shares or engine
        if self.store.find(kind="speed", engine=name):
            return None
        rows = self.store.find(kind="absent", engine=name)
        return " ".join(str(rows[-1]["reason"]).split()) if rows else None

    def absentees(self, shape: str | None = None) -> list[str]:
        """The engines that do not run here (of a shape), each by the name of its process."""
        rows = (
            self.store.find(kind="absent") if shape is None else self.store.find(kind="absent", shape=shape)
        )
        named = {row["engine"] for row in rows if self.absent(row["engine"])}
        return [engine for engine in ENGINES if engine in named]

    def padding(self, shape: str, workload: str, engine: str) -> float | None:
        """Computed over real tokens."""
        rows = self.store.find(kind="count", shape=shape, workload=workload, engine=engine)
        return rows[-1]["computed"] / self.tokens(shape, workload) if rows else None

    def peak(self, dtype: str) -> float | None:
        """GFLOP/s of the instructions; of the best product where that is more (matrix units, no compiler)."""
        found = [value for kind in ("instructions", "products") if (value := self._rate(kind, dtype))]
        return max(found, default=None)

    def instruction(self, dtype: str) -> float | None:
        return self._rate("instructions", dtype)

    def product(self, dtype: str) -> float | None:
        return self._rate("products", dtype)

    def _rate(self, kind: str, dtype: str) -> float | None:
        # A peak that was measured beside other processes is none: it would flatter every share.
        rows = self.store.find(kind="peak", clean=True) or self.store.find(kind="peak")
        return max((row[kind][dtype] for row in rows if dtype in row[kind]), default=None)

    def peaks_are_clean(self) -> bool:
        """Whether the peaks were measured while nothing disturbed them."""
        return bool(self.store.find(kind="peak", clean=True))

    def anonymous(self, file: str, engine: str) -> int | None:
        rows = self.store.find(kind="memory", file=file, engine=engine)
        return max((row["peak_anonymous"] for row in rows), default=None)

    def cold(self, shape: str, engine: str) -> Spread | None:
        return spread(self.store.find(kind="cold", shape=shape, engine=engine))

    def drift(self, engine: str) -> Row | None:
        rows = self.store.find(kind="drift", engine=engine)
        return rows[-1] if rows else None

    def agreement(self, shape: str, workload: str, engine: str) -> tuple[float, float] | None:
        """Mean and worst 1 - cosine of an engine's dense vectors to those of Tercet in float32."""
        import numpy as np

        from retrieval import distances

        paths = [vectors_of(self.store, shape, workload, name) for name in ("tercet", engine)]
        if not all(path.exists() for path in paths):
            return None
        ours, theirs = (np.load(path) for path in paths)
        apart = distances(ours, theirs)
        return float(apart.mean()), float(apart.max())

    def picture(self) -> dict[str, Any]:
        """What picture.py draws: a panel for each workload of each shape."""
        panels = []
        for shape in self.shapes():
            for workload in self.workloads(shape):
                bars = []
                for engine in self.engines(shape, workload):
                    seconds = self.seconds(shape, workload, engine)
                    assert seconds is not None
                    tokens = self.tokens(shape, workload)
                    bars.append(
                        {
                            "engine": ENGINES[engine].title,
                            "ours": ENGINES[engine].worker == "tercet",
                            "exact": ENGINES[engine].exact,
                            "rate": tokens / seconds.median,
                            "low": tokens / seconds.high,
                            "high": tokens / seconds.low,
                            "seconds": seconds.median,
                        }
                    )
                panels.append(
                    {
                        "shape": shape,
                        "shape_title": SHAPES[shape].title,
                        "workload": workload,
                        "title": WORKLOADS[workload].title,
                        "bars": bars,
                    }
                )
        return {"panels": panels, "machine": self.store.identity["machine"]}
