"""Virtual environments of their own for the peers, made once and again when their requirements change."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from engines import PEERS, ROOT, RUNTIMES

REQUIREMENTS = Path(__file__).resolve().parent / "requirements"
FILES = {PEERS: REQUIREMENTS / "peers.txt", RUNTIMES: REQUIREMENTS / "runtimes.txt"}


def prepare(name: str, requirements: Path | None = None) -> None:
    """Make an environment, unless it is there with these requirements, by default those in FILES."""
    path = requirements or FILES[name]
    folder, wanted = ROOT / name, path.read_text(encoding="utf-8")
    stamp = folder / ".ready"
    if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        return
    print(f"installing {path.name} into {name} ...", file=sys.stderr)
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "-r", str(path)], check=True)
    stamp.write_text(wanted, encoding="utf-8")


def pins() -> dict[str, str]:
    """Package -> version, of all environments."""
    lines = [line for path in FILES.values() for line in path.read_text(encoding="utf-8").splitlines()]
    return dict(line.split("==", 1) for line in lines if "==" in line)
