"""The peak that a plan predicts is the one that is measured, within a tenth."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[2]


@pytest.mark.minilm
@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_the_planned_peak_is_within_a_tenth_of_what_a_fresh_process_needs(subject, minilm, tmp_path):
    asked = {
        "folder": str(minilm),
        "scheme": subject.scheme.to_json(),
        "measured": subject.measured.to_json(),
    }
    path = [str(TESTS), str(TESTS.parent / "benchmarks"), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, str(TESTS / "engine_processes.py"), json.dumps(asked)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, path)),
            "XDG_CACHE_HOME": str(tmp_path),
        },
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["longest"] == 256
    assert found["tokens"] >= found["budget"]
    parts = found["predicted"]
    again = sum(size for what, size in parts.items() if "texts that leave the range" in what)
    usual = sum(parts.values()) - again
    assert 0.9 <= usual / found["usual"] <= 1.1, found
    if found["recomputed"] is not None:
        assert 0.9 <= (usual + again) / found["recomputed"] <= 1.1, found
