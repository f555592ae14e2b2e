"""A machine without the native kernels, made by masking them: the same vectors, and a plan that says why."""

import json
import os
import subprocess
import sys

import torch

import tercet
import tiny
from tercet.engines import ENGINES

SCRIPT = """
import json, sys, tercet
from tercet.kernels.native import absence
model = tercet.load(sys.argv[1], precision="float32", device="cpu")
table = tercet.probe("cpu").schemes
print(json.dumps({
    "dense": model.encode(json.loads(sys.argv[2])).dense.tolist(),
    "engine": model.plan.scheme.engine,
    "auto": list(tercet.plan(sys.argv[1], device="cpu").reasons),
    "failures": {scheme.name: found.failure for scheme, found in table.items()},
    "absence": absence(),
}))
"""


def test_without_native_kernels_vectors_are_the_same_and_the_plan_says_why(tiny_m3, tmp_path):
    texts = list(tiny.TEXTS)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tiny_m3), json.dumps(texts)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "TERCET_KERNELS": "none", "XDG_CACHE_HOME": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["engine"] == "torch_packed"
    here = tercet.load(tiny_m3, precision="float32", device="cpu").encode(texts).dense
    torch.testing.assert_close(torch.tensor(found["dense"]), here, rtol=0, atol=1e-6)

    assert "TERCET_KERNELS" in found["absence"]
    for scheme in ENGINES["native_cpu"].schemes("cpu"):
        assert found["absence"] in found["failures"][scheme.name]
        assert any(reason.startswith(f"{scheme} does not run on cpu: ") for reason in found["auto"])
