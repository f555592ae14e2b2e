"""What a killed run left goes with the next one; what another run writes stays."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from tercet.checkpoint.held import held_folder, remove_abandoned
from tercet.checkpoint.writer import write_aside

LEFT = ".model.0123abcd.part"


@pytest.fixture
def left(tmp_path: Path) -> Path:
    """Half a folder, as a kill leaves it."""
    (tmp_path / LEFT / "1_Dense").mkdir(parents=True)
    (tmp_path / LEFT / "1_Dense" / "model.safetensors").write_bytes(b"half")
    return tmp_path / LEFT


def test_the_next_run_removes_what_a_killed_one_left_and_says_so(left, tmp_path, caplog):
    with caplog.at_level(logging.WARNING), write_aside(tmp_path / "model") as aside:
        assert not left.exists()
        (aside / "config.json").write_text("{}")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert caplog.messages == [f"removed {left}, which a run that was killed had left"]


def test_what_another_run_still_writes_is_left_alone(tmp_path):
    with write_aside(tmp_path / "model") as first:
        (first / "config.json").write_text("first")
        remove_abandoned(tmp_path / "model")
        assert list(tmp_path.iterdir()) == [first]
        with write_aside(tmp_path / "model") as second:
            assert first.is_dir()
            (second / "config.json").write_text("second")
        assert (first / "config.json").read_text() == "first"
        (tmp_path / "model" / "config.json").unlink()
    assert (tmp_path / "model" / "config.json").read_text() == "first"


@pytest.mark.parametrize(
    "name", [".model.0123abcd.old", ".model.0123abcz.part", ".models.0123abcd.part", "model.0123abcd.part"]
)
def test_other_names_are_nobodys_business(name, tmp_path):
    (tmp_path / name).mkdir()
    remove_abandoned(tmp_path / "model")
    assert (tmp_path / name).is_dir()


def test_a_file_or_a_link_of_that_name_is_left_alone(left, tmp_path):
    link = tmp_path / ".other.0123abcd.part"
    link.symlink_to(left, target_is_directory=True)
    file = tmp_path / ".third.0123abcd.part"
    file.write_text("")
    for name in ("other", "third"):
        remove_abandoned(tmp_path / name)
    assert link.is_symlink()
    assert file.is_file()
    assert left.is_dir()


def test_a_folder_is_held_until_the_block_ends_under_whatever_name(tmp_path):
    aside, moved = tmp_path / LEFT, tmp_path / ".model.ffffffff.part"
    with held_folder(aside):
        aside.rename(moved)
        remove_abandoned(tmp_path / "model")
        assert list(tmp_path.iterdir()) == [moved]
    remove_abandoned(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []
