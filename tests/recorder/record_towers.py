"""What mergekit makes of two tiny T5; runs where it is installed, without Tercet.

    python tests/recorder/record_towers.py tests/recorded/towers.npz

records this file alone.
"""

from __future__ import annotations

__all__ = ["record"]

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import yaml
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from safetensors.numpy import load_file

from recorder import towers


def record(folder: Path) -> dict[str, np.ndarray]:
    """Of each recipe the names of the tensors in order, and their numbers end to end."""
    folders = towers.write(folder)
    arrays: dict[str, np.ndarray] = {}
    for name, text in towers.RECIPES.items():
        recipe = MergeConfiguration.model_validate(yaml.safe_load(text.format(**folders)))
        run_merge(recipe, str(folder / f"out {name}"), MergeOptions(quiet=True, copy_tokenizer=False))
        tensors = load_file(folder / f"out {name}" / "model.safetensors")
        arrays[f"{name}/names"] = np.array(sorted(tensors))
        arrays[f"{name}/numbers"] = np.concatenate([tensors[key].reshape(-1) for key in sorted(tensors)])
    return arrays


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        np.savez_compressed(sys.argv[1], **record(Path(scratch)))
