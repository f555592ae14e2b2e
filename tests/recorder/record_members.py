"""Which public members the peers' classes have, and what these take; part of record.py, and alone.

    python tests/recorder/record_members.py --out tests/recorded

records them without anything else.
"""

from __future__ import annotations

__all__ = ["record"]

import argparse
import importlib
import json
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from recorder import members


def record(out: Path) -> None:
    """Writes members.json: library -> class -> member -> what it takes."""
    found = {
        library: {
            name: members.members(getattr(importlib.import_module(library), name), library) for name in names
        }
        for library, names in members.CLASSES.items()
    }
    lines = json.dumps(found, indent=0, ensure_ascii=False)
    (out / "members.json").write_text(lines + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the recording")
    record(parser.parse_args().out)
