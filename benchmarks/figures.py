"""What the samples say: the numbers that the page and the picture show."""

from __future__ import annotations

from typing import Any

from engines import ENGINES, SHAPES
from limits import Sizes
from measure import lengths_of
from models import BENCH, folder_of
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
        return sum(lengths_of(shape, workload))

    def flops(self, shape: str, workload: str) -> float:
        return Sizes.of(folder_of(SHAPES[shape])).flops(lengths_of(shape, workload))

    def padding(self, shape: str, workload: str, engine: str) -> float | None:
        """Computed over real tokens."""
        rows = self.store.find(kind="count", shape=shape, workload=workload, engine=engine)
        return rows[-1]["computed"] / self.tokens(shape, workload) if rows else None

    def peak(self, dtype: str) -> float | None:
        """GFLOP/s of the instructions; of the best product where that is more (matrix units, no compiler)."""
        found = [value for kind in ("instructions", "products") if (value := self._rate(kind, dtype))]
        return max(found, default=None)

    def product(self, dtype: str) -> float | None:
        return self._rate("products", dtype)

    def _rate(self, kind: str, dtype: str) -> float | None:
        rates = [row[kind][dtype] for row in self.store.find(kind="peak") if dtype in row[kind]]
        return max(rates, default=None)

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

        paths = [BENCH / "vectors" / f"{shape}-{workload}-{name}.npy" for name in ("tercet", engine)]
        if not all(path.exists() for path in paths):
            return None
        ours, theirs = (np.load(path).astype(np.float64) for path in paths)
        norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
        apart = 1 - (ours * theirs).sum(1) / norms
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
