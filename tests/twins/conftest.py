"""What the peers gave: recorded in the repository, or a moment ago (the folder in TERCET_TWINS)."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recorder import cases

RECORDED = Path(os.environ.get("TERCET_TWINS") or Path(__file__).parent.parent / "recorded")


@pytest.fixture(scope="session")
def recordings() -> Path:
    """The folder of what the peers gave."""
    return RECORDED


@pytest.fixture(scope="session")
def recorded() -> Callable[[str], Mapping[str, Any]]:
    """Name of a peer -> its arrays, after it was checked that both sides mean the same checkpoints."""
    versions = json.loads((RECORDED / "versions.json").read_text(encoding="utf-8"))
    assert versions["tiny"] == cases.fingerprint(), (
        f"{RECORDED} was recorded with other tiny checkpoints than tests/tiny.py writes now: run "
        "tests/recorder/record.py --out tests/recorded where the peers are installed"
    )

    def read(peer: str) -> Mapping[str, Any]:
        with np.load(RECORDED / f"{peer}.npz") as arrays:
            return dict(arrays)

    return read


@pytest.fixture(scope="session")
def real_texts() -> list[str]:
    """Two hundred real texts of mixed length."""
    texts: list[str] = json.loads((RECORDED / "texts.json").read_text(encoding="utf-8"))
    return texts
