"""The models to measure, and what is exported of them; made once, kept under build/bench."""

from __future__ import annotations

import hashlib
import json
import shutil
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
    if not up_to_date(folder, digest(HERE / "make_bge_m3.py")):
        print(f"making {folder.name} ...", file=sys.stderr)
        command = [sys.executable, str(HERE / "make_bge_m3.py"), "--out", str(folder)]
        command += ["--layers", str(shape.layers), "--dtype", dtype, "--file", "safetensors"]
        subprocess.run(command, check=True)
        stamp_of(folder).write_text(digest(HERE / "make_bge_m3.py"), encoding="utf-8")
    return folder


def digest(*paths: Path) -> str:
    """Sixteen characters that differ where one of the files does."""
    found = hashlib.sha256()
    for path in paths:
        found.update(path.read_bytes())
    return found.hexdigest()[:16]


def up_to_date(folder: Path, made_by: str) -> bool:
    """Whether a folder is there and was made by programs of this digest; what others made is removed."""
    stamp = stamp_of(folder)
    if folder.exists() and stamp.exists() and stamp.read_text(encoding="utf-8") == made_by:
        return True
    shutil.rmtree(folder, ignore_errors=True)
    stamp.unlink(missing_ok=True)
    return False


def stamp_of(folder: Path) -> Path:
    """The file beside a folder that says what made it."""
    return folder.with_name(f"{folder.name}.made-by")


def exports_of(shape: Shape, engines: Iterable[str]) -> Path:
    """The folder of a shape's exported graphs, made if one of the engines needs them."""
    folder = BENCH / "exports" / shape.name
    needed = {Path(graph).parent.name for name in engines if (graph := ENGINES[name].graph)}
    if not needed:
        return folder
    made_by = digest(HERE / "export.py", HERE / "make_bge_m3.py", environments.FILES[RUNTIMES])
    if up_to_date(folder, made_by) and all((folder / name).exists() for name in needed):
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    stamp_of(folder).write_text(made_by, encoding="utf-8")
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
