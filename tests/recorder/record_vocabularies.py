"""What mergekit makes of tiny Llamas with different vocabularies; runs where it is installed, without Tercet.

    python tests/recorder/record_vocabularies.py tests/recorded/vocabularies.npz

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
from tokenizers import Tokenizer

from recorder import vocabularies

TABLES = {"embedding": "model.embed_tokens.weight", "head": "lm_head.weight"}


def record(folder: Path) -> dict[str, np.ndarray]:
    """Of each case the tokens in the order of their numbers, both tables, and how a text is cut."""
    arrays: dict[str, np.ndarray] = {}
    for number, case in enumerate(vocabularies.CASES):
        place = folder / f"vocabularies{number}"
        recipe = case.recipe(vocabularies.write(place, case))
        out = place / "out"
        run_merge(
            MergeConfiguration.model_validate(yaml.safe_load(recipe)), str(out), MergeOptions(quiet=True)
        )
        tokenizer = Tokenizer.from_file(str(out / "tokenizer.json"))
        vocabulary = tokenizer.get_vocab()
        assert sorted(vocabulary.values()) == list(range(len(vocabulary)))
        arrays[f"{case.name}/tokens"] = np.array(sorted(vocabulary, key=vocabulary.__getitem__))
        arrays[f"{case.name}/cut"] = np.array(tokenizer.encode(vocabularies.CUT).tokens)
        tensors = load_file(out / "model.safetensors")
        for key, name in TABLES.items():
            arrays[f"{case.name}/{key}"] = tensors[name]
    return arrays


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        np.savez_compressed(sys.argv[1], **record(Path(scratch)))
