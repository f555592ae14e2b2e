"""The benchmark of merges on tiny models, Tercet's side alone."""

import json
import sys

import pytest

import merge as benchmark


def test_a_tiny_run_measures_and_checks_tercets_merge(tmp_path, monkeypatch, capsys):
    sizes = ["--layers", "1", "--hidden", "64", "--vocabulary", "100", "--rounds", "1"]
    monkeypatch.setattr(
        sys, "argv", ["merge.py", *sizes, "--only", "tercet", "--folder", str(tmp_path / "m")]
    )
    benchmark.main()
    found = json.loads(capsys.readouterr().out)["found"]["tercet"]
    assert found["seconds"] > 0
    assert found["peak_mib"] > 10
    # float16 rounds to 11 bits
    assert 0 < found["relative_error"] < 2**-11


def test_a_program_that_fails_ends_the_run(tmp_path):
    with pytest.raises(SystemExit, match="ended with 3"):
        benchmark.measured([sys.executable, "-c", "raise SystemExit(3)"], tmp_path / "out")
