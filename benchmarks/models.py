"""The models to measure, and what is exported of them; made once, kept under build/bench."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import environments
from engines import ENGINES, ROOT, RUNTIMES, Engine, Shape
from workloads import corpus

BENCH = ROOT / "build" / "bench"
HERE = Path(__file__).resolve().parent


def folder_of(shape: Shape, dtype: str = "float32") -> Path:
    """The checkpoint of a shape, made if it is not there."""
    if shape.tiny:
        return _tiny(BENCH / "models" / "tiny")
    if shape.layers is None:
        from tercet.checkpoint.source import find

        return find("minilm").folder
    folder = BENCH / "models" / f"{shape.name}-{dtype}"
    if not folder.exists():
        print(f"making {folder.name} ...", file=sys.stderr)
        command = [sys.executable, str(HERE / "make_bge_m3.py"), "--out", str(folder)]
        command += ["--layers", str(shape.layers), "--dtype", dtype, "--file", "safetensors"]
        subprocess.run(command, check=True)
    return folder


def exports_of(shape: Shape, engines: Iterable[str]) -> Path:
    """The folder of a shape's exported graphs, made if one of the engines needs them."""
    folder = BENCH / "exports" / shape.name
    needed = {Path(graph).parent.name for name in engines if (graph := ENGINES[name].graph)}
    if all((folder / name).exists() for name in needed):
        return folder
    environments.prepare(RUNTIMES)
    print(f"exporting {shape.name} ...", file=sys.stderr)
    texts = BENCH / "exports" / "calibration.json"
    texts.parent.mkdir(parents=True, exist_ok=True)
    texts.write_text(json.dumps(corpus()[-64:]), encoding="utf-8")
    command = [str(ROOT / RUNTIMES / "bin" / "python"), str(HERE / "export.py")]
    command += ["--model", str(folder_of(shape)), "--texts", str(texts), "--out", str(folder)]
    log = BENCH / "logs" / f"export-{shape.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as errors:
        done = subprocess.run(command, stdout=errors, stderr=errors, check=False)
    if done.returncode:
        # The other engines are measured all the same; the page shows what is missing.
        print(f"the export of {shape.name} failed; see {log}", file=sys.stderr)
    return folder


def runnable(engine: Engine, exports: Path) -> bool:
    """Whether what the engine needs is there."""
    return engine.graph is None or (exports / engine.graph).exists()


def _tiny(folder: Path) -> Path:
    if not folder.exists():
        sys.path.insert(0, str(ROOT / "tests"))
        import tiny

        tiny.write_checkpoint(folder, "xlm-roberta", layout="bge-m3", max_positions=514)
    return folder
