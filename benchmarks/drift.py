"""How far each engine's vectors of documents lie from the reference, and what that does to retrieval."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engines import ENGINES, SHAPES, Engine, request_of
from measure import CACHE, Bench, log_of, say, why_absent
from models import BENCH, exports_of, folder_of, runnable
from processes import TimeUpError, WorkerError, WorkerProcess
from retrieval import Collection, compare, read_collection
from workloads import CRANFIELD, corpus


def collection() -> Collection:
    """Cranfield where it lies beside the checkout; else documents without queries."""
    if CRANFIELD.exists():
        return read_collection(CRANFIELD.parent)
    documents = tuple(corpus())
    return Collection(documents, tuple(str(number) for number in range(len(documents))), (), (), {})


def drift(bench: Bench, names: Sequence[str]) -> None:
    """MiniLM's dense vectors: float32 and the peers against sentence-transformers in float64, Tercet's other
    precisions against its float32.
    """
    import numpy as np

    found, folder = collection(), folder_of(SHAPES["minilm"])
    exports = exports_of(SHAPES["minilm"], names)
    texts = json.dumps([*found.documents, *found.queries])
    # Where the collection comes to lie beside the checkout only later, there are other texts.
    where = BENCH / "drift" / bench.store.key / hashlib.sha256(texts.encode()).hexdigest()[:16]
    where.mkdir(parents=True, exist_ok=True)
    path = where / "texts.json"
    path.write_text(texts, encoding="utf-8")
    request = {"texts": str(path), "max_length": SHAPES["minilm"].limit}

    def vectors(engine: Engine, save: Path, **options: Any) -> Any:
        """Computed, unless they lie there from this very source."""
        if not save.exists():
            asked = request_of(engine, folder, exports) | request | options
            aside = save.with_name(f"part-{save.name}")
            with WorkerProcess(engine, log_of(engine.name), CACHE, until=bench.end) as process:
                reason = why_absent(engine, process.ask(do="load", **asked)["facts"])
                if reason is not None:
                    raise WorkerError(engine.name, reason, "PrecisionError")
                process.ask(do="run", **asked, save=str(aside))
            aside.replace(save)
        return np.load(save)

    for name in names:
        engine = ENGINES[name]
        key = {"kind": "drift", "engine": name, "documents": len(found.documents)}
        measured = bench.store.find(**key, texts=len(found.documents) + len(found.queries))
        if bench.over or measured or not runnable(engine, exports):
            continue
        ours = engine.worker == "tercet" and name != "tercet"
        try:
            if ours:
                reference = vectors(ENGINES["tercet"], where / "tercet.npy")
            else:
                reference = vectors(ENGINES["st"], _reference(path), dtype="float64")
            change = compare(reference, vectors(engine, where / f"{name}.npy"), found)
        except TimeUpError as error:
            say(str(error))
            return
        except WorkerError as error:
            bench.failed(error, shape="minilm", **key)
            continue
        bench.keep(**key, against="float32" if ours else "float64", **change.to_json())
        say(f"drift {name}: mean {change.mean:.1e}, worst {change.worst:.1e}")


def _reference(texts: Path) -> Path:
    """The float64 vectors of these texts by these versions: they belong to no state of Tercet."""
    from environments import FILES, PEERS

    made_by = hashlib.sha256(texts.read_bytes() + FILES[PEERS].read_bytes()).hexdigest()[:16]
    return BENCH / "drift" / f"float64-{made_by}.npy"
