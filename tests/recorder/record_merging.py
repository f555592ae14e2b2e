"""What mergekit makes of random tensors, by its in-memory interface, in float64 and float32.

    python tests/recorder/record_merging.py OUT.npz

records this peer alone.
"""

from __future__ import annotations

__all__ = ["record"]

import secrets
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from mergekit.merge_methods.api import merge_tensors

from recorder import merging


def record() -> dict[str, np.ndarray]:
    """Name of a case, its shape and dtype -> the result; and the seed of the tensors, another each time."""
    seed = secrets.randbelow(2**31)
    arrays = {"seed": np.array(seed)}
    for case in merging.CASES:
        for shape in case.shapes:
            for dtype in (torch.float64, torch.float32)[: 1 + (shape == "matrix")]:
                inputs = [torch.from_numpy(one).to(dtype) for one in merging.tensors(case, shape, seed)]
                made = merge_tensors(
                    inputs, case.method, parameters=dict(case.parameters), base_index=case.base
                )
                name = str(dtype).removeprefix("torch.")
                arrays[f"{case.name}/{shape}/{name}"] = made.numpy()
    return arrays


if __name__ == "__main__":
    np.savez_compressed(sys.argv[1], **record())
