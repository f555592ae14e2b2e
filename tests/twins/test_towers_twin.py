"""A model of two towers, merged by mergekit's `models` and `modules`."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from recorder import towers
from tercet.workflows.merge import merge


@pytest.fixture(scope="module")
def peer(recorded):
    return recorded("towers")


@pytest.mark.parametrize("name", towers.RECIPES)
def test_each_tower_is_merged_as_by_mergekit(name, peer, tmp_path):
    folders = towers.write(tmp_path)
    (tmp_path / "merge.yml").write_text(towers.RECIPES[name].format(**folders))
    out = merge(tmp_path / "merge.yml", tmp_path / "out", try_out=False).folder
    found = load_file(out / "model.safetensors")
    names = peer[f"{name}/names"].tolist()
    # the table that both towers share belongs to neither, and is left out of theirs
    assert set(found) - set(names) == (set() if name == "models" else {"shared.weight"})
    assert set(found) == set(load_file(folders["a"] / "model.safetensors"))
    numbers = np.concatenate([found[key].reshape(-1) for key in names])
    np.testing.assert_allclose(numbers, peer[f"{name}/numbers"], rtol=1e-5, atol=1e-6)
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (folders["a"], out))
    assert after == before
