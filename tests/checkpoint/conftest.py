"""A hub in place of the real one."""

from __future__ import annotations

from pathlib import Path

import pytest

from fake_hub import Hub
from tercet.checkpoint import hub


@pytest.fixture
def one_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """A hub with one model, whose files the test writes; headers of more than 10 kB are asked for alone."""
    fake = Hub(tmp_path / "hub", tmp_path / "cache")
    for name in ("HfApi", "HfFileSystem", "snapshot_download"):
        monkeypatch.setattr(hub, name, getattr(fake, name))
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "_SMALL", 10_000)
    return fake
