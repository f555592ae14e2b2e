"""The benchmark of merges on tiny models, Tercet's side alone."""

import json
import sys

import pytest

import merge as benchmark


def test_a_tiny_run_measures_and_checks_tercets_merge(tmp_path, monkeypatch, capsys):
    sizes = ["--layers", "1", "--hidden", "64", "--vocabulary", "100", "--rounds", "1"]
    monkeypatch.setattr(
        sys, "argv", ["merge.py", *sizes, "--only", "tercet", "--folder", str(tmp_path / "m"), "--write"]
    )
    monkeypatch.setattr(benchmark, "settle", lambda: None)
    page = tmp_path / "page.md"
    page.write_text("Before.\n<!-- make merges -->\nold\n<!-- end -->\nAfter.\n", encoding="utf-8")
    monkeypatch.setattr(benchmark, "PAGE", page)
    benchmark.main()
    found = json.loads(capsys.readouterr().out)["found"]["tercet"]
    assert found["cpu_seconds"] > 0
    assert found["seconds"] > 0
    assert found["peak_mib"] > 10
    # float16 rounds to 11 bits
    assert 0 < found["relative_error"] < 2**-11
    before, table, after = page.read_text(encoding="utf-8").partition(
        f"| tercet | {found['seconds']:,.1f} | "
    )
    assert before.startswith("Before.\n<!-- make merges -->\nties of three")
    assert table
    assert after.endswith("|\n<!-- end -->\nAfter.\n")
    assert "old" not in before + after


def test_a_page_without_a_place_for_the_table_is_refused():
    with pytest.raises(SystemExit, match="no lines <!-- make merges --> and <!-- end -->"):
        benchmark.with_table("# Page\n", "table")


def test_a_program_that_fails_ends_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "settle", lambda: None)
    with pytest.raises(SystemExit, match="ended with 3"):
        benchmark.measured([sys.executable, "-c", "raise SystemExit(3)"], tmp_path / "out")
