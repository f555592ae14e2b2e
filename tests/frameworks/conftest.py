"""Adapters inside the frameworks themselves, merged folders in the peers: only `make twins` installs these.

What needs none of them is in tests/adapters and tests/twins.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import tiny

collect_ignore_glob = [] if os.environ.get("TERCET_FRAMEWORKS") else ["test_*.py"]


@pytest.fixture(scope="session")
def prompted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stack with prompts of its own for queries and documents; read only."""
    folder = tiny.write_checkpoint(
        tmp_path_factory.mktemp("prompted") / "stack", "bert", layout="sentence-transformers"
    )
    (folder / "config_sentence_transformers.json").write_text(
        '{"prompts": {"query": "which ", "document": "the "}, "similarity_fn_name": "dot"}'
    )
    return folder
