"""`tercet cache`: the page, its JSON, and asking before anything goes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer

from tercet.cache import write_json
from tercet.cli.commands import cache as command
from tercet.cli.main import main
from tercet.kept import KINDS


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A cache of two probes and one report."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name in ("probe-a.json", "probe-b.json"):
        write_json(name, {"key": "x" * 3000})
    write_json("c.json", {}, folder=tmp_path / "tercet" / "evaluations")
    return tmp_path / "tercet"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def at_a_terminal(monkeypatch: pytest.MonkeyPatch, answer: bool) -> list[str]:
    asked: list[str] = []

    def confirm(question: str, **options: object) -> bool:
        asked.append(question)
        return answer

    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setattr(typer, "confirm", confirm)
    return asked


def test_the_page_has_the_folder_and_a_line_for_every_kind(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["cache"]) == 0
    place, *lines, last = capsys.readouterr().out.splitlines()
    assert place == str(folder)
    assert [line.split()[0] for line in lines] == list(KINDS) == list(command._MEANING)
    assert "2 files, 6 kB" in lines[0]
    assert "0 files, 0 kB" in lines[1]
    assert "0 files, 0 kB" in lines[2]
    assert "1 file, 0 kB" in lines[3]
    assert "--clear KIND" in last
    assert all(len(line) <= 125 for line in lines)


def test_json_has_the_same_numbers_and_what_was_removed(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    size = sum(path.stat().st_size for path in folder.glob("probe-*"))
    assert main(["cache", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    places = [str(folder / name) for name in ("probe-a.json", "probe-b.json")]
    assert report["folder"] == str(folder)
    assert report["kept"]["probes"] == {"files": 2, "bytes": size, "places": places}
    assert report["removed"] == {}
    assert main(["cache", "--clear", "probes", "--yes", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["removed"]["probes"]["bytes"] == size
    assert report["kept"]["probes"] == {"files": 0, "bytes": 0, "places": []}
    assert names(folder) == ["evaluations"]


def test_all_of_it_can_go_at_once(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "--clear", "all", "--yes"]) == 0
    assert capsys.readouterr().out == "Removed 2 files, 6 kB of probes.\nRemoved 1 file, 0 kB of results.\n"
    assert names(folder) == []
    assert main(["cache", "--clear", "all"]) == 0  # where nothing is, nothing is asked
    assert capsys.readouterr().out == "Nothing was there.\n"


def test_without_a_terminal_yes_has_to_be_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "--clear", "probes"]) == 2
    error = capsys.readouterr().err
    assert f"tercet cache: this would remove probes (2 files, 6 kB) in {folder}. Say --yes to agree." in error
    assert len(names(folder)) == 3


def test_a_person_is_asked_and_a_no_removes_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = at_a_terminal(monkeypatch, answer=False)
    assert main(["cache", "--clear", "all"]) == 1
    assert asked == [f"Remove probes (2 files, 6 kB), results (1 file, 0 kB) in {folder}?"]
    assert len(names(folder)) == 3
    at_a_terminal(monkeypatch, answer=True)
    assert main(["cache", "--clear", "all"]) == 0
    assert names(folder) == []


def test_an_unknown_kind_is_one_message_and_nothing_goes(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["cache", "--clear", "probe", "--yes"]) == 2
    assert (
        "tercet cache: --clear: there is no kind 'probe'. Did you mean 'probes'?" in capsys.readouterr().err
    )
    assert len(names(folder)) == 3
