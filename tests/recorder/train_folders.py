"""Trains what trained_cases.py and trained_reranker_cases.py name; runs where Tercet is, before the peers.

    python tests/recorder/train_folders.py --out tests/recorded

writes trained.zip, which record_trained.py reads, and trained_rerankers.zip, which is for
record_trained_rerankers.py.
"""

from __future__ import annotations

__all__ = ["train_case", "train_reranker"]

import argparse
import contextlib
import sys
import tempfile
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from recorder import trained_cases, trained_reranker_cases
from tercet.training.trainer import train


def train_case(folder: Path, name: str) -> Path:
    """The trained folder of a case, in a new folder with all that it was made of."""
    folder.mkdir(parents=True)
    # Relative paths: the card names them, and is the same wherever the folder is.
    with contextlib.chdir(trained_cases.write(folder, name)):
        return folder / train(trained_cases.CASES[name].values(), device="cpu").folder


def train_reranker(folder: Path, name: str) -> Path:
    """The same of a reranker."""
    folder.mkdir(parents=True)
    with contextlib.chdir(trained_reranker_cases.write(folder, name)):
        return folder / train(trained_reranker_cases.CASES[name].values(), device="cpu").folder


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for both archives")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        made = {
            name: train_case(Path(scratch) / str(number), name)
            for number, name in enumerate(trained_cases.CASES)
        }
        trained_cases.pack(out / "trained.zip", made)
        rerankers = {
            name: train_reranker(Path(scratch) / f"reranker{number}", name)
            for number, name in enumerate(trained_reranker_cases.CASES)
        }
        trained_cases.pack(out / trained_reranker_cases.ARCHIVE, rerankers)
